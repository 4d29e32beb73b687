"""A simulated client: it speaks the protocol in pieces, at its own pace, and trusts nothing that it gets.

It compares each frame that it gets with the truth, each answer with what it asked, and the ranks that it
derives with ``rankserver.wire.ranking`` with the real ones.
"""

from __future__ import annotations

import enum
import json
import random
from collections import deque
from typing import Any, Final, NamedTuple

from rankserver.channel import Channel
from rankserver.wire import codes, ranking
from simulate.kernel import drain, lib
from simulate.truth import Change, Sent, Truth, Violation

# Bytes that the kernel accepts from a client before the server has received them.
INPUT_ROOM: Final = 4096
# The first three letters of the verbs in the log. Frames with other verbs are private.
LOG_VERBS: Final = (b"CMD", b"ASK", b"JOI", b"LEF")
# Lines that a client may not send.
GARBAGE: Final = (
    b"\xff\xfe",
    b"NOPE",
    b"CMD",
    b"CMD ",
    b"CMD \x1b[2J",
    b"CMD a\x00b",
    b"ASK \xc2\x85",
    b"RES x ok",
    b"RES 1 perhaps",
    b"RES 1 ok {",
    b"RES 99999999999999999999 ok",
    b"cmd rm",
    b"CMD\trm",
    b"\xc0\xaf",
    b"LEFT 1 0",
    b"GET / HTTP/1.1",
)


class Manner(enum.Enum):
    """How a client behaves.

    A PROMPT client reads everything at once, a SLOW one reads a little now and then, and a NEVER one reads
    nothing. A MUTE one answers no PING. A SILENT one connects and sends nothing, a STRANGE one sends
    something other than HELLO, and a ROGUE joins and then breaks the protocol.
    """

    PROMPT = "prompt"
    SLOW = "slow"
    NEVER = "never"
    MUTE = "mute"
    SILENT = "silent"
    STRANGE = "strange"
    ROGUE = "rogue"


class Command(NamedTuple):
    """A command that was composed; ``end`` is where its line ends in the bytes that the client sends."""

    text: bytes
    wants_answer: bool
    end: int


