"""Timeouts on the monotonic clock. It reads no clock itself: callers pass in the time of their turn.

Every duration has a queue of its own. Its items all wait equally long, so they expire in the order in which
they were started: starting, stopping and expiring are O(1). A turn in which nothing expires compares one
number.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Timers:
    """All timeouts of one loop.

    Attributes:
        nearest: nothing expires before this time. It may be too early, and is exact after ``expire``.
    """

    def __init__(self) -> None:
        self.nearest = math.inf
        self._timeouts: list[Timeout[Any]] = []

    def timeout(self, seconds: float, on_expiry: Callable[[T], None]) -> Timeout[T]:
        """Make a timeout that calls ``on_expiry`` with each item that expires; 0 seconds means never."""
        timeout = Timeout(self, seconds, on_expiry)
        self._timeouts.append(timeout)
        return timeout

    def delay(self, seconds: float) -> None:
        """Postpone every expiry, to make up for time in which the server did not run. O(n)."""
        for timeout in self._timeouts:
            timeout.delay(seconds)
        self.nearest += seconds

    def expire(self, now: float) -> None:
        """Expire every item that is due. O(1) if none is."""
        if now < self.nearest:
            return
        for timeout in self._timeouts:
            timeout.expire(now)
        self.nearest = min((timeout.deadline for timeout in self._timeouts), default=math.inf)


class Timeout(Generic[T]):
    """Items that each expire ``seconds`` after they were started. Made by ``Timers.timeout``."""

    def __init__(self, timers: Timers, seconds: float, on_expiry: Callable[[T], None]) -> None:
        self.seconds = seconds
        self._timers = timers
        self._on_expiry = on_expiry
        # In the order in which they expire.
        self._deadlines: OrderedDict[T, float] = OrderedDict()

    def start(self, item: T, now: float) -> None:
        """Let ``item`` expire ``seconds`` from ``now``, even if it was started before."""
        if self.seconds:
            deadline = now + self.seconds
            self._deadlines[item] = deadline
            self._deadlines.move_to_end(item)
            self._timers.nearest = min(self._timers.nearest, deadline)

    def start_once(self, item: T, now: float) -> None:
        """Let ``item`` expire ``seconds`` from ``now``, unless it is started already."""
        if item not in self._deadlines:
            self.start(item, now)

    def stop(self, item: T) -> None:
        """Forget ``item``, if it is started at all."""
        self._deadlines.pop(item, None)

    def delay(self, seconds: float) -> None:
        """Postpone the expiry of all items. O(n)."""
        for item in self._deadlines:
            self._deadlines[item] += seconds

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
        """Remove the items that have expired, and call ``on_expiry`` with each, oldest first."""
        while self.deadline <= now:
            self._on_expiry(self._deadlines.popitem(last=False)[0])
