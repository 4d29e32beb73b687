"""Who may still answer what. Pure bookkeeping over the numbers of members.

Each member has a slot, a bit, while it holds a rank, so "who may answer" is one whole number per ASK: a
thousand members cost 125 bytes, and a departure clears its bits in one pass over the open asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rankserver.wire.exceptions import NoSuchAskError
from rankserver.wire.slots import Slots, contains, set_of

# How many asks are remembered. When there is one more, the oldest is forgotten. With 10,000 members an ask
# takes 1.3 KB, so this bounds the table at some 80 MB.
MAX_ASKS: Final = 65_536


class _OpenAsk:
    __slots__ = ("asker", "waiting")

    def __init__(self, asker: int, waiting: int) -> None:
        # None once the asker has left: answers are then dropped.
        self.asker: int | None = asker
        # The set of members that may still answer.
        self.waiting = waiting


class AskTable:
    """The asks that are open, and the members that are here to answer them.

    Args:
        limit: how many asks are remembered.
    """

    def __init__(self, limit: int = MAX_ASKS) -> None:
        self.limit = limit
        # By seq, and so oldest first.
        self._asks: dict[int, _OpenAsk] = {}
        self._slots = Slots()
        # The slot of each member. Not its bit: that would be a number of 1.3 KB for the ten-thousandth.
        self._slot_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._asks)

    def enter(self, member: int) -> None:
        """Let a member answer what is asked from now on."""
        self._slot_of[member] = self._slots.take()

    def leave(self, members: Sequence[int]) -> None:
        """Remove members that left, and forget the asks that nobody is left to answer. O(asks)."""
        bits = set_of(map(self._slot_of.pop, members))
        gone = set(members)
        for seq, ask in list(self._asks.items()):
            ask.waiting &= ~bits
            if ask.asker in gone:
                ask.asker = None
            if not ask.waiting:
                del self._asks[seq]
        self._slots.release(bits)

    def open(self, seq: int, asker: int) -> None:
        """Remember that ``asker`` asked with the frame ``seq``: each other member may answer it once."""
        waiting = self._slots.everybody & ~(1 << self._slot_of[asker])
        if waiting:
            self._asks[seq] = _OpenAsk(asker, waiting)
            if len(self._asks) > self.limit:
                del self._asks[next(iter(self._asks))]

    def asker(self, seq: int) -> int | None:
        """Return who asked this, or None if it is not open or the asker has left. O(1)."""
        ask = self._asks.get(seq)
        return ask.asker if ask else None

    def answer(self, seq: int, member: int) -> int | None:
        """Note that ``member`` answers; return who asked, or None if that one has left.

        Raises:
            NoSuchAskError: it may not answer this, or has done so before.
        """
        ask = self._asks.get(seq)
        bit = 1 << self._slot_of[member]
        if ask is None or not ask.waiting & bit:
            raise NoSuchAskError(seq)
        ask.waiting ^= bit
        if not ask.waiting:
            del self._asks[seq]
        return ask.asker

    def waiting(self) -> dict[int, tuple[int | None, frozenset[int]]]:
        """Return the open asks by seq: who asked, and who may still answer. O(asks x members)."""
        slots = self._slot_of.items()
        return {
            seq: (ask.asker, frozenset(member for member, slot in slots if contains(ask.waiting, slot)))
            for seq, ask in self._asks.items()
        }