class SimClient:
    """One connection and the client at its other end.

    Attributes:
        rank, count: its rank and the number of clients, as it derives them; -1 before its WELCOME.
        seq, first_seq: the seq of the last frame that it got, and the seq in its WELCOME.
        roster: the true roster at ``seq``, by rank.
        reason, code: why the server disconnected it, as in the ``Departure``; None and empty before that.
        left_seq: the seq of its LEFT; 0 before.
        bye: the code of the BYE that it got.
        has_ended: it got the end of the stream, or has closed its socket.
        has_left: it said BYE, or closed its side of the connection or its socket.
        heard: when it last sent something, in seconds in which the server was running.
        may_be_cut: what it gets may end anywhere, because it was reset or did not read.
        composed, fed: the bytes of all lines that it has composed, and those that the kernel has accepted.
        commands: the commands that it has composed and that are not logged yet.
        asked: its asks by seq, each with the clients that may answer, and whether their answers came.
        answered: the asks that it has answered, each with the place where the line of its first answer ends.
        open_asks: the asks that it may answer.
        expected: the private frames that it must get, in order.
        asks_are_forgotten: the server may have forgotten an ask, so answers may fail.
        taken: how many bytes it has read.
        answers: how many answers it has composed.
    """

    def __init__(self, number: int, manner: Manner, rank_class: int, truth: Truth, room: int) -> None:
        self.number = number
        self.manner = manner
        self.rank_class = rank_class
        self.conn: Any = lib.sim_connect(room)
        self.truth = truth
        self.name = ""
        self.rank = self.count = -1
        self.seq = self.first_seq = 0
        self.roster: tuple[SimClient, ...] = ()
        self.reason: str | None = None
        self.code = ""
        self.left_seq = 0
        self.bye = ""
        self.has_ended = False
        self.has_left = False
        self.was_told = False
        self.heard = 0.0
        self.may_be_cut = False
        self.outbox = bytearray()
        self.composed = 0
        self.fed = 0
        self.commands: deque[Command] = deque()
        self.asked: dict[int, dict[int, bool]] = {}
        self.answered: dict[int, int] = {}
        self.open_asks: list[int] = []
        self.expected: deque[tuple[bytes, Any]] = deque()
        self.partial = b""
        self.part_of_roster: list[list[Any]] = []
        self.asks_are_forgotten = False
        self.taken = 0
        self.answers = 0

    def __repr__(self) -> str:
        return f"#{self.number} ({self.manner.value})"

    @property
    def place(self) -> tuple[int, int]:
        """Return the key that orders ranks: its class, and when the end of its HELLO was received."""
        return self.rank_class, int(self.conn.mark_tick)

    @property
    def is_lax(self) -> bool:
        """Whether the replies that it gets are not checked."""
        return self.manner is Manner.ROGUE

    # --- out ---

    def say(self, line: bytes) -> None:
        """Compose a line."""
        self.outbox += line + b"\n"
        self.composed += len(line) + 1

    def hello(self, fields: dict[str, Any]) -> None:
        """Compose HELLO, and mark its end, whose arrival decides the rank."""
        self.name = fields.get("name", "")
        self.say(b"HELLO " + json.dumps(fields).encode() if fields else b"HELLO")
        self.conn.mark = self.composed

    def command(self, filler: int, *, wants_answer: bool) -> None:
        """Compose a command whose text names this client."""
        text = b"%d.%d %s" % (self.number, self.composed, b"x" * filler)
        self.say((b"ASK " if wants_answer else b"CMD ") + text)
        self.commands.append(Command(text, wants_answer, self.composed))

    def who(self) -> None:
        """Compose WHO."""
        self.say(b"WHO")
        self.expected.append((b"ROSTER", None))

    def ping(self, filler: int) -> None:
        """Compose PING."""
        text = b"%d%s" % (self.composed, b"p" * filler)
        self.say(b"PING " + text)
        self.expected.append((b"PONG", text))

    def answer(self, seq: int, detail: bytes) -> None:
        """Compose RES; only the first counts."""
        self.answers += 1
        self.say(b"RES %d ok%s" % (seq, detail))
        if seq in self.open_asks:
            self.answered[seq] = self.composed
            self.open_asks.remove(seq)
        elif not self.asks_are_forgotten:
            self.expected.append((b"ERR", codes.NO_SUCH_ASK.encode()))

    def garbage(self, rng: random.Random) -> None:
        """Compose a line that breaks the protocol."""
        self.say(rng.choice(GARBAGE))
        self.expected.append((b"ERR", codes.BAD_FRAME.encode()))

    def leave(self) -> None:
        """Compose BYE, after which nothing counts."""
        self.say(b"BYE")
        self.has_left = True

    def push(self, most: int, now: float) -> int:
        """Send at most ``most`` bytes; return how many of them the kernel accepted."""
        conn = self.conn
        if not self.outbox or conn.fin or conn.reset or conn.closed:
            return 0
        count = int(lib.sim_feed(conn, bytes(self.outbox[:most]), min(most, len(self.outbox)), INPUT_ROOM))
        del self.outbox[:count]
        self.fed += count
        if count:
            self.heard = now
        return count

    def close_side(self) -> None:
        """Send no more, even if composed lines are unsent."""
        self.conn.fin = 1
        self.has_left = True

    def close(self) -> None:
        """Close the socket: from now on the kernel answers everything with a reset."""
        self.conn.fin = self.conn.deaf = 1
        if self.conn.out.len > self.conn.out.at:
            self.conn.reset = 1  # unread output is lost, and the server is told so
        self.has_left = self.has_ended = self.may_be_cut = True

    def reset(self, *, lose_input: bool) -> None:
        """Reset the connection."""
        if lose_input:
            lib.sim_forget_input(self.conn)
            self.fed = self.conn.received
        self.close()
        self.conn.reset = 1

    # --- what the truth says about it ---

    def leaves(self, seq: int) -> None:
        """Note that this client is in the LEFT with this seq."""
        if self.reason is None:
            raise Violation(f"LEFT {seq} of {self}, which the server has not disconnected")
        self.left_seq = seq

    def is_logged(self, seq: int, text: bytes, *, wants_answer: bool) -> None:
        """Note that a command of its rank was logged, which must be its next one."""
        if not self.commands:
            raise Violation(f"frame {seq} has {text!r} of {self}, which sent no more commands")
        command = self.commands.popleft()
        if command.text != text or command.wants_answer is not wants_answer:
            raise Violation(f"frame {seq} has {text!r} of {self}, whose next command is {command}")
        if command.end > self.conn.received:
            raise Violation(f"frame {seq} has {text!r} of {self}, whose end was not received")

    # --- in ---

    def read(self, most: int) -> int:
        """Read at most ``most`` bytes, or the end of the stream if there are none."""
        if self.has_ended:
            return 0
        data = drain(self.conn, most)
        self.taken += len(data)
        if data:
            self.receive(data)
        elif self.conn.closed or self.conn.shut:
            self._end()
        return len(data)

    def _end(self) -> None:
        self.has_ended = True
        if self.partial and not self.may_be_cut:
            raise Violation(f"the stream of {self} ends inside a frame: {self.partial!r}")
        self.conn.fin = 1
        if self.conn.closed and not self.conn.shut:
            return  # the server closed without a shutdown: it did not wait for this client
        if self.may_be_cut or self.code in ("slow", "memory"):
            return
        if self.left_seq and self.seq != self.left_seq - 1:
            raise Violation(f"{self} left with frame {self.left_seq}, and got up to {self.seq}")

    def receive(self, data: bytes) -> None:
        """Handle received bytes."""
        lines = (self.partial + data).split(b"\n")
        self.partial = lines.pop()
        truth = self.truth
        for line in lines:
            if line[:3] not in LOG_VERBS:
                self._private(line)
                continue
            self.seq = seq = self.seq + 1
            if self.rank < 0:
                raise Violation(f"{self} has no WELCOME and gets {line!r}")
            if seq >= len(truth.frames) or truth.frames[seq] != line:
                due = truth.frames[seq] if seq < len(truth.frames) else b"nothing"
                raise Violation(f"{self} gets {line!r} where {due!r} is due")
            meaning = truth.meaning[seq]
            if isinstance(meaning, Sent):
                self._sent(seq, meaning)
            elif meaning is not None:
                self._changed(meaning)

    def _sent(self, seq: int, sent: Sent) -> None:
        verdict = ranking.verdict(self.rank, sent.rank)
        if sent.sender is self:
            due = ranking.Verdict.OWN
            if sent.wants_answer:
                self.asked[seq] = {client.number: False for client in sent.roster if client is not self}
        elif sent.sender.place < self.place:
            due = ranking.Verdict.EXECUTE
        else:
            due = ranking.Verdict.REFUSE
        if verdict is not due:
            raise Violation(f"frame {seq} is {due} to {self}, which takes it as {verdict}")
        if sent.wants_answer and sent.sender is not self:
            self.open_asks.append(seq)

    def _changed(self, change: Change) -> None:
        derive = ranking.joined if change.joins else ranking.left
        self.rank, self.count = derive(self.rank, self.count, change.ranks)
        self.roster = change.roster
        self.check_derived()

    def check_derived(self) -> None:
        """Compare what it derives with the truth at its place in the log."""
        if (
            self.count != len(self.roster)
            or not 0 <= self.rank < self.count
            or self.roster[self.rank] is not self
        ):
            raise Violation(f"{self} at {self.seq} derives {self.rank} of {self.count}; it is {self.roster}")

    # --- private frames ---

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
            if self.manner is not Manner.MUTE and not self.has_left:
                self.say(b"PONG")
        else:
            self._reply(line, verb, rest)

    def _reply(self, line: bytes, verb: bytes, rest: bytes) -> None:
        if verb == b"RES":
            self._res(rest)
        elif verb == b"ROSTER":
            self._roster(json.loads(rest))
        elif verb == b"PONG":
            self._expect(b"PONG", rest)
        elif verb == b"ERR":
            self._expect(b"ERR", rest.partition(b" ")[0])
        else:
            raise Violation(f"{self} gets {line!r}")

    def _expect(self, verb: bytes, value: bytes | None) -> None:
        if self.is_lax or (self.asks_are_forgotten and value == codes.NO_SUCH_ASK.encode()):
            return
        if not self.expected or self.expected[0] != (verb, value):
            due = self.expected[0] if self.expected else "nothing"
            raise Violation(f"{self} gets {verb!r} {value!r}, and {due} is due")
        self.expected.popleft()

    def _welcome(self, fields: dict[str, Any]) -> None:
        if self.rank >= 0:
            raise Violation(f"{self} gets a second WELCOME")
        self.rank, self.count, self.seq = fields["rank"], fields["clients"], fields["seq"]
        self.name = fields["name"]
        self.first_seq = self.seq
        if fields["class"] != self.rank_class:
            raise Violation(f"{self} of class {self.rank_class} is welcomed to {fields['class']}")
        meaning = self.truth.meaning[self.seq]
        if not isinstance(meaning, Change):
            raise Violation(f"{self} is welcomed after frame {self.seq}, which is no JOIN")
        self.roster = meaning.roster
        self.check_derived()

    def _res(self, rest: bytes) -> None:
        seq, rank, name, status, *detail = rest.split(b" ", 4)
        by = json.loads(detail[0])["by"] if detail else -1
        waiting = self.asked.get(int(seq), {})
        answerer = self.roster[int(rank)] if int(rank) < len(self.roster) else None
        if (
            status != b"ok"
            or answerer is None
            or answerer.number != by
            or name.decode() != (answerer.name or name.decode())
        ):
            raise Violation(f"{self} gets RES {rest!r}, and rank {int(rank)} is {answerer}")
        if waiting.get(by) is not False:
            raise Violation(f"{self} gets RES {rest!r}, and waits for {waiting}")
        waiting[by] = True

    def _roster(self, fields: dict[str, Any]) -> None:
        if fields["from"] != len(self.part_of_roster):
            raise Violation(f"{self} gets {fields} after {self.part_of_roster}")
        self.part_of_roster += [[one["rank"], one["name"], one["class"]] for one in fields["clients"]]
        if len(self.part_of_roster) < fields["total"]:
            return
        got, self.part_of_roster = self.part_of_roster, []
        due = [[rank, one.name or got[rank][1], one.rank_class] for rank, one in enumerate(self.roster)]
        if len(got) != len(due) or got != due:
            raise Violation(f"{self} at {self.seq} gets the roster {got}, and it is {due}")
        self._expect(b"ROSTER", None)


def client_of(channel: Channel) -> SimClient:
    """Return the client at the other end of one of the server's connections."""
    sock: Any = channel.sock
    client: SimClient = sock.client
    return client
