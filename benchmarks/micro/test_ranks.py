"""The C ranked list against a Python list and a Python linked list; run by ``make microbench``.

All three do the same work through the same three calls, which Python makes: a call of the C core costs mostly
the transition into C. Lists are aged before they are measured, see ``AgedRanks``.

Most operations take less time than reading the clock, so STEPS of them are measured as one.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from operator import attrgetter
from typing import Any, Final, Generic, Protocol, TypeVar

import pytest
from linked import LinkedList
from pytest_benchmark.fixture import BenchmarkFixture

from rankserver.clist import Log

C = TypeVar("C")
# What the setup of a round returns: positional and keyword arguments.
Call = tuple[tuple[Any, ...], dict[str, Any]]

STEPS: Final = 5
ROUNDS: Final = 1_000
# Rounds before those that are measured.
WARM_UP: Final = 10
# Visits of clients in all rounds of a benchmark that visits each client, within LEAST_ROUNDS and ROUNDS.
VISITS: Final = 5_000_000
LEAST_ROUNDS: Final = 21


class Ranks(Protocol[C]):
    """Ranks of clients of type C, which are in the order of joining."""

    def __len__(self) -> int: ...
    def join(self) -> C: ...
    def leave(self, client: C, /) -> None: ...
    def rank(self, client: C, /) -> int: ...


class CList:
    """The ranks of the C core. A member that leaves is also freed."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._joined = 0
        self.leave = log.leave
        self.rank = log.rank

    def __len__(self) -> int:
        return self._log.count

    def join(self) -> int:
        self._joined += 1
        self._log.join(self._joined)
        return self._joined


class TicketHolder:
    """A client in a ``PythonList``."""

    __slots__ = ("ticket",)

    def __init__(self, ticket: int) -> None:
        self.ticket = ticket


class PythonList:
    """A list of members, each with a higher ticket than the one before.

    The list is therefore sorted, and a rank is found by bisection in O(log n) without any renumbering. A
    Python list can do no better: ``list.index`` and storing new ranks after a leave are both O(n).
    """

    _ticket = attrgetter("ticket")

    def __init__(self) -> None:
        self._members: list[TicketHolder] = []
        self._tickets = 0

    def __len__(self) -> int:
        return len(self._members)

    def join(self) -> TicketHolder:
        member = TicketHolder(self._tickets)
        self._tickets += 1
        self._members.append(member)
        return member

    def leave(self, member: TicketHolder) -> None:
        del self._members[bisect_left(self._members, member.ticket, key=self._ticket)]

    def rank(self, member: TicketHolder) -> int:
        return bisect_left(self._members, member.ticket, key=self._ticket)


