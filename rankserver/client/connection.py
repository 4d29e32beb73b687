"""One connection to a server: a socket, and the session whose bytes it moves.

``runner`` drives it, and makes a new one when it is lost. It uses the socket directly rather than asyncio's
streams: when a write fails, those discard what has arrived but was not read yet, so the server's ``BYE``
would be lost just when it matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from rankserver.addresses import is_loopback_address
from rankserver.client.events import Disconnected, Event
from rankserver.client.functions import in_thread
from rankserver.client.session import Session, SessionState
from rankserver.client.tls import TlsStream, reason
from rankserver.wire.exceptions import ConfigError, ConnectError, DisconnectedError, InsecureError

DEFAULT_PORT: Final = 5050
# The most seconds that connecting and joining may take, up to the server's WELCOME.
CONNECT_TIMEOUT: Final = 10.0
# The most seconds that the server may take to receive our last bytes and close the connection: a person may
# be waiting for it.
LEAVE_TIMEOUT: Final = 2.0
# The most bytes received in one turn: about a thousand events, which take a few milliseconds.
MAX_READ_BYTES: Final = 65_536
# The most bytes that are still to be sent when ``drain`` returns: they keep the socket busy until the caller
# adds more.
MAX_UNSENT: Final = 65_536

_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[^][]+)\]|(?P<host>[^][:]+))(?::(?P<port>[0-9]{1,5}))?")
_BARE_V6 = re.compile(r"[^][]*:[^][]*:[^][]*")


class Address(NamedTuple):
    """The address of a server: a host and a port, or the path of a Unix socket and None."""

    host: str
    port: int | None

    def __str__(self) -> str:
        if self.port is None:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``; the default port is 5050.

    Raises:
        ConfigError: ``text`` is none of these.
    """
    if text.startswith("unix:") and text != "unix:":
        return Address(text.removeprefix("unix:"), None)
    if _BARE_V6.fullmatch(text):
        return Address(text, DEFAULT_PORT)
    match = _HOST_AND_PORT.fullmatch(text)
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if not match or not 0 < port < 65_536:
        raise ConfigError(f"address {text!r} is not HOST, HOST:PORT, [IPV6]:PORT or unix:PATH")
    return Address(match["v6"] or match["host"], port)


