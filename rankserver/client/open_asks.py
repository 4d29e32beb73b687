"""Our ASKs that are in the log and not yet answered by all.

Who can still answer an ASK follows from the log: all others that were there when it was logged, except those
that have answered or left since. Each target gives exactly one ``Answer``, under the rank that it held when
the ASK was logged. When no answer is outstanding, ``AskDone`` follows. If the server tells us that it has
forgotten an ASK, no more answers can come: the missing ones count as ``gone``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rankserver.client import events
from rankserver.client.members import Members, RankSnapshot
from rankserver.wire import frames
from rankserver.wire.slots import contains, set_of_spans, slots_of

# The fields of an answer's JSON that become fields of ``Answer``, and their types. Other fields are ignored.
DETAIL_TYPES: Final = {"code": int, "out": str, "ms": int, "truncated": bool, "reason": str}


@dataclass(slots=True)
class OpenAsk:
    """One ASK.

    Attributes:
        text: the command.
        may_execute: how many members ranked below us when it was logged.
        waiting: the set of members that may still answer, as bits by their ranks when it was logged.
        snapshot: the ranks of all members when it was logged.
        counts: the number of members with each outcome so far.
    """

    text: str
    may_execute: int
    waiting: int
    snapshot: RankSnapshot
    counts: dict[str, int] = field(default_factory=dict)


class OpenAsks:
    """All open ASKs by seq. The methods return what happens to them as events.

    Args:
        members: all members and their names.
    """

    def __init__(self, members: Members) -> None:
        self._members = members
        self._asks: dict[int, OpenAsk] = {}

    @property
    def seqs(self) -> frozenset[int]:
        """The seqs of all open ASKs."""
        return frozenset(self._asks)

    def open(self, seq: int, text: str) -> list[events.Event]:
        """Add an ASK that has just been logged. If nobody else is there, it is done at once."""
        members = self._members
        may_execute = len(members) - 1 - members.rank
        others = (1 << len(members)) - 1 ^ 1 << members.rank
        ask = self._asks[seq] = OpenAsk(text, may_execute, others, members.snapshot)
        return self._settle(seq, ask)

    def answer(self, frame: frames.AnswerFrame, member: int) -> list[events.Event]:
        """Take an answer of ``member``, unless it has answered before.

        A server need not remember who has answered, so only the first answer of each member counts.
        """
        ask = self._asks.get(frame.seq)
        if ask is None or member >= ask.snapshot.bound:
            return []
        rank = ask.snapshot.rank(member)
        if not contains(ask.waiting, rank):
            return []
        detail: dict[str, Any] = {
            name: value for name, value in frame.detail.items() if type(value) is DETAIL_TYPES.get(name)
        }
        answer = events.Answer(frame.seq, rank, frame.name, frame.status, **detail)
        return [answer, *self._count(frame.seq, ask, 1 << rank, frame.status)]

    def expire(self, seq: int) -> list[events.Event]:
        """Stop waiting for answers to the ASK ``seq``; nothing happens if it is not open."""
        return self._end(seq, "timeout", "no answer in time")

    def drop(self, seq: int) -> list[events.Event]:
        """Stop waiting for answers to the ASK ``seq``, because the server has forgotten it."""
        return self._end(seq, events.GONE, "the server has forgotten the command")

    def leave(self, gone: Sequence[range]) -> list[events.Event]:
        """Stop waiting for the answers of members that left.

        O(runs in ``gone``) for each ASK that was open when the latest of them joined, and O(1) for one that
        shares its snapshot with the one before.
        """
        snapshot, members = None, 0
        happened: list[events.Event] = []
        for seq, ask in self._asked_while_here(gone):
            if ask.snapshot is not snapshot:
                snapshot = ask.snapshot
                members = set_of_spans(snapshot.ranks(gone))
            happened += self._conclude(seq, ask, ask.waiting & members, events.GONE)
        return happened

    def disconnect(self) -> list[events.Event]:
        """Stop waiting for all answers, because no more can arrive."""
        return [
            event
            for seq in list(self._asks)
            for event in self._end(seq, events.GONE, "the connection was lost")
        ]

    def _end(self, seq: int, outcome: str, reason: str) -> list[events.Event]:
        """Report ``outcome`` for all that have not answered the ASK ``seq``, if it is open."""
        ask = self._asks.get(seq)
        return [] if ask is None else self._conclude(seq, ask, ask.waiting, outcome, reason)

    def _asked_while_here(self, members: Sequence[range]) -> list[tuple[int, OpenAsk]]:
        """Return the ASKs, oldest first, that were logged when at least one of ``members`` was there.

        Others are not even looked at: a server may let the same clients come and go for ever.
        """
        first = min(run.start for run in members)
        asked = itertools.takewhile(lambda item: first < item[1].snapshot.bound, reversed(self._asks.items()))
        return list(asked)[::-1]

    def _conclude(
        self, seq: int, ask: OpenAsk, members: int, outcome: str, reason: str = ""
    ) -> list[events.Event]:
        """Report ``outcome`` for each of ``members``, which the ASK waits for, in the order of ranks."""
        if not members:
            return []
        name, member = self._members.name, ask.snapshot.member
        answers: list[events.Event] = [
            events.Answer(seq, rank, name(member(rank)), outcome, reason=reason) for rank in slots_of(members)
        ]
        return answers + self._count(seq, ask, members, outcome)

    def _count(self, seq: int, ask: OpenAsk, members: int, outcome: str) -> list[events.Event]:
        ask.waiting ^= members
        ask.counts[outcome] = ask.counts.get(outcome, 0) + members.bit_count()
        return self._settle(seq, ask)

    def _settle(self, seq: int, ask: OpenAsk) -> list[events.Event]:
        """Report the ASK as done if no answer is outstanding."""
        if ask.waiting:
            return []
        del self._asks[seq]
        counts = events.Counts(*(ask.counts.get(outcome, 0) for outcome in events.OUTCOMES))
        return [events.AskDone(seq, ask.text, ask.may_execute, counts)]
