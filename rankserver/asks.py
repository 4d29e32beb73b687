"""Who may still answer which ASK. Pure: members are whatever the server uses to name a client.

Each client has a bit while it is ranked, so that "who may answer" is one whole number per ASK: a
thousand clients cost 125 bytes, and a departure clears its bits in one pass over the open asks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar

from rankserver.wire.exceptions import NoSuchAskError

MAX_ASKS: Final = 65_536  # remembered at a time; then the oldest is forgotten

M = TypeVar("M", bound=Hashable)


class _Ask(Generic[M]):
    __slots__ = ("asker", "waiting")

    def __init__(self, asker: M, waiting: int) -> None:
        self.asker: M | None = asker  # None once it has left: then answers are dropped
        self.waiting = waiting  # bits of the clients that may still answer


class AskTable(Generic[M]):
    """The asks that are open, and the clients that are here to answer them."""

    def __init__(self, limit: int = MAX_ASKS) -> None:
        self.limit = limit
        self._asks: dict[int, _Ask[M]] = {}  # by seq, so oldest first
        self._bits: dict[M, int] = {}
        self._everybody = 0  # all of these bits
        self._free: list[int] = []  # bit numbers that clients have given back

    def __len__(self) -> int:
        return len(self._asks)

    def enter(self, member: M) -> None:
        """Add a client: it may answer what is asked from now on."""
        number = self._free.pop() if self._free else len(self._bits)
        self._bits[member] = 1 << number
        self._everybody |= 1 << number

    def leave(self, members: Iterable[M]) -> None:
        """Remove clients that left, and forget the asks that nobody is left to answer. O(asks)."""
        gone = {member: self._bits.pop(member) for member in members}
        bits = 0
        for bit in gone.values():
            bits |= bit
            self._free.append(bit.bit_length() - 1)
        self._everybody &= ~bits
        for seq, ask in list(self._asks.items()):
            ask.waiting &= ~bits
            if ask.asker in gone:
                ask.asker = None
            if not ask.waiting:
                del self._asks[seq]

    def open(self, seq: int, asker: M) -> None:
        """Remember that ``asker`` asked with the frame ``seq``: all others who are here may answer once."""
        waiting = self._everybody & ~self._bits[asker]
        if waiting:
            self._asks[seq] = _Ask(asker, waiting)
            if len(self._asks) > self.limit:
                del self._asks[next(iter(self._asks))]

    def asker(self, seq: int) -> M | None:
        """Return who asked this, None if it is not open or the asker has left. O(1)."""
        ask = self._asks.get(seq)
        return ask.asker if ask else None

    def answer(self, seq: int, member: M) -> M | None:
        """Take note that ``member`` answers; return who asked, or None if that one has left.

        Raises:
            NoSuchAskError: it may not answer this, or has done so before.
        """
        ask = self._asks.get(seq)
        bit = self._bits[member]
        if ask is None or not ask.waiting & bit:
            raise NoSuchAskError(seq)
        ask.waiting ^= bit
        if not ask.waiting:
            del self._asks[seq]
        return ask.asker
