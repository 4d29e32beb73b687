"""The sockets that connections arrive on: how they are opened and named, and how connections are accepted."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import math
import os
import selectors
import socket
import stat
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from rankserver.logs import event
from rankserver.wire.exceptions import ListenError

BACKLOG: Final = 4096  # connections that wait for accept: a fleet that comes back at once
PROBE_SECONDS: Final = 1.0  # to find out whether somebody listens on a Unix socket
LOOPBACK_CONGESTION: Final = b"reno"  # see _do_not_pace
ACCEPTS: Final = 128  # connections accepted from one listener in one turn
# The kernel probes a silent peer as often as the heartbeat, and gives a connection up that has acknowledged
# nothing for so many of them, also one that is closed: two is when we do, who know what the peer has said.
DEAD_HEARTBEATS: Final = 3
ALIVE_LEAST: Final = 10  # seconds between two probes, for however short a heartbeat, ...
ALIVE_MOST: Final = 600  # ... and for a long one, or none

_GONE_BEFORE: Final = (
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
)
_NO_SUCH_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Acceptor:
    """Listens, and accepts a bounded number of connections when it is asked to.

    Args:
        selector: where the listeners are registered, with a callback as data.

    Attributes:
        ready: the listeners at which a connection has arrived in this turn.
        paused: listeners are not watched, for want of descriptors, for example; ``resume`` after a while.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.paused = True
        self._selector = selector
        self._listeners: list[socket.socket] = []
        self.ready: list[socket.socket] = []

    def listen(self, host: str, port: int, unix: str | None, heartbeat: float) -> list[str]:
        """Open the sockets, and return where they can be reached as text, TCP first.

        Args:
            host: name or address; all of its addresses are listened on.
            port: TCP port; 0 picks one.
            unix: path of a Unix socket, if any.
            heartbeat: seconds of silence after which a client is asked whether it is there, 0 for never.

        Raises:
            ListenError: names the address that cannot be had.
        """
        self._listeners = open_tcp(host, port, heartbeat)
        if unix is not None:
            self._listeners.append(open_unix(unix))
        self.resume()
        return [peer_name(listener.family, listener.getsockname()) for listener in self._listeners]

    def accept(self) -> Iterator[tuple[socket.socket, str, str]]:
        """Yield the connections that have arrived, non-blocking, each with its peer's name and host.

        The host of a Unix socket is empty.

        A connection that was gone before it was accepted is passed over. After any other error, such as too
        few descriptors, all listeners are left alone: they would be ready all the time, and the loop spin.
        """
        ready = self.ready.copy()
        self.ready.clear()
        for listener in ready:
            for _ in range(ACCEPTS):
                try:
                    sock, address = listener.accept()
                except (BlockingIOError, InterruptedError):
                    break
                except OSError as error:
                    if error.errno in _GONE_BEFORE:
                        continue
                    event(logging.WARNING, "cannot accept", reason=error.strerror)
                    self._pause()
                    return
                sock.setblocking(False)
                host = "" if sock.family == socket.AF_UNIX else str(address[0])
                yield sock, peer_name(sock.family, address), host

    def resume(self) -> None:
        """Watch the listeners, for the first time or again."""
        self.paused = False
        for listener in self._listeners:
            self._selector.register(listener, selectors.EVENT_READ, partial(self.ready.append, listener))

    def close(self) -> None:
        """Stop listening. Closing twice is allowed."""
        if not self.paused:
            self._pause()
        close_all(self._listeners)
        self._listeners = []

    def _pause(self) -> None:
        self.paused = True
        self.ready.clear()
        for listener in self._listeners:
            self._selector.unregister(listener)


def is_loopback(host: str) -> bool:
    """Tell whether every address of ``host`` is reachable from this machine alone.

    Raises:
        ListenError: the name has no address.
    """
    return all(_is_loopback_address(str(info[4][0])) for info in _resolve(host, 0))


def open_tcp(host: str, port: int, heartbeat: float = 0) -> list[socket.socket]:
    """Listen on every address of ``host``, IPv4 and IPv6; all get the port that the first one got.

    Connections are given up by the kernel when the peer is dead, see ``DEAD_HEARTBEATS``.

    Raises:
        ListenError: names the address and says why.
    """
    opened: list[socket.socket] = []
    try:
        found = _resolve(host, port)
        for number, (family, _, _, _, address) in enumerate(found, 1):
            try:
                opened.append(_listen(family, (address[0], port, *address[2:]), heartbeat))
            except OSError as error:
                # A name may have an address of a family that this machine does not use.
                if error.errno not in _NO_SUCH_ADDRESS or (number == len(found) and not opened):
                    raise
                continue
            port = opened[0].getsockname()[1]
    except OSError as error:
        close_all(opened)
        raise ListenError(f"cannot listen on {join_address(host, port)}: {_reason(error)}") from None
    return opened


def open_unix(path: str) -> socket.socket:
    """Listen on the Unix socket ``path``, in place of one that nobody listens on any more.

    Raises:
        ListenError: names the path and says why.
    """
    try:
        _remove_stale(path)
        return _listen(socket.AF_UNIX, path)
    except OSError as error:
        raise ListenError(f"cannot listen on unix:{path}: {_reason(error)}") from None


def close_all(listeners: list[socket.socket]) -> None:
    """Close the sockets, and remove the files of those that have one, unless another server has it by now."""
    for listener in listeners:
        path = listener.getsockname() if listener.family == socket.AF_UNIX else None
        listener.close()
        if path:
            with contextlib.suppress(OSError):  # somebody else removed it, or may not be asked: leave it
                _remove_stale(path)


def peer_name(family: int, address: Any) -> str:
    """Return a socket address as ``HOST:PORT``, ``[HOST]:PORT`` or ``unix:PATH``; a Unix peer has no path."""
    if family == socket.AF_UNIX:
        return f"unix:{address}"
    return join_address(address[0], address[1])


def join_address(host: str, port: int) -> str:
    """Return ``host:port``, with brackets where the host has colons itself."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _resolve(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {join_address(host, port)}: {_reason(error)}") from None


def _listen(family: int, address: Any, heartbeat: float = 0) -> socket.socket:
    """Open a listener; accepted sockets inherit its options (Linux: socket(7), tcp(7))."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _find_the_dead(listener, heartbeat)
            if _is_loopback_address(address[0]):
                _do_not_pace(listener)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has its own socket
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _find_the_dead(listener: socket.socket, heartbeat: float) -> None:
    """Let the kernel give up connections whose peer is gone without a word, also those that it closes for us.

    TCP_USER_TIMEOUT counts for a peer, too, that acknowledges but takes nothing: hence it is no short time.
    """
    seconds = max(math.ceil(min(heartbeat or ALIVE_MOST, ALIVE_MOST)), ALIVE_LEAST)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux, where it also says when keepalive gives up
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_HEARTBEATS * seconds * 1000)


def _is_loopback_address(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _do_not_pace(listener: socket.socket) -> None:
    """Let no connection of this listener wait for a network that is not there.

    Where the system's congestion control is BBR, it spreads what is sent over time by timers, and that took a
    fifth of the CPU time of large broadcasts. Reno does not, and is part of every Linux (tcp(7)). A listener
    that others can reach, too, keeps what the system has.
    """
    if hasattr(socket, "TCP_CONGESTION"):
        with contextlib.suppress(OSError):  # a system may allow none but its own
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, LOOPBACK_CONGESTION)


def _remove_stale(path: str) -> None:
    """Remove a socket file on which nobody listens; leave one that is in use."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_SECONDS)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
