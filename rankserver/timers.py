"""Timeouts on the monotonic clock: a queue for each length of time, so that start, stop and expiry are O(1).

It reads no clock: the server passes the time of its turn in.
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
        nearest: nothing expires before this time; it may be too early, and is right after ``expire``.
    """

    def __init__(self) -> None:
        self.nearest = math.inf
        self._timeouts: list[Timeout[Any]] = []

    def timeout(self, seconds: float, on_expiry: Callable[[T], None]) -> Timeout[T]:
        """Make a timeout; ``on_expiry`` is called with each item that expires. 0 seconds means never."""
        timeout = Timeout(self, seconds, on_expiry)
        self._timeouts.append(timeout)
        return timeout

    def delay(self, seconds: float) -> None:
        """Let all expire so much later: for time in which nothing could be done. O(n)."""
        for timeout in self._timeouts:
            timeout.delay(seconds)
        self.nearest += seconds

    def expire(self, now: float) -> None:
        """Call what is due. O(1) if nothing is."""
        if now < self.nearest:
            return
        for timeout in self._timeouts:
            timeout.expire(now)
        self.nearest = min((timeout.deadline for timeout in self._timeouts), default=math.inf)


class Timeout(Generic[T]):
    """Things that each expire ``seconds`` after they were started. Made by ``Timers.timeout``."""

    def __init__(self, timers: Timers, seconds: float, on_expiry: Callable[[T], None]) -> None:
        self.seconds = seconds
        self._timers = timers
        self._on_expiry = on_expiry
        self._deadlines: OrderedDict[T, float] = OrderedDict()  # in the order in which they expire

    def start(self, item: T, now: float) -> None:
        """Let ``item`` expire ``seconds`` from ``now``, anew if it was started before."""
        if self.seconds:
            deadline = now + self.seconds
            self._deadlines[item] = deadline
            self._deadlines.move_to_end(item)
            self._timers.nearest = min(self._timers.nearest, deadline)

    def start_once(self, item: T, now: float) -> None:
        """Let ``item`` expire ``seconds`` from ``now``, unless it was started before."""
        if item not in self._deadlines:
            self.start(item, now)

    def stop(self, item: T) -> None:
        """Forget ``item``; it need not be there."""
        self._deadlines.pop(item, None)

    def delay(self, seconds: float) -> None:
        """Let all items expire so much later. O(n)."""
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
