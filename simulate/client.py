"""A simulated client: it speaks the protocol in pieces, at its own pace, and trusts nothing that it gets.

Its ``link`` is the connection. Its ``view`` compares each frame of the log with the truth, and the ranks that
are derived with ``rankserver.wire.ranking`` with the real ones. Its ``expectations`` compare each reply with
what was sent.
"""

from __future__ import annotations

import enum
import json
from typing import Any, Final

from rankserver.channel import Channel
from rankserver.wire import codes
from simulate.expectations import ComposedCommand, Due, Expectations, no_such_ask
from simulate.link import Link
from simulate.truth import Truth, Violation
from simulate.view import View

# The first three letters of the verbs in the log. Frames with other verbs are private.
LOG_VERBS: Final = (b"CMD", b"ASK", b"JOI", b"LEF")


class Manner(enum.Enum):
    """How a client behaves.

    A PROMPT client reads everything at once, a SLOW one reads a little now and then, a LUMPY one reads much
    now and then, a LINKED one reads what a slow link delivers, and a NEVER one reads nothing. A FLOODING one
    sends commands without end and reads like a LUMPY one, and an ASKING one does the same with ASK. A MUTE
    one answers no PING. A COSTLY one sends lines that are as long as they may be. A SILENT one connects and
    sends nothing, a STRANGE one sends something other than HELLO, and a ROGUE joins and then breaks the
    protocol.
    """

    PROMPT = "prompt"
    SLOW = "slow"
    LUMPY = "lumpy"
    LINKED = "linked"
    NEVER = "never"
    FLOODING = "flooding"
    ASKING = "asking"
    MUTE = "mute"
    COSTLY = "costly"
    SILENT = "silent"
    STRANGE = "strange"
    ROGUE = "rogue"


# The manners of clients that may read too late.
LATE: Final = frozenset(
    {Manner.SLOW, Manner.LUMPY, Manner.LINKED, Manner.NEVER, Manner.FLOODING, Manner.ASKING}
)
# The manners of clients that do not join.
STRANGERS: Final = frozenset({Manner.SILENT, Manner.STRANGE})