class Connection:
    """A session that has joined, on its own socket; made by ``join``.

    Attributes:
        session: the protocol. Call ``wake`` after anything that may have given it something to send.
        happened: the events of joining, ``Connected`` first.
    """

    def __init__(
        self, sock: socket.socket, stream: ByteStream, session: Session, happened: Sequence[Event]
    ) -> None:
        self.session = session
        self.happened = happened
        self._sock = sock
        self._stream = stream
        # Set when the session has something to send.
        self._wake = asyncio.Event()
        self._wake.set()
        # Set when the session has less to send than before, or nothing will be sent any more.
        self._room = asyncio.Event()
        # Whether the server or we have ended the connection.
        self._has_ended = self._is_end(happened)
        # Whether anything was received since the heartbeat check last cleared this.
        self._has_heard = True
        # The reason to report if the connection ends without a BYE.
        self._end = "connection lost"
        self._writer = asyncio.create_task(self._write())
        self._heartbeat_check = asyncio.create_task(self._check_heartbeat())

    async def receive(self) -> list[Event]:
        """Wait for bytes, or for the end of the stream, and return what they mean.

        Cancelling it can lose what has just arrived, so cancel it only to close the connection.
        """
        data = await self._read()
        self._has_heard = True
        happened = self.session.receive_data(data) if data else self.session.receive_eof(self._end)
        self._has_ended = self._is_end(happened)
        self.wake()
        return happened

    def wake(self) -> None:
        """Make sure that what the session has to send is sent soon."""
        if self.session.unsent:
            self._wake.set()

    async def drain(self) -> None:
        """Wait until at most ``MAX_UNSENT`` bytes are still to be sent, or the connection has failed."""
        while self.session.unsent > MAX_UNSENT and not self._writer.done():
            self._room.clear()
            await self._room.wait()

    async def close(self) -> None:
        """Leave: the server still gets everything sent before. May be called again.

        No ``receive`` may be under way. Closing takes at most ``LEAVE_TIMEOUT`` seconds; whatever the server
        has not received by then is lost.
        """
        self._heartbeat_check.cancel()
        has_ended, self._has_ended = self._has_ended, True
        self.session.leave()
        self._wake.set()
        try:
            if not has_ended:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._finish(), LEAVE_TIMEOUT)
        finally:
            self._writer.cancel()
            try:
                # Otherwise one of them could use the descriptor after it is closed.
                await asyncio.wait({self._writer, self._heartbeat_check})
            finally:
                self._sock.close()

    @staticmethod
    def _is_end(happened: Sequence[Event]) -> bool:
        return bool(happened) and isinstance(happened[-1], Disconnected)

    async def _write(self) -> None:
        """Send what the session has to send until it is over. If that fails, the reader notices the end."""
        try:
            with contextlib.suppress(OSError):
                while self.session.state is not SessionState.OVER or self.session.unsent:
                    await self._wake.wait()
                    self._wake.clear()
                    while data := self.session.data_to_send():
                        self._room.set()
                        await self._stream.send_all(data)
                await self._stream.shut_down()
        finally:
            self._room.set()

    async def _check_heartbeat(self) -> None:
        """End the connection if nothing arrives for two heartbeats, although we sent a PING after one.

        The server, or the network between us, has then failed silently.
        """
        while heartbeat := self.session.heartbeat:
            self._has_heard = False
            await asyncio.sleep(heartbeat)
            if self._has_heard or self.session.state is not SessionState.JOINED:
                continue
            self.session.ping()
            self.wake()
            await asyncio.sleep(heartbeat)
            if not self._has_heard:
                self._end = f"nothing heard for {2 * heartbeat:g} seconds"
                with contextlib.suppress(OSError):  # the connection has already ended
                    self._sock.shutdown(socket.SHUT_RDWR)  # the reader sees the end of the stream
                return

    async def _finish(self) -> None:
        """Send the rest while reading to the end: the server may not accept more until we read.

        Closing with unread bytes would reset the connection, and the server might lose our last lines.
        """
        await asyncio.gather(self._writer, self._read_to_end())

    async def _read_to_end(self) -> None:
        while await self._read():
            pass

    async def _read(self) -> bytes:
        """Return what arrives next; empty bytes at the end of the stream."""
        await asyncio.sleep(0)  # let other tasks run: receiving returns at once while there is data
        try:
            return await self._stream.receive(MAX_READ_BYTES)
        except OSError:  # such as a reset: an end like any other, since everything before it was read
            return b""


class ByteStream(Protocol):
    """Moves a connection's bytes: ``SocketStream`` here, or ``tls.TlsStream``."""

    async def receive(self, size: int) -> bytes:
        """Return what comes next, at most about ``size`` bytes; empty bytes at the end."""

    async def send_all(self, data: bytes) -> None:
        """Send ``data``."""

    async def shut_down(self) -> None:
        """Tell the server that nothing more will come, if the stream can express that."""


