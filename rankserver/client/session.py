"""One client's side of the protocol, pure: bytes in, events and bytes to send out.

It knows no socket and no clock; ``aio`` moves the bytes. It derives everything from the log (the own rank,
the number of clients, who can still answer an ASK) and decides nothing that the log does not decide.

The life of a session::

    GREETING --INFO--> JOINING --WELCOME--> JOINED
        |                 |                   |
        +-----------------+-------------------+----> OVER: BYE, end of stream, broken protocol, leave()

``hello`` belongs to GREETING and JOINING; ``ask``, ``cmd``, ``result`` and ``who`` to JOINED; ``leave`` to
all. What arrives when the session is over is ignored.

Who can answer an ASK is known from the log: all who were there when it was logged, less those who answered
or left. Each member has a *slot*, a small number that is free again when it leaves; a set of members is
an int with the bits of their slots, so that thousands of open ASKs cost little and LEFT is one AND for each.
Each of them gives exactly one ``Answer``, under the rank that it held when the ASK was logged.

The log has no names. They are learned from answers and rosters; a WHO goes before an ASK while one is
unknown, and again when it is logged, so that whoever goes without an answer can be named.

Source: docs/protocol.md.
"""

from __future__ import annotations

import bisect
import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from rankserver.client import events
from rankserver.wire import frames, jsontext, lines, protocol, ranking
from rankserver.wire.exceptions import LocalProtocolError, RemoteProtocolError

LONGEST_LINE: Final = protocol.MAX_MAX_LINE + protocol.SERVER_SLACK  # from any server, whatever it announces
KINDS: Final = {"code": int, "out": str, "ms": int, "truncated": bool, "reason": str}  # of an answer's JSON
TRUNCATED: Final = ',"truncated":true'


class State(enum.Enum):
    """Where in its life a session is; the module docstring has the transitions."""

    GREETING = "greeting"
    JOINING = "joining"
    JOINED = "joined"
    OVER = "over"


@dataclass(slots=True)
class _Ask:
    """One of our ASKs that is in the log and that somebody may still answer."""

    text: str
    may_execute: int
    waiting: int  # set of slots
    ranks: list[int]  # by slot, when it was logged; shared by all asks between two changes of the clients
    counts: dict[str, int] = field(default_factory=dict)


