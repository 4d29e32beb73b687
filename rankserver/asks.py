"""The open asks, and the members that may still answer each. Pure bookkeeping over member ids.

While a member holds a rank, it has a slot, which is the number of a bit. The members that may answer an ASK
are the bits of one int: a thousand members take 125 bytes.

Each asker has a share of its own. If it has too many open asks, its own oldest is forgotten, never that of
another member. Thousands of askers may fill their shares, so nothing walks over all asks:

- When members leave, each asker only notes their slots, and clears them from its asks before its next one. An
  ask that waited for nobody else is forgotten then.
- Until then, a newcomer may take such a slot and find its predecessor's bit in an older ask. So a member may
  answer only those asks that were opened after it entered.
- When an asker leaves, only the seqs of its asks are kept: answers to these *orphans* are dropped, and are no
  error. The number of orphans is bounded; those of the askers that left first are forgotten first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from rankserver.wire.exceptions import NoSuchAskError
from rankserver.wire.slots import Slots, contains, set_of

# The most open asks of one member; one more makes the table forget its oldest. The protocol promises this
# number. With 10,000 members an ask takes up to 1.5 KB, so those of one member take up to 1.5 MB.
MAX_ASKS_PER_MEMBER: Final = 1_024
# The most asks of members that have left, which bounds them at 10 MB: each takes up to 150 bytes.
MAX_ORPHANS: Final = 65_536
# Clearing members that left from this many asks takes as long as handling one short line, some 10 µs, with a
# few hundred members. With 10,000, it takes about twice that.
ASKS_PER_LINE: Final = 64
# The number of an asker's asks that become orphans in that time when it leaves.
ORPHANS_PER_LINE: Final = 16


class _Asker:
    """A member that has asked.

    Attributes:
        member: its id.
        waiting: by the seq of each of its open asks, oldest first, the set of members that may still answer.
        vacated: the slots of members that have left and were not cleared from ``waiting`` yet.
    """

    __slots__ = ("member", "vacated", "waiting")

    def __init__(self, member: int) -> None:
        self.member = member
        self.waiting: dict[int, int] = {}
        self.vacated = 0


class AskTable:
    """The open asks, and the members that are present to answer them.

    Attributes:
        limit: the most open asks of one member.
        orphan_limit: the most asks of members that have left.
    """

    def __init__(self, limit: int = MAX_ASKS_PER_MEMBER, orphan_limit: int = MAX_ORPHANS) -> None:
        self.limit = limit
        self.orphan_limit = orphan_limit
        self._slots = Slots()
        # The slot of each member, and the newest ask when it entered. A slot is kept rather than its bit,
        # which takes 1.3 KB for the ten-thousandth member.
        self._present: dict[int, tuple[int, int]] = {}
        self._newest = 0
        self._askers: dict[int, _Asker] = {}
        # By seq, the asker of each ask, or None if it has left.
        self._by_seq: dict[int, _Asker | None] = {}
        # The seqs of the asks of each asker that has left, in the order of their leaving.
        self._orphans: deque[tuple[int, ...]] = deque()
        self._orphan_count = 0

    def __len__(self) -> int:
        """Return how many asks of present members are remembered. O(1).

        Some of them may wait only for members that have left.
        """
        return len(self._by_seq) - self._orphan_count

    def enter(self, member: int) -> None:
        """Add a member, which may answer the asks that are opened from now on."""
        self._present[member] = (self._slots.take(), self._newest)

    def leave(self, members: Sequence[int]) -> None:
        """Remove members that left, and orphan their asks. O(askers + the members' own asks)."""
        vacated = set_of(self._present.pop(member)[0] for member in members)
        for asker in self._askers.values():
            if asker.waiting:
                asker.vacated |= vacated
        for member in members:
            if member in self._askers:
                self._orphan(self._askers.pop(member))
        self._slots.release(vacated)

    def cost(self, member: int) -> int:
        """Return what the member's next ``open`` costs, as the number of short lines that take that long."""
        asker = self._askers.get(member)
        return len(asker.waiting) // ASKS_PER_LINE if asker is not None and asker.vacated else 0

    def leaving_cost(self, member: int) -> int:
        """Return what it costs when this member leaves, in the same unit, because of its asks. O(1)."""
        asker = self._askers.get(member)
        return len(asker.waiting) // ORPHANS_PER_LINE if asker is not None else 0

    def excess(self, member: int) -> int | None:
        """Return the member's oldest open ask if its next one makes the table forget it, else None.

        O(the member's open asks) if anybody has left since its last one, else O(1).
        """
        asker = self._askers.get(member)
        if asker is None:
            return None
        if asker.vacated:
            self._settle(asker)
        return next(iter(asker.waiting)) if len(asker.waiting) >= self.limit else None

    def open(self, seq: int, member: int) -> None:
        """Open the ask ``seq`` of a member, and forget the member's ``excess``. As expensive as that.

        Every other member may answer the ask once.
        """
        oldest = self.excess(member)
        self._newest = seq
        waiting = self._slots.everybody & ~(1 << self._present[member][0])
        if not waiting:
            return
        asker = self._askers.get(member)
        if asker is None:
            asker = self._askers[member] = _Asker(member)
        asker.waiting[seq] = waiting
        self._by_seq[seq] = asker
        if oldest is not None:
            del asker.waiting[oldest], self._by_seq[oldest]

    def asker(self, seq: int) -> int | None:
        """Return the asker of the ask ``seq``; None if it is not remembered, or the asker has left. O(1)."""
        asker = self._by_seq.get(seq)
        return asker.member if asker is not None else None

    def answer(self, seq: int, member: int) -> int | None:
        """Record an answer of ``member`` to the ask ``seq``; return the asker, or None if it has left.

        Raises:
            NoSuchAskError: the ask is not open, or the member may not answer it or has done so before.
        """
        slot, newest = self._present[member]
        if seq <= newest or seq not in self._by_seq:
            raise NoSuchAskError(seq)
        asker = self._by_seq[seq]
        if asker is None:
            return None
        waiting, bit = asker.waiting[seq], 1 << slot
        if not waiting & bit:
            raise NoSuchAskError(seq)
        if waiting == bit:
            del asker.waiting[seq], self._by_seq[seq]
        else:
            asker.waiting[seq] = waiting ^ bit
        return asker.member

    def waiting(self) -> dict[int, tuple[int | None, frozenset[int]]]:
        """Return the asks that somebody may answer by seq: the asker, None if it has left, and who may.

        O(asks * members).
        """
        found: dict[int, tuple[int | None, frozenset[int]]] = {}
        for seq, asker in self._by_seq.items():
            others = frozenset(
                member
                for member, (slot, newest) in self._present.items()
                if newest < seq and (asker is None or contains(asker.waiting[seq], slot))
            )
            if others:
                found[seq] = (None if asker is None else asker.member, others)
        return found

    def _settle(self, asker: _Asker) -> None:
        """Clear members that have left from an asker's asks, and forget asks without any. O(its asks)."""
        before, remaining = asker.waiting, self._slots.everybody & ~asker.vacated
        asker.waiting = {seq: rest for seq, waiting in before.items() if (rest := waiting & remaining)}
        asker.vacated = 0
        for seq in before.keys() - asker.waiting.keys():
            del self._by_seq[seq]

    def _orphan(self, asker: _Asker) -> None:
        """Make orphans of the asks of an asker that has left, and forget some if there are too many."""
        self._settle(asker)
        if not asker.waiting:
            return
        self._by_seq.update(dict.fromkeys(asker.waiting))
        self._orphans.append(tuple(asker.waiting))
        self._orphan_count += len(asker.waiting)
        while self._orphan_count > self.orphan_limit:
            oldest = self._orphans.popleft()
            self._orphan_count -= len(oldest)
            for seq in oldest:
                del self._by_seq[seq]
