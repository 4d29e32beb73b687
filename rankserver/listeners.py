"""The sockets that connections arrive on: how they are opened, named and removed."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
from typing import Any, Final

from rankserver.exceptions import ListenError

BACKLOG: Final = 4096  # connections that wait for accept: a fleet that comes back at once


def is_loopback(host: str) -> bool:
    """Tell whether every address of ``host`` is reachable from this machine alone.

    Raises:
        ListenError: the name has no address.
    """
    addresses = (str(info[4][0]) for info in _resolve(host, 0))
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)


def open_tcp(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of ``host``, IPv4 and IPv6; all get the port that the first one got.

    Raises:
        ListenError: names the address and says why.
    """
    opened: list[socket.socket] = []
    try:
        for family, _, _, _, address in _resolve(host, port):
            opened.append(_listen(family, (address[0], port, *address[2:])))
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
    """Close the sockets and remove the files of those that have one."""
    for listener in listeners:
        if listener.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):  # somebody else removed it: then there is nothing to do
                os.unlink(listener.getsockname())
        listener.close()


def address_of(listener: socket.socket) -> str:
    """Return where ``listener`` can be reached: ``HOST:PORT``, ``[HOST]:PORT`` or ``unix:PATH``."""
    return peer_name(listener.family, listener.getsockname())


def peer_name(family: int, address: Any) -> str:
    """Return a socket address as text; a Unix peer has none of its own."""
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


def _listen(family: int, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has its own socket
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Remove a socket file that a server left behind when it was killed; leave one that is in use."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
