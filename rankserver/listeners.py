"""Listening sockets: how they are opened and named, and how connections are accepted."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import selectors
import socket
import stat
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from rankserver.addresses import is_loopback_address
from rankserver.logs import event
from rankserver.wire.exceptions import ListenError

# The most connections that the kernel queues until they are accepted: a whole fleet may reconnect at once.
MAX_PENDING: Final = 4096
# The most connections accepted from one listener in one turn, so that connected clients are served in
# between.
MAX_ACCEPTS: Final = 128
# The congestion control of connections over the loopback; ``_disable_pacing`` says why.
LOOPBACK_CONGESTION: Final = b"reno"
# The kernel drops a connection, closed ones included, whose peer has acknowledged nothing for this many
# heartbeats. It must act later than the server, which waits for two and knows what the peer has sent.
DEAD_HEARTBEATS: Final = 3
# Bounds on the seconds between two probes of a silent peer. A peer that is alive but does not read counts as
# dead, so the interval must not be short; and dead peers must be found even without a heartbeat.
MIN_PROBE_INTERVAL: Final = 10
MAX_PROBE_INTERVAL: Final = 600

# Which option helps when the port is in use, on the command line and with make.
PORT_HINT: Final = "; choose another port with --port (make run: PORT=...)"

# Errors of accept that concern only the connection, which no longer exists (accept(2)).
_ALREADY_GONE: Final = (
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
)
# Errors of bind and socket for an address that this machine does not have.
_NO_SUCH_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Acceptor:
    """Listens, and accepts a bounded number of connections when asked to.

    Args:
        selector: where the listeners are registered, with a callback as data.

    Attributes:
        ready: the listeners that have a connection to accept in this turn.
        paused: the listeners are not watched, for lack of descriptors, for example; call ``resume`` later.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.paused = True
        self._selector = selector
        self._listeners: list[socket.socket] = []
        self.ready: list[socket.socket] = []

    def listen(self, host: str, port: int, unix: str | None, heartbeat: float) -> list[str]:
        """Open the sockets, and return their addresses as text, TCP first.

        Args:
            host: name or address; every address of a name is listened on.
            port: TCP port; 0 picks a free one.
            unix: path of a Unix socket, if any.
            heartbeat: seconds of silence after which a client is pinged; 0 for never.

        Raises:
            ListenError: names the address that cannot be listened on.
        """
        self._listeners = open_tcp(host, port, heartbeat)
        if unix is not None:
            self._listeners.append(open_unix(unix))
        self.resume()
        return [peer_name(listener.family, listener.getsockname()) for listener in self._listeners]

    def accept(self) -> Iterator[tuple[socket.socket, str, str]]:
        """Yield the connections that have arrived, non-blocking, each with its peer's name and host.

        The host of a Unix peer is empty. A connection that ends before it is accepted is skipped. Any
        other error, such as running out of descriptors, pauses accepting: the listeners would stay ready, and
        the loop would spin.
        """
        ready = self.ready.copy()
        self.ready.clear()
        for listener in ready:
            for _ in range(MAX_ACCEPTS):
                try:
                    sock, address = listener.accept()
                except (BlockingIOError, InterruptedError):
                    break
                except OSError as error:
                    if error.errno in _ALREADY_GONE:
                        continue
                    event(logging.WARNING, "cannot accept", reason=error.strerror)
                    self.pause()
                    return
                sock.setblocking(False)
                host = "" if sock.family == socket.AF_UNIX else str(address[0])
                yield sock, peer_name(sock.family, address), host
                if self.paused:
                    return

    def resume(self) -> None:
        """Watch the listeners, for the first time or again."""
        self.paused = False
        for listener in self._listeners:
            self._selector.register(listener, selectors.EVENT_READ, partial(self.ready.append, listener))

    def pause(self) -> None:
        """Stop watching the listeners. The kernel keeps connections that arrive meanwhile."""
        if self.paused:
            return
        self.paused = True
        self.ready.clear()
        for listener in self._listeners:
            self._selector.unregister(listener)

    def close(self) -> None:
        """Stop listening. Closing twice is allowed."""
        self.pause()
        close_all(self._listeners)
        self._listeners = []


