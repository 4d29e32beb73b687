"""Which members may answer which asks: single cases, and any history against a dict of sets."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rankserver.asks import MAX_ASKS, AskTable
from rankserver.wire.exceptions import NoSuchAskError

ASKER, ONE, TWO, LATE, ALONE = range(1, 6)


@pytest.fixture
def asks() -> AskTable:
    table: AskTable = AskTable()
    for member in (ASKER, ONE, TWO):
        table.enter(member)
    return table


def test_each_of_the_others_may_answer_once(asks: AskTable) -> None:
    asks.open(7, ASKER)
    for member in (TWO, ONE):
        assert asks.answer(7, member) == ASKER
        with pytest.raises(NoSuchAskError):
            asks.answer(7, member)


def test_nobody_can_answer_their_own_ask(asks: AskTable) -> None:
    asks.open(7, ASKER)
    with pytest.raises(NoSuchAskError):
        asks.answer(7, ASKER)


def test_a_newcomer_may_not_answer(asks: AskTable) -> None:
    asks.open(7, ASKER)
    asks.enter(LATE)
    with pytest.raises(NoSuchAskError):
        asks.answer(7, LATE)


def test_a_newcomer_may_not_answer_for_one_that_left(asks: AskTable) -> None:
    asks.open(7, ASKER)
    asks.leave([ONE])
    asks.enter(LATE)
    with pytest.raises(NoSuchAskError):
        asks.answer(7, LATE)
    assert asks.answer(7, TWO) == ASKER


def test_an_unknown_ask_cannot_be_answered(asks: AskTable) -> None:
    asks.open(7, ASKER)
    with pytest.raises(NoSuchAskError):
        asks.answer(8, ONE)


def test_an_answer_to_a_departed_asker_is_no_error(asks: AskTable) -> None:
    asks.open(7, ASKER)
    asks.leave([ASKER])
    assert asks.answer(7, ONE) is None
    with pytest.raises(NoSuchAskError):
        asks.answer(7, ONE)


def test_an_ask_is_forgotten_when_all_have_answered_or_left(asks: AskTable) -> None:
    asks.open(7, ASKER)
    asks.open(8, ASKER)
    asks.answer(7, ONE)
    assert len(asks) == 2
    asks.leave([TWO])
    assert len(asks) == 1
    asks.answer(8, ONE)
    assert len(asks) == 0


def test_an_ask_that_nobody_can_answer_is_not_remembered() -> None:
    asks: AskTable = AskTable()
    asks.enter(ALONE)
    asks.open(1, ALONE)
    assert len(asks) == 0


def test_several_leave_at_once(asks: AskTable) -> None:
    asks.open(7, ASKER)
    asks.leave([ONE, ASKER, TWO])
    assert len(asks) == 0


def test_the_oldest_ask_is_forgotten_when_there_are_too_many() -> None:
    asks: AskTable = AskTable(limit=2)
    asks.enter(ASKER)
    asks.enter(ONE)
    for seq in (1, 2, 3):
        asks.open(seq, ASKER)
    assert len(asks) == 2
    with pytest.raises(NoSuchAskError):
        asks.answer(1, ONE)
    assert [asks.answer(seq, ONE) for seq in (2, 3)] == [ASKER, ASKER]


def test_the_number_of_remembered_asks_is_the_protocols() -> None:
    assert AskTable().limit == MAX_ASKS == 65_536


LIMIT: Final = 4
WHICH: Final = st.integers(0, 99)


class AskMachine(RuleBasedStateMachine):
    """The model: by seq, the asker and the set of members that may still answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asks: AskTable = AskTable(LIMIT)
        self.open_asks: dict[int, tuple[int, set[int]]] = {}
        self.here: list[int] = []
        self.entered = 0
        self.seq = 0

    @rule(count=st.integers(1, 3))
    def enter(self, count: int) -> None:
        for _ in range(count):
            self.entered += 1
            self.asks.enter(self.entered)
            self.here.append(self.entered)

    @precondition(lambda self: self.here)
    @rule(which=st.sets(WHICH, min_size=1, max_size=3))
    def leave(self, which: set[int]) -> None:
        gone = {self.here[number % len(self.here)] for number in which}
        self.asks.leave(sorted(gone))
        self.here = [member for member in self.here if member not in gone]
        for _, waiting in self.open_asks.values():
            waiting.difference_update(gone)
        self._forget_what_is_done()

    @precondition(lambda self: self.here)
    @rule(which=WHICH)
    def ask(self, which: int) -> None:
        asker = self.here[which % len(self.here)]
        self.seq += 1
        self.asks.open(self.seq, asker)
        self.open_asks[self.seq] = (asker, set(self.here) - {asker})
        self._forget_what_is_done()
        if len(self.open_asks) > LIMIT:
            del self.open_asks[min(self.open_asks)]

    @precondition(lambda self: self.here)
    @rule(which=WHICH, back=st.integers(0, LIMIT + 1))
    def answer(self, which: int, back: int) -> None:
        member, seq = self.here[which % len(self.here)], self.seq - back
        asker, waiting = self.open_asks.get(seq, (0, set()))
        if member in waiting:
            assert self.asks.answer(seq, member) == (asker if asker in self.here else None)
            waiting.remove(member)
        else:
            with pytest.raises(NoSuchAskError):
                self.asks.answer(seq, member)
        self._forget_what_is_done()

    @invariant()
    def the_same_asks_wait_for_the_same_members(self) -> None:
        assert self.asks.waiting() == {
            seq: (asker if asker in self.here else None, frozenset(waiting))
            for seq, (asker, waiting) in self.open_asks.items()
        }
        assert len(self.asks) == len(self.open_asks)
        for seq in range(max(self.seq - LIMIT, 0), self.seq + 2):
            asker, _ = self.open_asks.get(seq, (None, set()))
            assert self.asks.asker(seq) == (asker if asker in self.here else None)

    def teardown(self) -> None:
        for seq, (asker, waiting) in self.open_asks.items():
            for member in waiting:
                assert self.asks.answer(seq, member) == (asker if asker in self.here else None)
        assert len(self.asks) == 0

    def _forget_what_is_done(self) -> None:
        self.open_asks = {seq: ask for seq, ask in self.open_asks.items() if ask[1]}


AskMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
test_any_history_agrees_with_a_dict_of_sets = AskMachine.TestCase
