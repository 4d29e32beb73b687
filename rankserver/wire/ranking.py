"""What log frames do to ranks: pure rules, without sockets, clocks or byte formats.

The ranks in a frame are ascending spans, ``me`` is a client's own rank and ``n`` the number of clients.
Source: docs/protocol.md, "Log frames".
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Verdict(enum.Enum):
    """What a client does with a command."""

    OWN = "own"
    EXECUTE = "execute"
    REFUSE = "refuse"


def joined(me: int, n: int, ranks: Iterable[range]) -> tuple[int, int]:
    """Return (me, n) after a JOIN of ``ranks``, as numbered after the frame. O(spans)."""
    for span in ranks:
        n += len(span)
        if me >= span.start:
            me += len(span)
    return me, n


def left(me: int, n: int, ranks: Iterable[range]) -> tuple[int, int]:
    """Return (me, n) after a LEFT of ``ranks``, as numbered before the frame. O(spans)."""
    before = me
    for span in ranks:
        n -= len(span)
        if before >= span.start:
            me -= min(len(span), before - span.start)
    return me, n


def verdict(me: int, sender: int) -> Verdict:
    """Return what the client of rank ``me`` does with a command from rank ``sender``."""
    if sender == me:
        return Verdict.OWN
    return Verdict.EXECUTE if sender < me else Verdict.REFUSE