class SocketStream:
    """A connected, non-blocking socket without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def receive(self, size: int) -> bytes:
        """Return what comes next, at most ``size`` bytes; empty bytes at the end."""
        return await asyncio.get_running_loop().sock_recv(self._sock, size)

    async def send_all(self, data: bytes) -> None:
        """Send ``data``."""
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def shut_down(self) -> None:
        """Do nothing: the protocol has its own farewell."""


async def join(
    where: Address,
    *,
    name: str | None = None,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    insecure: bool = False,
) -> Connection:
    """Connect to the server at ``where`` and join it.

    Args:
        where: the server's address.
        name: our name; None lets the server choose one.
        token: the token, for a server that requires one. It is sent to no other.
        tls: the TLS context; None connects without TLS. A Unix socket never uses it.
        insecure: whether the token may travel over a network without TLS.

    Raises:
        LocalProtocolError: the protocol does not allow ``name``.
        InsecureError: the token would travel over a network without TLS. Nothing was sent.
        ConnectError: no server answers within ``CONNECT_TIMEOUT``.
        DisconnectedError: the server refused us, or it is not a rankserver.
    """
    session = Session()
    session.hello(name=name, token=token)
    needs_tls = token is not None and not insecure
    try:
        return await asyncio.wait_for(_join(where, session, tls, needs_tls=needs_tls), CONNECT_TIMEOUT)
    except asyncio.TimeoutError:
        raise ConnectError(f"cannot connect to {where}: no answer within {CONNECT_TIMEOUT:g} s") from None


async def _join(
    where: Address, session: Session, tls: ssl.SSLContext | None, *, needs_tls: bool
) -> Connection:
    sock = await _open(where)
    try:
        if needs_tls and tls is None:
            _check_is_local(sock, where)
        stream = await _secured(sock, where, tls)
        happened: list[Event] = []
        while not happened:
            if data := session.data_to_send():
                with contextlib.suppress(OSError):  # the server has closed; what it sent can still be read
                    await stream.send_all(data)
            happened = await _first(stream, session)
    except ssl.SSLError as error:
        sock.close()
        raise ConnectError(f"cannot connect to {where}: {reason(error)}") from error
    except BaseException:
        sock.close()
        raise
    if isinstance(happened[0], Disconnected):
        sock.close()
        raise DisconnectedError(happened[0].code, happened[0].text)
    return Connection(sock, stream, session, happened)


def _check_is_local(sock: socket.socket, where: Address) -> None:
    """Check that what we send stays on this machine. A name may mean any address, so the peer's counts.

    Raises:
        InsecureError: says what helps.
    """
    if sock.family == socket.AF_UNIX:
        return
    host = sock.getpeername()[0]
    if not is_loopback_address(host):
        raise InsecureError(
            f"cannot connect to {where}: the token would be sent to {host} without TLS, for others to read; "
            "use TLS (--tls), or allow it (--insecure) where something else protects the connection"
        )


async def _secured(sock: socket.socket, where: Address, tls: ssl.SSLContext | None) -> ByteStream:
    if tls is None or where.port is None:
        return SocketStream(sock)
    stream = TlsStream(sock, tls, where.host)
    try:
        await stream.shake_hands()
    except ssl.SSLError:
        raise
    except OSError as error:
        raise ConnectError(f"cannot connect to {where}: {reason(error)}") from error
    return stream


async def _open(where: Address) -> socket.socket:
    try:
        if where.port is None:
            return await _connect_socket(socket.AF_UNIX, where.host)
        # Not in the loop's default executor: at its end, the program would wait for a slow lookup.
        lookup = partial(socket.getaddrinfo, where.host, where.port, type=socket.SOCK_STREAM)
        found = await in_thread(lookup, name="getaddrinfo")
        for family, _, _, _, socket_address in found[:-1]:
            with contextlib.suppress(OSError):
                return await _connect_socket(family, socket_address)
        return await _connect_socket(found[-1][0], found[-1][4])
    except (OSError, ValueError) as error:  # ValueError: a name or path that cannot exist
        raise ConnectError(f"cannot connect to {where}: {_reason(error)}") from error


async def _connect_socket(family: socket.AddressFamily, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: OSError | ValueError) -> str:
    """Return the system's message for the error, because asyncio replaces it with its own."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)


async def _first(stream: ByteStream, session: Session) -> list[Event]:
    """Wait for bytes while we are joining, or for the end of the stream, and return what they mean.

    Raises:
        ssl.SSLError: the server does not accept our certificate. With TLS 1.3, it says so only after the
            handshake.
    """
    await asyncio.sleep(0)  # let the timeout have its turn: receiving returns at once while there is data
    try:
        data = await stream.receive(MAX_READ_BYTES)
    except ssl.SSLError:
        raise
    except OSError:  # such as a reset: an end like any other
        data = b""
    return session.receive_data(data) if data else session.receive_eof()
