"""Orders: that of a single server, and a server behind one that takes its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rankserver.channel import ChannelState, Departure
from rankserver.inputs import Asked, Input, Left
from rankserver.order import Immediate
from rankserver.server import Server
from tests.support.turns import SteppedServer


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


# --- an order that takes its time -------------------------------------------------------------


class LateOrder:
    """An order that hands out nothing until it is told to.

    Attributes:
        is_open: inputs are handed out.
    """

    def __init__(self, _: Callable[[Input], None]) -> None:
        self.collects = True
        self.is_open = False
        self._proposed: list[Input] = []

    def propose(self, given: Input) -> None:
        self._proposed.append(given)

    def ready(self) -> list[Input]:
        if not self.is_open:
            return []
        ready, self._proposed = self._proposed, []
        return ready


class Late:
    """A server behind such an order."""

    def __init__(self) -> None:
        self.order = LateOrder(lambda _: None)
        self.stepped = SteppedServer(make=self._make)

    def settle(self) -> None:
        """Hand out all that is proposed, and what follows from that."""
        self.order.is_open = True
        self.stepped.turn(4)
        self.order.is_open = False

    def _make(self, *arguments: Any, **options: Any) -> Server:
        return Server(*arguments, order=lambda _: self.order, **options)


@pytest.fixture
def late() -> Iterator[Late]:
    late = Late()
    with late.stepped:
        yield late


def test_a_join_waits_for_its_order_and_keeps_what_follows(late: Late) -> None:
    client = late.stepped.connect()
    client.send(b"HELLO\nCMD a\nPING x\n")
    late.stepped.turn(4)
    assert client.state() is ChannelState.JOINING
    assert late.stepped.log.count == 0
    late.settle()
    assert client.state() is ChannelState.JOINED
    assert client.received().splitlines()[-2:] == [b"CMD 2 0 a", b"PONG x"]


def test_nothing_is_read_while_a_join_waits(late: Late) -> None:
    client = late.stepped.connect()
    client.send(b"HELLO\n")
    late.stepped.turn(2)
    client.send(b"PING x\n")
    late.stepped.turn(4)
    assert not client.channel.interest
    late.settle()
    assert client.received().endswith(b"PONG x\n")


def test_a_channel_may_depart_before_its_join_counts(late: Late) -> None:
    client = late.stepped.connect()
    client.send(b"HELLO\n")
    late.stepped.turn(2)
    late.stepped.server.depart(client.channel, Departure("", "gone"))
    late.stepped.turn(2)
    late.settle()
    late.settle()
    assert late.stepped.log.count == 0
    # A JOIN and its LEFT.
    assert late.stepped.log.seq == 2


def test_a_leave_waits_for_its_order(late: Late) -> None:
    client = late.stepped.connect()
    client.send(b"HELLO\n")
    late.settle()
    client.send(b"BYE\n")
    late.stepped.turn(4)
    assert client.state() is ChannelState.LEAVING
    assert late.stepped.log.count == 1
    late.settle()
    assert client.state() is not ChannelState.LEAVING
    assert late.stepped.log.count == 0
