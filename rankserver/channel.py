"""One connection: how far its handshake is, which of its lines are for the server now, what it waits for.

It decides nothing about ranks. The C core reads and writes its socket, or where that cannot, ``tls`` does.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import ssl
from typing import Final

from rankserver.clist import Client, Flushed, Log
from rankserver.tls import TlsTransport
from rankserver.tokens import NO_TOKEN


class State(enum.Enum):
    """Where a connection is in its life; it only ever moves down this list."""

    HANDSHAKE = "handshake"  # HELLO has not come
    JOINING = "joining"  # HELLO is accepted; the join comes at the end of this turn
    JOINED = "joined"  # it holds a rank
    LEAVING = (
        "leaving"  # it is to go: what it sends is thrown away; it loses its rank at the end of this turn
    )
    CLOSING = "closing"  # it has lost its rank: what it is still owed is sent
    CLOSED = "closed"


_GOING: Final = (State.LEAVING, State.CLOSING, State.CLOSED)


class Channel:
    """The state of one connection.

    Attributes:
        peer: the address for the log, such as ``127.0.0.1:40112``.
        name: the client's name, once its HELLO is accepted.
        farewell: the BYE frame that it is to get when it goes, if any.
        cut: it goes because it is too slow, or for want of memory: it is sent no frame that is not begun.
        ended: the peer has closed its sending side.
        paused: it has had its share of this turn; what else it sent waits, see ``resume``.
        held: its next line cannot be handled until somebody has caught up; what it sent waits from there on.
        refusal: why its HELLO is not accepted, if it is told that after a while.
        holder: whose token it showed, once its HELLO is accepted.
        host: the peer's address without the port, empty for a Unix socket.
        pinged_at: the bytes that it is sent before its last PING.
        read_to: the bytes that it had taken when we last looked whether it goes on reading.
        interest: the selector events that it is registered for.
    """

    __slots__ = (
        "_log",
        "client",
        "cut",
        "ended",
        "farewell",
        "fd",
        "held",
        "holder",
        "host",
        "interest",
        "name",
        "paused",
        "peer",
        "pinged_at",
        "read_to",
        "refusal",
        "sock",
        "state",
        "tls",
    )

    def __init__(
        self, sock: socket.socket, peer: str, log: Log, host: str = "", context: ssl.SSLContext | None = None
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.host = host
        self.client: Client = log.open(self.fd, external=context is not None)
        try:
            self.tls = TlsTransport(sock, context, log, self.client) if context else None
        except (MemoryError, ssl.SSLError):
            log.discard(self.client)
            raise MemoryError from None
        self.state = State.HANDSHAKE
        self.name = ""
        self.farewell = b""
        self.cut = False
        self.ended = False
        self.paused = False
        self.held = False
        self.refusal = ""
        self.holder = NO_TOKEN
        self.pinged_at = 0
        self.read_to = 0
        self.interest = 0
        self._log = log

    @property
    def rank_class(self) -> int:
        """The class that its token gives it."""
        return self.holder.rank_class

    @property
    def is_going(self) -> bool:
        """Whether nothing that it sends counts any more."""
        return self.state in _GOING

    @property
    def wants_read(self) -> bool:
        """Whether to be told of bytes from the peer; a pause is too short to ask for anything else."""
        return not (self.ended or self.held or self.state is State.JOINING)

    @property
    def wants_write(self) -> bool:
        """Whether something waits until the socket takes more."""
        return self.tls.is_blocked if self.tls else self._log.is_blocked(self.client)

    def receive(self, most: int) -> int:
        """Receive once, at most ``most`` bytes, for ``next_line``; as ``Log.read``."""
        if self.tls is None:
            return self._log.read(self.client, most)
        self._log.take(self.client, self.tls.receive(most))
        return self.tls.received

    def flush(self) -> Flushed:
        """Send what waits, in a bounded number of system calls; as ``Log.flush``."""
        return self.tls.flush() if self.tls else self._log.flush(self.client)

    def shut_down(self) -> bool:
        """Tell the peer that it was sent all; return whether it could be told: else flush, and try again."""
        if self.tls and not self.tls.shut_down():
            return False
        if not self.ended:
            with contextlib.suppress(OSError):  # it is gone already
                self.sock.shutdown(socket.SHUT_WR)
        return True

    def next_line(self) -> bytes | None:
        """Go through what was read last, up to the next line for the server; None when there is none for now.

        Valid CMD lines of a ranked client go straight into the log. The state decides what happens to the
        rest: between HELLO and join, and in a pause, it is set aside until ``resume``.

        Raises:
            RemoteProtocolError: ``too-long``.
            MemoryError: as ``Log.next_line``.
        """
        if self.paused or self.state is State.JOINING:
            self._log.set_aside(self.client)
            return None
        return self._log.next_line(self.client)

    def pause(self) -> None:
        """Let the line that ``next_line`` has just returned wait until ``resume``, and all behind it."""
        self._log.unread()
        self.paused = True

    def hold(self) -> None:
        """Pause until somebody has caught up."""
        self.pause()
        self.held = True

    def resume(self) -> None:
        """Let ``next_line`` go on with what was set aside: before the join, by a pause or when held."""
        self.paused = self.held = False
        self._log.resume(self.client)
