"""TLS for connections: what the C core cannot read and write, decrypted and encrypted here.

The TLS layer works on memory and never touches a socket, so that whether it wants to read or to write is no
concern of the loop's: bytes go in as they come, and go out when the socket takes them. Source: Python's ssl
module, "Memory BIO Support"; RFC 8446.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from typing import Final

from rankserver.clist import Cursor, Flushed
from rankserver.tls_common import RECORD_BYTES, describe_error, load_certificate
from rankserver.wire.exceptions import ConfigError

RECEIVE_BYTES: Final = (
    256 * 1024
)  # in one call, at most: with a record that was begun, one read of the core's
FIRST_BYTES: Final = 4 * 1024  # in one call, of a peer of whom little was worth it: the TLS layer's own ...
WORTH: Final = 4  # ... messages take far longer for each byte than what is for us, which makes up for so many
IDLE_BYTES: Final = 2 * RECORD_BYTES  # received for nothing that is no part of a record any more
SEND_BYTES: Final = 4 * RECORD_BYTES  # encrypted before the socket has taken all of it
SENDS: Final = 16  # in one flush: the others wait meanwhile
OWED_BYTES: Final = (
    64 * 1024
)  # that the TLS layer has to say itself to a peer that does not read; none needs a tenth


def context(cert: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    """Return a server's context: TLS 1.2 or newer, no renegotiation.

    Args:
        cert: file with our certificate, and those between it and the authority's.
        key: file with our private key.
        client_ca: file with the authorities of which one must have signed the client's certificate, if any.

    Raises:
        ConfigError: a file cannot be used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    made.num_tickets = 0  # nobody resumes a session: who comes again shows its certificate again
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
        is_blocked: the socket did not take all that is encrypted.
        ended: nothing more comes: the peer said so, or closed the connection.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, cursor: Cursor) -> None:
        self.is_blocked = False
        self.ended = False
        self._sock = sock
        self._cursor = cursor
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._is_open = False  # the handshake is done
        self._is_shut = False  # we have said that nothing more comes from us
        self._encrypted = b""  # taken from _outgoing, and not by the socket
        self._decrypted = 0  # bytes in all
        self._idle = 0  # bytes received that nothing which was decrypted has made up for

    def receive(self, size: int) -> int:
        """Receive once, at most ``size`` bytes, and give all that can be decrypted to the log's cursor.

        Flush after it, whatever comes of it: the handshake may have something to say. With the last bytes,
        ``ended`` is true already, and the socket need not become readable again.

        Returns:
            How many bytes came, be they for us or for the TLS layer; 0 at the end of the stream.

        Raises:
            OSError: the connection is lost, there is no memory, or the peer does not speak TLS as we do.
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
        """Send what waits for the client, a bounded number of times; as ``Log.flush``."""
        for _ in range(SENDS):
            if not self._send():
                return Flushed.BLOCKED if self.is_blocked else Flushed.BROKEN
            if not self._is_open:
                return Flushed.DONE  # the rest follows the handshake
            try:
                if not self._encrypt():
                    return Flushed.DONE
            except (ssl.SSLError, MemoryError):
                return Flushed.BROKEN
        self.is_blocked = True
        return Flushed.BLOCKED

    def shut_down(self) -> bool:
        """Tell the peer that nothing more comes (close_notify). Again does no harm.

        Returns:
            Whether it need not be tried again: it is False while the socket does not take it.
        """
        if self._is_open and not self._is_shut:
            self._is_shut = True
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # it wants to read the peer's, which need not come
            except MemoryError:
                return True
        self._send()
        return not self.is_blocked

    def _window(self) -> int:
        """Return how much to receive at once: as much as it has been worth so far, in a way."""
        if self._idle > IDLE_BYTES:
            return FIRST_BYTES
        return min(FIRST_BYTES + self._decrypted, RECEIVE_BYTES)

    def _decrypt(self, received: bytes) -> bytes:
        """Return all that can be decrypted: nothing is left for later but a part of a record."""
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
            self.ended = True  # but what was before it counts
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
            pass  # it has all that came

    def _encrypt(self) -> bool:
        """Encrypt what is to be sent next; return whether there is any."""
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
        """Send what is encrypted; return whether the socket has taken all of it."""
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
    """Refuse a FIFO and the like: OpenSSL would wait for who writes to it, and all clients with it."""
    for path in paths:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path} is not a regular file")
