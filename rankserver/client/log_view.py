"""What one client derives from the log: its rank, the members, and the outcome of its own commands.

Every client derives this from the same frames, and from nothing else. Source: docs/protocol.md, "Log frames".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, NamedTuple

from rankserver.client import events
from rankserver.client.members import Members
from rankserver.client.open_asks import OpenAsks
from rankserver.wire import codes, frames, grammar, ranking
from rankserver.wire.exceptions import RemoteProtocolError

LogFrame = frames.CommandFrame | frames.JoinFrame | frames.LeftFrame
# Used until the WELCOME arrives.
NOT_WELCOME: Final = frames.WelcomeFrame(-1, 0, 0, "", "", 0.0)


class Submission(NamedTuple):
    """A command that was sent and is not in the log yet. ``handle`` is whatever the caller gave with it."""

    text: str
    handle: object


class LogView:
    """The log up to the last frame that arrived, as seen by one client.

    Attributes:
        name: our name; empty before WELCOME.
        rank_class: our class.
        seq: the number of the last log frame.
        submitted: our commands that are not in the log yet, oldest first. The server handles our lines in
            order, so the first of these is the next to be logged or rejected.
    """

    def __init__(self, welcome: frames.WelcomeFrame = NOT_WELCOME) -> None:
        self.name = welcome.name
        self.rank_class = welcome.rank_class
        self.seq = welcome.seq
        self.submitted: deque[Submission] = deque()
        self._members = Members(welcome.rank, welcome.clients, welcome.name)
        self._asks = OpenAsks(self._members)

    @property
    def rank(self) -> int:
        """Our rank; -1 before WELCOME."""
        return self._members.rank

    @property
    def clients(self) -> int:
        """The number of clients, including us; 0 before WELCOME."""
        return len(self._members)

    @property
    def place(self) -> events.Connected:
        """The current state, as the event that we would get if we had just joined."""
        return events.Connected(self.name, self.rank, self.clients, self.seq, self.rank_class)

    @property
    def open_asks(self) -> frozenset[int]:
        """The seqs of our ASKs that somebody may still answer."""
        return self._asks.seqs

    @property
    def lacks_names(self) -> bool:
        """Whether somebody has joined since the last roster, or before us if there was none."""
        return not self._members.are_all_named

    def receive(self, frame: LogFrame) -> list[events.Event]:
        """Take the next log frame, and return what it means.

        Raises:
            RemoteProtocolError: ``bad-frame``, if it cannot follow the frames before it.
        """
        if frame.seq != self.seq + 1:
            raise broken(f"expected log frame {self.seq + 1}, got {frame.seq}")
        self.seq = frame.seq
        return self._RECEIVERS[type(frame)](self, frame)

    def answer(self, frame: frames.AnswerFrame) -> list[events.Event]:
        """Take an answer to one of our ASKs, and the name of its sender.

        Raises:
            RemoteProtocolError: ``bad-frame``, if nobody has this rank.
        """
        if frame.rank >= self.clients:
            raise broken(f"RES from rank {frame.rank}, but the number of clients is {self.clients}")
        member = self._members.member(frame.rank)
        self._members.learn(member, frame.name)
        return self._asks.answer(frame, member)

    def learn(self, roster: tuple[frames.RosterEntry, ...]) -> None:
        """Take the names in a complete roster, which has as many members as there are clients."""
        self._members.learn_all([member.name for member in roster])

    def expire(self, seq: int) -> list[events.Event]:
        """Stop waiting for answers to our ASK ``seq``, and return what follows."""
        return self._asks.expire(seq)

    def drop(self, seq: int) -> list[events.Event]:
        """End our ASK ``seq``, which the server has forgotten, and return what follows."""
        return self._asks.drop(seq)

    def disconnect(self) -> list[events.Event]:
        """End all open ASKs, and report unlogged commands as lost, because no more frames will come."""
        return [*self._asks.disconnect(), *(events.Lost(*submission) for submission in self.submitted)]

    def _command(self, frame: frames.CommandFrame) -> list[events.Event]:
        if frame.rank >= self.clients:
            raise broken(f"a command from rank {frame.rank}, but the number of clients is {self.clients}")
        verdict = ranking.verdict(self.rank, frame.rank)
        if verdict is ranking.Verdict.EXECUTE:
            return [events.Execute(*frame, self.rank, self.name)]
        if verdict is ranking.Verdict.REFUSE:
            return [events.Refused(frame.seq, frame.rank, frame.text)]
        return self._own(frame)

    def _own(self, frame: frames.CommandFrame) -> list[events.Event]:
        if not self.submitted:
            raise broken(f"log frame {frame.seq} is from us, but we sent no command")
        handle = self.submitted.popleft().handle
        sent = events.Sent(frame.seq, frame.text, frame.wants_answer, self.clients - 1, handle)
        return [sent, *(self._asks.open(frame.seq, frame.text) if frame.wants_answer else ())]

    def _join(self, frame: frames.JoinFrame) -> list[events.Event]:
        """Add newcomers. No open ASK waits for them, because each was logged before they joined."""
        count = self.clients + sum(map(len, frame.ranks))
        last = frame.ranks[-1][-1]
        if last >= count:
            raise broken(f"JOIN has rank {last}, but makes the number of clients {count}")
        if count > grammar.MAX_CLIENTS:
            raise broken(f"JOIN makes the number of clients {count}, more than {grammar.MAX_CLIENTS}")
        rank = self.rank
        self._members.join(frame.ranks)
        return [self._moved(rank)]

    def _leave(self, frame: frames.LeftFrame) -> list[events.Event]:
        """Remove members that left, also from the open ASKs (see ``OpenAsks.leave``)."""
        last = frame.ranks[-1][-1]
        if last >= self.clients or any(self.rank in span for span in frame.ranks):
            raise broken(f"LEFT has rank {last}, but this is rank {self.rank} of {self.clients}")
        rank = self.rank
        gone = self._members.leave(frame.ranks)
        return [self._moved(rank), *self._asks.leave(gone)]

    def _moved(self, rank_before: int) -> events.Event:
        if self.rank == rank_before:
            return events.ClientsChanged(self.clients, self.seq)
        return events.RankChanged(self.rank, self.clients, self.seq)

    _RECEIVERS: ClassVar[Mapping[type[LogFrame], Callable[[LogView, Any], list[events.Event]]]] = {
        frames.CommandFrame: _command,
        frames.JoinFrame: _join,
        frames.LeftFrame: _leave,
    }


def broken(text: str) -> RemoteProtocolError:
    """Return the error for a server that breaks the protocol."""
    return RemoteProtocolError(codes.BAD_FRAME, text)
