"""One connection to a server: a socket, and the session whose bytes it moves.

``runner`` drives it, and makes another one when it is lost. It uses the socket itself rather than asyncio's
streams: as soon as a write fails, those drop what has arrived but was not read yet, so that a server's
``BYE`` would be lost just when it matters.
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

from rankserver.client.events import Disconnected, Event
from rankserver.client.functions import in_thread
from rankserver.client.session import Session, SessionState
from rankserver.client.tls import TlsStream, reason
from rankserver.wire.exceptions import ConfigError, ConnectError, DisconnectedError

DEFAULT_PORT: Final = 5050
# Seconds from the start until the server's WELCOME.
CONNECT_TIMEOUT: Final = 10.0
# Seconds for the server to take our last bytes and close the connection. A person waits for it.
LEAVE_TIMEOUT: Final = 2.0
# Bytes received in one turn: they make about a thousand events, which take a few milliseconds.
READ_SIZE: Final = 65_536
# With more bytes than this to send, ``drain`` waits until the server has taken some.
MAX_UNSENT: Final = 65_536

_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[^][]+)\]|(?P<host>[^][:]+))(?::(?P<port>[0-9]{1,5}))?")
_BARE_V6 = re.compile(r"[^][]*:[^][]*:[^][]*")


class Address(NamedTuple):
    """Where a server listens: a host and a port, or the path of a Unix socket and None."""

    host: str
    port: int | None

    def __str__(self) -> str:
        if self.port is None:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``; the default port is 5050.

    Raises:
        ConfigError: it is none of these.
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
    """A session that has joined, on a socket of its own; ``join`` makes it.

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
        # Set when there is something to send.
        self._wake = asyncio.Event()
        self._wake.set()
        # Set when something was sent, or nothing will be sent any more.
        self._room = asyncio.Event()
        # Whether the server or we have ended it.
        self._has_ended = self._is_end(happened)
        # Whether anything was heard since this was last set to False.
        self._has_heard = True
        # The reason to report if it ends without a BYE.
        self._end = "connection lost"
        self._writer = asyncio.create_task(self._write())
        self._listener = asyncio.create_task(self._listen_for_life())

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
        """Send what the session has to send, soon."""
        if self.session.unsent:
            self._wake.set()

    async def drain(self) -> None:
        """Wait until there is room for more to send, or the connection has failed."""
        while self.session.unsent > MAX_UNSENT and not self._writer.done():
            self._room.clear()
            await self._room.wait()

    async def close(self) -> None:
        """Leave: the server gets everything sent before. Nobody may be receiving. May be called again.

        It takes at most ``LEAVE_TIMEOUT`` seconds; whatever the server has not taken by then is lost.
        """
        self._listener.cancel()
        has_ended, self._has_ended = self._has_ended, True
        self.session.leave()
        self._wake.set()
        try:
            if not has_ended:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._part(), LEAVE_TIMEOUT)
        finally:
            self._writer.cancel()
            try:
                # Otherwise one of them would use the descriptor after it is closed.
                await asyncio.wait({self._writer, self._listener})
            finally:
                self._sock.close()

    @staticmethod
    def _is_end(happened: Sequence[Event]) -> bool:
        return bool(happened) and isinstance(happened[-1], Disconnected)

    async def _write(self) -> None:
        """Send what the session has to send, until it is over. If that fails, the reader notices the end."""
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

    async def _listen_for_life(self) -> None:
        """End the connection if nothing is heard for two heartbeats, although we sent a PING after one.

        The server, or the network on the way to it, has then gone without a word.
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
                with contextlib.suppress(OSError):  # it has ended in between
                    self._sock.shutdown(socket.SHUT_RDWR)  # the reader finds the end
                return

    async def _part(self) -> None:
        """Send the rest and read to the end at the same time: the server may not take more before we read.

        Closing with unread bytes would reset the connection, and the server might lose our last lines.
        """
        await asyncio.gather(self._writer, self._read_to_end())

    async def _read_to_end(self) -> None:
        while await self._read():
            pass

    async def _read(self) -> bytes:
        """Return what arrives next, nothing at the end of the stream."""
        await asyncio.sleep(0)  # give others a turn: receiving does not wait if there is something
        try:
            return await self._stream.receive(READ_SIZE)
        except OSError:  # such as a reset: an end like any other, as everything before it was read
            return b""


class ByteStream(Protocol):
    """Moves a connection's bytes: ``SocketStream`` here, or ``tls.TlsStream``."""

    async def receive(self, size: int) -> bytes:
        """Return what comes next, at most about ``size`` bytes; nothing at the end."""

    async def send_all(self, data: bytes) -> None:
        """Send ``data``."""

    async def shut_down(self) -> None:
        """Tell the server that nothing more comes, if the stream has a way to say it."""


class SocketStream:
    """A connected, non-blocking socket without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def receive(self, size: int) -> bytes:
        """Return what comes next, at most ``size`` bytes; nothing at the end."""
        return await asyncio.get_running_loop().sock_recv(self._sock, size)

    async def send_all(self, data: bytes) -> None:
        """Send ``data``."""
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def shut_down(self) -> None:
        """Do nothing: the protocol has its own farewell."""


async def join(
    where: Address, *, name: str | None = None, token: str | None = None, tls: ssl.SSLContext | None = None
) -> Connection:
    """Connect to the server at ``where`` and join it.

    Args:
        where: the server's address.
        name: our name; if there is none, the server chooses one.
        token: shows a server that wants one that we may join.
        tls: how to recognize the server; None for no TLS. A Unix socket never uses it.

    Raises:
        LocalProtocolError: the protocol does not allow ``name``.
        ConnectError: no server answers within ``CONNECT_TIMEOUT``.
        DisconnectedError: the server refused us, or it is no rankserver.
    """
    session = Session()
    session.hello(name=name, token=token)
    try:
        return await asyncio.wait_for(_join(where, session, tls), CONNECT_TIMEOUT)
    except asyncio.TimeoutError:
        raise ConnectError(f"cannot connect to {where}: no answer within {CONNECT_TIMEOUT:g} s") from None


async def _join(where: Address, session: Session, tls: ssl.SSLContext | None) -> Connection:
    sock = await _open(where)
    try:
        stream = await _secured(sock, where, tls)
        with contextlib.suppress(OSError):  # closed already; what it said before can still be read
            await stream.send_all(session.data_to_send())
        happened: list[Event] = []
        while not happened:
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
        # Not in the loop's own threads: the program's end would wait for a lookup that takes long.
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
    """Return the system's words for the error, which asyncio replaces with its own."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)


async def _first(stream: ByteStream, session: Session) -> list[Event]:
    """Wait for bytes before we have joined, or for the end of the stream, and return what they mean.

    Raises:
        ssl.SSLError: the server does not accept us. With TLS 1.3 it says so only now.
    """
    try:
        data = await stream.receive(READ_SIZE)
    except ssl.SSLError:
        raise
    except OSError:  # such as a reset: an end like any other
        data = b""
    return session.receive_data(data) if data else session.receive_eof()
