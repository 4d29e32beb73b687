"""TLS on a connection's socket, for asyncio: the counterpart of ``sock_recv`` and ``sock_sendall``.

The TLS layer reads and writes memory buffers, so one task can receive while another sends, and either can be
cancelled without losing or tearing a record. Source: Python's ssl module, "Memory BIO Support".
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from rankserver.tls_common import MAX_RECORD_BYTES, describe_error, load_certificate
from rankserver.wire.exceptions import ConfigError

# OpenSSL's codes for a certificate that is not for this host name or this IP address.
NAME_MISMATCHES: Final = frozenset({62, 64})
# What is added to the message about such a certificate, which may have the right common name.
ONLY_ALT_NAMES: Final = " (its subjectAltName counts, and not its common name)"
# The most encrypted bytes that may wait to be sent. We encrypt one record at a time; the rest are answers to
# messages of the TLS layer, such as KeyUpdate, which servers hardly ever send.
MAX_UNSENT_ANSWERS: Final = 1024 * 1024


def context(ca: str | None = None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return a client's context: it requires TLS 1.2 or newer, and a certificate for the server's name.

    Only a certificate's subjectAltName counts, not its common name: RFC 9525, section 2.

    Args:
        ca: file with the certificate authorities to trust; None for those of the system.
        cert: file with our certificate, if the server requires one.
        key: file with its private key; None if ``cert`` contains it.

    Raises:
        ConfigError: a file cannot be used.
    """
    try:
        made = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot use the certificates in {ca}: {describe_error(error)}") from None
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.hostname_checks_common_name = False
    if cert is not None:
        load_certificate(made, cert, key)
    return made


class TlsStream:
    """The TLS side of one connection. Call ``shake_hands`` first.

    Args:
        sock: connected and non-blocking; the caller closes it.
        context: see the function of that name.
        host: the name for which the server's certificate must be valid.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        # Bytes taken from ``_outgoing`` that the socket has not accepted yet.
        self._encrypted = bytearray()
        self._sending = asyncio.Lock()
        self._ended = False

    async def shake_hands(self) -> None:
        """Check that this is the right server, and agree on keys. The caller bounds the time.

        Raises:
            OSError: it is the wrong server, or the connection is lost; ``reason`` puts it into words.
        """
        while not self._try_handshake():
            await self._flush()
            await self._fill(MAX_RECORD_BYTES)
            if self._ended:
                raise ConnectionResetError("the server closed the connection in the TLS handshake")
        await self._flush()

    async def receive(self, size: int) -> bytes:
        """Return what comes next, at most about ``size`` bytes; empty bytes at the end.

        Cancelling loses nothing. The stream may end without close_notify: the protocol has its own farewell,
        ``BYE``.

        Raises:
            OSError: the connection is lost, or the server does not want our certificate.
        """
        while not self._ended:
            await asyncio.sleep(0)  # let other tasks run: there may be bytes for the TLS layer without end
            await self._fill(size)
            data = self._decrypt()
            if data:
                return data
        return b""

    async def send_all(self, data: bytes) -> None:
        """Send ``data``. After a cancelled call, the next one sends the rest of the last record first.

        Raises:
            OSError: the connection is lost.
        """
        with memoryview(data) as view:
            for start in range(0, len(data), MAX_RECORD_BYTES):
                rest = view[start : start + MAX_RECORD_BYTES]
                while rest:
                    rest = rest[self._tls.write(rest) :]
                await self._flush()

    async def shut_down(self) -> None:
        """Tell the server, after everything sent before, that nothing more will come (close_notify).

        Raises:
            OSError: the connection is lost.
        """
        with contextlib.suppress(ssl.SSLError):  # it would wait for the server's close_notify
            self._tls.unwrap()
        await self._flush()

    def _try_handshake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            self._take()
            self._send()  # tell the server why
            raise
        return True

    async def _fill(self, size: int) -> None:
        """Wait for bytes, and take them from the socket only when this cannot be cancelled any more."""
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
            while part := self._tls.read(MAX_RECORD_BYTES):
                parts.append(part)
            self._ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = True
        except ssl.SSLError:
            if not parts:
                raise
            self._ended = True  # what came before the error counts
        if self._outgoing.pending + len(self._encrypted) > MAX_UNSENT_ANSWERS:
            raise ConnectionAbortedError("the server asks in the TLS layer, and does not read our answers")
        if self._outgoing.pending and not self._sending.locked():  # otherwise _flush is sending it already
            self._take()
            with contextlib.suppress(OSError):  # the next send will fail as well
                self._send()
        return b"".join(parts)

    async def _flush(self) -> None:
        """Send the encrypted bytes: whole records, in order, even if callers are cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        async with self._sending:
            self._take()
            while self._encrypted:
                if not self._send():
                    await self._wait(loop.add_writer, loop.remove_writer)

    def _take(self) -> None:
        self._encrypted += self._outgoing.read()

    def _send(self) -> bool:
        """Send once; return whether the socket accepted anything."""
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
        """Wait until the socket is readable or writable, whichever ``add`` watches for."""
        ready = asyncio.Event()
        add(self._sock, ready.set)
        try:
            await ready.wait()
        finally:
            remove(self._sock)


def reason(error: OSError | ValueError) -> str:
    """Return why the connection failed, in words for a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = ONLY_ALT_NAMES if error.verify_code in NAME_MISMATCHES else ""
        return f"the server's {describe_error(error).removeprefix('the ')}{hint}"
    prefix = "TLS: " if isinstance(error, ssl.SSLError) and error.reason else ""
    return prefix + describe_error(error)
