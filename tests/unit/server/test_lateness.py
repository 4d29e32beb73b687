"""Lateness: what adds to it, what forgives it, and when a client is dropped. The clock is a number."""

from __future__ import annotations

import math
from typing import cast

import pytest

from rankserver.channel import Channel
from rankserver.lateness import (
    FORGIVENESS_PERIOD,
    MAX_SAMPLE_INTERVAL,
    MAX_SAMPLES_PER_SECOND,
    MAX_SURPLUS,
    MIN_RATE,
    MIN_SAMPLE_INTERVAL,
    LateClients,
)
from rankserver.timers import MAX_EXPIRIES, Timers

TIMEOUT = 5.0


class LateReader:
    """What lateness knows of a channel.

    Attributes:
        taken: how many bytes it has taken.
        samples: how often it was asked for that.
    """

    def __init__(self) -> None:
        self.taken = 1000
        self.samples = 0

    @property
    def bytes_taken(self) -> int:
        self.samples += 1
        return self.taken


class Watch:
    """Clients, and a clock that the test sets; what is late is dropped and noted."""

    def __init__(self, clients: int = 1) -> None:
        self.timers = Timers()
        self.dropped: list[tuple[float, Channel]] = []
        self.late = LateClients(self.timers, TIMEOUT, self.drop)
        self.readers = [LateReader() for _ in range(clients)]
        self.channels = [cast("Channel", reader) for reader in self.readers]
        self.now = 0.0

    def drop(self, channel: Channel) -> None:
        self.dropped.append((self.now, channel))
        self.late.forget(channel)

    def update(self, *waited_for: int, is_excused: bool = True) -> None:
        """Let others wait for these clients from now on, by their numbers."""
        gone = [channel for _, channel in self.dropped]
        channels = [self.channels[number] for number in waited_for]
        self.late.update({channel: is_excused for channel in channels if channel not in gone}, self.now)

    def sleep_until(self, time: float) -> None:
        """Let time go by without a turn, except where a deadline is due."""
        while self.timers.nearest <= time:
            self.now = max(self.now, self.timers.nearest)
            self.timers.expire(self.now)
        self.now = time

    def read(self, size: int, seconds: float, step: float, waits: int = 0) -> None:
        """Let the first client take ``size`` bytes in each step, with a turn after it."""
        end = self.now + seconds - step / 2
        while self.now < end:
            self.sleep_until(self.now + step)
            self.readers[0].taken += size
            self.update(waits)


def times(watch: Watch) -> list[float]:
    return [time for time, _ in watch.dropped]


def test_a_client_that_takes_nothing_is_dropped_in_time() -> None:
    watch = Watch()
    watch.update(0)
    watch.sleep_until(100)
    assert times(watch) == pytest.approx([TIMEOUT])


def test_nobody_is_late_while_nobody_waits() -> None:
    watch = Watch()
    watch.update(0)
    watch.update()
    assert watch.late.deadline == math.inf
    watch.sleep_until(1000)
    assert not watch.dropped


def test_turns_make_no_difference_to_when_it_is_dropped() -> None:
    watch = Watch()
    watch.update(0)
    watch.read(0, 100, 0.03)
    assert times(watch) == pytest.approx([TIMEOUT])


def test_clients_late_together_are_dropped_together() -> None:
    watch = Watch(3)
    watch.update(0, 1, 2)
    watch.sleep_until(100)
    assert times(watch) == pytest.approx([TIMEOUT] * 3)
    assert [channel for _, channel in watch.dropped] == watch.channels


@pytest.mark.parametrize(
    ("late", "pause"), [(0.01, 0.001), (0.01, 0.05), (0.3, 0.001), (0.3, 2.0), (4.5, 0.001), (4.5, 5.0)]
)
def test_lateness_adds_up_over_waits(late: float, pause: float) -> None:
    watch = Watch()
    waited = forgiven = 0.0
    while not watch.dropped:
        watch.update(0)
        begin = watch.now
        watch.sleep_until(begin + late)
        waited += (watch.dropped[0][0] if watch.dropped else watch.now) - begin
        watch.update()
        watch.sleep_until(watch.now + pause)
        if not watch.dropped:
            forgiven += pause * TIMEOUT / FORGIVENESS_PERIOD
    assert waited == pytest.approx(TIMEOUT + forgiven, abs=2 * MIN_SAMPLE_INTERVAL)


def test_a_timeout_of_lateness_is_forgiven_within_a_period() -> None:
    watch = Watch()
    for _ in range(20):
        watch.update(0)
        watch.sleep_until(watch.now + TIMEOUT - 0.01)
        watch.update()
        watch.sleep_until(watch.now + FORGIVENESS_PERIOD)
    assert not watch.dropped


