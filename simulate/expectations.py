"""What must come of the lines that a client has sent: frames in the log, replies, and answers to asks."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from rankserver.wire import codes
from simulate.truth import LoggedCommand, Truth, Violation

if TYPE_CHECKING:
    from simulate.client import SimClient


class ComposedCommand(NamedTuple):
    """A command that was composed; ``end`` is where its line ends in the bytes that the client sends."""

    text: bytes
    wants_answer: bool
    end: int


class Due(NamedTuple):
    """A private frame that a client must get.

    Attributes:
        verb, value: what it is.
        ask: for the ``no-such-ask`` to an answer, the ask, if it was the client's to answer; else 0.
        is_first: it was the first answer to that ask, so the frame is due only if the ask was forgotten.
    """

    verb: bytes
    value: bytes | None
    ask: int = 0
    is_first: bool = False


class Expectations:
    """What one client expects.

    Args:
        client: the client.
        truth: what was logged so far.
        is_lax: replies are not checked, because the client breaks the protocol.

    Attributes:
        commands: the commands that the client has composed and that are not logged yet.
        replies: the private frames that it must get, in order, other than answers.
        asked: its asks by seq, each with the clients that may answer, and whether their answers came; without
            those that the server has forgotten.
        open_asks: the asks that it may answer.
        answered: the asks that it has answered, each with the place where the line of its first answer ends.
        answers, answer_bytes: how many answers it has composed, and how many bytes of details in them.
        max_asks: the most asks of its own that the server remembers.
        orphans_are_forgotten: the server may have forgotten an ask whose sender has left, so that an answer
            fails.
        counts_late: what the client sent before it departed may count after that, and then it is not told.
    """

    def __init__(self, client: SimClient, truth: Truth, *, is_lax: bool) -> None:
        self.is_lax = is_lax
        self.commands: deque[ComposedCommand] = deque()
        self.replies: deque[Due] = deque()
        self.asked: dict[int, dict[int, bool]] = {}
        self.open_asks: list[int] = []
        self.answered: dict[int, int] = {}
        self.answers = 0
        self.answer_bytes = 0
        self.max_asks = 0
        self.orphans_are_forgotten = False
        self.counts_late = False
        self._client = client
        self._truth = truth
        # The client's asks that somebody may still answer, oldest first, as of its last ask.
        self._open: list[int] = []
        # The ask that the next frame must say was forgotten; 0 for none.
        self._drop_due = 0

    def note_answer(self, seq: int, size: int) -> None:
        """Note that the client has composed an answer of this size; only the first one to an ask counts."""
        self.answers += 1
        self.answer_bytes += size
        is_first = seq in self.open_asks
        if is_first:
            self.answered[seq] = self._client.link.composed
            self.open_asks.remove(seq)
        ask = seq if seq in self.answered else 0
        self.replies.append(Due(b"ERR", no_such_ask(seq), ask, is_first))

    def note_ask(self, seq: int, ask: LoggedCommand) -> None:
        """Note an ask that the client got: its own will be answered, and others it may answer."""
        if ask.sender is self._client:
            self._note_own_ask(seq, ask)
        else:
            self.open_asks.append(seq)

    def _note_own_ask(self, seq: int, ask: LoggedCommand) -> None:
        """Note an ask of the client's own, and which ask the server must forget for it."""
        here = {client.number for client in ask.roster if client is not self._client}
        self.asked[seq] = dict.fromkeys(here, False)
        self._open = [
            own
            for own in (*self._open, seq)
            if any(number in here and not came for number, came in self.asked[own].items())
        ]
        if len(self._open) > self.max_asks:
            self._drop_due = self._open.pop(0)

    def check_logged(self, seq: int, text: bytes, *, wants_answer: bool) -> None:
        """Check that a command that was logged with the client's rank is the next one that it sent."""
        begin = f"frame {seq} has {text!r} of {self._client}"
        if not self.commands:
            raise Violation(f"{begin}, which sent no more commands")
        command = self.commands.popleft()
        if command.text != text or command.wants_answer is not wants_answer:
            raise Violation(f"{begin}, whose next command is {command}")
        if command.end > self._client.link.received:
            raise Violation(f"{begin}, whose end was not received")

    def check_reply(self, verb: bytes, value: bytes | None) -> None:
        """Check that a private frame is the next one that is due."""
        if self.is_lax:
            return
        while self.replies:
            due = self.replies.popleft()
            if due[:2] == (verb, value) and (not due.is_first or self._may_be_forgotten(due.ask)):
                return
            if not self._may_be_accepted(due):
                raise Violation(f"{self._client} gets {verb!r} {value!r}, and {due} is due")
        raise Violation(f"{self._client} gets {verb!r} {value!r}, and nothing is due")

    def check_drop(self, line: bytes) -> None:
        """Check that the client is told right behind its ask which other one was forgotten, and only then."""
        due = b"DROPPED %d" % self._drop_due if self._drop_due else b""
        got = line if line.startswith(b"DROPPED ") else b""
        if got != due and not self._may_not_be_told():
            raise Violation(f"{self._client} gets {line!r}, and {due or 'no DROPPED'!r} is due")
        if got:
            self.asked.pop(self._drop_due, None)
            self._drop_due = 0

    def overdue(self) -> Due | None:
        """Return what the client should have got once everything is sent; None if it got everything."""
        if self._drop_due:
            return Due(b"DROPPED", b"%d" % self._drop_due)
        missing = (due for due in self.replies if not self._may_be_accepted(due))
        return None if self.is_lax else next(missing, None)

    def _may_not_be_told(self) -> bool:
        """Tell whether frames for the client alone may be missing."""
        client = self._client
        is_cut = client.link.may_be_cut or client.code in ("slow", "memory")
        return is_cut or (self.counts_late and client.reason is not None)

    def _may_be_forgotten(self, ask: int) -> bool:
        """Tell whether an answer to an ask that was the client's to answer may have been rejected."""
        is_orphan = self._truth.has_left(ask)
        return ask in self._truth.dropped or (is_orphan and self.orphans_are_forgotten)

    def _may_be_accepted(self, due: Due) -> bool:
        """Tell whether a frame may not come because it was due for an answer that may have been accepted."""
        if due.is_first:
            return True
        return due.ask > 0 and (due.ask in self._truth.dropped or self._truth.has_left(due.ask))

    def check_answer(self, rest: bytes) -> None:
        """Check the rest of a RES: it is from a client that had not answered, and names its rank."""
        seq, rank, name, status, *detail = rest.split(b" ", 4)
        by = json.loads(detail[0])["by"] if detail else -1
        roster = self._client.view.roster
        answerer = roster[int(rank)] if int(rank) < len(roster) else None
        if (
            status != b"ok"
            or answerer is None
            or answerer.number != by
            or name.decode() != (answerer.name or name.decode())
        ):
            raise Violation(f"{self._client} gets RES {rest!r}, and rank {int(rank)} is {answerer}")
        waiting = self.asked.get(int(seq), {})
        if waiting.get(by) is not False:
            raise Violation(f"{self._client} gets RES {rest!r}, and waits for {waiting}")
        waiting[by] = True


def no_such_ask(seq: int) -> bytes:
    """Return the value of the ERR that rejects an answer to this ask."""
    return b"%s %d" % (codes.NO_SUCH_ASK.encode(), seq)
