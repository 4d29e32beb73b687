"""TLS for connections: receives and decrypts, encrypts and sends, in place of the C core.

Theory of operation. The problem: TLS connections are served by the same loop as plain ones, in turns of
bounded length. But the TLS layer may have to write before it can read, and the reverse; what it has decrypted
waits where no selector sees it; and a peer can make it work without sending any data.

The idea: the TLS layer works on memory (``ssl.MemoryBIO``) and never touches the socket. Bytes go in as they
are received, and go out when the socket takes them, so the loop treats the connection like any other:
readable means ``receive``, writable means ``flush``. Decrypted input goes to the connection's cursor
(``take``), and output comes from it (``peek``, ``advance``). So the C core still cuts lines, logs them and
orders frames.

Invariants:

 - After ``receive``, nothing that could be decrypted is left in the TLS layer: at most an incomplete record.
   So a readable socket is the only reason to call it again.
 - ``receive`` never sends. Only ``flush`` and ``shut_down`` do, and they alone decide whether the connection
   waits for the socket.
 - What ``receive`` returns counts the bytes from the socket, not the decrypted ones: 0 means the end of the
   stream, even if a record for the TLS layer alone came before.
 - Input is fed in pieces of at most two of the largest records, and output is encrypted only when the socket
   has taken what was encrypted before. So the buffers of the TLS layer stay small, whatever the peer does.

A record without data, such as a KeyUpdate, takes some 30 µs, which is as long as 16 KiB of data, and no peer
needs more than a few. So records are counted, and a peer that sends more of those is dropped. Only a few
records are decrypted at once, so that this is noticed in time.

How much to receive at once is the other thing to balance. Large pieces are cheap for data, but short records
take far longer per byte. So the size depends on what a peer has sent. It begins with ``MIN_RECEIVE_BYTES``
and grows with each byte of data that was decrypted; while more than ``MAX_IDLE_BYTES`` were received that no
data makes up for, it is ``MIN_RECEIVE_BYTES`` again.

What was tried and given up: sending in ``receive`` what the handshake has to say, because two places then
disagreed on whether to wait for the socket; and taking a read without data for the end of the stream, because
commands after a record that arrived in parts were lost.

Source: Python's ssl module, "Memory BIO Support"; RFC 8446.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from typing import Final

from rankserver.clist import Cursor, Flushed
from rankserver.tls_common import MAX_RECORD_BYTES, describe_error, load_certificate
from rankserver.wire.exceptions import ConfigError

# The first two bytes of a TLS handshake: the type of its record, and the major version (RFC 8446, section
# 5.1).
HANDSHAKE_RECORD: Final = 22
MAJOR_VERSION: Final = 3
# The byte behind the header of that record: the type of the message (RFC 8446, section 4).
CLIENT_HELLO: Final = 1
# The number of bytes up to and including that one.
HEAD_BYTES: Final = 6
# The most bytes received in one call. With the beginning of a record that was received before, they must fit
# one read of the core.
MAX_RECEIVE_BYTES: Final = 256 * 1024
# Bytes received in one call from a peer that has sent little data, or mostly messages for the TLS layer
# alone, which take a few milliseconds.
MIN_RECEIVE_BYTES: Final = 4 * 1024
# The most received bytes that one byte of decrypted data makes up for. A record adds some 30 bytes to its
# data, so lines of ten bytes that are sent one by one still count as data.
MAX_BYTES_PER_DATA: Final = 4
# The most received bytes that need not be made up for: incomplete records account for no more.
MAX_IDLE_BYTES: Final = 2 * MAX_RECORD_BYTES
# The most bytes that are encrypted before the socket has taken all of them. Together, a few records are worth
# the system call.
MAX_SEND_BYTES: Final = 4 * MAX_RECORD_BYTES
# The most sends in one flush, because the other clients wait meanwhile: as much as one send of the core.
MAX_SENDS: Final = 16
# How many records without data a peer may send after its handshake, and for how many bytes of data one more:
# no TLS layer changes its keys as often.
MAX_BARE_RECORDS: Final = 4
DATA_PER_BARE_RECORD: Final = 1024 * 1024
# The most records that are decrypted before those without data are counted.
MAX_PIECE_RECORDS: Final = 8
# The bytes in a record's header, the last two of which are the length of what follows.
HEADER_BYTES: Final = 5
# The most bytes of the TLS layer's own messages that may wait for a peer that does not read. No peer needs a
# tenth of it.
MAX_OWED_BYTES: Final = 64 * 1024
# Errors of send after which the socket can take more later, as in the core.
_WOULD_BLOCK: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM})


def context(cert: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    """Return a server's context: TLS 1.2 or newer, no renegotiation.

    Args:
        cert: file with our certificate, and those between it and the authority's.
        key: file with our private key.
        client_ca: file with the authorities that may sign clients' certificates; None if clients need none.

    Raises:
        ConfigError: a file cannot be used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # No session can be resumed: a client that reconnects must present its certificate again.
    made.num_tickets = 0
    try:
        _check_regular(cert, key)
    except (OSError, ValueError) as error:
        files = f"{cert} with the key {key}"
        raise ConfigError(f"cannot use the certificate {files}: {describe_error(error)}") from None
    load_certificate(made, cert, key)
    if client_ca is not None:
        try:
            _check_regular(client_ca)
            made.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot use the certificates in {client_ca}: {describe_error(error)}"
            ) from None
        made.verify_mode = ssl.CERT_REQUIRED
    return made


