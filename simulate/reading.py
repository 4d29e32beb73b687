"""At what pace clients read what they are sent."""

from __future__ import annotations

import math
from typing import Final, Protocol

# More bytes than wait for a client at any time.
EVERYTHING: Final = 1 << 16


class Reading(Protocol):
    """How a client reads.

    Attributes:
        rate: the bytes a second that it reads at any time as long as more wait.
    """

    @property
    def rate(self) -> float:
        """Return the rate."""

    def due(self, now: float, *, has_some: bool) -> int:
        """Return how many bytes the client reads now, if there is something to read."""


class AtOnce:
    """Reads all that there is."""

    rate = math.inf

    def due(self, now: float, *, has_some: bool) -> int:  # noqa: ARG002 - it does not matter here
        """Return more bytes than there can be."""
        return EVERYTHING


class Never:
    """Reads nothing by itself."""

    rate = 0.0

    def due(self, now: float, *, has_some: bool) -> int:  # noqa: ARG002 - it does not matter here
        """Return no bytes."""
        return 0


class Lumps:
    """Reads many bytes at a time, and nothing in between.

    Args:
        period: seconds from one time to the next.
        size: bytes at a time.
    """

    rate = 0.0

    def __init__(self, period: float, size: int) -> None:
        self._period = period
        self._size = size
        self._next = 0.0

    def due(self, now: float, *, has_some: bool) -> int:  # noqa: ARG002 - it does not matter here
        """Return ``size`` once in each period."""
        if now < self._next:
            return 0
        self._next = now + self._period
        return self._size


class Steadily:
    """Reads as a slow link delivers: so many bytes a second as long as some wait.

    Args:
        rate: bytes a second.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        # Up to when the bytes that waited were delivered; None while nothing waits.
        self._delivered_to: float | None = None

    def due(self, now: float, *, has_some: bool) -> int:
        """Return the bytes that were delivered since the last call."""
        if not has_some:
            self._delivered_to = None
            return 0
        if self._delivered_to is None:
            self._delivered_to = now
        # The time goes back when it turns out that the process was stopped.
        count = max(int((now - self._delivered_to) * self.rate), 0)
        self._delivered_to += count / self.rate
        return count