class Session:
    """The protocol as one client sees it.

    After every call, send what ``data_to_send`` returns: receiving can make something to send as well.
    """

    def __init__(self) -> None:
        self._state = State.GREETING
        self._lines = lines.LineBuffer(LONGEST_LINE)
        self._out = bytearray()
        self._events: list[events.Event] = []
        self._max_line = protocol.DEFAULT_MAX_LINE
        self._capacity = 0
        self._name = ""
        self._rank = -1
        self._rank_class = 0
        self._heartbeat = 0.0
        self._seq = 0
        self._slots: list[int] = []  # by rank, one for each client
        self._free: list[int] = []  # every slot below len(_slots) + len(_free) is in just one of the two
        self._everybody = 0  # the set of all in _slots
        self._ranks: list[int] | None = None  # by slot, derived from _slots when it is asked for
        self._names: dict[int, str] = {}  # by slot, those that we know
        self._submitted: deque[str] = deque()  # our commands that are not in the log yet, oldest first
        self._asks: dict[int, _Ask] = {}  # by seq, those that are still waiting
        self._cut_off: frozenset[int] = frozenset()
        self._whos: deque[bool] = deque()  # the WHOs without answer; whether somebody wants to see it
        self._roster: list[frames.RosterEntry] = []  # what has come of one that is not complete

    # --- questions ---

    @property
    def state(self) -> State:
        """Where in its life the session is."""
        return self._state

    @property
    def name(self) -> str:
        """Our name, empty before ``Connected``."""
        return self._name

    @property
    def rank(self) -> int:
        """Our rank, -1 before ``Connected``."""
        return self._rank

    @property
    def clients(self) -> int:
        """The number of clients, us included; 0 before ``Connected``."""
        return len(self._slots)

    @property
    def seq(self) -> int:
        """The number of the last log frame that arrived."""
        return self._seq

    @property
    def place(self) -> events.Connected:
        """How things stand now, as if we had just joined."""
        return events.Connected(self._name, self._rank, len(self._slots), self._seq, self._rank_class)

    @property
    def heartbeat(self) -> float:
        """Seconds of silence after which the server asks whether we are there; 0 for never."""
        return self._heartbeat

    @property
    def max_line(self) -> int:
        """The longest line, in bytes with its LF, that the server takes."""
        return self._max_line

    @property
    def capacity(self) -> int:
        """How many clients the server takes, us included; 0 before its first line."""
        return self._capacity

    @property
    def cut_off(self) -> frozenset[int]:
        """Our ASKs that were open when the connection ended: nobody knows what became of who is ``gone``."""
        return self._cut_off

    @property
    def unsent(self) -> int:
        """How many bytes ``data_to_send`` would return."""
        return len(self._out)

    def data_to_send(self) -> bytes:
        """Return what is to be sent now; it counts as sent."""
        data = bytes(self._out)
        self._out.clear()
        return data

    # --- to the server ---

    def hello(self, *, name: str | None = None, token: str | None = None) -> None:
        """Join, under ``name`` or under one that the server gives. Once, before anything else.

        Args:
            name: our name.
            token: what the server wants to see, if it wants one.

        Raises:
            LocalProtocolError: the protocol does not allow this name, or the session has joined or is over.
        """
        if self._state not in (State.GREETING, State.JOINING):
            raise LocalProtocolError(protocol.PROTO, f"cannot join: the session is {self._state.value}")
        self._out += protocol.hello(name=name, token=token)

    def ask(self, text: str) -> None:
        """Broadcast a command whose outcome we want to know: ``Sent``, ``Answer`` ... ``AskDone`` follow.

        Raises:
            LocalProtocolError: ``text`` may not be sent, or the session is not joined. Nothing was sent.
        """
        self._submit(text, wants_answer=True)

    def cmd(self, text: str) -> None:
        """Broadcast a command that nobody answers: ``Sent`` follows.

        Raises:
            LocalProtocolError: ``text`` may not be sent, or the session is not joined. Nothing was sent.
        """
        self._submit(text, wants_answer=False)

    def result(self, seq: int, outcome: events.Outcome) -> None:
        """Answer the ``Execute`` number ``seq``, once. Of an ``out`` that is too long, the beginning is sent.

        Raises:
            LocalProtocolError: the outcome has no known status or is no JSON, the frame is too long even
                without ``out``, or the session is not joined. Nothing was sent.
        """
        self._check_joined()
        frame = _result(seq, outcome)
        if len(frame) > self._max_line:
            frame = _result(seq, _shortened(outcome, len(frame) - self._max_line))
        if len(frame) > self._max_line:
            text = f"the result has {len(frame)} bytes, {self._max_line} are allowed"
            raise LocalProtocolError(protocol.TOO_LONG, text)
        self._out += frame

    def expire(self, seq: int) -> list[events.Event]:
        """Wait no longer for answers to our ASK ``seq``: who has not answered counts as ``timeout``.

        Returns:
            What follows from it: the answers, and ``AskDone``. Nothing if the ask is done already.
        """
        ask = self._asks.get(seq)
        if ask is not None:
            self._conclude(seq, ask, ask.waiting, "timeout", "no answer in time")
        return self._take_events()

    def who(self) -> None:
        """Ask who is there: ``RosterReceived`` follows.

        Raises:
            LocalProtocolError: the session is not joined.
        """
        self._check_joined()
        self._who(wanted=True)

    def ping(self) -> None:
        """Ask whether the server is there; its answer gives no event.

        Raises:
            LocalProtocolError: the session is not joined.
        """
        self._check_joined()
        self._out += protocol.ping()

    def leave(self) -> None:
        """Say goodbye: all that was sent before counts, and no event follows. Again does no harm."""
        if self._state is not State.OVER:
            self._state = State.OVER
            self._out += protocol.leave()

    def _submit(self, text: str, *, wants_answer: bool) -> None:
        self._check_joined()
        frame = protocol.submit(text, wants_answer=wants_answer, max_line=self._max_line)
        if wants_answer:
            self._learn_names()
        self._out += frame
        self._submitted.append(text)

    def _who(self, *, wanted: bool) -> None:
        self._out += protocol.who()
        self._whos.append(wanted)

    def _learn_names(self) -> None:
        if len(self._names) < len(self._slots) and not self._whos:
            self._who(wanted=False)

    def _check_joined(self) -> None:
        if self._state is not State.JOINED:
            raise LocalProtocolError(protocol.PROTO, f"cannot send: the session is {self._state.value}")

    # --- from the server ---

    def receive_data(self, data: bytes) -> list[events.Event]:
        """Take bytes from the server, cut anywhere, and return what they mean. O(len(data)), see LEFT."""
        try:
            for line in self._lines.feed(data) if self._state is not State.OVER else ():
                self._receive_line(line)
                if self._state is State.OVER:
                    break
        except RemoteProtocolError as error:
            self._disconnect("", f"the server broke the protocol: {error.text}")
        return self._take_events()

    def receive_eof(self, reason: str = "connection lost") -> list[events.Event]:
        """Take the end of the stream, whether orderly or not, and return what it means."""
        if self._state is not State.OVER:
            self._disconnect("", reason)
        return self._take_events()

    def _take_events(self) -> list[events.Event]:
        taken, self._events = self._events, []
        return taken

    def _disconnect(self, code: str, text: str) -> None:
        """End it: what is open is accounted for. Nobody who was asked can be heard any more."""
        self._state = State.OVER
        self._cut_off = frozenset(self._asks)
        for seq, ask in list(self._asks.items()):
            self._conclude(seq, ask, ask.waiting, events.GONE, "the connection was lost")
        self._events += map(events.Lost, self._submitted)
        self._submitted.clear()
        self._events.append(events.Disconnected(code, text))

    def _receive_line(self, line: bytes) -> None:
        if self._state is State.GREETING:
            self._receive_banner(line)
            return
        frame = protocol.parse_server_line(line)
        if isinstance(frame, frames.CommandFrame | frames.JoinFrame | frames.LeftFrame):
            self._receive_log(frame)
        elif isinstance(frame, frames.WelcomeFrame):
            self._welcome(frame)
        elif frame is not None:
            self._receive_private(frame)

    def _receive_banner(self, line: bytes) -> None:
        try:
            frame = protocol.parse_server_line(line)
        except RemoteProtocolError:
            frame = None
        if isinstance(frame, frames.ByeFrame):
            self._disconnect(frame.code, frame.text)
        elif not isinstance(frame, frames.InfoFrame):
            said = protocol.shown(line.decode(errors="replace"))
            self._disconnect("", f"this is not a rankserver: it says {said}")
        elif frame.proto != protocol.VERSION:
            text = f"the server speaks protocol {frame.proto}, this client speaks {protocol.VERSION}"
            self._disconnect("", text)
        else:
            self._max_line = frame.max_line
            self._capacity = frame.capacity
            self._state = State.JOINING

    def _welcome(self, frame: frames.WelcomeFrame) -> None:
        if self._state is not State.JOINING:
            raise _broken("a second WELCOME")
        if not frame.rank < frame.clients <= protocol.MAX_CLIENTS:
            raise _broken(f"WELCOME with rank {frame.rank} of {frame.clients}")
        self._state = State.JOINED
        self._name, self._rank, self._seq = frame.name, frame.rank, frame.seq
        self._slots = list(range(frame.clients))
        self._heartbeat = frame.heartbeat
        self._names = {frame.rank: frame.name}
        self._everybody = (1 << frame.clients) - 1
        self._rank_class = frame.rank_class
        self._events.append(self.place)

    # --- private frames ---

    def _receive_private(self, frame: frames.ServerFrame) -> None:
        match frame:
            case frames.ByeFrame(code, text):
                self._disconnect(code, text)
            case frames.Ping(text):
                self._out += protocol.pong(text)
            case frames.AnswerFrame():
                self._answer(frame)
            case frames.RosterFrame():
                self._receive_roster(frame)
            case frames.ErrFrame(code, text):
                self._rejected(code, text)
            # PONG answers nothing that we ask, and INFO has said it all before.

    def _answer(self, frame: frames.AnswerFrame) -> None:
        if frame.rank >= len(self._slots):
            raise _broken(f"RES from rank {frame.rank} of {len(self._slots)}")
        slot = self._slots[frame.rank]
        self._names[slot] = frame.name
        ask = self._asks.get(frame.seq)
        if ask is None or not ask.waiting >> slot & 1:
            return  # a server need not remember who has answered: the first answer of each counts
        detail: dict[str, Any] = {
            name: value for name, value in frame.detail.items() if type(value) is KINDS.get(name)
        }
        answer = events.Answer(frame.seq, ask.ranks[slot], frame.name, frame.status, **detail)
        self._events.append(answer)
        self._count(frame.seq, ask, 1 << slot, frame.status)

    def _receive_roster(self, frame: frames.RosterFrame) -> None:
        if frame.start != len(self._roster):
            raise _broken(f"ROSTER from {frame.start} on where {len(self._roster)} was due")
        self._roster += frame.members
        if len(self._roster) < frame.total:
            return
        roster, self._roster = tuple(self._roster), []
        if len(roster) != len(self._slots):
            raise _broken(f"ROSTER of {len(roster)} where {len(self._slots)} are here")
        self._names = {slot: member.name for slot, member in zip(self._slots, roster, strict=True)}
        if self._whos and self._whos.popleft():
            self._events.append(events.RosterReceived(roster))

    def _rejected(self, code: str, text: str) -> None:
        """Note what ERR is about: our lines are handled in order, so it is the oldest that is not logged."""
        command = None
        if code != protocol.NO_SUCH_ASK and self._submitted:
            command = self._submitted.popleft()
        self._events.append(events.Rejected(code, text, command))

    # --- log frames ---

    def _receive_log(self, frame: frames.CommandFrame | frames.JoinFrame | frames.LeftFrame) -> None:
        if self._state is not State.JOINED:
            raise _broken("a log frame before WELCOME")
        if frame.seq != self._seq + 1:
            raise _broken(f"log frame {frame.seq} where {self._seq + 1} was due")
        self._seq = frame.seq
        if isinstance(frame, frames.CommandFrame):
            self._command(frame)
        elif isinstance(frame, frames.JoinFrame):
            self._joined(frame.ranks)
        else:
            self._left(frame.ranks)

    def _command(self, frame: frames.CommandFrame) -> None:
        if frame.rank >= len(self._slots):
            raise _broken(f"a command from rank {frame.rank} of {len(self._slots)}")
        verdict = ranking.verdict(self._rank, frame.rank)
        if verdict is ranking.Verdict.EXECUTE:
            self._events.append(events.Execute(*frame, self._rank, self._name))
        elif verdict is ranking.Verdict.REFUSE:
            if frame.wants_answer:
                self._out += protocol.result(frame.seq, "refused")
            self._events.append(events.Refused(frame.seq, frame.rank, frame.text))
        else:
            self._own(frame)

    def _own(self, frame: frames.CommandFrame) -> None:
        if not self._submitted:
            raise _broken(f"log frame {frame.seq} is from us, but we sent no command")
        self._submitted.popleft()
        self._events.append(events.Sent(frame.seq, frame.text, frame.wants_answer, len(self._slots) - 1))
        if frame.wants_answer:
            others = self._everybody & ~(1 << self._slots[self._rank])
            ask = _Ask(frame.text, len(self._slots) - 1 - self._rank, others, self._ranks_by_slot())
            self._asks[frame.seq] = ask
            self._learn_names()  # of those who joined after we sent it
            self._settle(frame.seq, ask)

    def _joined(self, ranks: list[int]) -> None:
        """Give each newcomer a slot. They saw none of our open ASKs, so no ask waits for them."""
        count = len(self._slots) + len(ranks)
        if ranks[-1] >= count:
            raise _broken(f"JOIN gives rank {ranks[-1]} among {count} clients")
        before = self._rank
        self._rank, _ = ranking.joined(self._rank, len(self._slots), ranks)
        for rank in ranks:
            slot = self._free.pop() if self._free else len(self._slots)
            self._slots.insert(rank, slot)
            self._everybody |= 1 << slot
        self._members_changed(before)

    def _left(self, ranks: list[int]) -> None:
        """Take the gone out of every open ask, and settle those that waited for nobody else. O(open asks)."""
        if ranks[-1] >= len(self._slots) or self._rank in ranks:
            raise _broken(f"LEFT of rank {ranks[-1]} seen by rank {self._rank} of {len(self._slots)}")
        before = self._rank
        self._rank, _ = ranking.left(self._rank, len(self._slots), ranks)
        freed = [self._slots.pop(rank) for rank in reversed(ranks)]
        gone = sum(1 << slot for slot in freed)
        self._everybody &= ~gone
        self._members_changed(before)
        for seq, ask in list(self._asks.items()):
            self._conclude(seq, ask, ask.waiting & gone, events.GONE)
        for slot in freed:
            self._names.pop(slot, None)
        self._free += freed

    def _members_changed(self, rank_before: int) -> None:
        self._ranks = None
        if self._rank == rank_before:
            self._events.append(events.ClientsChanged(len(self._slots), self._seq))
        else:
            self._events.append(events.RankChanged(self._rank, len(self._slots), self._seq))

    def _ranks_by_slot(self) -> list[int]:
        if self._ranks is None:
            self._ranks = [-1] * (len(self._slots) + len(self._free))
            for rank, slot in enumerate(self._slots):
                self._ranks[slot] = rank
        return self._ranks

    # --- the ends of asks ---

    def _conclude(self, seq: int, ask: _Ask, members: int, outcome: str, reason: str = "") -> None:
        """Report that each of ``members``, a set of slots that the ask waits for, came to this outcome."""
        if not members:
            return
        for slot in sorted(_slots_of(members), key=ask.ranks.__getitem__):
            name = self._names.get(slot, "")
            self._events.append(events.Answer(seq, ask.ranks[slot], name, outcome, reason=reason))
        self._count(seq, ask, members, outcome)

    def _count(self, seq: int, ask: _Ask, members: int, outcome: str) -> None:
        ask.waiting ^= members
        ask.counts[outcome] = ask.counts.get(outcome, 0) + members.bit_count()
        self._settle(seq, ask)

    def _settle(self, seq: int, ask: _Ask) -> None:
        """Report the ask as done if nobody is left who could answer it."""
        if ask.waiting:
            return
        self._asks.pop(seq)
        outcomes = ("ok", "fail", "refused", "denied", "timeout", events.GONE)  # as in Counts
        counts = events.Counts(*(ask.counts.get(outcome, 0) for outcome in outcomes))
        self._events.append(events.AskDone(seq, ask.text, ask.may_execute, counts))


