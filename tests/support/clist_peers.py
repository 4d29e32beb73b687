"""A real log whose cursors use socket pairs, for tests of single behaviours of the C core."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from rankserver.clist import MAX_READ_BYTES, Cursor, Flushed, Log
from rankserver.wire import codes
from rankserver.wire.exceptions import RemoteProtocolError

MAX_LINE: Final = 256
# More bytes than a socket holds.
READ_SIZE: Final = 1 << 20


class Peers:
    """A log and both ends of its clients' connections; a context manager that checks the invariants."""

    def __init__(
        self, max_line: int = MAX_LINE, block_bytes: int = 1, read_bytes: int = MAX_READ_BYTES
    ) -> None:
        self.log = Log(max_line, block_bytes, read_bytes)
        self.ours: dict[Cursor, socket.socket] = {}
        self.theirs: dict[Cursor, socket.socket] = {}
        self.members: dict[Cursor, int] = {}
        self._joined = 0

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            self.log.check()
        finally:
            self.log.close()
            for sock in (*self.ours.values(), *self.theirs.values()):
                sock.close()

    # --- clients ---

    def open(self, *, external: bool = False) -> Cursor:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        client = self.log.open(ours.fileno(), external=external)
        self.ours[client] = ours
        self.theirs[client] = theirs
        return client

    def enter(self, client: Cursor, rank_class: int = 0) -> int:
        """Add a member, attach the client to it, and return the member."""
        self._joined += 1
        self.log.join(self._joined, rank_class)
        client.attach(self._joined)
        self.members[client] = self._joined
        return self._joined

    def join(self, rank_class: int = 0) -> Cursor:
        """Return a new client, attached to a new member."""
        client = self.open()
        self.enter(client, rank_class)
        return client

    def follow(self) -> Cursor:
        """Return a new client that follows the log without a rank."""
        client = self.open()
        client.attach(None)
        return client

    def leave(self, client: Cursor) -> None:
        """Remove the client's member from the ranks."""
        self.log.leave(self.members[client])

    def rank(self, client: Cursor) -> int:
        return self.log.rank(self.members[client])

    def fd(self, client: Cursor) -> int:
        return self.ours[client].fileno()

    def shrink(self, client: Cursor) -> None:
        """Limit the kernel's buffers for the client to a few KiB."""
        self.ours[client].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

    def hang_up(self, client: Cursor) -> None:
        self.theirs[client].close()

    # --- input ---

    def send(self, client: Cursor, data: bytes) -> None:
        """Send ``data`` into the socket, where ``Log.read`` finds it."""
        assert self.theirs[client].send(data) == len(data)

    def lines(self, client: Cursor) -> list[bytes]:
        """Handle the client's input; return the lines that are handed over."""
        return list(iter(lambda: self.next_line(client), None))

    def next_line(self, client: Cursor) -> bytes | None:
        return client.next_line(logs=True)

    def feed(self, client: Cursor, data: bytes) -> list[bytes]:
        """Receive ``data`` in one piece, and handle it."""
        client.take(data)
        return self.lines(client)

    def receive(self, client: Cursor, most: int = READ_SIZE) -> list[bytes]:
        """Read all that is in the socket, at most ``most`` bytes at a time, and handle it."""
        lines: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while client.read(most):
                lines += self.lines(client)
        return lines

    # --- output ---

    def read(self, client: Cursor, most: int = READ_SIZE) -> bytes:
        """Return what the client was sent and has not read yet."""
        with contextlib.suppress(BlockingIOError):
            return self.theirs[client].recv(most)
        return b""

    def rest(self, client: Cursor) -> bytes:
        """Flush and read until the client has all."""
        got = b""
        while client.flush() is Flushed.BLOCKED:
            got += self.read(client)
        return got + self.read(client)


@contextlib.contextmanager
def expect_too_long(most: int = MAX_LINE) -> Iterator[None]:
    """Expect the error for a line that has more than ``most`` bytes."""
    with pytest.raises(RemoteProtocolError) as caught:
        yield
    assert caught.value.code == codes.TOO_LONG
    assert caught.value.text == f"a line is longer than {most} bytes"


Arrive = Callable[[Peers, Cursor, bytes], list[bytes]]


def taken_whole(peers: Peers, client: Cursor, data: bytes) -> list[bytes]:
    return peers.feed(client, data)


def taken_byte_by_byte(peers: Peers, client: Cursor, data: bytes) -> list[bytes]:
    return [line for at in range(len(data)) for line in peers.feed(client, data[at : at + 1])]


def read_whole(peers: Peers, client: Cursor, data: bytes) -> list[bytes]:
    peers.send(client, data)
    return peers.receive(client)


def read_byte_by_byte(peers: Peers, client: Cursor, data: bytes) -> list[bytes]:
    peers.send(client, data)
    return peers.receive(client, 1)


arrive_in_any_way: Final = pytest.mark.parametrize(
    "arrive", [taken_whole, taken_byte_by_byte, read_whole, read_byte_by_byte]
)


def commands(count: int, size: int = 100) -> bytes:
    return b"CMD %s\n" % (b"x" * size) * count


def logged_commands(count: int, size: int = 100) -> bytes:
    """Return what the ranked clients of a new log get when the first one has sent ``commands``."""
    return b"".join(b"CMD %d 0 %s\n" % (seq, b"x" * size) for seq in range(1, count + 1))
