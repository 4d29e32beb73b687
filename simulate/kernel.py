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
LISTENER: Final = 1
SIGNALS: Final = 2
# How many addresses clients have, and the port of each.
HOSTS: Final = 3
PORT: Final = 4000
_ACCEPT_ERRORS: Final = (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.EINTR, errno.ENOBUFS)
_DRAIN_BYTES: Final = 65_536
_drained: Final[Any] = ffi.new("char[]", _DRAIN_BYTES)
_where: Final[Any] = ffi.new("char **")


def drain(conn: Any, most: int = _DRAIN_BYTES) -> bytes:
    """Return output for the client, at most ``most`` bytes, and remove it from the kernel."""
    count = lib.sim_drain(conn, _drained, min(most, _DRAIN_BYTES))
    return bytes(ffi.buffer(_drained, count)) if count else b""


class Clock:
    """The simulated time, in seconds.

    Attributes:
        now: the time that the server sees.
        stopped: how much of it the process was stopped.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.stopped = 0.0

    @property
    def running(self) -> float:
        """The time in which the process was not stopped."""
        return self.now - self.stopped


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

    family = socket.AF_INET

    def __init__(self, client: Any, fd: int) -> None:
        self.client = client
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

    Attributes:
        waiting: the clients whose connections were not accepted yet.
        faults: how many accepts in a thousand fail.
        is_closed: the server has closed it.
    """

    family = socket.AF_INET

    def __init__(self, rng: random.Random) -> None:
        self.waiting: deque[Any] = deque()
        self.faults = 0
        self.is_closed = False
        self._rng = rng

    def fileno(self) -> int:
        """Return a descriptor of its own."""
        return LISTENER

    def accept(self) -> tuple[SimSocket, tuple[str, int]]:
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
        peer = (f"192.0.2.{client.number % HOSTS}", PORT)
        return SimSocket(client, lib.sim_accept(client.link.conn)), peer

    def getsockname(self) -> tuple[str, int]:
        """Return its address."""
        return ("192.0.2.1", 1)

    def close(self) -> None:
        """Refuse the connections that were not accepted."""
        self.is_closed = True
        while self.waiting:
            _refuse(self.waiting.popleft())


class SimReserve:
    """The memory reserve, which is used up at random.

    Args:
        rng: decides when.
        on_low: called when a check finds that memory is low.

    Attributes:
        faults: how many checks in a thousand find that memory is low.
        was_low: the last check has found that.
    """

    def __init__(self, rng: random.Random, on_low: Callable[[], None]) -> None:
        self.faults = 0
        self.was_low = False
        self._rng = rng
        self._on_low = on_low

    def is_intact(self, _: float) -> bool:
        """Tell whether there is enough memory for strangers."""
        self.was_low = bool(self.faults) and self._rng.random() * 1000 < self.faults
        if self.was_low:
            self._on_low()
        return not self.was_low

    def release(self) -> None:
        """Do nothing: it holds no memory."""


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
