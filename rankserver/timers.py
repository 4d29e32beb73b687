"""Timeouts on the monotonic clock: a queue for each length of time, so that start, stop and expiry are O(1).

It reads no clock: the server passes the time of its turn in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Timeout(Generic[T]):
    """Things that each expire ``seconds`` after they were started; 0 means never."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadlines: OrderedDict[T, float] = OrderedDict()  # in the order in which they expire

    def start(self, item: T, now: float) -> None:
        """Let ``item`` expire ``seconds`` from ``now``, anew if it was started before."""
        if self.seconds:
            self._deadlines[item] = now + self.seconds
            self._deadlines.move_to_end(item)

    def start_once(self, item: T, now: float) -> None:
        """Let ``item`` expire ``seconds`` from ``now``, unless it was started before."""
        if item not in self._deadlines:
            self.start(item, now)

    def stop(self, item: T) -> None:
        """Forget ``item``; it need not be there."""
        self._deadlines.pop(item, None)

    @property
    def deadline(self) -> float | None:
        """When the first item expires, or None."""
        return next(iter(self._deadlines.values()), None)

    def expired(self, now: float) -> list[T]:
        """Remove and return the items that have expired, oldest first."""
        items: list[T] = []
        while self._deadlines and next(iter(self._deadlines.values())) <= now:
            items.append(self._deadlines.popitem(last=False)[0])
        return items
