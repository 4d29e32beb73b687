"""Timeouts: what expires, when, and in which order; the clock is a number that the test passes in."""

from __future__ import annotations

from rankserver.timers import Timeout


def test_an_item_expires_when_its_seconds_are_over_and_not_before() -> None:
    timeout: Timeout[str] = Timeout(5)
    timeout.start("a", 100)
    assert timeout.deadline == 105
    assert timeout.expired(104.999) == []
    assert timeout.expired(105) == ["a"]


def test_an_item_expires_once() -> None:
    timeout: Timeout[str] = Timeout(5)
    timeout.start("a", 100)
    timeout.expired(200)
    assert timeout.expired(300) == []
    assert timeout.deadline is None


def test_those_that_have_expired_come_oldest_first_and_the_others_stay() -> None:
    timeout: Timeout[str] = Timeout(5)
    for now, item in enumerate("abcd"):
        timeout.start(item, now)
    assert timeout.expired(7) == ["a", "b", "c"]
    assert timeout.deadline == 8


def test_starting_again_puts_an_item_off_behind_the_others() -> None:
    timeout: Timeout[str] = Timeout(5)
    timeout.start("a", 0)
    timeout.start("b", 1)
    timeout.start("a", 2)
    assert timeout.deadline == 6
    assert timeout.expired(6) == ["b"]
    assert timeout.expired(7) == ["a"]


def test_starting_once_does_not_put_an_item_off() -> None:
    timeout: Timeout[str] = Timeout(5)
    timeout.start_once("a", 0)
    timeout.start_once("a", 3)
    assert timeout.deadline == 5
    assert timeout.expired(5) == ["a"]
    timeout.start_once("a", 6)
    assert timeout.deadline == 11


def test_a_stopped_item_does_not_expire() -> None:
    timeout: Timeout[str] = Timeout(5)
    timeout.start("a", 0)
    timeout.start("b", 1)
    timeout.stop("a")
    assert timeout.deadline == 6
    assert timeout.expired(100) == ["b"]


def test_an_item_that_was_not_started_may_be_stopped() -> None:
    Timeout[str](5).stop("a")


def test_with_zero_seconds_nothing_ever_expires() -> None:
    timeout: Timeout[str] = Timeout(0)
    timeout.start("a", 0)
    timeout.start_once("b", 0)
    assert timeout.deadline is None
    assert timeout.expired(1e9) == []