def test_in_a_minute_others_wait_for_two_timeouts_at_most() -> None:
    watch = Watch()
    waited = 0.0
    while not watch.dropped and watch.now < FORGIVENESS_PERIOD:
        watch.update(0)
        watch.sleep_until(watch.now + 0.5)
        watch.update()
        waited += 0.5
        watch.sleep_until(watch.now + 0.5)
    assert watch.dropped
    assert TIMEOUT < waited <= 2 * TIMEOUT


@pytest.mark.parametrize("period", [0.05, 0.5, 1.0, MAX_SURPLUS])
def test_a_client_at_the_least_rate_is_never_dropped(period: float) -> None:
    watch = Watch()
    watch.update(0)
    watch.read(int(MIN_RATE * period) + 1, 600, period)
    assert not watch.dropped


@pytest.mark.parametrize("share", [0.0, 0.25, 0.75])
def test_a_client_below_it_is_late_for_the_missing_share(share: float) -> None:
    watch = Watch()
    watch.update(0)
    watch.read(int(MIN_RATE * share / 10), 120, 0.1)
    # Each second adds what is missing, and what was taken forgives a little.
    growth = 1 - share - share * TIMEOUT / FORGIVENESS_PERIOD
    assert times(watch) == [pytest.approx(TIMEOUT / growth, abs=1)]


@pytest.mark.parametrize("size", [4 * MIN_RATE, 32 * MIN_RATE, 10**9])
def test_a_lump_covers_bounded_time_however_large(size: int) -> None:
    watch = Watch()
    watch.update(0)
    watch.readers[0].taken += size
    watch.now = MIN_SAMPLE_INTERVAL
    watch.update(0)
    watch.sleep_until(100)
    assert times(watch) == pytest.approx([MIN_SAMPLE_INTERVAL + MAX_SURPLUS + TIMEOUT])


def test_lumps_further_apart_than_that_add_up() -> None:
    watch = Watch()
    watch.update(0)
    watch.read(32 * MIN_RATE, 600, MAX_SURPLUS + MAX_SAMPLE_INTERVAL + 0.5)
    assert TIMEOUT < times(watch)[0] < FORGIVENESS_PERIOD


def test_without_excuse_a_client_is_late_whatever_it_takes() -> None:
    watch = Watch()
    watch.update(0, is_excused=False)
    watch.readers[0].taken += 10**9
    watch.sleep_until(100)
    assert times(watch) == pytest.approx([TIMEOUT])


def test_bytes_counted_as_taken_once_count_once() -> None:
    watch = Watch()
    watch.update(0)
    for _ in range(1000):
        for taken in (1000 - MIN_RATE, 1000):
            watch.sleep_until(watch.now + MIN_SAMPLE_INTERVAL)
            watch.readers[0].taken = taken
            watch.update(0)
    assert times(watch) == pytest.approx([TIMEOUT])


def test_no_client_is_sampled_more_often_than_it_may() -> None:
    watch = Watch()
    for _ in range(1000):
        watch.update(0)
        watch.sleep_until(watch.now + 0.001)
        watch.update()
        watch.sleep_until(watch.now + 0.001)
    assert watch.readers[0].samples <= 2 + 2 / MIN_SAMPLE_INTERVAL


def test_many_clients_are_sampled_less_often() -> None:
    watch = Watch(5000)
    for _ in range(100):
        watch.update(*range(5000))
        watch.now += 0.01
    samples = sum(reader.samples for reader in watch.readers)
    assert samples <= len(watch.readers) + MAX_SAMPLES_PER_SECOND


def test_the_server_sleeps_between_samples() -> None:
    watch = Watch()
    watch.update(0)
    turns = 0
    while not watch.dropped:
        watch.sleep_until(watch.timers.nearest)
        turns += 1
    assert turns <= TIMEOUT / MAX_SAMPLE_INTERVAL + 1


def test_a_closed_client_is_forgotten() -> None:
    watch = Watch()
    watch.update(0)
    watch.late.forget(watch.channels[0])
    assert watch.channels[0] not in watch.late
    assert len(watch.late) == 0
    watch.sleep_until(100)
    assert not watch.dropped


def test_a_crowd_that_reads_nothing_is_dropped_in_several_turns() -> None:
    watch = Watch(MAX_EXPIRIES + 1)
    watch.update(*range(MAX_EXPIRIES + 1))
    watch.now = TIMEOUT
    watch.timers.expire(TIMEOUT)
    assert len(watch.dropped) == MAX_EXPIRIES
    assert watch.timers.nearest <= TIMEOUT
    watch.timers.expire(TIMEOUT)
    assert len(watch.dropped) == MAX_EXPIRIES + 1
