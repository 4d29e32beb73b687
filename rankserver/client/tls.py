"""TLS on a connection's socket, for asyncio: what ``sock_recv`` and ``sock_sendall`` are for a plain one.

The TLS layer works on memory. So one task may receive while another one sends, and either may be cancelled
without a record being lost or torn. Source: Python's ssl module, "Memory BIO Support".
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from rankserver.wire.exceptions import ConfigError

RECORD_BYTES: Final = 16 * 1024  # what one TLS record holds, at most
# What OpenSSL says of a key that is not the certificate's: of the same kind, or of another.
MISMATCHES: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


def context(ca: str | None = None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return a client's context: TLS 1.2 or newer, and a server that can prove its name.

    Args:
        ca: file with the authorities of which one must have signed the server's certificate; the system's
            if none is given.
        cert: file with our certificate, if the server wants one.
        key: file with its private key, if that is not in ``cert``.

    Raises:
        ConfigError: a file cannot be used.
    """
    try:
        made = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot use the certificates in {ca}: {reason(error)}") from None
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        try:
            made.load_cert_chain(cert, key, password=_no_password)
        except (OSError, ValueError) as error:
            files = cert if key is None else f"{cert} with the key {key}"
            raise ConfigError(f"cannot use the certificate {files}: {reason(error)}") from None
    return made


class Tls:
    """The TLS side of one connection. ``shake_hands`` first; one task may receive while another one sends.

    Args:
        sock: connected and non-blocking; the caller closes it.
        context: see the function of that name.
        host: the name that the server's certificate must have.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._encrypted = bytearray()  # taken from _outgoing, and not by the socket
        self._sending = asyncio.Lock()
        self._ended = False

    async def shake_hands(self) -> None:
        """Find out whether it is the right server, and agree on keys. The caller bounds the time.

        Raises:
            OSError: it is not, or the connection is lost; ``reason`` says it in words.
        """
        while not self._shakes_hands():
            await self._flush()
            await self._fill(RECORD_BYTES)
            if self._ended:
                raise ConnectionResetError("the server closed the connection in the TLS handshake")
        await self._flush()

    async def receive(self, size: int) -> bytes:
        """Return what comes next, about ``size`` bytes at most; nothing at the end. Cancelling loses nothing.

        An end that the server has not announced is an end, too: its last word is ``BYE``.

        Raises:
            OSError: the connection is lost, or the server does not want our certificate.
        """
        while not self._ended:
            await self._fill(size)
            data = self._decrypt()
            if data:
                return data
        return b""

    async def send_all(self, data: bytes) -> None:
        """Send ``data``. If it is cancelled, the next call sends the rest of it first.

        Raises:
            OSError: the connection is lost.
        """
        with memoryview(data) as view:
            for start in range(0, len(data), RECORD_BYTES):
                rest = view[start : start + RECORD_BYTES]
                while rest:
                    rest = rest[self._tls.write(rest) :]
                await self._flush()

    async def shut_down(self) -> None:
        """Tell the server that nothing more comes from us (close_notify), behind what was sent.

        Raises:
            OSError: the connection is lost.
        """
        with contextlib.suppress(ssl.SSLError):  # it wants to read the server's, which comes in its time
            self._tls.unwrap()
        await self._flush()

    def _shakes_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            self._take()
            self._send()  # the server is told why
            raise
        return True

    async def _fill(self, size: int) -> None:
        """Wait for bytes; they are taken from the socket only when nobody can cancel us any more."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(BlockingIOError):
                received = self._sock.recv(size)
                break
            await self._wait(loop.add_reader, loop.remove_reader)
        self._ended = not received
        self._incoming.write(received)

    def _decrypt(self) -> bytes:
        """Return all that can be decrypted."""
        parts = []
        try:
            while part := self._tls.read(RECORD_BYTES):
                parts.append(part)
            self._ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = True
        except ssl.SSLError:
            if not parts:
                raise
            self._ended = True  # but what was before it counts
        if self._outgoing.pending and not self._sending.locked():  # else it goes with what is being sent
            self._take()
            with contextlib.suppress(OSError):  # whoever sends next finds out
                self._send()
        return b"".join(parts)

    async def _flush(self) -> None:
        """Send what is encrypted: all of a record, and in order, whoever is cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        async with self._sending:
            self._take()
            while self._encrypted:
                if not self._send():
                    await self._wait(loop.add_writer, loop.remove_writer)

    def _take(self) -> None:
        self._encrypted += self._outgoing.read()

    def _send(self) -> bool:
        """Send once; return whether the socket took any."""
        try:
            del self._encrypted[: self._sock.send(self._encrypted)]
        except BlockingIOError:
            return False
        return True

    async def _wait(
        self,
        add: Callable[[socket.socket, Callable[[], None]], None],
        remove: Callable[[socket.socket], object],
    ) -> None:
        """Wait until the socket is ready for what ``add`` watches it for."""
        ready = asyncio.Event()
        add(self._sock, ready.set)
        try:
            await ready.wait()
        finally:
            remove(self._sock)


def reason(error: OSError | ValueError) -> str:
    """Return what OpenSSL or the system says, in words for a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and (said := getattr(error, "reason", None)):
        if said in MISMATCHES:
            return "the key and the certificate do not belong together"
        return f"TLS: {str(said).replace('_', ' ').lower()}"
    return getattr(error, "strerror", None) or str(error)


def _no_password() -> str:
    """Refuse a key that is encrypted: OpenSSL would ask for its password on the terminal."""
    raise ValueError("its key needs a password")
