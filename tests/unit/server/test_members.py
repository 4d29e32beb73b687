"""The roster: the ranks of newcomers, and that members by number and by rank are the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankserver.clist import Log
from rankserver.inputs import Newcomer
from rankserver.members import NOBODY, Member, Roster

CLASS: Final = st.integers(0, 4)
# A step has the classes of members that join together, or the ranks of members that leave together.
JOIN: Final = st.tuples(st.just("join"), st.lists(CLASS, min_size=1, max_size=6).map(sorted))
LEAVE: Final = st.tuples(st.just("leave"), st.lists(st.integers(0, 30), min_size=1, max_size=4))


@pytest.fixture
def log() -> Iterator[Log]:
    with Log(256) as log:
        yield log


def newcomers(first: int, classes: list[int]) -> list[Newcomer]:
    return [
        Newcomer(number, f"c{number}", rank_class) for number, rank_class in enumerate(classes, start=first)
    ]


def names(roster: Roster) -> list[str]:
    return [member.name for member in roster]


@given(steps=st.lists(JOIN | LEAVE, max_size=20))
@settings(deadline=None)
def test_ranks_match_a_sorted_list(steps: list[tuple[str, list[int]]]) -> None:
    with Log(256) as log:
        roster = Roster(log)
        model: list[Newcomer] = []
        joined = 0
        for what, numbers in steps:
            if what == "join":
                new = newcomers(joined, numbers)
                joined += len(new)
                model = sorted(model + new, key=lambda newcomer: newcomer.rank_class)
                assert roster.places(new) == [model.index(newcomer) for newcomer in new]
                assert [roster.rank(member) for member in roster.add(new)] == roster_ranks(model, new)
            elif model:
                leaving = sorted({number % len(model) for number in numbers})
                roster.remove([roster.by_id[model[rank].member] for rank in leaving])
                model = [newcomer for rank, newcomer in enumerate(model) if rank not in leaving]
            assert [(member.id, member.rank_class) for member in roster] == [
                (newcomer.member, newcomer.rank_class) for newcomer in model
            ]
            assert len(roster) == log.count == len(model)
            assert roster.by_id.keys() == {newcomer.member for newcomer in model}
        log.check()


def roster_ranks(model: list[Newcomer], new: list[Newcomer]) -> list[int]:
    return [model.index(newcomer) for newcomer in new]


def test_a_member_has_the_fields_of_its_newcomer(log: Log) -> None:
    (member,) = Roster(log).add([Newcomer(7, "web", 3, "ops")])
    assert (member.id, member.name, member.rank_class, member.token) == (7, "web", 3, "ops")
    assert member.channel is None
    assert repr(member) == "<Member 7 web>"


def test_members_need_no_channel_to_hold_ranks(log: Log) -> None:
    roster = Roster(log)
    roster.add(newcomers(1, [0, 0, 1]))
    assert names(roster) == ["c1", "c2", "c3"]
    roster.remove([roster.by_id[2]])
    assert names(roster) == ["c1", "c3"]
    assert roster.rank(roster.by_id[3]) == 1


@pytest.mark.parametrize("added", [0, 1, 2])
def test_without_memory_for_one_nobody_is_added(
    added: int, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    roster = Roster(log)
    roster.add(newcomers(1, [0, 2]))
    join = log.join

    def fail_after(member: int, rank_class: int = 0) -> None:
        if member == 10 + added:
            raise MemoryError
        join(member, rank_class)

    with monkeypatch.context() as patch:
        patch.setattr(log, "join", fail_after)
        with pytest.raises(MemoryError):
            roster.add(newcomers(10, [0, 1, 1]))
    assert names(roster) == ["c1", "c2"]
    assert len(roster) == log.count == 2
    assert roster.places(newcomers(20, [0, 1, 2])) == [1, 2, 4]


def test_nobody_is_not_a_member(log: Log) -> None:
    roster = Roster(log)
    roster.add(newcomers(1, [0]))
    assert isinstance(NOBODY, Member)
    assert NOBODY not in roster.by_id.values()
    assert (NOBODY.id, NOBODY.name) == (0, "")
