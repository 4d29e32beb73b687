"""What the loop sees of the simulated kernel: sockets, a listener, a selector and a clock; and the trace."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from simulate import core
from simulate.truth import Violation

MODULE: Final = core.load()
ffi: Final[Any] = MODULE.ffi
lib: Final[Any] = MODULE.lib

# Descriptors that do not belong to connections.
UNIX_LISTENER: Final = 0
TCP_LISTENER: Final = 1
SIGNALS: Final = 2
# How many addresses clients have, and the port of each.
HOSTS: Final = 3
PORT: Final = 4000
_ACCEPT_ERRORS: Final = (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.EINTR, errno.ENOBUFS)
_DRAIN_BYTES: Final = 65_536
_drained: Final[Any] = ffi.new("char[]", _DRAIN_BYTES)
_received: Final[Any] = ffi.new("char[]", _DRAIN_BYTES)
_where: Final[Any] = ffi.new("char **")


def drain(conn: Any, most: int = _DRAIN_BYTES) -> bytes:
    """Return output for the client, at most ``most`` bytes, and remove it from the kernel."""
    count = lib.sim_drain(conn, _drained, min(most, _DRAIN_BYTES))
    return bytes(ffi.buffer(_drained, count)) if count else b""


class Clock:
    """The simulated time, in seconds. It advances as work is done, and while the server waits.

    Attributes:
        stopped: how much of it the process was stopped.
    """

    def __init__(self) -> None:
        self.stopped = 0.0
        self._waited = 1000.0

    @property
    def now(self) -> float:
        """The time that the server sees."""
        return self._waited + self.worked

    @property
    def worked(self) -> float:
        """The time in which work was done."""
        nanoseconds: int = lib.sim_spent()
        return nanoseconds * 1e-9

    @property
    def running(self) -> float:
        """The time in which the process was not stopped."""
        return self.now - self.stopped

    def wait(self, seconds: float) -> None:
        """Let time pass in which nothing is done."""
        self._waited += seconds

    def work(self, seconds: float) -> None:
        """Let time pass with work that system calls do not account for."""
        lib.sim_spend(round(seconds * 1e9))


class Trace:
    """Everything that happens in a run, as a hash, and as text if it is kept.

    Args:
        seed: the seed of the run, which also decides the faults of the kernel.
        is_kept: keep the text in ``lines``.
    """

    def __init__(self, seed: int, *, is_kept: bool) -> None:
        self.is_kept = is_kept
        self.lines: list[str] = []
        lib.sim_begin(seed, is_kept)

    def say(self, text: str) -> None:
        """Add a line, after those of the kernel."""
        lib.sim_note(hash_of(text))
        if self.is_kept:
            self.lines += kernel_lines()
            self.lines.append(text)


def kernel_lines() -> list[str]:
    """Return what the kernel has added to the trace since this was last called."""
    count = lib.sim_trace_text(_where)
    return bytes(ffi.buffer(_where[0], count)).decode().splitlines() if count else []


def read_log() -> bytes:
    """Return what was logged since this was last called."""
    count = lib.sim_read_log(_where)
    return bytes(ffi.buffer(_where[0], count)) if count else b""


def hash_of(text: str) -> int:
    """Return a number for a text, the same in each process."""
    return sum(text.encode()) + (len(text) << 16)


class SimSocket:
    """An accepted connection: as much of ``socket.socket`` as the server uses."""

    def __init__(self, client: Any, fd: int, family: socket.AddressFamily) -> None:
        self.client = client
        self.family = family
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor, -1 once it is closed."""
        return self._fd

    def setblocking(self, flag: bool) -> None:
        """Check that the socket never blocks."""
        if flag:
            raise Violation("a connection was set to block")

    def setsockopt(self, *_option: object) -> None:
        """Accept any option."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive once.

        Raises:
            OSError: there is nothing to receive, or the connection was reset.
        """
        count = _count(lib.sim_receive(self._fd, _received, min(size, _DRAIN_BYTES), flags))
        return bytes(ffi.buffer(_received, count))

    def send(self, data: bytes) -> int:
        """Send once; return how many bytes that was.

        Raises:
            OSError: nothing can be sent now, or the connection was reset.
        """
        return _count(lib.sim_transmit(self._fd, ffi.from_buffer(data), len(data)))

    def shutdown(self, how: int) -> None:
        """Shut down the server's direction."""
        if how != socket.SHUT_WR:
            raise Violation(f"shutdown({how})")
        if lib.sim_shutdown(self._fd):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    def close(self) -> None:
        """Close the descriptor, whose number may be used again at once."""
        if self._fd >= 0:
            lib.sim_close(self._fd)
            self._fd = -1


