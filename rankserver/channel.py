"""One connection: how far its handshake is, bytes of a line that is not complete, what it waits for.

It cuts what its socket gave into lines, and hands those to the server that are no plain command. It
decides nothing about ranks, and reads and writes no socket: the server does, and the C core.
"""

from __future__ import annotations

import enum
import re
import socket
from collections.abc import Iterator
from typing import Final

from rankserver import protocol
from rankserver.clist import Client, Log
from rankserver.exceptions import RemoteProtocolError

HEADROOM: Final = 4096  # bytes in front of what is read, for the beginning of its first line
HANDSHAKE_BYTES: Final = 65_536  # what may be read and kept of a connection before its WELCOME

_EMPTY_LINES = re.compile(rb"(?:\r?\n)*")


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
        "_pending",
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
        self._pending: bytearray | None = None

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

    @property
    def room(self) -> int:
        """How many bytes may be read for it now, whatever the turn allows."""
        if self.state is State.HANDSHAKE:
            return HANDSHAKE_BYTES - len(self._pending or b"")
        return protocol.MAX_MAX_LINE

    def lines(self, buffer: bytearray, count: int) -> Iterator[bytes]:
        """Take ``count`` bytes of ``buffer`` from ``HEADROOM`` on; return the lines for the server, in order.

        What is before ``HEADROOM`` is overwritten: the beginning of a line that is kept is put there.
        Valid CMD lines of a ranked client go straight into the log. The state may change between two
        lines, and decides what happens to the rest.

        Raises:
            RemoteProtocolError: ``too-long``, when the iteration comes to it.
        """
        start, stop = HEADROOM, HEADROOM + count
        pending = self._pending
        if pending is not None and not self.is_going:
            if len(pending) > HEADROOM:
                return self._complete(pending, buffer, stop)
            start -= len(pending)
            buffer[start:HEADROOM] = pending
            self._pending = None
        return self._cut(memoryview(buffer)[start:stop])

    def _complete(self, line: bytearray, buffer: bytearray, stop: int) -> Iterator[bytes]:
        """Do as ``lines`` does for one whose beginning is too long to be copied at each read."""
        data = memoryview(buffer)
        end = buffer.find(b"\n", HEADROOM, stop) + 1
        if not end:
            self._keep(data[HEADROOM:stop])
            return
        line += data[HEADROOM:end]
        self._pending = None
        yield from self._cut(memoryview(line))
        yield from self._cut(data[end:stop])

    def resume(self) -> Iterator[bytes]:
        """Return, as ``lines`` does, the lines that were set aside: before the join, or by a pause.

        Raises:
            RemoteProtocolError: ``too-long``.
        """
        self.paused = False
        pending, self._pending = self._pending, None
        return self._cut(memoryview(pending or b""))

    def _cut(self, data: memoryview) -> Iterator[bytes]:
        while data:
            if self.paused or self.state is State.JOINING:
                self._set_aside(data)
                return
            if self.state is State.JOINED:
                line, data = self._feed(data)
            elif self.state is State.HANDSHAKE:
                line, data = self._first_line(data)
            else:
                return
            if line:
                yield line
            elif b"\n" not in bytes(data):
                self._keep(data)
                return

    def _feed(self, data: memoryview) -> tuple[bytes | None, memoryview]:
        fed = self._log.feed(self.client, data)
        if fed.too_long:
            raise self._too_long(self._log.max_line)
        return fed.line, data[fed.consumed :]

    def _first_line(self, data: memoryview) -> tuple[bytes | None, memoryview]:
        empty = _EMPTY_LINES.match(data)  # all at once: what is left is copied below
        data = data[empty.end() if empty else 0 :]
        text = bytes(data)
        end = text.find(b"\n")
        if end >= self._log.max_line:
            raise self._too_long(self._log.max_line)
        return text[: max(end, 0)].removesuffix(b"\r"), data[end + 1 :]

    def _keep(self, data: memoryview) -> None:
        """Keep the beginning of a line, if there is any."""
        self._set_aside(data)
        most = self._log.max_line
        if self.state is State.HANDSHAKE:
            most = min(most, HANDSHAKE_BYTES)
        if self._pending is not None and len(self._pending) >= most:
            raise self._too_long(most)

    def _set_aside(self, data: memoryview) -> None:
        if data:
            if self._pending is None:
                self._pending = bytearray()
            self._pending += data

    def _too_long(self, most: int) -> RemoteProtocolError:
        return RemoteProtocolError(protocol.TOO_LONG, f"a line is longer than {most} bytes")
