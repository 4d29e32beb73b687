"""Lateness: drops clients that make others wait because they take too little of their output.

Theory of operation. The problem: others wait for a client that reads slowly, and for how long is up to that
client. A timeout that starts anew when the client has caught up never expires for one that reads in lumps. A
timeout that looks at the backlog alone drops clients on slow links because somebody else floods.

The idea: a client is *late* while others wait for it and it takes less than ``MIN_RATE``. Lateness adds up
over all waits, and is forgiven slowly: ``timeout`` seconds of it in ``FORGIVENESS_PERIOD`` seconds in which
the client is not late. At ``timeout`` seconds of lateness, the client is dropped. So whenever others wait for
a client, it takes ``MIN_RATE`` or more, except for ``timeout`` seconds at once and twice that in any minute.
``pace`` decides for which clients others wait; a congested client counts as one of them.

What a client takes is what its system has acknowledged. TCP opens its window in steps of hundreds of
kilobytes, so what a client takes beyond the rate counts for up to ``MAX_SURPLUS`` seconds more.

Asking the system is a call for each client. So clients are sampled in turns that are taken anyway, but not
more often than every ``MIN_SAMPLE_INTERVAL``. Without such turns, they are sampled when one may have reached
its timeout, and every ``MAX_SAMPLE_INTERVAL``, since what a client takes between two samples pays for the
whole time between them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Final

from rankserver.channel import Channel
from rankserver.timers import MAX_EXPIRIES, Timers

# The least number of bytes that a client must take in a second while others wait for it. A slow mobile link
# takes several times as much.
MIN_RATE: Final = 64 * 1024
# The most seconds for which a client may take nothing because it took more than MIN_RATE before: at MIN_RATE,
# a step of TCP's window lasts no longer.
MAX_SURPLUS: Final = 3.0
# Seconds without lateness in which a whole timeout of it is forgiven.
FORGIVENESS_PERIOD: Final = 60.0
# The least number of seconds between two samples of all clients, however many turns are taken.
MIN_SAMPLE_INTERVAL: Final = 0.1
# The most seconds between two samples of all clients. A server whose clients all wait wakes up this often.
MAX_SAMPLE_INTERVAL: Final = 1.0
# The most samples in a second, which take about 3% of it. With more clients than that, the intervals are
# longer.
MAX_SAMPLES_PER_SECOND: Final = 10_000
# The difference in seconds of lateness that rounding may make.
_ROUNDING: Final = 1e-6


class Lateness:
    """For how long one client has been late.

    Args:
        taken: how many bytes the client has taken in all.
        now: the time.

    Attributes:
        seconds: the lateness that is not forgiven, at the last sample.
        sampled_at: the time of the last sample.
        is_excused: what the client takes counts. If False, it is late whenever others wait for it.
    """

    __slots__ = ("_since", "_surplus", "_taken", "_waited", "is_excused", "sampled_at", "seconds")

    def __init__(self, taken: int, now: float) -> None:
        self.seconds = 0.0
        self.sampled_at = now
        self.is_excused = True
        self._taken = taken
        # Seconds for which the client may take nothing.
        self._surplus = 0.0
        # Seconds since the last sample in which others waited, up to ``_since`` if they still do.
        self._waited = 0.0
        # Since when others wait, apart from what is in ``_waited``; None if they do not.
        self._since: float | None = None

    def begin(self, now: float) -> None:
        """Note that others wait for the client from now on. O(1)."""
        self._since = now

    def end(self, now: float) -> None:
        """Note that nobody waits for the client any more. O(1)."""
        if self._since is not None:
            self._waited += now - self._since
            self._since = None

    def sample(self, taken: int, now: float, forgiveness: float) -> None:
        """Account for the time since the last sample. O(1).

        Args:
            taken: how many bytes the client has taken in all.
            now: the time.
            forgiveness: seconds of lateness that are forgiven in each second without lateness.
        """
        if self._since is not None:
            self._waited += now - self._since
            self._since = now
        covered = self._surplus + max(taken - self._taken, 0) / MIN_RATE if self.is_excused else 0.0
        late = max(self._waited - covered, 0.0)
        forgiven = (now - self.sampled_at - late) * forgiveness
        self.seconds = max(self.seconds - forgiven, 0.0) + late
        self._surplus = min(max(covered - self._waited, 0.0), MAX_SURPLUS)
        # On a Unix socket, the system counts its own overhead as not taken, so the number may go back.
        self._taken = max(taken, self._taken)
        self._waited = 0.0
        self.sampled_at = now

    def deadline(self, timeout: float) -> float:
        """Return the earliest time at which ``seconds`` may reach ``timeout``; infinity if nobody waits."""
        if self._since is None:
            return math.inf
        surplus = self._surplus if self.is_excused else 0.0
        return self._since + max(timeout - self.seconds + surplus - self._waited, 0.0)


class LateClients:
    """The clients for which others wait, or have waited. A source of deadlines (``timers.Expiring``).

    Args:
        timers: the loop's deadlines, to which this one's are added.
        timeout: seconds of lateness after which a client is dropped.
        on_slow: is called with each client that has been late for that long, and must disconnect it.
    """

    def __init__(self, timers: Timers, timeout: float, on_slow: Callable[[Channel], None]) -> None:
        self._timers = timers
        self._timeout = timeout
        self._on_slow = on_slow
        self._forgiveness = timeout / FORGIVENESS_PERIOD
        # All clients for which others have waited, until they are closed.
        self._lateness: dict[Channel, Lateness] = {}
        # Those for which others wait now.
        self._awaited: dict[Channel, Lateness] = {}
        self._sampled_at = self._now = -math.inf
        timers.add(self)

    def __len__(self) -> int:
        """Return for how many clients others wait."""
        return len(self._awaited)

    def __contains__(self, channel: Channel) -> bool:
        return channel in self._lateness

    @property
    def deadline(self) -> float:
        """When clients must be sampled again; infinity if nobody waits. O(clients waited for)."""
        first = min((one.deadline(self._timeout) for one in self._awaited.values()), default=math.inf)
        return min(first, self._next_sample(MAX_SAMPLE_INTERVAL)) if self._awaited else math.inf

    def update(self, awaited: Mapping[Channel, bool], now: float) -> None:
        """Decide for whom others wait from now on. O(clients waited for).

        Args:
            awaited: these clients, each with whether what it takes excuses it.
            now: the time.
        """
        self._now = now
        for channel in [channel for channel in self._awaited if channel not in awaited]:
            self.stop(channel)
        if now >= self._next_sample(MIN_SAMPLE_INTERVAL):
            self._sample_all(now)
        for channel, is_excused in awaited.items():
            lateness = self._awaited.get(channel) or self._begin(channel, now)
            lateness.is_excused = is_excused

    def expire(self, now: float) -> None:
        """Drop some of the clients that have been late for too long. O(clients waited for)."""
        self._now = now
        if now >= self._next_sample(MAX_SAMPLE_INTERVAL):
            self._sample_all(now)
        due = (
            channel
            for channel, lateness in list(self._awaited.items())
            if lateness.deadline(self._timeout) <= now + _ROUNDING
        )
        for channel in itertools.islice(due, MAX_EXPIRIES):
            self._sample(channel, now)
            if self._lateness[channel].seconds >= self._timeout - _ROUNDING:
                self._on_slow(channel)

    def stop(self, channel: Channel) -> None:
        """Note that nobody waits for a client any more; its lateness is kept. O(1)."""
        if lateness := self._awaited.pop(channel, None):
            lateness.end(self._now)
            self._sample_again(channel, self._now)

    def forget(self, channel: Channel) -> None:
        """Forget a client that is closed. O(1)."""
        self._lateness.pop(channel, None)
        self._awaited.pop(channel, None)

    def _begin(self, channel: Channel, now: float) -> Lateness:
        lateness = self._lateness.get(channel)
        if lateness is None:
            lateness = self._lateness[channel] = Lateness(channel.bytes_taken, now)
        else:
            self._sample_again(channel, now)
        lateness.begin(now)
        if not self._awaited:
            self._sampled_at = now
        self._awaited[channel] = lateness
        self._timers.expect(min(lateness.deadline(self._timeout), now + MAX_SAMPLE_INTERVAL))
        return lateness

    def _next_sample(self, interval: float) -> float:
        return self._sampled_at + max(interval, len(self._awaited) / MAX_SAMPLES_PER_SECOND)

    def _sample_all(self, now: float) -> None:
        self._sampled_at = now
        for channel in self._awaited:
            self._sample(channel, now)

    def _sample_again(self, channel: Channel, now: float) -> None:
        """Sample a client that others begin or cease to wait for, unless that was done just before."""
        if now - self._lateness[channel].sampled_at >= MIN_SAMPLE_INTERVAL:
            self._sample(channel, now)

    def _sample(self, channel: Channel, now: float) -> None:
        self._lateness[channel].sample(channel.bytes_taken, now, self._forgiveness)
