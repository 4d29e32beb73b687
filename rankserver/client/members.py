"""The members as one client knows them from the log: by rank, with their names.

Ranks shift with every JOIN and LEFT, so each member also has a slot (see ``wire.slots``) that stays the same
until it leaves. Sets of members are sets of slots. The log contains no names; they are learned from answers
and rosters.
"""

from __future__ import annotations

from collections.abc import Sequence

from rankserver.wire import ranking
from rankserver.wire.slots import Slots, set_of, slots_of


class Members:
    """All members by rank, including us.

    Attributes:
        rank: our own rank.

    Args:
        rank: our own rank.
        count: the number of members.
        name: our own name.
    """

    def __init__(self, rank: int, count: int, name: str) -> None:
        self.rank = rank
        self._slots = Slots(count)
        self._by_rank = list(range(count))
        self._names = {rank: name}
        self._ranks: list[int] | None = None

    def __len__(self) -> int:
        return len(self._by_rank)

    @property
    def others(self) -> int:
        """The set of all members except us."""
        return self._slots.all_but(self._by_rank[self.rank])

    @property
    def are_all_named(self) -> bool:
        """Whether the name of every member is known."""
        return len(self._names) == len(self._by_rank)

    @property
    def ranks(self) -> list[int]:
        """The rank of each member, by slot. The list is never modified: ASKs share it until ranks change."""
        if self._ranks is None:
            self._ranks = [-1] * self._slots.bound
            for rank, slot in enumerate(self._by_rank):
                self._ranks[slot] = rank
        return self._ranks

    def slot(self, rank: int) -> int:
        """Return the slot of the member that holds ``rank`` now."""
        return self._by_rank[rank]

    def name(self, slot: int) -> str:
        """Return a member's name, or an empty string if it is unknown."""
        return self._names.get(slot, "")

    def learn(self, slot: int, name: str) -> None:
        """Note a member's name."""
        self._names[slot] = name

    def learn_all(self, names: Sequence[str]) -> None:
        """Note the names of all members, given by rank."""
        self._names = dict(zip(self._by_rank, names, strict=True))

    def join(self, ranks: Sequence[int]) -> None:
        """Add newcomers; ``ranks`` are their ranks after the JOIN. O(len(ranks) * len(self))."""
        self.rank, _ = ranking.joined(self.rank, len(self), ranks)
        for rank in ranks:
            self._by_rank.insert(rank, self._slots.take())
        self._ranks = None

    def leave(self, ranks: Sequence[int]) -> int:
        """Remove members that left; ``ranks`` are their ranks before the LEFT. O(len(ranks) * len(self)).

        Returns:
            The set of members that left. Their slots stay taken until ``release``: call it once no other set
            contains them.
        """
        self.rank, _ = ranking.left(self.rank, len(self), ranks)
        self._ranks = None
        return set_of([self._by_rank.pop(rank) for rank in reversed(ranks)])

    def release(self, gone: int) -> None:
        """Free the slots of members that left, for newcomers, and forget their names."""
        self._slots.release(gone)
        for slot in slots_of(gone):
            self._names.pop(slot, None)