class SimListener:
    """A listening socket; the simulation makes its connections.

    Args:
        rng: decides which accepts fail.
        family: TCP or Unix.

    Attributes:
        waiting: the clients whose connections were not accepted yet.
        faults: how many accepts in a thousand fail.
        is_closed: the server has closed it.
    """

    def __init__(self, rng: random.Random, family: socket.AddressFamily) -> None:
        self.family = family
        self.waiting: deque[Any] = deque()
        self.faults = 0
        self.is_closed = False
        self._rng = rng

    def fileno(self) -> int:
        """Return a descriptor of its own."""
        return UNIX_LISTENER if self.family == socket.AF_UNIX else TCP_LISTENER

    def accept(self) -> tuple[SimSocket, tuple[str, int] | str]:
        """Accept one connection.

        Raises:
            OSError: there is none, or the accept fails at random.
        """
        if self.faults and self._rng.random() * 1000 < self.faults:
            error = self._rng.choice(_ACCEPT_ERRORS)
            if error == errno.ECONNABORTED and self.waiting:
                _refuse(self.waiting.popleft())
            raise OSError(error, os.strerror(error))
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        client = self.waiting.popleft()
        sock = SimSocket(client, lib.sim_accept(client.link.conn), self.family)
        return sock, "" if self.family == socket.AF_UNIX else (f"192.0.2.{client.number % HOSTS}", PORT)

    def getsockname(self) -> tuple[str, int] | str:
        """Return its address; a Unix socket has no file."""
        return "" if self.family == socket.AF_UNIX else ("192.0.2.1", 1)

    def close(self) -> None:
        """Refuse the connections that were not accepted."""
        self.is_closed = True
        while self.waiting:
            _refuse(self.waiting.popleft())


class Signals:
    """The socket that signals arrive on."""

    def fileno(self) -> int:
        """Return a descriptor of its own."""
        return SIGNALS


@dataclass
class Key:
    """The part of ``selectors.SelectorKey`` that is used; ``events`` is what the socket is registered for."""

    fileobj: Any
    fd: int
    events: int
    data: Any


class SimSelector:
    """A selector; the simulation continues while the loop waits in it.

    Args:
        wait: called by ``select`` with its timeout; returns what is ready.
    """

    def __init__(self, wait: Callable[[float | None], list[tuple[Key, int]]]) -> None:
        self.keys: dict[int, Key] = {}
        self.select = wait

    def register(self, fileobj: Any, events: int, data: Any = None) -> Key:
        """Add a socket that is not there yet."""
        fd = fileobj.fileno()
        if fd < 0 or fd in self.keys or not events:
            raise Violation(
                f"register({fd}, {events}) of what is closed, or registered already, or for nothing"
            )
        self.keys[fd] = key = Key(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> Key:
        """Remove a socket that is there and open."""
        return self._pop(fileobj.fileno())

    def modify(self, fileobj: Any, events: int, data: Any = None) -> Key:
        """Change what a socket is registered for."""
        self._pop(fileobj.fileno())
        return self.register(fileobj, events, data)

    def get_map(self) -> Mapping[int, Key]:
        """Return what is registered."""
        return self.keys

    def close(self) -> None:
        """Forget all sockets."""
        self.keys.clear()

    def _pop(self, fd: int) -> Key:
        if fd not in self.keys:
            raise Violation(f"descriptor {fd} is not registered")
        return self.keys.pop(fd)


def _refuse(client: Any) -> None:
    client.link.conn.reset = client.link.conn.closed = 1


def _count(result: int) -> int:
    """Return the result of a system call.

    Raises:
        OSError: it has failed.
    """
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