class AgedRanks(Generic[C]):
    """Ranks of a given number of clients, and a plain list of them as the reference.

    Half of the clients joined after others had left, so they lie in freed memory in no particular order, as
    in a server that has run for a while.
    """

    def __init__(self, ranks: Ranks[C], count: int) -> None:
        """Let ``count`` clients join, half of them leave, and the same number join again."""
        self.ranks = ranks
        self.count = count
        self.choose = random.Random(count)
        self.order: list[C] = []
        self.settle()
        for place in sorted(self.choose.sample(range(count), count // 2), reverse=True):
            self.ranks.leave(self.order[place])
            del self.order[place]
        self.settle()

    def settle(self) -> None:
        """Let clients join or leave at the tail until the number is right again."""
        while len(self.order) > self.count:
            self.ranks.leave(self.order.pop())
        while len(self.order) < self.count:
            self.order.append(self.ranks.join())

    def take(self, first: int, count: int) -> list[C]:
        """Take clients that will leave out of the reference, from rank ``first`` on, and return them."""
        taken = self.order[first : first + count]
        del self.order[first : first + count]
        return taken

    def check(self) -> None:
        """Assert that the clients of the reference, and no others, have the ranks 0, 1, 2, ...."""
        assert len(self.ranks) == len(self.order)
        assert list(map(self.ranks.rank, self.order)) == list(range(len(self.order)))


@pytest.fixture(scope="module", params=[10, 100, 1_000, 10_000, 100_000])
def count(request: pytest.FixtureRequest) -> int:
    """Return the number of clients."""
    return int(request.param)


@pytest.fixture(scope="module", params=["C", "list", "linked"])
def members(request: pytest.FixtureRequest, count: int) -> Iterator[AgedRanks[Any]]:
    """Return clients in each of the three kinds of list; consecutive tests share them."""
    with ExitStack() as stack:
        if request.param == "C":
            yield AgedRanks(CList(stack.enter_context(Log(65_536))), count)
        elif request.param == "list":
            yield AgedRanks(PythonList(), count)
        else:
            yield AgedRanks(LinkedList(), count)


def test_append(benchmark: BenchmarkFixture, members: AgedRanks[Any]) -> None:
    """Join at the tail."""
    join, order = members.ranks.join, members.order

    def append() -> None:
        for _ in range(STEPS):
            order.append(join())

    benchmark.group = f"append: {STEPS} join behind {members.count:7,}"
    benchmark.pedantic(append, setup=members.settle, rounds=ROUNDS, warmup_rounds=WARM_UP)
    assert len(order) == members.count + STEPS
    members.check()


@pytest.mark.parametrize("place", ["head", "middle", "tail"])
def test_remove(benchmark: BenchmarkFixture, members: AgedRanks[Any], place: str) -> None:
    """Leave one after the other; at the tail, the last client leaves first."""
    first = {"head": 0, "middle": (members.count - STEPS) // 2, "tail": members.count - STEPS}[place]
    leave = members.ranks.leave

    def setup() -> Call:
        members.settle()
        leaving = members.take(first, STEPS)
        return (leaving[::-1] if place == "tail" else leaving,), {}

    def remove(leaving: list[Any]) -> None:
        for client in leaving:
            leave(client)

    benchmark.group = f"remove: {STEPS} leave from the {place} of {members.count:7,}"
    benchmark.pedantic(remove, setup=setup, rounds=ROUNDS, warmup_rounds=WARM_UP)
    assert len(members.order) == members.count - STEPS
    members.check()


def test_lookup(benchmark: BenchmarkFixture, members: AgedRanks[Any]) -> None:
    """Look up ranks while nobody leaves."""
    rank = members.ranks.rank
    members.settle()
    members.check()
    places: list[int] = []

    def setup() -> Call:
        places[:] = members.choose.sample(range(members.count), STEPS)
        return ([members.order[place] for place in places],), {}

    def lookup(asked: list[Any]) -> list[int]:
        return [rank(client) for client in asked]

    benchmark.group = f"lookup: the ranks of {STEPS} among {members.count:7,}"
    assert benchmark.pedantic(lookup, setup=setup, rounds=ROUNDS, warmup_rounds=WARM_UP) == places


def test_renumber(benchmark: BenchmarkFixture, members: AgedRanks[Any]) -> None:
    """Leave from the head, then look up the last client's rank, as the server does in a turn."""
    leave, rank = members.ranks.leave, members.ranks.rank

    def setup() -> Call:
        members.settle()
        return (members.take(0, STEPS), members.order[-1]), {}

    def leave_and_rank(leaving: list[Any], last: Any) -> list[int]:
        ranks = []
        for client in leaving:
            leave(client)
            ranks.append(rank(last))
        return ranks

    benchmark.group = f"renumber: {STEPS} x the head leaves, the last asks, of {members.count:7,}"
    rounds = rounds_of(STEPS * members.count)
    ranks = benchmark.pedantic(leave_and_rank, setup=setup, rounds=rounds, warmup_rounds=1)
    assert ranks == [members.count - 2 - step for step in range(STEPS)]
    members.check()


def test_rank_of_each(benchmark: BenchmarkFixture, members: AgedRanks[Any]) -> None:
    """Leave from the head, then look up the rank of each remaining client."""
    leave, rank = members.ranks.leave, members.ranks.rank

    def setup() -> Call:
        members.settle()
        return (members.take(0, 1), members.order), {}

    def leave_and_ranks(leaving: list[Any], staying: list[Any]) -> list[int]:
        leave(leaving[0])
        return [rank(client) for client in staying]

    benchmark.group = f"renumber: the head leaves, each asks, of {members.count:7,}"
    ranks = benchmark.pedantic(leave_and_ranks, setup=setup, rounds=rounds_of(members.count), warmup_rounds=1)
    assert ranks == list(range(members.count - 1))


def rounds_of(visits: int) -> int:
    """Return the number of rounds for a benchmark that visits this many clients in each."""
    return max(LEAST_ROUNDS, min(ROUNDS, VISITS // visits))
