"""Sets of members as the bits of an int, for code that keeps such a set for each of thousands of ASKs.

Each member has a *slot* while it is present: a small number that is free again once the member has left. A
set of members is an int with the bits of their slots, so a thousand members take 125 bytes, and removing
those that left from a set is one AND. Free slots are taken first, so a set never needs more bits than the
largest number of members that were present at once.

A freed slot must be cleared from all sets that are kept before it is taken again: the next member would
otherwise inherit its predecessor's places in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Slots:
    """Assigns slots to members, and keeps the set of all members that are present.

    Args:
        count: how many members are present from the start; they have the slots 0 to ``count`` - 1.

    Attributes:
        everybody: the set of all members that are present; only ``take`` and ``release`` change it.
    """

    def __init__(self, count: int = 0) -> None:
        self.everybody = (1 << count) - 1
        self._bound = count
        self._free: list[int] = []

    def __len__(self) -> int:
        """Return how many members are present. O(1)."""
        return self._bound - len(self._free)

    @property
    def bound(self) -> int:
        """A number above every slot taken so far: the length of a list that is indexed by slot."""
        return self._bound

    def take(self) -> int:
        """Return a slot for a new member. O(len(self) / 64)."""
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._bound
            self._bound += 1
        self.everybody |= 1 << slot
        return slot

    def release(self, members: int) -> None:
        """Free the slots of a set of members that left. O(members * len(self) / 64).

        Raises:
            ValueError: one of these slots is not taken.
        """
        if members & ~self.everybody:
            raise ValueError(f"slots {list(slots_of(members & ~self.everybody))} are not taken")
        self.everybody ^= members
        self._free += slots_of(members)

    def all_but(self, slot: int) -> int:
        """Return the set of all members that are present except the one with this slot. O(len(self) / 64)."""
        return self.everybody & ~(1 << slot)


def set_of(slots: Iterable[int]) -> int:
    """Return the set of the members with these slots. O(slots * highest slot / 64)."""
    members = 0
    for slot in slots:
        members |= 1 << slot
    return members


def contains(members: int, slot: int) -> bool:
    """Tell whether the member with this slot is in a set. O(highest slot / 64)."""
    return bool(members >> slot & 1)


def slots_of(members: int) -> Iterator[int]:
    """Yield the slots in a set, ascending. O(members * highest slot / 64)."""
    while members:
        lowest = members & -members
        yield lowest.bit_length() - 1
        members ^= lowest
