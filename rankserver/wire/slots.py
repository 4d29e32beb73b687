"""Sets of members as the bits of an int, for code that keeps such a set for each of thousands of ASKs.

Each member has a *slot* while it is present: a small number that is free again once the member has left. A
set of members is an int with the bits of their slots, so a thousand members take 125 bytes, and removing
those that left from a set is one AND. Free slots are taken first, so a set never needs more bits than the
largest number of members that were present at once.

A freed slot must be cleared from all sets that are kept before it is taken again: the next member would
otherwise inherit its predecessor's places in them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

# The most bits of an int that is walked bit by bit: up to this size, a step takes hardly longer than on a
# machine word.
MAX_SMALL_BITS: Final = 1_024


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
        """Free the slots of a set of members that left. O(members + len(self)).

        Raises:
            ValueError: one of these slots is not taken.
        """
        if members & ~self.everybody:
            raise ValueError(f"slots {list(slots_of(members & ~self.everybody))} are not taken")
        self.everybody ^= members
        self._free += slots_of(members)


def set_of(slots: Iterable[int]) -> int:
    """Return the set of the members with these slots. O(slots + highest slot / 8)."""
    taken = list(slots)
    bits = bytearray((max(taken, default=-1) >> 3) + 1)
    for slot in taken:
        bits[slot >> 3] |= 1 << (slot & 7)
    return int.from_bytes(bits, "little")


def set_of_spans(spans: Collection[range]) -> int:
    """Return the set of the members whose slots are in these spans, which have none in common.

    O(spans + highest slot / 8): however many slots a span has, its bits are a difference of two powers of 2.
    """
    return set_of(span.stop for span in spans) - set_of(span.start for span in spans)


def contains(members: int, slot: int) -> bool:
    """Tell whether the member with this slot is in a set. O(highest slot / 64)."""
    return bool(members >> slot & 1)


def slots_of(members: int) -> Iterator[int]:
    """Yield the slots in a set, ascending. O(members + highest slot * log(highest slot) / 64)."""
    # Each step on a large int copies it, so large ones are halved until they are small.
    parts = [(members, 0)]
    while parts:
        part, offset = parts.pop()
        half = part.bit_length() // 2
        if half > MAX_SMALL_BITS // 2:
            high = part >> half
            parts += (high, offset + half), (part ^ high << half, offset)
            continue
        while part:
            lowest = part & -part
            yield offset + lowest.bit_length() - 1
            part ^= lowest