def _slots_of(members: int) -> Iterator[int]:
    """Yield the slots in a set, ascending."""
    while members:
        lowest = members & -members
        yield lowest.bit_length() - 1
        members ^= lowest


def _result(seq: int, outcome: events.Outcome) -> bytes:
    """Build ``RES`` as the server takes it: an ERR to it would look as if it was for one of our commands."""
    if outcome.status not in protocol.STATUSES:
        text = f"status {protocol.shown(str(outcome.status))} is none of {', '.join(protocol.STATUSES)}"
        raise LocalProtocolError(protocol.BAD_FRAME, text)
    if outcome.detail is None:
        return protocol.result(seq, outcome.status)
    try:
        frame = protocol.result(seq, outcome.status, dict(outcome.detail))
        protocol.parse_client_line(frame.removesuffix(b"\n"))  # NaN, for one, is JSON to Python alone
    except (TypeError, ValueError, RecursionError, RemoteProtocolError) as error:
        raise LocalProtocolError(protocol.BAD_FRAME, f"the detail is no JSON object: {error}") from None
    return frame


def _shortened(outcome: events.Outcome, excess: int) -> events.Outcome:
    """Cut the end of ``out`` off, so that the outcome's JSON has ``excess`` bytes less. O(n log n)."""
    detail = outcome.detail or {}
    out = detail.get("out")
    if not isinstance(out, str):
        return outcome
    room = len(jsontext.encode(out)) - excess - len(TRUNCATED)
    out = out[: max(0, room)]  # a character has a byte at least
    ends = range(1, len(out) + 1)
    length = bisect.bisect_right(ends, room, key=lambda end: len(jsontext.encode(out[:end])))
    return events.Outcome(outcome.status, {**detail, "out": out[:length], "truncated": True})


def _broken(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(protocol.BAD_FRAME, text)
