"""Which members may answer which asks: single cases, and any history against a dict of sets."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rankserver.asks import ASKS_PER_LINE, MAX_ASKS_PER_MEMBER, MAX_ORPHANS, AskTable
from rankserver.wire.exceptions import NoSuchAskError

ASKER, ONE, TWO, LATE, ALONE = range(1, 6)


@pytest.fixture
def asks() -> AskTable:
    return table_of(ASKER, ONE, TWO)


def table_of(*members: int, limit: int = 2, orphan_limit: int = 5) -> AskTable:
    table = AskTable(limit, orphan_limit)
    for member in members:
        table.enter(member)
    return table


def ask(table: AskTable, seq: int, member: int) -> int | None:
    """Open an ask, and return the one that is forgotten for it."""
    forgotten = table.excess(member)
    table.open(seq, member)
    return forgotten


def waiting(table: AskTable) -> dict[int, tuple[int | None, set[int]]]:
    """Return the asks that somebody may answer, with the asker and those members."""
    return {seq: (asker, set(members)) for seq, (asker, members) in table.waiting().items()}


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


@pytest.mark.parametrize("is_orphan", [False, True])
def test_a_newcomer_may_not_answer_for_one_that_left(asks: AskTable, is_orphan: bool) -> None:
    asks.open(7, ASKER)
    asks.leave([ONE, ASKER] if is_orphan else [ONE])
    asks.enter(LATE)
    with pytest.raises(NoSuchAskError):
        asks.answer(7, LATE)
    assert asks.answer(7, TWO) == (None if is_orphan else ASKER)


def test_a_newcomer_may_answer_what_is_asked_after_it_came(asks: AskTable) -> None:
    asks.open(7, ASKER)
    asks.leave([ONE])
    asks.enter(LATE)
    asks.open(8, ASKER)
    assert waiting(asks) == {7: (ASKER, {TWO}), 8: (ASKER, {TWO, LATE})}
    assert asks.answer(8, LATE) == ASKER


def test_an_unknown_ask_cannot_be_answered(asks: AskTable) -> None:
    asks.open(7, ASKER)
    with pytest.raises(NoSuchAskError):
        asks.answer(8, ONE)


def test_an_ask_is_forgotten_when_all_have_answered(asks: AskTable) -> None:
    asks.open(7, ASKER)
    asks.answer(7, ONE)
    assert len(asks) == 1
    asks.answer(7, TWO)
    assert len(asks) == 0


def test_asks_that_wait_for_nobody_do_not_count_at_the_limit(asks: AskTable) -> None:
    asks.open(7, ASKER)
    asks.answer(7, ONE)
    asks.open(8, ASKER)
    asks.leave([TWO])
    assert waiting(asks) == {8: (ASKER, {ONE})}
    assert ask(asks, 9, ASKER) is None
    assert len(asks) == 2
    assert ask(asks, 10, ASKER) == 8


def test_an_ask_that_nobody_can_answer_is_not_remembered() -> None:
    asks = table_of(ALONE)
    assert ask(asks, 1, ALONE) is None
    assert len(asks) == 0


def test_several_leave_at_once(asks: AskTable) -> None:
    asks.open(7, ASKER)
    asks.leave([ONE, ASKER, TWO])
    assert len(asks) == 0
    assert waiting(asks) == {}


# --- bounds -----------------------------------------------------------------------------------


def test_one_ask_too_many_makes_its_asker_forget_its_oldest(asks: AskTable) -> None:
    asks.open(1, ONE)
    assert [ask(asks, seq, ASKER) for seq in range(2, 7)] == [None, None, 2, 3, 4]
    assert waiting(asks) == {1: (ONE, {ASKER, TWO}), 5: (ASKER, {ONE, TWO}), 6: (ASKER, {ONE, TWO})}
    with pytest.raises(NoSuchAskError):
        asks.answer(4, TWO)
    assert [asks.answer(seq, TWO) for seq in (1, 5, 6)] == [ONE, ASKER, ASKER]


def test_answers_to_a_departed_asker_are_no_error(asks: AskTable) -> None:
    asks.open(7, ASKER)
    asks.answer(7, ONE)
    asks.leave([ASKER])
    assert [asks.answer(7, member) for member in (ONE, TWO, TWO)] == [None] * 3
    assert asks.asker(7) is None
    assert len(asks) == 0


def test_of_too_many_orphans_those_of_the_first_asker_go() -> None:
    asks = table_of(ASKER, ONE, TWO, LATE)
    for seq, asker in ((1, ASKER), (2, ONE), (3, TWO), (4, ASKER), (5, ONE), (6, TWO)):
        asks.open(seq, asker)
    asks.leave([TWO])
    asks.leave([ASKER])
    assert asks.answer(3, LATE) is None
    asks.leave([ONE])
    for seq in (3, 6):
        with pytest.raises(NoSuchAskError):
            asks.answer(seq, LATE)
    assert [asks.answer(seq, LATE) for seq in (1, 2, 4, 5)] == [None] * 4


def test_the_number_of_remembered_asks_is_the_protocols() -> None:
    table = AskTable()
    assert table.limit == MAX_ASKS_PER_MEMBER == 1_024
    assert table.orphan_limit == MAX_ORPHANS == 65_536


def test_a_leave_touches_no_ask() -> None:
    asks = table_of(*range(1, 100), limit=200)
    for seq in range(1, 101):
        asks.open(seq, 1)
        asks.open(seq + 100, 2)
    before = [dict(asker.waiting) for asker in asks._askers.values()]
    asks.leave(range(50, 100))
    assert [asker.waiting for asker in asks._askers.values()] == before


def test_only_an_ask_after_a_leave_is_charged() -> None:
    asks = table_of(ASKER, ONE, TWO, limit=10 * ASKS_PER_LINE)
    for seq in range(1, 3 * ASKS_PER_LINE + 1):
        asks.open(seq, ASKER)
    assert [asks.cost(member) for member in (ASKER, ONE)] == [0, 0]
    asks.leave([TWO])
    assert [asks.cost(member) for member in (ASKER, ONE)] == [3, 0]
    asks.open(1_000, ASKER)
    assert asks.cost(ASKER) == 0


# --- any history ------------------------------------------------------------------------------

LIMIT: Final = 3
ORPHAN_LIMIT: Final = 4
WHICH: Final = st.integers(0, 99)


class AskMachine(RuleBasedStateMachine):
    """The model: by seq, the asker and the set of members that may still answer; and the orphans."""

    def __init__(self) -> None:
        super().__init__()
        self.asks = AskTable(LIMIT, ORPHAN_LIMIT)
        self.open_asks: dict[int, tuple[int, set[int]]] = {}
        # The open asks of each asker that has left.
        self.orphans: list[list[int]] = []
        # The newest member when each ask was opened.
        self.arrived_by: dict[int, int] = {}
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
        gone = sorted({self.here[number % len(self.here)] for number in which})
        self.asks.leave(gone)
        self.here = [member for member in self.here if member not in gone]
        for _, waiting in self.open_asks.values():
            waiting.difference_update(gone)
        self._forget_what_is_done()
        for member in gone:
            own = [seq for seq, (asker, _) in self.open_asks.items() if asker == member]
            self.orphans += [own] if own else []
            for seq in own:
                del self.open_asks[seq]
        while sum(map(len, self.orphans)) > ORPHAN_LIMIT:
            self.orphans.pop(0)

    @precondition(lambda self: self.here)
    @rule(which=WHICH)
    def ask(self, which: int) -> None:
        asker = self.here[which % len(self.here)]
        self.seq += 1
        self.arrived_by[self.seq] = self.entered
        self.open_asks[self.seq] = (asker, set(self.here) - {asker})
        self._forget_what_is_done()
        own = [seq for seq, (whose, _) in self.open_asks.items() if whose == asker]
        assert ask(self.asks, self.seq, asker) == (own[0] if len(own) > LIMIT else None)
        for seq in own[:-LIMIT]:
            del self.open_asks[seq]

    @precondition(lambda self: self.here)
    @rule(which=WHICH, back=st.integers(0, 3 * LIMIT))
    def answer(self, which: int, back: int) -> None:
        member, seq = self.here[which % len(self.here)], self.seq - back
        asker, waiting = self.open_asks.get(seq, (0, set()))
        if member in waiting:
            assert self.asks.answer(seq, member) == asker
            waiting.remove(member)
        elif member in self.may_answer_orphan(seq):
            assert self.asks.answer(seq, member) is None
        else:
            with pytest.raises(NoSuchAskError):
                self.asks.answer(seq, member)
        self._forget_what_is_done()

    def may_answer_orphan(self, seq: int) -> set[int]:
        """Return the members that were there when an orphan was asked; nobody for any other ask."""
        is_orphan = any(seq in seqs for seqs in self.orphans)
        return {member for member in self.here if is_orphan and member <= self.arrived_by[seq]}

    @invariant()
    def the_same_asks_wait_for_the_same_members(self) -> None:
        expected: dict[int, tuple[int | None, set[int]]] = dict(self.open_asks)
        for seq in [seq for seqs in self.orphans for seq in seqs]:
            if may_answer := self.may_answer_orphan(seq):
                expected[seq] = (None, may_answer)
        assert waiting(self.asks) == expected
        assert len(self.asks) >= len(self.open_asks)
        for seq, (asker, _) in expected.items():
            assert self.asks.asker(seq) == asker

    def teardown(self) -> None:
        for seq, (asker, waiting) in self.open_asks.items():
            for member in waiting:
                assert self.asks.answer(seq, member) == asker
        assert self.asks.waiting().keys() <= {seq for seqs in self.orphans for seq in seqs}
        self.asks.leave(self.here)
        assert len(self.asks) == 0

    def _forget_what_is_done(self) -> None:
        self.open_asks = {seq: ask for seq, ask in self.open_asks.items() if ask[1]}


AskMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
test_any_history_agrees_with_a_dict_of_sets = AskMachine.TestCase
