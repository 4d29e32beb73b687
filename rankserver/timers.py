"""Timeouts: a queue for each length of time, so that starting, stopping and expiring one is O(1).

The items of a queue are in the order in which they expire, because all of them wait equally long. Nothing
here reads a clock: the loop passes in the time of its turn. That clock stands still while the process is
stopped, so time in which nothing could be done counts towards no timeout.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Final, Generic, Protocol, TypeVar

T = TypeVar("T", bound=Hashable)

# The most items of one source that expire at a time, because each of them may be a departure. The others
# expire in the next turn, which follows at once.
MAX_EXPIRIES: Final = 128


class Expiring(Protocol):
    """A source of deadlines."""

    @property
    def deadline(self) -> float:
        """When the first thing expires; infinity if there is none."""

    def expire(self, now: float) -> None:
        """Do what is due at ``now``."""


class Timers:
    """All sources of deadlines of one loop.

    Attributes:
        nearest: nothing expires before this time. It may be too early, and is exact after ``expire``.
    """

    def __init__(self) -> None:
        self.nearest = math.inf
        self._sources: list[Expiring] = []

    def add(self, source: Expiring) -> None:
        """Expire a source with the others; it must call ``expect`` for each new deadline."""
        self._sources.append(source)

    def timeout(self, seconds: float, on_expiry: Callable[[T], None]) -> Timeout[T]:
        """Make a timeout that calls ``on_expiry`` with each item that expires; 0 seconds means never."""
        timeout = Timeout(self, seconds, on_expiry)
        self.add(timeout)
        return timeout

    def expect(self, deadline: float) -> None:
        """Note that something expires at this time. O(1)."""
        self.nearest = min(self.nearest, deadline)

    def expire(self, now: float) -> None:
        """Let each source expire some of what is due, in its own bounds. O(sources), and what they do."""
        for source in self._sources:
            source.expire(now)
        self.nearest = min((source.deadline for source in self._sources), default=math.inf)


class Timeout(Generic[T]):
    """Items that each expire some seconds after they were started. Made by ``Timers.timeout``."""

    def __init__(self, timers: Timers, seconds: float, on_expiry: Callable[[T], None]) -> None:
        self._seconds = seconds
        self._timers = timers
        self._on_expiry = on_expiry
        # In the order in which they expire.
        self._deadlines: OrderedDict[T, float] = OrderedDict()

    def start(self, item: T, now: float) -> None:
        """Let ``item`` expire that long after ``now``, even if it was started before."""
        if self._seconds:
            deadline = now + self._seconds
            self._deadlines[item] = deadline
            self._deadlines.move_to_end(item)
            self._timers.expect(deadline)

    def set_seconds(self, seconds: float) -> None:
        """Let what is started from now on expire after this many seconds.

        Items expire in the order in which they were started, so with several items this number may only grow.
        """
        self._seconds = seconds

    def start_once(self, item: T, now: float) -> None:
        """Let ``item`` expire that long after ``now``, unless it is started already."""
        if item not in self._deadlines:
            self.start(item, now)

    def stop(self, item: T) -> None:
        """Forget ``item``, if it is started at all."""
        self._deadlines.pop(item, None)

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, item: T) -> bool:
        return item in self._deadlines

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._deadlines))

    @property
    def deadline(self) -> float:
        """When the first item expires; infinity if there is none."""
        return next(iter(self._deadlines.values()), math.inf)

    def expire(self, now: float) -> None:
        """Remove items that have expired, and call ``on_expiry`` with each, oldest first."""
        for _ in range(MAX_EXPIRIES):
            if self.deadline > now:
                return
            self._on_expiry(self._deadlines.popitem(last=False)[0])
