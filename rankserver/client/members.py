"""The members as one client knows them from the log: by rank, with their names.

Ranks shift with every JOIN and LEFT, so each member also has a number of its own, counted in the order in
which members joined. The log contains no names; they are learned from answers and rosters.

The members are kept as runs of consecutive numbers (see ``runs``): what a frame costs depends on its bytes,
and not on how many members it is about.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Final

from rankserver.client.runs import Runs
from rankserver.wire import ranking

# The most names of members that have left that are kept, not counting as many as there are members. They are
# forgotten all at once, which takes time for each member; this number makes it rare where there are few.
MAX_OLD_NAMES: Final = 1_024
# After this many look-ups for each thousand members, the members are listed by rank until ranks change: the
# list takes long to make, but makes look-ups far faster.
LOOKUPS_PER_THOUSAND: Final = 16


class RankSnapshot:
    """The ranks of all members at one place in the log. ASKs share it until ranks change.

    Attributes:
        bound: the number of the first member that joined later.

    Args:
        by_rank: the runs of members by rank.
        bound: see above.
    """

    def __init__(self, by_rank: Iterable[range], bound: int) -> None:
        runs = list(by_rank)
        self.bound = bound
        self._runs = runs
        # The rank at which each run begins.
        self._ranks = list(accumulate(map(len, runs), initial=0))[:-1]
        # The number of the first member of each run, ascending, and its rank.
        ascending = sorted(zip((run.start for run in runs), self._ranks, strict=True))
        self._firsts = [first for first, _ in ascending]
        self._ranks_of_firsts = [rank for _, rank in ascending]

    def rank(self, member: int) -> int:
        """Return the rank of a member that was there. O(log runs)."""
        index = bisect_right(self._firsts, member) - 1
        return self._ranks_of_firsts[index] + member - self._firsts[index]

    def member(self, rank: int) -> int:
        """Return the member that held a rank. O(log runs)."""
        index = bisect_right(self._ranks, rank) - 1
        return self._runs[index][rank - self._ranks[index]]

    def ranks(self, left: Iterable[range]) -> list[range]:
        """Return the ranks of those members in the runs ``left`` that were there. O(runs * log runs).

        A run is never joined to another, so one that has left was part of a single run.
        """
        return [
            range(rank, rank + len(run))
            for run in left
            if run.start < self.bound
            for rank in (self.rank(run.start),)
        ]


class Members:
    """All members by rank, including us.

    Attributes:
        rank: our own rank.
        are_all_named: whether the name of every member is known.

    Args:
        rank: our own rank.
        count: the number of members.
        name: our own name.
    """

    def __init__(self, rank: int, count: int, name: str) -> None:
        self.rank = rank
        self.are_all_named = count == 1
        self._by_rank = Runs(range(count))
        # The number of the next member to join.
        self._next = count
        # By number. Members that have left keep their names here for a while.
        self._names = {rank: name}
        # What is derived from ``_by_rank`` when it is needed.
        self._snapshot: RankSnapshot | None = None
        self._list: list[int] | None = None
        self._lookups = 0

    def __len__(self) -> int:
        return len(self._by_rank)

    @property
    def snapshot(self) -> RankSnapshot:
        """The ranks of all members now. O(runs) after a change, else O(1)."""
        if self._snapshot is None:
            self._snapshot = RankSnapshot(self._by_rank, self._next)
        return self._snapshot

    def member(self, rank: int) -> int:
        """Return the number of the member that holds ``rank`` now."""
        if self._list is None:
            self._lookups += 1
            if self._lookups * 1_000 < len(self) * LOOKUPS_PER_THOUSAND:
                return self._by_rank[rank]
            self._list = list(chain.from_iterable(self._by_rank))
        return self._list[rank]

    def name(self, member: int) -> str:
        """Return a member's name, or an empty string if it is unknown."""
        return self._names.get(member, "")

    def learn(self, member: int, name: str) -> None:
        """Note a member's name. O(1), amortized over the names that were learned."""
        if member not in self._names and len(self._names) > 2 * len(self) + MAX_OLD_NAMES:
            names = self._names
            self._names = {here: names[here] for here in chain.from_iterable(self._by_rank) if here in names}
        self._names[member] = name

    def learn_all(self, names: Sequence[str]) -> None:
        """Note the names of all members, given by rank. O(len(self))."""
        self._names = dict(zip(chain.from_iterable(self._by_rank), names, strict=True))
        self.are_all_named = True

    def join(self, ranks: Sequence[range]) -> None:
        """Add newcomers; ``ranks`` are their ranks after the JOIN. O(len(ranks)), see ``Runs``."""
        self.rank, _ = ranking.joined(self.rank, len(self), ranks)
        for span in ranks:
            self._by_rank.insert(span.start, range(self._next, self._next + len(span)))
            self._next += len(span)
        self.are_all_named = False
        self._changed()

    def leave(self, ranks: Sequence[range]) -> list[range]:
        """Remove members that left; ``ranks`` are their ranks before the LEFT. O(runs), see ``Runs``.

        Returns:
            Their numbers, as runs in any order. Their names stay known until another name is learned.
        """
        self.rank, _ = ranking.left(self.rank, len(self), ranks)
        self._changed()
        return [run for span in reversed(ranks) for run in self._by_rank.remove(span)]

    def _changed(self) -> None:
        """Forget what was derived from the members by rank."""
        self._snapshot = None
        self._list = None
        self._lookups = 0
