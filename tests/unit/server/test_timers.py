"""Timeouts: what expires, when, and in which order; the clock is a number."""

from __future__ import annotations

import math

import pytest

from rankserver.timers import MAX_EXPIRIES, Timeout, Timers


class Clock:
    """Timers with one timeout of 5 seconds, and the expired items."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.expired: list[str] = []
        self.timeout: Timeout[str] = self.timers.timeout(5, self.expired.append)

    def at(self, now: float) -> list[str]:
        """Return what expires up to ``now``."""
        self.expired.clear()
        self.timers.expire(now)
        return self.expired.copy()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_item_expires_when_its_time_is_up_and_not_before(clock: Clock) -> None:
    clock.timeout.start("a", 100)
    assert clock.timers.nearest == 105
    assert clock.at(104.999) == []
    assert clock.at(105) == ["a"]


def test_an_item_expires_once(clock: Clock) -> None:
    clock.timeout.start("a", 100)
    assert clock.at(200) == ["a"]
    assert clock.at(300) == []
    assert clock.timers.nearest == math.inf


def test_items_expire_oldest_first_and_the_others_stay(clock: Clock) -> None:
    for now, item in enumerate("abcd"):
        clock.timeout.start(item, now)
    assert clock.at(7) == ["a", "b", "c"]
    assert clock.timers.nearest == 8
    assert clock.at(8) == ["d"]


def test_a_bounded_number_expires_at_a_time_and_the_rest_next(clock: Clock) -> None:
    items = [str(number) for number in range(MAX_EXPIRIES + 2)]
    for item in items:
        clock.timeout.start(item, 0)
    assert clock.at(6) == items[:MAX_EXPIRIES]
    assert clock.timers.nearest == 5
    assert clock.at(6) == items[MAX_EXPIRIES:]


def test_starting_again_postpones_an_item(clock: Clock) -> None:
    clock.timeout.start("a", 0)
    clock.timeout.start("b", 1)
    clock.timeout.start("a", 2)
    assert clock.at(6) == ["b"]
    assert clock.at(7) == ["a"]


def test_starting_once_does_not_postpone_an_item(clock: Clock) -> None:
    clock.timeout.start_once("a", 0)
    clock.timeout.start_once("a", 3)
    assert clock.at(5) == ["a"]
    clock.timeout.start_once("a", 6)
    assert clock.timers.nearest == 11


def test_a_stopped_item_does_not_expire(clock: Clock) -> None:
    clock.timeout.start("a", 0)
    clock.timeout.start("b", 1)
    clock.timeout.stop("a")
    assert "a" not in clock.timeout
    assert "b" in clock.timeout
    assert clock.at(100) == ["b"]


def test_stopping_an_item_that_was_not_started_does_nothing(clock: Clock) -> None:
    clock.timeout.stop("a")
    assert clock.at(100) == []


def test_zero_seconds_mean_never(clock: Clock) -> None:
    never: Timeout[str] = clock.timers.timeout(0, clock.expired.append)
    never.start("a", 0)
    never.start_once("b", 0)
    assert "a" not in never
    assert clock.timers.nearest == math.inf
    assert clock.at(1e9) == []


def test_the_nearest_time_is_the_minimum_of_all_timeouts(clock: Clock) -> None:
    longer: Timeout[str] = clock.timers.timeout(20, clock.expired.append)
    longer.start("z", 0)
    assert clock.timers.nearest == 20
    clock.timeout.start("a", 1)
    assert clock.timers.nearest == 6
    assert clock.at(6) == ["a"]
    assert clock.timers.nearest == 20
    assert clock.at(20) == ["z"]


def test_an_item_may_be_started_again_when_it_expires() -> None:
    timers = Timers()
    seen: list[float] = []

    def again(now: float) -> None:
        seen.append(now)
        if len(seen) < 3:
            timeout.start(now + 1, now)

    timeout = timers.timeout(1, again)
    timeout.start(1, 0)
    for now in range(1, 9):
        timers.expire(now)
    assert seen == [1, 2, 3]
    assert timers.nearest == math.inf


def test_items_can_be_stopped_during_expiry(clock: Clock) -> None:
    for item in "abc":
        clock.timeout.start(item, 0)
    assert len(clock.timeout) == 3
    for item in clock.timeout:
        clock.timeout.stop(item)
    assert len(clock.timeout) == 0
    assert clock.timeout.deadline == math.inf


def test_a_changed_timeout_applies_to_items_started_later(clock: Clock) -> None:
    clock.timeout.start("a", 0)
    assert clock.at(5) == ["a"]
    clock.timeout.set_seconds(20)
    clock.timeout.start("b", 5)
    assert clock.timers.nearest == 25


class Source:
    """A source of deadlines that is not a timeout."""

    def __init__(self) -> None:
        self.deadline = math.inf
        self.expired: list[float] = []

    def expire(self, now: float) -> None:
        self.expired.append(now)
        self.deadline = now + 100


def test_another_source_expires_with_the_timeouts(clock: Clock) -> None:
    source = Source()
    clock.timers.add(source)
    clock.timers.expect(3)
    assert clock.timers.nearest == 3
    clock.timeout.start("a", 0)
    assert clock.at(3) == []
    assert source.expired == [3]
    assert clock.timers.nearest == 5
    assert clock.at(5) == ["a"]
    assert clock.timers.nearest == 105
