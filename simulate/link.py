"""A client's end of its connection: the bytes that it sends and gets, and how either side ends it.

A ``Link`` carries lines as they are. A ``TlsLink`` encrypts them: the kernel carries records, and the server
has received what the complete records contain.
"""

from __future__ import annotations

import bisect
import contextlib
import ssl
from typing import Any, Final

from simulate.certificate import client_context
from simulate.kernel import Clock, drain, lib
from simulate.reading import Reading
from simulate.truth import Violation

# Bytes that the kernel accepts from a client before the server has received them.
INPUT_ROOM: Final = 4096
# The most bytes in one record of TLS.
RECORD_BYTES: Final = 16_384


class Link:
    """One connection, as its client has it.

    Args:
        room: bytes of output that the kernel keeps for the client.
        reading: at what pace the client reads.
        clock: tells the time in which the server was running.

    Attributes:
        conn: the connection in the simulated kernel.
        outbox: bytes of lines that the client has not sent yet.
        composed, fed: the bytes of all lines that were composed, and those that the kernel has accepted.
        heard: when the client last sent something, in seconds in which the server was running.
        has_left: the client said BYE, or closed its side of the connection or its socket.
        has_ended: the client got the end of the stream, or has closed its socket.
        may_be_cut: what the client gets may end anywhere, because it was reset or did not read.
        taken: how many bytes the client has read from its socket, which are encrypted with TLS.
    """

    def __init__(self, room: int, reading: Reading, clock: Clock) -> None:
        self.conn: Any = lib.sim_connect(room)
        self.outbox = bytearray()
        self.composed = 0
        self.fed = 0
        self.heard = clock.running
        self.has_left = False
        self.has_ended = False
        self.may_be_cut = False
        self.taken = 0
        self._reading = reading
        self._clock = clock

    @property
    def received(self) -> int:
        """How many bytes of lines the server has received."""
        return int(self.conn.received)

    @property
    def unsent(self) -> int:
        """How many bytes the kernel has not accepted yet."""
        return len(self.outbox)

    @property
    def can_be_told(self) -> bool:
        """Whether the server can surely send it frames."""
        return True

    @property
    def is_truncated(self) -> bool:
        """Whether the stream has ended and its end may be missing."""
        return False

    def say(self, line: bytes) -> None:
        """Compose a line."""
        self.outbox += line + b"\n"
        self.composed += len(line) + 1

    def mark(self) -> None:
        """Note when the server receives the end of what is composed now: ``conn.mark_tick``."""
        self.conn.mark = self.composed

    def push(self, most: int) -> None:
        """Send at most ``most`` bytes, as far as the kernel accepts them."""
        if self._can_send():
            self.fed += self._feed(self.outbox, most)

    def takes(self, rate: float, seconds: float) -> bool:
        """Tell whether the client takes ``rate`` while more waits for it, if it reads once in ``seconds``."""
        return rate <= self._reading.rate and rate * seconds <= self.conn.room

    def due(self) -> int:
        """Return how many bytes the client reads now, at its pace."""
        has_some = bool(self.conn.out.len > self.conn.out.at)
        return self._reading.due(self._clock.running, has_some=has_some)

    def read(self, most: int) -> bytes:
        """Return at most ``most`` received bytes; with none left, note the end of the stream."""
        data = drain(self.conn, most)
        self.taken += len(data)
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
            self.fed = self.received
        self.close()
        self.conn.reset = 1

    def _can_send(self) -> bool:
        return not (self.conn.fin or self.conn.reset or self.conn.closed)

    def _feed(self, data: bytearray, most: int) -> int:
        """Move bytes to the kernel, at most ``most``; return how many it has accepted."""
        if not data:
            return 0
        count = int(lib.sim_feed(self.conn, bytes(data[:most]), min(most, len(data)), INPUT_ROOM))
        del data[:count]
        if count:
            self.heard = self._clock.running
        return count


class TlsLink(Link):
    """A connection with TLS. Its ``conn`` counts encrypted bytes, and its other attributes those of lines."""

    def __init__(self, room: int, reading: Reading, clock: Clock) -> None:
        super().__init__(room, reading, clock)
        self.conn.sealed = 1
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = client_context().wrap_bio(self._incoming, self._outgoing)
        self._is_open = False
        # Whether something was decrypted.
        self._has_data = False
        # Whether the server has said that nothing more comes (close_notify).
        self._is_over = False
        # Encrypted bytes that the kernel has not accepted yet, and how many there were in all.
        self._wire = bytearray()
        self._wired = 0
        # Where the records with lines end, in encrypted bytes and in bytes of lines.
        self._record_ends = [0]
        self._line_ends = [0]
        # Where the bytes end whose arrival is to be noted; 0 for none.
        self._mark = 0

    @property
    def received(self) -> int:
        """How many bytes of lines the server has received in complete records."""
        return self._lines_before(self.conn.received)

    @property
    def unsent(self) -> int:
        """How many bytes the kernel has not accepted yet."""
        return len(self.outbox) + len(self._wire)

    @property
    def can_be_told(self) -> bool:
        """Whether the server's handshake is done: it has sent something behind it."""
        return self._has_data

    @property
    def is_truncated(self) -> bool:
        """Whether the stream has ended, and the server has not said so (close_notify)."""
        return self.has_ended and self.can_be_told and not self._is_over

    def mark(self) -> None:
        """Note when the server receives the record with the end of what is composed now."""
        self._mark = self.composed

    def push(self, most: int) -> None:
        """Encrypt and send at most ``most`` bytes."""
        if not self._can_send():
            return
        self._shake_hands()
        if self._is_open and self.outbox and not self._wire:
            count = self._tls.write(self.outbox[: min(most, RECORD_BYTES)])
            del self.outbox[:count]
            self._collect()
            self._record_ends.append(self._wired)
            self._line_ends.append(self._line_ends[-1] + count)
            if not self.conn.mark and 0 < self._mark <= self._line_ends[-1]:
                self.conn.mark = self._wired
        self._feed(self._wire, most)
        self.fed = self._lines_before(self._wired - len(self._wire))

    def read(self, most: int) -> bytes:
        """Receive at most ``most`` encrypted bytes, and return what they contain."""
        data = super().read(most)
        self._incoming.write(data)
        try:
            self._shake_hands()
            if self._can_send():
                self._feed(self._wire, len(self._wire))
            return b"".join(self._decrypted()) if self._is_open else b""
        except ssl.SSLError as error:
            if not self.may_be_cut:
                raise Violation(f"TLS breaks: {error}") from None
            return b""

    def _shake_hands(self) -> None:
        if not self._is_open:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                self._is_open = True
            self._collect()

    def _decrypted(self) -> list[bytes]:
        parts = []
        try:
            while part := self._tls.read(RECORD_BYTES):
                self._has_data = True
                parts.append(part)
            self._is_over = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._is_over = True
        return parts

    def _collect(self) -> None:
        data = self._outgoing.read()
        self._wire += data
        self._wired += len(data)

    def _lines_before(self, encrypted: int) -> int:
        """Return how many bytes of lines the complete records in the first ``encrypted`` bytes contain."""
        return self._line_ends[bisect.bisect_right(self._record_ends, encrypted) - 1]