class SimClient:
    """One simulated client.

    Args:
        number: which client of the run it is, from 1.
        manner: how it behaves.
        rank_class: the class that it is in, by its token.
        link: its connection.
        truth: what was logged so far.

    Attributes:
        hello_number: the number of its HELLO among those that were handled; 0 before.
        understands: it can read what it gets, which is not so in plain text if the server uses TLS.
        name: the name that it asked for, and then the one in its WELCOME.
        view: what it derives from the log.
        expected: what must come of the lines that it has sent.
        reason, code: why the server disconnected it, as in the ``Departure``; None and empty before that.
        left_seq: the seq of its LEFT; 0 before.
        bye: the code of the BYE that it got.
        was_told: it got an INFO.
        partial: the beginning of a frame whose end it has not received.
    """

    def __init__(self, number: int, manner: Manner, rank_class: int, link: Link, truth: Truth) -> None:
        self.number = number
        self.manner = manner
        self.rank_class = rank_class
        self.link = link
        self.hello_number = 0
        self.understands = True
        self.name = ""
        self.view = View(self, truth)
        self.expected = Expectations(self, truth, is_lax=manner is Manner.ROGUE)
        self.reason: str | None = None
        self.code = ""
        self.left_seq = 0
        self.bye = ""
        self.was_told = False
        self.partial = b""
        self._part_of_roster: list[list[Any]] = []

    def __repr__(self) -> str:
        return f"#{self.number} ({self.manner.value})"

    @property
    def place(self) -> tuple[int, int]:
        """Return the key that orders ranks: its class, and the number of its HELLO among those handled."""
        return self.rank_class, self.hello_number

    # --- what it sends ---

    def hello(self, fields: dict[str, Any]) -> None:
        """Compose HELLO, and mark its end, whose arrival decides when it is handled."""
        self.name = fields.get("name", "")
        line = b"HELLO " + json.dumps(fields).encode() if fields else b"HELLO"
        self.link.say(line)
        self.link.mark()

    def command(self, filler: int, *, wants_answer: bool) -> None:
        """Compose a command whose text names this client."""
        text = b"%d.%d %s" % (self.number, self.link.composed, b"x" * filler)
        self.link.say((b"ASK " if wants_answer else b"CMD ") + text)
        self.expected.commands.append(ComposedCommand(text, wants_answer, self.link.composed))

    def who(self) -> None:
        """Compose WHO."""
        self.link.say(b"WHO")
        self.expected.replies.append(Due(b"ROSTER", None))

    def ping(self, filler: int) -> None:
        """Compose PING."""
        text = b"%d%s" % (self.link.composed, b"p" * filler)
        self.link.say(b"PING " + text)
        self.expected.replies.append(Due(b"PONG", text))

    def answer(self, seq: int, detail: bytes) -> None:
        """Compose RES."""
        self.link.say(b"RES %d ok%s" % (seq, detail))
        self.expected.note_answer(seq, len(detail))

    def garbage(self, line: bytes) -> None:
        """Compose a line that breaks the protocol."""
        self.link.say(line)
        self.expected.replies.append(Due(b"ERR", codes.BAD_FRAME.encode()))

    def leave(self) -> None:
        """Compose BYE, after which nothing counts."""
        self.link.say(b"BYE")
        self.link.has_left = True

    # --- what it gets ---

    def leaves(self, seq: int) -> None:
        """Note that this client is in the LEFT with this seq."""
        if self.reason is None:
            raise Violation(f"LEFT {seq} of {self}, which the server has not disconnected")
        self.left_seq = seq

    def read(self, most: int) -> None:
        """Read at most ``most`` bytes, or the end of the stream if there are none."""
        if self.link.has_ended:
            return
        if data := self.link.read(most):
            self._receive(data)
        elif self.link.has_ended:
            self._check_end()

    def _check_end(self) -> None:
        if self.partial and not self.link.may_be_cut:
            raise Violation(f"the stream of {self} ends inside a frame: {self.partial!r}")
        if self.link.conn.closed and not self.link.conn.shut:
            return  # the server closed without a shutdown: it did not wait for this client
        if self.link.may_be_cut or self.code in ("slow", "memory"):
            return
        if self.link.is_truncated:
            raise Violation(f"the stream of {self} ends, and the server has not said so")
        if self.left_seq and self.view.seq != self.left_seq - 1:
            raise Violation(f"{self} left with frame {self.left_seq}, and got up to {self.view.seq}")

    def _receive(self, data: bytes) -> None:
        if not self.understands:
            return
        lines = (self.partial + data).split(b"\n")
        self.partial = lines.pop()
        for line in lines:
            self.expected.check_drop(line)
            if line[:3] not in LOG_VERBS:
                self._private(line)
            elif (command := self.view.follow(line)) and command.wants_answer:
                self.expected.note_ask(self.view.seq, command)

    def _private(self, line: bytes) -> None:
        if self.bye:
            raise Violation(f"{self} gets {line!r} after BYE")
        verb, _, rest = line.partition(b" ")
        if verb == b"WELCOME":
            self._welcome(json.loads(rest))
        elif verb == b"INFO":
            if self.was_told:
                raise Violation(f"{self} gets a second {line!r}")
            self.was_told = True
        elif verb == b"BYE":
            self.bye = rest.partition(b" ")[0].decode()
            if self.bye != self.code:
                raise Violation(f"{self} gets {line!r}, and was disconnected for {self.reason}")
        elif verb == b"PING":
            if self.manner is not Manner.MUTE and not self.link.has_left:
                self.link.say(b"PONG")
        else:
            self._reply(line, verb, rest)

    def _welcome(self, fields: dict[str, Any]) -> None:
        self.view.welcome(fields)
        self.name = fields["name"]
        if fields["class"] != self.rank_class:
            raise Violation(f"{self} of class {self.rank_class} is welcomed to {fields['class']}")

    def _reply(self, line: bytes, verb: bytes, rest: bytes) -> None:
        if verb == b"RES":
            self.expected.check_answer(rest)
        elif verb == b"ROSTER":
            self._roster(json.loads(rest))
        elif verb == b"PONG":
            self.expected.check_reply(b"PONG", rest)
        elif verb == b"ERR":
            code, _, text = rest.partition(b" ")
            is_about_ask = code == codes.NO_SUCH_ASK.encode()
            self.expected.check_reply(b"ERR", no_such_ask(int(text.split()[2])) if is_about_ask else code)
        elif verb != b"DROPPED":
            raise Violation(f"{self} gets {line!r}")

    def _roster(self, fields: dict[str, Any]) -> None:
        if fields["from"] != len(self._part_of_roster):
            raise Violation(f"{self} gets {fields} after {self._part_of_roster}")
        self._part_of_roster += [[one["rank"], one["name"], one["class"]] for one in fields["clients"]]
        if len(self._part_of_roster) < fields["total"]:
            return
        got, self._part_of_roster = self._part_of_roster, []
        due = [[rank, one.name or got[rank][1], one.rank_class] for rank, one in enumerate(self.view.roster)]
        if len(got) != len(due) or got != due:
            raise Violation(f"{self} at {self.view.seq} gets the roster {got}, and it is {due}")
        self.expected.check_reply(b"ROSTER", None)


def client_of(channel: Channel) -> SimClient:
    """Return the client at the other end of one of the server's connections."""
    sock: Any = channel.sock
    client: SimClient = sock.client
    return client