def is_loopback(host: str) -> bool:
    """Tell whether every address of ``host`` is reachable from this machine alone.

    Raises:
        ListenError: the name has no address.
    """
    return all(is_loopback_address(str(info[4][0])) for info in _resolve(host, 0))


def open_tcp(host: str, port: int, heartbeat: float = 0) -> list[socket.socket]:
    """Listen on every address of ``host``, IPv4 and IPv6, all on the same port.

    The kernel drops connections to dead peers; see ``DEAD_HEARTBEATS``.

    Raises:
        ListenError: names the address, and says why and which option helps.
    """
    opened: list[socket.socket] = []
    try:
        found = _resolve(host, port)
        for number, (family, _, _, _, address) in enumerate(found, 1):
            try:
                opened.append(_listen(family, (address[0], port, *address[2:]), heartbeat))
            except OSError as error:
                # A name may have an address of a family that this machine does not have.
                if error.errno not in _NO_SUCH_ADDRESS or (number == len(found) and not opened):
                    raise
                continue
            port = opened[0].getsockname()[1]
    except OSError as error:
        close_all(opened)
        hint = PORT_HINT if error.errno == errno.EADDRINUSE else ""
        raise ListenError(f"cannot listen on {join_address(host, port)}: {_reason(error)}{hint}") from None
    return opened


def open_unix(path: str) -> socket.socket:
    """Listen on the Unix socket ``path``, replacing a file that no process has a socket for any more.

    Raises:
        ListenError: names the path and says why.
    """
    try:
        _remove_stale(path)
        return _listen(socket.AF_UNIX, path)
    except OSError as error:
        raise ListenError(f"cannot listen on unix:{path}: {_reason(error)}") from None


def close_all(listeners: list[socket.socket]) -> None:
    """Close the sockets, and remove the files of Unix sockets, except those bound by others by now."""
    for listener in listeners:
        path = listener.getsockname() if listener.family == socket.AF_UNIX else None
        listener.close()
        if path:
            with contextlib.suppress(OSError):  # another process has removed the file, or replaced it
                _remove_stale(path)


def peer_name(family: int, address: Any) -> str:
    """Return a socket address as ``HOST:PORT``, ``[HOST]:PORT`` or ``unix:PATH``; a Unix peer has no path."""
    if family == socket.AF_UNIX:
        return f"unix:{address}"
    return join_address(address[0], address[1])


def join_address(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _resolve(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {join_address(host, port)}: {_reason(error)}") from None


def _listen(family: int, address: Any, heartbeat: float = 0) -> socket.socket:
    """Open a listener; the sockets that it accepts inherit its options (Linux: socket(7), tcp(7))."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _detect_dead_peers(listener, heartbeat)
            if is_loopback_address(address[0]):
                _disable_pacing(listener)
        if family == socket.AF_INET6:
            # IPv4 gets a socket of its own.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(MAX_PENDING)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _detect_dead_peers(listener: socket.socket, heartbeat: float) -> None:
    """Let the kernel drop connections whose peer has vanished, including those that it is closing.

    TCP_USER_TIMEOUT also applies to a peer that acknowledges but does not read, so it must not be short.
    """
    seconds = max(math.ceil(min(heartbeat or MAX_PROBE_INTERVAL, MAX_PROBE_INTERVAL)), MIN_PROBE_INTERVAL)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # On Linux, this timeout also says when keepalive gives up.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_HEARTBEATS * seconds * 1000)


def _disable_pacing(listener: socket.socket) -> None:
    """Keep connections over the loopback from being paced, which only makes sense on a network.

    Where the system's congestion control is BBR, it spreads sending over time with timers, and that took a
    fifth of the CPU time of large broadcasts. Reno does not pace, and every Linux has it (tcp(7)). A listener
    that other machines can reach keeps the system's choice.
    """
    if hasattr(socket, "TCP_CONGESTION"):
        # The system may allow no other algorithm.
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, LOOPBACK_CONGESTION)


def _remove_stale(path: str) -> None:
    """Remove a socket file that no process has bound; leave one that is in use.

    A connection of the wrong type, for datagrams, is what tells them apart: it is refused if no socket is
    bound to the file, and otherwise fails with EPROTOTYPE, whether that socket listens already or not
    (unix(7)). A process that has bound it and does not listen yet is not disturbed.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.unlink(path)
    except OSError as error:
        if error.errno != errno.EPROTOTYPE:
            raise


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
