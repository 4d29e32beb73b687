"""The order of a single server: proposals count at once, and nothing is deferred."""

from __future__ import annotations

import pytest

from rankserver.inputs import Asked, Input, Left
from rankserver.order import Immediate


def test_proposals_count_at_once_and_in_order() -> None:
    applied: list[Input] = []
    order = Immediate(applied.append)
    for number in range(1, 4):
        order.propose(Left((number,)))
        assert applied[-1] == Left((number,))
    assert applied == [Left((1,)), Left((2,)), Left((3,))]


def test_nothing_counts_later() -> None:
    order = Immediate(lambda _: None)
    order.propose(Left((1,)))
    assert list(order.ready()) == []


def test_commands_need_not_be_proposed() -> None:
    assert not Immediate(lambda _: None).collects


def test_a_lack_of_memory_is_raised_to_the_proposer() -> None:
    def apply(_: Input) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        Immediate(apply).propose(Asked(1, "a"))