class TlsTransport:
    """The TLS side of one connection.

    Attributes:
        is_blocked: the socket did not take everything that is encrypted.
        sent: how many encrypted bytes the socket has taken.
        ended: the peer sends nothing more: it said so, or closed the connection.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, cursor: Cursor) -> None:
        self.is_blocked = False
        self.sent = 0
        self.ended = False
        self._sock = sock
        self._cursor = cursor
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # The first bytes that were received.
        self._head = b""
        # Whether the handshake is done.
        self._is_open = False
        # Whether we have said that nothing more comes from us.
        self._is_shut = False
        # Output that was taken from _outgoing, and that the socket has not taken yet.
        self._encrypted = b""
        # How many bytes were decrypted in all.
        self._decrypted = 0
        self._records = RecordEnds()
        # How many records without data the peer has sent since the handshake.
        self._bare = 0
        # How many received bytes no decrypted data has made up for yet.
        self._idle = 0

    def receive(self, size: int) -> int:
        """Receive once, at most ``size`` bytes, and give everything that can be decrypted to the cursor.

        The caller must flush afterwards in any case, because the handshake may have output. ``ended`` may
        become true together with the last bytes; the socket need not become readable again after that.

        Returns:
            How many bytes were received, with those for the TLS layer itself; 0 at the end of the stream.

        Raises:
            OSError: the connection is lost, there is no memory, or the peer's TLS is not acceptable.
            BlockingIOError: there is nothing to receive.
        """
        if self.ended:
            return 0
        received = self._sock.recv(min(size, self._window()))
        self.ended = not received
        if len(self._head) < HEAD_BYTES:
            self._head += received[: HEAD_BYTES - len(self._head)]
        try:
            # A handshake that is not done when we have said all is not continued: nothing could be sent.
            data = self._decrypt(received) if self._is_open or not self._is_shut else b""
            if self._outgoing.pending > MAX_OWED_BYTES:
                raise OSError(errno.EPROTO, "TLS: the peer sends requests and does not read the replies")
            self._cursor.take(data)
        except MemoryError:
            raise OSError(errno.ENOMEM, "out of memory") from None
        self._decrypted += len(data)
        self._idle = max(self._idle + len(received) - MAX_BYTES_PER_DATA * len(data), 0)
        return len(received)

    def has_begun(self) -> bool:
        """Tell whether the peer has sent the beginning of a TLS handshake, received or not.

        At most one system call.
        """
        head = self._head
        if len(head) < HEAD_BYTES:
            with contextlib.suppress(OSError):  # nothing has arrived, or the connection is lost
                head += self._sock.recv(HEAD_BYTES - len(head), socket.MSG_PEEK)
        is_whole = len(head) == HEAD_BYTES
        return is_whole and (head[0], head[1], head[-1]) == (HANDSHAKE_RECORD, MAJOR_VERSION, CLIENT_HELLO)

    def flush(self) -> Flushed:
        """Send pending output, in a bounded number of system calls; like ``Cursor.flush``."""
        for _ in range(MAX_SENDS):
            if not self._send():
                return Flushed.BLOCKED if self.is_blocked else Flushed.BROKEN
            if not self._is_open:
                return Flushed.DONE  # data is sent after the handshake
            try:
                if not self._encrypt():
                    return Flushed.DONE
            except (ssl.SSLError, MemoryError):
                return Flushed.BROKEN
        self.is_blocked = True
        return Flushed.BLOCKED

    @property
    def is_handshaking(self) -> bool:
        """Whether ``receive`` continues the handshake, until that is done or ``shut_down`` was called."""
        return not (self._is_open or self._is_shut)

    @property
    def unsent(self) -> int:
        """How many encrypted bytes the socket has not taken yet."""
        return len(self._encrypted) + self._outgoing.pending

    def shut_down(self) -> bool:
        """Tell the peer that nothing more comes (close_notify). Calling this again is allowed.

        Returns:
            Whether the socket has taken it; if False, the caller must try again.
        """
        was_shut, self._is_shut = self._is_shut, True
        if self._is_open and not was_shut:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # it waits for the peer's close_notify, which need not come
            except MemoryError:
                return True
        self._send()
        return not self.is_blocked

    def _window(self) -> int:
        """Return how many bytes to receive at once; see the module's docstring."""
        if self._idle > MAX_IDLE_BYTES:
            return MIN_RECEIVE_BYTES
        return min(MIN_RECEIVE_BYTES + self._decrypted, MAX_RECEIVE_BYTES)

    def _decrypt(self, received: bytes) -> bytes:
        """Return everything that can be decrypted: only an incomplete record is left for later."""
        parts: list[bytes] = []
        try:
            for piece, records in self._pieces(received):
                self._incoming.write(piece)
                was_open, before = self._is_open, len(parts)
                self._read_all(parts)
                if was_open:
                    self._count_bare(records - (len(parts) - before))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.ended = True
        except ssl.SSLError as error:
            if not parts:
                raise OSError(errno.EPROTO, f"TLS: {describe_error(error)}") from None
            self.ended = True  # what came before the error counts
        return b"".join(parts)

    def _pieces(self, received: bytes) -> Iterator[tuple[memoryview, int]]:
        """Yield the received bytes in pieces, each with the number of records that end in it."""
        start = count = 0
        view = memoryview(received)
        for end in self._records.find(received):
            count += 1
            if count == MAX_PIECE_RECORDS or end - start >= MAX_RECORD_BYTES:
                yield view[start:end], count
                start, count = end, 0
        if start < len(received):
            yield view[start:], count

    def _count_bare(self, count: int) -> None:
        """Count records without data; raise an SSLError if there are too many."""
        self._bare += count
        if self._bare > MAX_BARE_RECORDS + self._decrypted // DATA_PER_BARE_RECORD:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "too many records without data")

    def _read_all(self, parts: list[bytes]) -> None:
        try:
            if not self._is_open:
                self._tls.do_handshake()
                self._is_open = True
            while part := self._tls.read(MAX_RECORD_BYTES):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass  # it has used everything that was received

    def _encrypt(self) -> bool:
        """Encrypt what the cursor must be sent next; return whether there is anything."""
        data = bytearray()
        for span in self._cursor.peek():
            data += span[: MAX_SEND_BYTES - len(data)]
            if len(data) == MAX_SEND_BYTES:
                break
        parts = []
        with memoryview(data) as view:
            done = 0
            while done < len(data):
                done += self._tls.write(view[done : done + MAX_RECORD_BYTES])
                parts.append(self._outgoing.read())
        self._encrypted = b"".join(parts)
        self._cursor.advance(len(data))
        return bool(data)

    def _send(self) -> bool:
        """Send encrypted output; return whether the socket has taken all of it."""
        self.is_blocked = False
        try:
            while data := self._encrypted or self._outgoing.read():
                self._encrypted = data
                count = self._sock.send(data)
                self.sent += count
                self._encrypted = data[count:]
        except OSError as error:
            self.is_blocked = error.errno in _WOULD_BLOCK
            return False
        return True


class RecordEnds:
    """Finds where the records of a TLS stream end, by their headers."""

    def __init__(self) -> None:
        # The bytes until the end of a record that has begun; its header if that is not complete yet.
        self._left = 0
        self._header = b""

    def find(self, data: bytes) -> list[int]:
        """Return the offsets in the next bytes of the stream at which records end. O(records)."""
        before = len(self._header)
        data = self._header + data
        ends = [self._left] if 0 < self._left <= len(data) else []
        at = self._left
        while at + HEADER_BYTES <= len(data):
            at += HEADER_BYTES + (data[at + 3] << 8 | data[at + 4])
            if at <= len(data):
                ends.append(at)
        self._left = max(at - len(data), 0)
        self._header = data[at:]
        return [end - before for end in ends] if before else ends


def _check_regular(*paths: str) -> None:
    """Refuse a FIFO, for example: OpenSSL would wait for a writer, and all clients with it."""
    for path in paths:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path} is not a regular file")
