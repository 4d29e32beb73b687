"""TLS for connections: receives and decrypts, encrypts and sends, in place of the C core.

Theory of operation. The TLS layer works on memory and never touches a socket, so the loop need not know
whether it wants to read or to write: bytes go in as they come, and go out when the socket takes them.

The TLS layer's own messages take far longer per byte than data, so how much is received at once depends on
what a peer has sent: ``FIRST_BYTES`` at first, more with each byte of data that was decrypted, and
``FIRST_BYTES`` again while a peer sends mostly messages for the TLS layer alone.

Source: Python's ssl module, "Memory BIO Support"; RFC 8446.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from typing import Final

from rankserver.cursor import Cursor, Flushed
from rankserver.tls_common import RECORD_BYTES, describe_error, load_certificate
from rankserver.wire.exceptions import ConfigError

# The most bytes received in one call. With the beginning of a record that was received before, they fit one
# read of the core.
RECEIVE_BYTES: Final = 256 * 1024
# Bytes received in one call from a peer that has sent little data, or mostly messages for the TLS layer
# alone.
FIRST_BYTES: Final = 4 * 1024
# Received bytes that one byte of decrypted data makes up for.
WORTH: Final = 4
# Received bytes that need not be made up for: incomplete records account for no more than this.
IDLE_BYTES: Final = 2 * RECORD_BYTES
# Bytes that are encrypted before the socket has taken all of them.
SEND_BYTES: Final = 4 * RECORD_BYTES
# Sends in one flush, because the other clients wait meanwhile.
SENDS: Final = 16
# Bytes of the TLS layer's own messages that may wait for a peer that does not read. No peer needs a tenth of
# it.
OWED_BYTES: Final = 64 * 1024


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
        ended: the peer sends nothing more: it said so, or closed the connection.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, cursor: Cursor) -> None:
        self.is_blocked = False
        self.ended = False
        self._sock = sock
        self._cursor = cursor
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # Whether the handshake is done.
        self._is_open = False
        # Whether we have said that nothing more comes from us.
        self._is_shut = False
        # Output that was taken from _outgoing, and that the socket has not taken yet.
        self._encrypted = b""
        # How many bytes were decrypted in all.
        self._decrypted = 0
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
        try:
            data = self._decrypt(received)
            if self._outgoing.pending > OWED_BYTES:
                raise OSError(errno.EPROTO, "TLS: it asks for much, and reads nothing")
            self._cursor.take(data)
        except MemoryError:
            raise OSError(errno.ENOMEM, "out of memory") from None
        self._decrypted += len(data)
        self._idle = max(self._idle + len(received) - WORTH * len(data), 0)
        return len(received)

    def flush(self) -> Flushed:
        """Send pending output, in a bounded number of system calls; like ``Cursor.flush``."""
        for _ in range(SENDS):
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

    def shut_down(self) -> bool:
        """Tell the peer that nothing more comes (close_notify). Calling this again is allowed.

        Returns:
            Whether the socket has taken it; if False, the caller must try again.
        """
        if self._is_open and not self._is_shut:
            self._is_shut = True
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
        if self._idle > IDLE_BYTES:
            return FIRST_BYTES
        return min(FIRST_BYTES + self._decrypted, RECEIVE_BYTES)

    def _decrypt(self, received: bytes) -> bytes:
        """Return everything that can be decrypted: only an incomplete record is left for later."""
        parts: list[bytes] = []
        try:
            for start in range(0, len(received), RECORD_BYTES):
                self._incoming.write(memoryview(received)[start : start + RECORD_BYTES])
                self._read_all(parts)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.ended = True
        except ssl.SSLError as error:
            if not parts:
                raise OSError(errno.EPROTO, f"TLS: {describe_error(error)}") from None
            self.ended = True  # what came before the error counts
        return b"".join(parts)

    def _read_all(self, parts: list[bytes]) -> None:
        try:
            if not self._is_open:
                self._tls.do_handshake()
                self._is_open = True
            while part := self._tls.read(RECORD_BYTES):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass  # it has used everything that was received

    def _encrypt(self) -> bool:
        """Encrypt what the cursor must be sent next; return whether there is anything."""
        data = bytearray()
        for span in self._cursor.peek():
            data += span[: SEND_BYTES - len(data)]
            if len(data) == SEND_BYTES:
                break
        parts = []
        with memoryview(data) as view:
            done = 0
            while done < len(data):
                done += self._tls.write(view[done : done + RECORD_BYTES])
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
                self._encrypted = data[self._sock.send(data) :]
        except BlockingIOError:
            self.is_blocked = True
            return False
        except OSError:
            return False
        return True


def _check_regular(*paths: str) -> None:
    """Refuse a FIFO, for example: OpenSSL would wait for a writer, and all clients with it."""
    for path in paths:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path} is not a regular file")
