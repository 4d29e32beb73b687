"""What log frames do to ranks: pure rules, without sockets, clocks or byte formats.

The ranks in a frame are an ascending list, ``me`` is a client's own rank and ``n`` the number of clients.
Source: docs/protocol.md, "Log frames".
"""

from __future__ import annotations

import enum
from collections.abc import Sequence


class Verdict(enum.Enum):
    """What a client does with a command."""

    OWN = "own"
    EXECUTE = "execute"
    REFUSE = "refuse"


def joined(me: int, n: int, ranks: Sequence[int]) -> tuple[int, int]:
    """Return (me, n) after a JOIN of ``ranks``, as numbered after the frame. O(len(ranks))."""
    for rank in ranks:
        if me >= rank:
            me += 1
    return me, n + len(ranks)


def left(me: int, n: int, ranks: Sequence[int]) -> tuple[int, int]:
    """Return (me, n) after a LEFT of ``ranks``, as numbered before the frame. O(len(ranks))."""
    return me - sum(rank < me for rank in ranks), n - len(ranks)


def verdict(me: int, sender: int) -> Verdict:
    """Return what the client of rank ``me`` does with a command from rank ``sender``."""
    if sender == me:
        return Verdict.OWN
    return Verdict.EXECUTE if sender < me else Verdict.REFUSE
