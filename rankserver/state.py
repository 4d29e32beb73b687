"""The state: members with their ranks, open asks, and the log. Only ``apply`` changes it.

Theory of operation. Everything that clients see follows from the log, and the log follows from the inputs:
two states that apply the same inputs in the same sequence hold the same members, ranks, open asks and bytes.
That is what makes a restart, a replica and an audit possible. To keep it true:

- nothing here looks at a socket, a clock, a random number, a channel or how much memory is left; what depends
  on any of these is decided before the input is proposed, and is part of it;
- applying never waits;
- an input counts as a whole or not at all. It fails only for lack of memory, and then nothing has changed.
  The order of a single server then treats it as never proposed; a server that shares its order must stop,
  since others have applied the input.

An ``Observer`` is told of joins, leaves and frames for one client alone, at the place in the log where they
are true. When the order is immediate, the C core may log a member's commands as it reads them: this runs the
same code, and logs the same bytes, as applying ``Lines``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rankserver.asks import AskTable
from rankserver.clist import Log
from rankserver.inputs import Answered, Asked, Input, Joined, Left, Lines
from rankserver.members import Member, Roster
from rankserver.wire import codes, protocol
from rankserver.wire.exceptions import NoSuchAskError


class Observer(Protocol):
    """Is told what follows from an input besides the log."""

    def joined(self, members: Sequence[Member], ranks: Sequence[int]) -> None:
        """These have joined, and hold these ranks; their JOIN is the last frame of the log."""

    def left(self, members: Sequence[Member]) -> None:
        """These have left, and their LEFT is the last frame of the log."""

    def tell(self, member: Member, frame: bytes) -> None:
        """Send a member a frame that is for it alone, after what is in the log now."""


class State:
    """Members, ranks, open asks and the log, as of the inputs applied so far.

    Args:
        log: an empty log.
        max_line: bytes in the longest line that clients may send; it bounds the lists of ranks.
        observer: is told what follows besides the log.

    Attributes:
        changes: the number of JOIN and LEFT frames; what depends on ranks alone stays valid until it grows.
    """

    def __init__(self, log: Log, max_line: int, observer: Observer) -> None:
        self.log = log
        self.roster = Roster(log)
        self.asks = AskTable()
        self.changes = 0
        self._max_line = max_line
        self._observer = observer
        self._appliers: dict[type[Any], Callable[[Any], None]] = {
            Joined: self._on_joined,
            Left: self._on_left,
            Lines: self._on_lines,
            Asked: self._on_asked,
            Answered: self._on_answered,
        }

    def apply(self, given: Input) -> None:
        """Apply an input. An input of a member that has left is ignored.

        Raises:
            MemoryError: nothing has changed.
        """
        self._appliers[type(given)](given)

    def _on_joined(self, given: Joined) -> None:
        newcomers = [each for each in given.newcomers if each.member not in self.roster.by_id]
        if not newcomers:
            return
        ranks = self.roster.places(newcomers)
        members = self.roster.add(newcomers)
        try:
            self.log.append(b"JOIN", protocol.rank_lists(ranks, self._max_line)[0])
        except MemoryError:
            self.roster.remove(members)
            raise
        for member in members:
            self.asks.enter(member.id)
        self.changes += 1
        self._observer.joined(members, ranks)

    def _on_left(self, given: Left) -> None:
        by_id = self.roster.by_id
        leaving = [by_id[number] for number in given.members if number in by_id]
        if not leaving:
            return
        by_rank = {self.roster.rank(member): member for member in leaving}
        ranks = protocol.rank_lists(sorted(by_rank), self._max_line)[0]
        leaving = [by_rank[rank] for rank in sorted(by_rank)]
        # What can fail comes first: the proposer has reserved memory for the frame, but that may have been
        # another process.
        self.log.reserve(len(ranks))
        self.roster.remove(leaving)
        self.log.append(b"LEFT", ranks)
        self.asks.leave([member.id for member in leaving])
        self.changes += 1
        self._observer.left(leaving)

    def _on_lines(self, given: Lines) -> None:
        if given.member in self.roster.by_id:
            self.log.apply(given.member, given.batch)

    def _on_asked(self, given: Asked) -> None:
        number, text = given
        if number in self.roster.by_id:
            # All frames are built before anything changes, because building one can fail.
            forgotten = self.asks.excess(number)
            dropped = b"" if forgotten is None else protocol.dropped(forgotten)
            seq = self.log.append(b"ASK", f"{self.log.rank(number)} {text}".encode())
            self.asks.open(seq, number)
            if dropped:
                self._observer.tell(self.roster.by_id[number], dropped)

    def _on_answered(self, given: Answered) -> None:
        number, seq, status, detail = given
        member = self.roster.by_id.get(number)
        if member is None:
            return
        # Built before the answer is recorded, because building it can fail.
        frame = protocol.answer(self.log.rank(number), member.name, seq, status, detail)
        try:
            asker = self.asks.answer(seq, number)
        except NoSuchAskError:
            text = f"no ASK {seq} is waiting for your answer"
            self._observer.tell(member, protocol.err(codes.NO_SUCH_ASK, text))
            return
        if asker is not None:
            self._observer.tell(self.roster.by_id[asker], frame)
