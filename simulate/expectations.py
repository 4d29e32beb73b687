"""What must come of the lines that a client has sent: frames in the log, replies, and answers to asks."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from rankserver.wire import codes
from simulate.truth import LoggedCommand, Violation

if TYPE_CHECKING:
    from simulate.client import SimClient


class ComposedCommand(NamedTuple):
    """A command that was composed; ``end`` is where its line ends in the bytes that the client sends."""

    text: bytes
    wants_answer: bool
    end: int


class Expectations:
    """What one client expects.

    Args:
        client: the client.
        is_lax: replies are not checked, because the client breaks the protocol.

    Attributes:
        commands: the commands that the client has composed and that are not logged yet.
        replies: the private frames that it must get, in order: the verb and what follows it.
        asked: its asks by seq, each with the clients that may answer, and whether their answers came.
        open_asks: the asks that it may answer.
        answered: the asks that it has answered, each with the place where the line of its first answer ends.
        asks_are_forgotten: the server may have forgotten an ask, so answers may fail.
    """

    def __init__(self, client: SimClient, *, is_lax: bool) -> None:
        self.is_lax = is_lax
        self.commands: deque[ComposedCommand] = deque()
        self.replies: deque[tuple[bytes, Any]] = deque()
        self.asked: dict[int, dict[int, bool]] = {}
        self.open_asks: list[int] = []
        self.answered: dict[int, int] = {}
        self.asks_are_forgotten = False
        self._client = client

    def note_answer(self, seq: int) -> None:
        """Note that the client has just composed an answer; only the first one to an ask counts."""
        if seq in self.open_asks:
            self.answered[seq] = self._client.link.composed
            self.open_asks.remove(seq)
        elif not self.asks_are_forgotten:
            self.replies.append((b"ERR", codes.NO_SUCH_ASK.encode()))

    def note_ask(self, seq: int, ask: LoggedCommand) -> None:
        """Note an ask that the client got: its own will be answered, and others it may answer."""
        if ask.sender is self._client:
            self.asked[seq] = {client.number: False for client in ask.roster if client is not self._client}
        else:
            self.open_asks.append(seq)

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
        if self.is_lax or (self.asks_are_forgotten and value == codes.NO_SUCH_ASK.encode()):
            return
        if not self.replies or self.replies[0] != (verb, value):
            due = self.replies[0] if self.replies else "nothing"
            raise Violation(f"{self._client} gets {verb!r} {value!r}, and {due} is due")
        self.replies.popleft()

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
