"""Credits: what each client may add, and what gives it more."""

from __future__ import annotations

from typing import cast

import pytest

from rankserver.channel import Channel
from rankserver.credits import (
    MAX_NEWCOMER_CREDIT,
    MAX_UNREAD_ANSWERS,
    MIN_CREDIT,
    NEWCOMERS_SHARE,
    Credits,
    UnreadAnswers,
)

TOTAL = 64 * 1024 * 1024


def channels(count: int) -> list[Channel]:
    return [cast("Channel", object()) for _ in range(count)]


# --- what members may log ---------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 4, 100, 10_000])
def test_members_share_the_total_or_get_the_least_credit(members: int) -> None:
    shares = Credits(TOTAL)
    shares.begin(members)
    (one,) = channels(1)
    assert shares.left(one) == max(TOTAL // members, MIN_CREDIT)


def test_what_one_member_logs_costs_no_other() -> None:
    shares = Credits(TOTAL)
    shares.begin(2)
    flooder, other = channels(2)
    shares.charge(flooder, 10 * TOTAL)
    assert shares.left(flooder) < 0
    assert shares.left(other) == TOTAL // 2


def test_the_next_pressure_brings_the_full_credit_again() -> None:
    shares = Credits(TOTAL)
    (one,) = channels(1)
    for _ in range(2):
        shares.begin(1)
        assert shares.left(one) == TOTAL
        shares.charge(one, TOTAL)
        assert shares.left(one) == 0


def test_a_newcomer_that_floods_costs_no_other_newcomer() -> None:
    shares = Credits(TOTAL)
    shares.begin(4)
    flooder, other = channels(2)
    for newcomer in (flooder, other):
        shares.admit(newcomer)
    shares.charge(flooder, MAX_NEWCOMER_CREDIT)
    assert shares.left(flooder) == 0
    assert shares.left(other) == MAX_NEWCOMER_CREDIT


@pytest.mark.parametrize("members", [1, 4, 10_000])
def test_reconnecting_brings_little_and_not_for_ever(members: int) -> None:
    shares = Credits(TOTAL)
    shares.begin(members)
    together = max(TOTAL // members, TOTAL // NEWCOMERS_SHARE)
    (member,) = channels(1)
    for newcomer in channels(together // MAX_NEWCOMER_CREDIT):
        shares.admit(newcomer)
        assert shares.left(newcomer) == MAX_NEWCOMER_CREDIT
        shares.charge(newcomer, MAX_NEWCOMER_CREDIT)
        shares.forget(newcomer)
    (last,) = channels(1)
    shares.admit(last)
    assert shares.left(last) == 0
    assert shares.left(member) == max(TOTAL // members, MIN_CREDIT)
    shares.begin(members)
    assert shares.left(last) == max(TOTAL // members, MIN_CREDIT)


# --- answers that are not read ----------------------------------------------------------------


def test_an_answerer_waits_once_it_has_a_lot_queued() -> None:
    answers = UnreadAnswers(TOTAL)
    answerer, other, *askers = channels(6)
    size = MAX_UNREAD_ANSWERS // 4
    for asker in askers:
        assert answers.admit(answerer, asker, size, members=6)
    assert not answers.admit(answerer, askers[0], 1, members=6)
    assert answers.admit(other, askers[0], size, members=6)


@pytest.mark.parametrize("members", [2, 1000, 10_000])
def test_all_answers_together_are_bounded(members: int) -> None:
    answers = UnreadAnswers(TOTAL)
    (asker,) = channels(1)
    size = min(MAX_UNREAD_ANSWERS, TOTAL // members) // 2
    for answerer in channels(members):
        admitted = sum(answers.admit(answerer, asker, size, members) for _ in range(4))
        assert admitted == 2
        assert admitted * size * members <= TOTAL


def test_answers_that_were_read_are_charged_no_more() -> None:
    answers = UnreadAnswers(TOTAL)
    answerer, one, other = channels(3)
    for asker in (one, other):
        assert answers.admit(answerer, asker, MAX_UNREAD_ANSWERS // 2, members=3)
    answers.settle(one)
    assert answers.take_relieved() == {answerer}
    assert answers.take_relieved() == set()
    assert answers.admit(answerer, other, MAX_UNREAD_ANSWERS // 2, members=3)
    assert not answers.admit(answerer, other, 1, members=3)


def test_an_answerer_that_departs_is_forgotten() -> None:
    answers = UnreadAnswers(TOTAL)
    answerer, asker = channels(2)
    assert answers.admit(answerer, asker, MAX_UNREAD_ANSWERS, members=2)
    answers.forget(answerer)
    answers.settle(asker)
    assert answers.take_relieved() == set()
    assert answers.admit(answerer, asker, MAX_UNREAD_ANSWERS, members=2)
