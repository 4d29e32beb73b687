"""What a client derives from the log: its place in it, its rank, and the number of clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rankserver.wire import ranking
from simulate.truth import Change, LoggedCommand, Truth, Violation

if TYPE_CHECKING:
    from simulate.client import SimClient


class View:
    """The log as one client gets it, compared with the truth frame by frame.

    Attributes:
        rank, count: the client's rank and the number of clients, as derived; -1 before its WELCOME.
        seq, first_seq: the seq of the last frame that it got, and the seq in its WELCOME.
        roster: the true roster at ``seq``, by rank.
    """

    def __init__(self, client: SimClient, truth: Truth) -> None:
        self.rank = self.count = -1
        self.seq = self.first_seq = 0
        self.roster: tuple[SimClient, ...] = ()
        self._client = client
        self._truth = truth

    def welcome(self, fields: dict[str, Any]) -> None:
        """Begin where WELCOME says."""
        if self.rank >= 0:
            raise Violation(f"{self._client} gets a second WELCOME")
        self.rank, self.count, self.seq = fields["rank"], fields["clients"], fields["seq"]
        self.first_seq = self.seq
        meaning = self._truth.meaning[self.seq]
        if not isinstance(meaning, Change):
            raise Violation(f"{self._client} is welcomed after frame {self.seq}, which is no JOIN")
        self.roster = meaning.roster
        self._check_derived()

    def follow(self, line: bytes) -> LoggedCommand | None:
        """Follow the next frame of the log; return the command that it is, if it is one."""
        self.seq = seq = self.seq + 1
        frames = self._truth.frames
        if self.rank < 0:
            raise Violation(f"{self._client} has no WELCOME and gets {line!r}")
        if seq >= len(frames) or frames[seq] != line:
            due = frames[seq] if seq < len(frames) else b"nothing"
            raise Violation(f"{self._client} gets {line!r} where {due!r} is due")
        meaning = self._truth.meaning[seq]
        if isinstance(meaning, LoggedCommand):
            self._check_verdict(seq, meaning)
            return meaning
        if meaning is not None:
            self._change(meaning)
        return None

    def _check_verdict(self, seq: int, command: LoggedCommand) -> None:
        verdict = ranking.verdict(self.rank, command.rank)
        if command.sender is self._client:
            due = ranking.Verdict.OWN
        elif command.rank < command.roster.index(self._client):
            due = ranking.Verdict.EXECUTE
        else:
            due = ranking.Verdict.REFUSE
        if verdict is not due:
            raise Violation(f"frame {seq} is {due} to {self._client}, which takes it as {verdict}")

    def _change(self, change: Change) -> None:
        derive = ranking.joined if change.joins else ranking.left
        self.rank, self.count = derive(self.rank, self.count, change.ranks)
        self.roster = change.roster
        self._check_derived()

    def _check_derived(self) -> None:
        """Compare what was derived with the truth at this place in the log."""
        if (
            self.count != len(self.roster)
            or not 0 <= self.rank < self.count
            or self.roster[self.rank] is not self._client
        ):
            raise Violation(
                f"{self._client} at {self.seq} derives {self.rank} of {self.count}; it is {self.roster}"
            )
