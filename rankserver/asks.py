"""The open asks, and the members that may still answer each. Pure bookkeeping over member ids.

While a member holds a rank, it has a slot, which is the number of a bit. The members that may answer an ASK
are the bits of one int: a thousand members take 125 bytes, and members that leave are cleared from all open
asks in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rankserver.wire.exceptions import NoSuchAskError
from rankserver.wire.slots import Slots, contains, set_of

# The most asks that are open at a time; one more makes the table forget the oldest. With 10,000 members an
# ask takes 1.3 KB, so this bounds the table at some 80 MB.
MAX_ASKS: Final = 65_536


class _OpenAsk:
    __slots__ = ("asker", "waiting")

    def __init__(self, asker: int, waiting: int) -> None:
        # None once the asker has left: answers are then dropped.
        self.asker: int | None = asker
        # The set of members that may still answer.
        self.waiting = waiting


class AskTable:
    """The open asks, and the members that are present to answer them.

    Args:
        limit: the most asks that are open at a time.
    """

    def __init__(self, limit: int = MAX_ASKS) -> None:
        self.limit = limit
        # By seq, which means oldest first.
        self._asks: dict[int, _OpenAsk] = {}
        self._slots = Slots()
        # The slot of each member rather than its bit, which takes 1.3 KB for the ten-thousandth member.
        self._slot_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._asks)

    def enter(self, member: int) -> None:
        """Add a member, which may answer the asks that are opened from now on."""
        self._slot_of[member] = self._slots.take()

    def leave(self, members: Sequence[int]) -> None:
        """Remove members that left, and the asks that nobody can answer any more. O(asks)."""
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
        """Open the ask ``seq`` of the member ``asker``; every other member may answer it once."""
        waiting = self._slots.everybody & ~(1 << self._slot_of[asker])
        if waiting:
            self._asks[seq] = _OpenAsk(asker, waiting)
            if len(self._asks) > self.limit:
                del self._asks[next(iter(self._asks))]

    def asker(self, seq: int) -> int | None:
        """Return the asker of the ask ``seq``; None if it is not open, or the asker has left. O(1)."""
        ask = self._asks.get(seq)
        return ask.asker if ask else None

    def answer(self, seq: int, member: int) -> int | None:
        """Record an answer of ``member`` to the ask ``seq``; return the asker, or None if it has left.

        Raises:
            NoSuchAskError: the ask is not open, or the member may not answer it or has done so before.
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
        """Return the open asks by seq: the asker, and the members that may answer. O(asks x members)."""
        slots = self._slot_of.items()
        return {
            seq: (ask.asker, frozenset(member for member, slot in slots if contains(ask.waiting, slot)))
            for seq, ask in self._asks.items()
        }
