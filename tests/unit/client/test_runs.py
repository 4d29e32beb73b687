"""``Runs`` step by step against a Python list, under Hypothesis, and what its blocks look like."""

from __future__ import annotations

import random
from itertools import chain

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rankserver.client import runs
from rankserver.client.runs import MAX_BLOCK, MIN_BLOCK, Runs


def check(made: Runs) -> None:
    """Check what must hold for the blocks after each step."""
    assert made._lengths == [sum(map(len, block)) for block in made._blocks]
    assert len(made) == sum(made._lengths)
    assert all(run for block in made._blocks for run in block), "a run is empty"
    if len(made._blocks) > 1:
        assert all(runs.MIN_BLOCK <= len(block) <= runs.MAX_BLOCK for block in made._blocks)


class RunsAgainstAList(RuleBasedStateMachine):
    """Drives ``Runs`` beside a list. Its blocks are small, so that there are many."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(runs, "MAX_BLOCK", 8)
        self._patch.setattr(runs, "MIN_BLOCK", 2)
        self.runs = Runs(range(5))
        self.numbers = list(range(5))
        self.next = 5

    def teardown(self) -> None:
        """Restore the size of blocks."""
        self._patch.undo()

    @rule(data=st.data(), count=st.integers(1, 5))
    def insert(self, data: st.DataObject, count: int) -> None:
        """Insert new numbers anywhere."""
        place = data.draw(st.integers(0, len(self.numbers)))
        new = range(self.next, self.next + count)
        self.runs.insert(place, new)
        self.numbers[place:place] = new
        self.next += count

    @rule(data=st.data())
    def scatter(self, data: st.DataObject) -> None:
        """Insert single numbers at many places."""
        for _ in range(10):
            place = data.draw(st.integers(0, len(self.numbers)))
            self.runs.insert(place, range(self.next, self.next + 1))
            self.numbers.insert(place, self.next)
            self.next += 1

    @rule(data=st.data(), count=st.integers(1, 30))
    def remove(self, data: st.DataObject, count: int) -> None:
        """Remove a stretch, and get its numbers in order."""
        start = data.draw(st.integers(0, len(self.numbers)))
        stop = min(start + count, len(self.numbers))
        removed = self.runs.remove(range(start, stop))
        assert list(chain.from_iterable(removed)) == self.numbers[start:stop]
        del self.numbers[start:stop]

    @invariant()
    def agrees(self) -> None:
        """Check that both have the same numbers, and what must hold for the blocks."""
        check(self.runs)
        assert list(chain.from_iterable(self.runs)) == self.numbers
        assert [self.runs[place] for place in range(len(self.numbers))] == self.numbers
        with pytest.raises(IndexError):
            _ = self.runs[len(self.numbers)]


TestRunsAgainstAList = RunsAgainstAList.TestCase
TestRunsAgainstAList.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_blocks_neither_grow_nor_become_many_short_ones() -> None:
    made, rng = Runs(range(10 * MAX_BLOCK)), random.Random(1)
    numbers = list(range(10 * MAX_BLOCK))
    for place in range(0, 18 * MAX_BLOCK, 2):
        made.insert(place, range(100_000 + place, 100_001 + place))
        numbers.insert(place, 100_000 + place)
    assert len(made._blocks) > 10
    while len(numbers) > MIN_BLOCK:
        place = rng.randrange(len(numbers))
        assert list(*made.remove(range(place, place + 1))) == [numbers.pop(place)]
        check(made)
    assert len(made._blocks) == 1
