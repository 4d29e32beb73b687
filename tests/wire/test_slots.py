"""``wire.slots`` step by step against Python sets, under Hypothesis, and single rules."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rankserver.wire.slots import MAX_SMALL_BITS, Slots, contains, set_of, set_of_spans, slots_of


class SlotsAgainstASet(RuleBasedStateMachine):
    """Drives ``Slots`` beside a set of the taken slots, and a set of members that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(3)
        self.taken = {0, 1, 2}
        self.most = 3
        self.kept = self.slots.everybody

    @rule()
    def take(self) -> None:
        """Take a slot: it was free, and below the peak number of taken slots if any there was free."""
        slot = self.slots.take()
        assert slot not in self.taken
        self.taken.add(slot)
        self.most = max(self.most, len(self.taken))
        assert slot < self.most
        assert not contains(self.kept, slot)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Release some slots, and clear them from the kept set."""
        gone = data.draw(st.sets(st.sampled_from(sorted(self.taken))))
        self.slots.release(set_of(gone))
        self.kept &= ~set_of(gone)
        self.taken -= gone

    @rule()
    def keep_everybody(self) -> None:
        """Keep the set of all present members."""
        self.kept = self.slots.everybody

    @invariant()
    def agrees(self) -> None:
        """Check that all queries agree with the set."""
        assert set(slots_of(self.slots.everybody)) == self.taken
        assert len(self.slots) == len(self.taken)
        assert self.slots.bound == self.most
        assert all(set(slots_of(self.slots.all_but(slot))) == self.taken - {slot} for slot in self.taken)
        assert not self.kept & ~self.slots.everybody


TestSlotsAgainstASet = SlotsAgainstASet.TestCase
TestSlotsAgainstASet.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_a_freed_slot_is_taken_again_before_a_new_one() -> None:
    slots = Slots(4)
    slots.release(set_of([1, 2]))
    assert {slots.take(), slots.take()} == {1, 2}
    assert slots.take() == 4


def test_a_slot_that_is_not_taken_cannot_be_released() -> None:
    slots = Slots(2)
    with pytest.raises(ValueError, match=r"slots \[2, 5\] are not taken"):
        slots.release(set_of([1, 2, 5]))
    assert list(slots_of(slots.everybody)) == [0, 1]


def test_slots_of_a_set_come_in_ascending_order() -> None:
    assert list(slots_of(set_of([70, 0, 3]))) == [0, 3, 70]


def test_a_set_contains_its_slots_and_no_others() -> None:
    members = set_of([0, 64])
    assert [slot for slot in range(130) if contains(members, slot)] == [0, 64]


# Some of them lie on both sides of every point at which a large set is halved.
SLOTS = st.sets(st.integers(0, 300) | st.integers(0, 10 * MAX_SMALL_BITS))


@given(SLOTS)
def test_a_set_has_the_slots_that_it_was_made_of(slots: set[int]) -> None:
    members = set_of(slots)
    assert members == sum(1 << slot for slot in slots)
    assert list(slots_of(members)) == sorted(slots)


@given(SLOTS)
def test_spans_make_the_same_set_as_their_slots(slots: set[int]) -> None:
    ends = sorted(slots)
    spans = [range(*pair) for pair in zip(ends[::2], ends[1::2], strict=False)]
    assert set_of_spans(spans) == set_of(slot for span in spans for slot in span)


def test_spans_that_touch_make_one_set() -> None:
    assert set_of_spans([range(3, 5), range(5, 9), range(1, 3)]) == set_of(range(1, 9))
