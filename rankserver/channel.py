"""One connection: how far its handshake is, which of its lines are for the server now, what it waits for.

It decides nothing about ranks, and reads and writes no socket: the C core does, when the server says so.
"""

from __future__ import annotations

import enum
import socket
from typing import Final

from rankserver.clist import Client, Log


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
        cut: it goes because it is too slow: it is not sent what it has not begun to get.
        ended: the peer has closed its sending side.
        paused: it has had its share of this turn; what else it sent waits, see ``resume``.
        interest: the selector events that it is registered for.
    """

    __slots__ = (
        "_log",
        "client",
        "cut",
        "ended",
        "farewell",
        "fd",
        "interest",
        "name",
        "paused",
        "peer",
        "sock",
        "state",
    )

    def __init__(self, sock: socket.socket, peer: str, log: Log) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.client: Client = log.open(self.fd)
        self.state = State.HANDSHAKE
        self.name = ""
        self.farewell = b""
        self.cut = False
        self.ended = False
        self.paused = False
        self.interest = 0
        self._log = log

    @property
    def is_going(self) -> bool:
        """Whether nothing that it sends counts any more."""
        return self.state in _GOING

    @property
    def wants_read(self) -> bool:
        """Whether to be told of bytes from the peer; a pause is too short to ask for anything else."""
        return not self.ended and self.state is not State.JOINING

    @property
    def wants_write(self) -> bool:
        """Whether something waits until the socket takes more."""
        return self._log.is_blocked(self.client)

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

    def resume(self) -> None:
        """Let ``next_line`` go on with what was set aside: before the join, or by a pause."""
        self.paused = False
        self._log.resume(self.client)
