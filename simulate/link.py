"""A client's end of its connection: the bytes that it sends, and how either side ends it."""

from __future__ import annotations

from typing import Any, Final

from simulate.kernel import drain, lib

# Bytes that the kernel accepts from a client before the server has received them.
INPUT_ROOM: Final = 4096


class Link:
    """One connection, as its client has it.

    Args:
        room: bytes of output that the kernel keeps for the client.
        now: the time, in seconds in which the server was running.

    Attributes:
        conn: the connection in the simulated kernel.
        outbox: bytes of lines that the kernel has not accepted yet.
        composed, fed: the bytes of all lines that were composed, and those that the kernel has accepted.
        heard: when the client last sent something, in seconds in which the server was running.
        has_left: the client said BYE, or closed its side of the connection or its socket.
        has_ended: the client got the end of the stream, or has closed its socket.
        may_be_cut: what the client gets may end anywhere, because it was reset or did not read.
    """

    def __init__(self, room: int, now: float) -> None:
        self.conn: Any = lib.sim_connect(room)
        self.outbox = bytearray()
        self.composed = 0
        self.fed = 0
        self.heard = now
        self.has_left = False
        self.has_ended = False
        self.may_be_cut = False

    def say(self, line: bytes) -> None:
        """Compose a line."""
        self.outbox += line + b"\n"
        self.composed += len(line) + 1

    def push(self, most: int, now: float) -> None:
        """Send at most ``most`` bytes, as far as the kernel accepts them."""
        conn = self.conn
        if not self.outbox or conn.fin or conn.reset or conn.closed:
            return
        count = int(lib.sim_feed(conn, bytes(self.outbox[:most]), min(most, len(self.outbox)), INPUT_ROOM))
        del self.outbox[:count]
        self.fed += count
        if count:
            self.heard = now

    def read(self, most: int) -> bytes:
        """Return at most ``most`` received bytes; with none left, note the end of the stream."""
        data = drain(self.conn, most)
        if not data and (self.conn.closed or self.conn.shut):
            self.has_ended = True
            self.conn.fin = 1
        return data

    def close_side(self) -> None:
        """Send no more, even if composed lines are unsent."""
        self.conn.fin = 1
        self.has_left = True

    def close(self) -> None:
        """Close the socket: from now on the kernel answers everything with a reset."""
        self.conn.fin = self.conn.deaf = 1
        if self.conn.out.len > self.conn.out.at:
            self.conn.reset = 1  # unread output is lost, and the server is told so
        self.has_left = self.has_ended = self.may_be_cut = True

    def reset(self, *, lose_input: bool) -> None:
        """Reset the connection."""
        if lose_input:
            lib.sim_forget_input(self.conn)
            self.fed = self.conn.received
        self.close()
        self.conn.reset = 1
