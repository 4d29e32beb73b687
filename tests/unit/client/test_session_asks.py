"""The asks of a session: their targets, the rank and name of each answer, and when they are done."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankserver.client.events import (
    Answer,
    AskDone,
    ClientsChanged,
    Counts,
    Disconnected,
    Event,
    Execute,
    Lost,
    RankChanged,
    Refused,
    RosterReceived,
    Sent,
)
from rankserver.client.session import Session
from rankserver.wire import codes, frames, protocol
from tests.support.scripted import bytewise, joined


def asked(rank: int, clients: int) -> Session:
    """Return a session that knows no names and whose ASK is log frame 1."""
    session = joined(rank, clients)
    session.ask("up")
    assert session.receive_data(b"ASK 1 %d up\n" % rank)[0] == Sent(1, "up", True, clients - 1)
    return session


def roster(*names: str) -> bytes:
    return b"".join(protocol.roster([frames.RosterEntry(*pair) for pair in enumerate(names)], 1_000))


def test_an_ask_with_nobody_else_there_is_done_at_once() -> None:
    session = joined(0, 1)
    session.ask("up")
    assert session.receive_data(b"ASK 1 0 up\n") == [
        Sent(1, "up", wants_answer=True, targets=0),
        AskDone(1, "up", 0, Counts()),
    ]


def test_an_ask_is_done_when_the_last_has_answered_or_left() -> None:
    outcomes = {"a": "refused", "b": "ok", "c": "fail", "d": "gone", "e": "denied"}
    for order in itertools.permutations(outcomes):
        session = asked(1, 6)
        here = ["a", "me", "b", "c", "d", "e"]
        done: list[Event] = []
        for member in order:
            assert done == []
            rank = here.index(member)
            if outcomes[member] == "gone":
                here.remove(member)
                frame = f"LEFT {session.log.seq + 1} {rank}\n"
            else:
                frame = f"RES 1 {rank} {member} {outcomes[member]}\n"
            happened = session.receive_data(frame.encode())
            done = [event for event in happened if isinstance(event, AskDone)]
        assert done == [AskDone(1, "up", 4, Counts(ok=1, failed=1, refused=1, denied=1, gone=1))]


def test_an_answer_is_reported_with_its_detail() -> None:
    session = asked(0, 3)
    detail = b'{"code":-2,"out":"a\\nb","ms":5,"truncated":true,"reason":"why","more":[]}'
    assert session.receive_data(b"RES 1 2 web-2 timeout " + detail + b"\n") == [
        Answer(1, 2, "web-2", "timeout", code=-2, out="a\nb", ms=5, truncated=True, reason="why")
    ]
    assert session.receive_data(b"RES 1 1 web-1 ok\n") == [
        Answer(1, 1, "web-1", "ok"),
        AskDone(1, "up", 2, Counts(ok=1, timeout=1)),
    ]


@pytest.mark.parametrize(
    "field", ['"code":"1"', '"code":true', '"out":1', '"ms":1.5', '"truncated":1', '"reason":[]']
)
def test_a_field_of_the_wrong_kind_counts_as_missing(field: str) -> None:
    session = asked(0, 3)
    assert session.receive_data(f"RES 1 1 a ok {{{field}}}\n".encode()) == [Answer(1, 1, "a", "ok")]


def test_an_answer_has_the_rank_from_when_the_ask_was_logged() -> None:
    session = asked(0, 4)
    # Ranks before: 0 me, 2, 3. Ranks after: 3 me, 4, 5.
    session.receive_data(b"LEFT 2 1\nJOIN 3 0-2\n")
    assert session.receive_data(b"RES 1 5 c ok\nRES 1 4 b fail\n") == [
        Answer(1, 3, "c", "ok"),
        Answer(1, 2, "b", "fail"),
        AskDone(1, "up", 3, Counts(ok=1, failed=1, gone=1)),
    ]


def test_newcomers_are_not_waited_for_even_after_a_leave() -> None:
    session = asked(0, 3)
    assert session.receive_data(b"LEFT 2 1\nJOIN 3 1-2\n") == [
        ClientsChanged(2, 2),
        Answer(1, 1, "", "gone"),
        ClientsChanged(4, 3),
    ]
    # The clients of ranks 1 and 2 came later; that of rank 3 was there.
    assert session.receive_data(b"RES 1 1 x ok\nRES 1 2 y ok\n") == []
    assert session.receive_data(b"RES 1 3 z ok\n") == [
        Answer(1, 2, "z", "ok"),
        AskDone(1, "up", 2, Counts(ok=1, gone=1)),
    ]


def test_only_the_first_answer_of_each_counts() -> None:
    session = asked(0, 3)
    assert len(session.receive_data(b"RES 1 1 a ok\nRES 1 1 a fail\n")) == 1
    assert session.receive_data(b"RES 7 1 a ok\nRES 1 0 me ok\n") == []


def test_one_departure_may_settle_several_asks() -> None:
    session = joined(0, 2)
    for text in "abc":
        session.ask(text)
    session.receive_data(b"ASK 1 0 a\nASK 2 0 b\nASK 3 0 c\nRES 2 1 x ok\n")
    gone = Counts(gone=1)
    assert session.receive_data(b"LEFT 4 1\n") == [
        ClientsChanged(1, 4),
        Answer(1, 1, "x", "gone"),
        AskDone(1, "a", 1, gone),
        Answer(3, 1, "x", "gone"),
        AskDone(3, "c", 1, gone),
    ]


def test_late_clients_count_as_timeout_once_and_by_rank() -> None:
    session = asked(0, 4)
    # The order of joining now differs from that of ranks.
    session.receive_data(b"LEFT 2 1\nJOIN 3 1\nJOIN 4 1\n")
    session.ask("again")
    session.receive_data(b"ASK 5 0 again\nRES 5 2 b ok\n")
    reason = "no answer in time"
    assert session.expire(5) == [
        Answer(5, 1, "", "timeout", reason=reason),
        Answer(5, 3, "", "timeout", reason=reason),
        Answer(5, 4, "", "timeout", reason=reason),
        AskDone(5, "again", 4, Counts(ok=1, timeout=3)),
    ]
    assert session.expire(5) == []
    assert session.expire(99) == []
    assert session.receive_data(b"RES 5 1 late ok\n") == []
    # The other ask is still open.
    assert session.receive_data(b"RES 1 3 c ok\n") == [Answer(1, 2, "c", "ok")]


# --- names ---


def test_a_hidden_who_precedes_an_ask_if_a_name_is_unknown() -> None:
    session = joined(0, 3)
    session.ask("a")
    session.ask("b")
    # One WHO is enough for both.
    assert session.data_to_send() == b"WHO\nASK a\nASK b\n"
    assert session.receive_data(roster("me", "x", "y") + b"ASK 1 0 a\nASK 2 0 b\n")[2:] == []
    session.ask("c")
    assert session.data_to_send() == b"ASK c\n"
    session.receive_data(b"ASK 3 0 c\nJOIN 4 1\n")
    session.cmd("d")
    session.ask("e")
    assert session.data_to_send() == b"CMD d\nWHO\nASK e\n"


def test_names_of_clients_that_join_before_the_log_are_learned() -> None:
    session = joined(0, 1)
    session.ask("a")
    assert session.data_to_send() == b"ASK a\n"
    session.receive_data(b"JOIN 1 1\nASK 2 0 a\n")
    assert session.data_to_send() == b"WHO\n"
    assert session.receive_data(roster("me", "x")) == []
    assert session.expire(2)[0] == Answer(2, 1, "x", "timeout", reason="no answer in time")


def test_a_name_is_known_until_its_bearer_leaves() -> None:
    session = joined(0, 3)
    session.ask("a")
    session.receive_data(roster("me", "x", "y") + b"ASK 1 0 a\n")
    assert session.receive_data(b"LEFT 2 1\n")[1] == Answer(1, 1, "x", "gone")
    session.receive_data(b"JOIN 3 2\n")
    session.ask("b")
    session.receive_data(b"ASK 4 0 b\n")
    assert session.receive_data(b"LEFT 5 1-2\n")[1:] == [
        Answer(1, 2, "y", "gone"),
        AskDone(1, "a", 2, Counts(gone=2)),
        Answer(4, 1, "y", "gone"),
        Answer(4, 2, "", "gone"),
        AskDone(4, "b", 2, Counts(gone=2)),
    ]


def test_a_name_is_learned_from_an_answer() -> None:
    session = asked(0, 2)
    session.receive_data(roster("me", "old") + b"RES 1 1 x ok\n")
    session.data_to_send()
    session.ask("b")
    assert session.data_to_send() == b"ASK b\n"
    session.receive_data(b"ASK 2 0 b\n")
    assert session.expire(2)[0] == Answer(2, 1, "x", "timeout", reason="no answer in time")


def test_a_roster_is_reported_only_if_it_was_requested() -> None:
    session = joined(0, 2)
    assert session.receive_data(roster("me", "x")) == []
    session.receive_data(b"JOIN 1 2\n")
    session.ask("a")
    session.who()
    assert session.data_to_send() == b"WHO\nASK a\nWHO\n"
    three = roster("me", "x", "y")
    (received,) = session.receive_data(three + three)
    assert isinstance(received, RosterReceived)
    assert [member.name for member in received.members] == ["me", "x", "y"]


# --- the end ---


@pytest.mark.parametrize("end", [b"BYE slow too slow\n", b"CMD 9 0 x\n", b""])
def test_asks_open_at_the_end_are_accounted_for(end: bytes) -> None:
    session = asked(1, 3)
    for text in ("b", "c"):
        session.ask(text)
    session.cmd("d")
    session.receive_data(b"ASK 2 1 b\nRES 1 0 x refused\nRES 1 2 y ok\nRES 2 2 y ok\n")
    *happened, last = session.receive_data(end) if end else session.receive_eof()
    assert happened == [
        Answer(2, 0, "x", "gone", reason="the connection was lost"),
        AskDone(2, "b", 1, Counts(ok=1, gone=1)),
        Lost("c"),
        Lost("d"),
    ]
    assert isinstance(last, Disconnected)
    assert session.cut_off == {2}
    assert session.expire(2) == []


# --- any history at all ---


class Member:
    """A present client as an object: a later client is another object, even at the same rank."""

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass
class Question:
    """An ask of the reader: the clients at its time, in rank order, and the outcome of each so far."""

    text: str
    targets: dict[Member, int]
    may_execute: int
    outcomes: dict[Member, str] = field(default_factory=dict)

    def open(self) -> list[Member]:
        return [member for member in self.targets if member not in self.outcomes]


class History:
    """A server's output to one client, and the events that this client must report, from plain lists.

    Each item of ``steps`` is a call of the session or bytes for it, with the events that must follow and the
    bytes that the session must then send.
    """

    def __init__(self, clients: int, rank: int) -> None:
        self.born = 0
        self.members = [self.newcomer() for _ in range(clients)]
        self.me = self.members[rank]
        self.me.name = "me"
        # The members whose names the reader knows, and whether it takes them for all.
        self.known = {self.me}
        self.are_all_known = clients == 1
        self.asks: dict[int, Question] = {}
        self.unlogged: list[tuple[str, bool]] = []
        self.whos: list[bool] = []
        self.seq = 0
        self.steps: list[tuple[str | bytes | int, list[Event], bytes]] = []

    @property
    def rank(self) -> int:
        return self.members.index(self.me)

    def newcomer(self) -> Member:
        self.born += 1
        return Member(f"m{self.born}")

    def log(self, verb: str, rest: str, events: list[Event], owed: bytes = b"") -> None:
        self.steps.append((f"{verb} {self.seq} {rest}\n".encode(), events, owed))

    # --- the reader's actions ---

    def submit(self, wants_answer: bool) -> None:
        text = f"t{self.born}-{len(self.steps)}"
        owed = self.learn() if wants_answer else b""
        self.unlogged.append((text, wants_answer))
        verb = "ASK" if wants_answer else "CMD"
        self.steps.append((f"{verb} {text}", [], owed + f"{verb} {text}\n".encode()))

    def learn(self) -> bytes:
        if self.are_all_known or self.whos:
            return b""
        self.whos.append(False)
        return b"WHO\n"

    def who(self) -> None:
        self.whos.append(True)
        self.steps.append(("WHO", [], b"WHO\n"))

    def expire(self, seq: int) -> None:
        events = self.conclude(seq, self.asks[seq].open(), "timeout", "no answer in time")
        self.steps.append((seq, events, b""))

    # --- the server's frames ---

    def join(self, ranks: list[int]) -> None:
        before = self.rank
        for rank in ranks:
            self.members.insert(rank, self.newcomer())
        self.are_all_known = False
        self.seq += 1
        self.log("JOIN", ",".join(map(str, ranks)), [self.changed(before)])

    def leave(self, ranks: list[int]) -> None:
        before = self.rank
        gone = [self.members[rank] for rank in ranks]
        self.members = [member for member in self.members if member not in gone]
        self.seq += 1
        events = [self.changed(before)]
        for seq, ask in list(self.asks.items()):
            events += self.conclude(seq, [member for member in ask.open() if member in gone], "gone")
        self.log("LEFT", ",".join(map(str, ranks)), events)

    def changed(self, before: int) -> Event:
        if self.rank == before:
            return ClientsChanged(len(self.members), self.seq)
        return RankChanged(self.rank, len(self.members), self.seq)

    def own(self) -> None:
        text, wants_answer = self.unlogged.pop(0)
        owed = self.learn() if wants_answer else b""
        self.seq += 1
        events: list[Event] = [Sent(self.seq, text, wants_answer, len(self.members) - 1)]
        if wants_answer:
            targets = {member: rank for rank, member in enumerate(self.members) if member is not self.me}
            self.asks[self.seq] = Question(text, targets, len(self.members) - 1 - self.rank)
            events += self.settle(self.seq)
        self.log("ASK" if wants_answer else "CMD", f"{self.rank} {text}", events, owed)

    def command(self, rank: int, verb: str) -> None:
        self.seq += 1
        if rank < self.rank:
            execute = Execute(self.seq, rank, "theirs", verb == "ASK", self.rank, "me")
            self.log(verb, f"{rank} theirs", [execute])
            return
        owed = b"RES %d refused\n" % self.seq if verb == "ASK" else b""
        self.log(verb, f"{rank} theirs", [Refused(self.seq, rank, "theirs")], owed)

    def answer(self, seq: int, member: Member, status: str) -> None:
        self.known.add(member)
        line = f"RES {seq} {self.members.index(member)} {member.name} {status}\n".encode()
        self.steps.append((line, self.conclude(seq, [member], status), b""))

    def roster(self) -> None:
        is_wanted = self.whos.pop(0)
        self.known = set(self.members)
        self.are_all_known = True
        members = [frames.RosterEntry(rank, member.name) for rank, member in enumerate(self.members)]
        seen: list[Event] = [RosterReceived(tuple(members))]
        self.steps.append((b"".join(protocol.roster(members, 120)), seen if is_wanted else [], b""))

    def bye(self) -> None:
        events: list[Event] = []
        for seq, ask in list(self.asks.items()):
            events += self.conclude(seq, ask.open(), "gone", "the connection was lost")
        events += [Lost(text) for text, _ in self.unlogged]
        self.steps.append((b"BYE slow too slow\n", [*events, Disconnected("slow", "too slow")], b""))

    # --- the ends of asks ---

    def conclude(self, seq: int, members: list[Member], status: str, reason: str = "") -> list[Event]:
        if not members:
            return []
        ask = self.asks[seq]
        events: list[Event] = []
        for member in members:
            ask.outcomes[member] = status
            name = member.name if member in self.known else ""
            events.append(Answer(seq, ask.targets[member], name, status, reason=reason))
        return events + self.settle(seq)

    def settle(self, seq: int) -> list[Event]:
        ask = self.asks[seq]
        if ask.open():
            return []
        del self.asks[seq]
        outcomes = list(ask.outcomes.values())
        counts = Counts(*map(outcomes.count, ("ok", "fail", "refused", "denied", "timeout", "gone")))
        assert sum(counts) == len(ask.targets)
        return [AskDone(seq, ask.text, ask.may_execute, counts)]


STEPS = (
    "join",
    "leave",
    "ask",
    "own",
    "own",
    "command",
    "answer",
    "answer",
    "who",
    "roster",
    "cmd",
    "expire",
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, History]:
    clients = draw(st.integers(1, 5))
    rank = draw(st.integers(0, clients - 1))
    history = History(clients, rank)
    for step in draw(st.lists(st.sampled_from(STEPS), max_size=30)):
        take_step(draw, history, step)
    if draw(st.booleans()):
        history.bye()
    return clients, rank, history


def take_step(draw: st.DrawFn, history: History, step: str) -> None:
    count = len(history.members)
    others = [rank for rank in range(count) if rank != history.rank]
    waiting = [
        (seq, member)
        for seq, ask in history.asks.items()
        for member in ask.open()
        if member in history.members
    ]
    if step == "join":
        history.join(sorted(draw(st.sets(st.integers(0, count), min_size=1, max_size=3))))
    elif step in ("ask", "cmd"):
        history.submit(step == "ask")
    elif step == "who":
        history.who()
    elif step == "own" and history.unlogged:
        history.own()
    elif step == "roster" and history.whos:
        history.roster()
    elif step == "expire" and history.asks:
        history.expire(draw(st.sampled_from(sorted(history.asks))))
    elif step == "answer" and waiting:
        seq, member = draw(st.sampled_from(waiting))
        history.answer(seq, member, draw(st.sampled_from(codes.STATUSES)))
    elif step == "command" and others:
        history.command(draw(st.sampled_from(others)), draw(st.sampled_from(["CMD", "ASK"])))
    elif step == "leave" and others:
        history.leave(sorted(draw(st.sets(st.sampled_from(others), min_size=1))))


@settings(max_examples=300)
@given(histories())
def test_any_history_is_understood_whole_and_byte_by_byte(made: tuple[int, int, History]) -> None:
    clients, rank, history = made
    for receive in (Session.receive_data, bytewise):
        session = joined(rank, clients)
        for action, events, owed in history.steps:
            assert perform(session, action, receive) == events
            assert session.data_to_send() == owed
        assert (session.log.rank, session.log.clients) == (history.rank, len(history.members))
        assert session.log.seq == history.seq


@settings(max_examples=100)
@given(histories())
def test_frames_mean_the_same_in_one_piece(made: tuple[int, int, History]) -> None:
    clients, rank, history = made
    session = joined(rank, clients)
    data, expected, seen = b"", [], []
    for action, events, _ in history.steps:
        # The session has received everything before the call.
        if not isinstance(action, bytes):
            seen += session.receive_data(data)
            data = b""
            seen += perform(session, action, Session.receive_data)
        else:
            data += action
        expected += events
    assert seen + session.receive_data(data) == expected


def perform(
    session: Session, action: str | bytes | int, receive: Callable[[Session, bytes], list[Event]]
) -> list[Event]:
    """Perform a step of a history, and return the events that follow."""
    if isinstance(action, bytes):
        return receive(session, action)
    if isinstance(action, int):
        return session.expire(action)
    verb, _, text = action.partition(" ")
    if verb == "WHO":
        session.who()
    else:
        (session.ask if verb == "ASK" else session.cmd)(text)
    return []
