"""TLS for connections: what the C core cannot read and write, decrypted and encrypted here.

The TLS layer works on memory and never touches a socket, so that whether it wants to read or to write is no
concern of the loop's: bytes go in as they come, and go out when the socket takes them. Source: Python's ssl
module, "Memory BIO Support"; RFC 8446.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final

from rankserver.clist import Client, Flushed, Log
from rankserver.exceptions import ConfigError

RECORD_BYTES: Final = 16 * 1024  # what one TLS record holds, at most
SEND_BYTES: Final = 4 * RECORD_BYTES  # encrypted before the socket has taken all of it
SENDS: Final = 16  # in one flush: the others wait meanwhile


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
    try:
        made.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot use the certificate {cert} with the key {key}: {_reason(error)}") from None
    if client_ca is not None:
        try:
            made.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot use the certificates in {client_ca}: {_reason(error)}") from None
        made.verify_mode = ssl.CERT_REQUIRED
    return made


class TlsTransport:
    """The TLS side of one connection.

    Attributes:
        is_blocked: the socket did not take all that is encrypted.
        ended: nothing more comes: the peer said so, or closed the connection.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, log: Log, client: Client) -> None:
        self.is_blocked = False
        self.ended = False
        self._sock = sock
        self._log = log
        self._client = client
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._is_open = False  # the handshake is done
        self._encrypted = b""  # taken from _outgoing, and not by the socket

    def receive(self, most: int) -> bytes:
        """Receive once, and return all that it decrypts to; nothing at the end.

        Raises:
            OSError: the connection is lost, or the peer does not speak TLS.
            BlockingIOError: there is nothing to receive, or only what was for the TLS layer.
        """
        received = self._sock.recv(most)
        self.ended = not received
        self._incoming.write(received)
        parts = []
        try:
            self._open()
            while part := self._tls.read(RECORD_BYTES):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass  # it has all that came
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.ended = True
        finally:
            self._send()  # what the handshake has to say, also when it fails
        if not parts and not self.ended:
            raise BlockingIOError
        return b"".join(parts)

    def flush(self) -> Flushed:
        """Send what waits for the client, a bounded number of times; as ``Log.flush``."""
        for _ in range(SENDS):
            if not self._send():
                return Flushed.BLOCKED if self.is_blocked else Flushed.BROKEN
            if not self._is_open:
                return Flushed.DONE  # the rest follows the handshake
            data = self._next()
            if not data:
                return Flushed.DONE
            try:
                written = self._tls.write(data)
            except ssl.SSLError:
                return Flushed.BROKEN
            self._log.advance(self._client, written)
        self.is_blocked = True
        return Flushed.BLOCKED

    def shut_down(self) -> None:
        """Tell the peer that nothing more comes (close_notify), as far as the socket takes it."""
        with contextlib.suppress(ssl.SSLError):  # it wants to read the peer's, which need not come
            self._tls.unwrap()
        self._send()

    def _next(self) -> bytes:
        """Return what is to be sent next, as much as is encrypted at once."""
        data = bytearray()
        for span in self._log.peek(self._client):
            data += span[: SEND_BYTES - len(data)]
            if len(data) == SEND_BYTES:
                break
        return bytes(data)

    def _open(self) -> None:
        if not self._is_open:
            self._tls.do_handshake()
            self._is_open = True

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


def _no_password() -> str:
    """Refuse a key that is encrypted: OpenSSL would ask for its password on the terminal."""
    raise ValueError("the key needs a password")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
