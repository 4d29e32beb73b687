"""A session that gets any history of a server at all, compared with plain lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

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

# Why an answer is missing to an ask that the server has forgotten.
FORGOTTEN = "the server has forgotten the command"


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

    def drop(self, seq: int) -> None:
        self.steps.append(
            (f"DROPPED {seq}\n".encode(), self.conclude(seq, self.asks[seq].open(), "gone", FORGOTTEN), b"")
        )

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
    "drop",
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
    elif step in ("expire", "drop") and history.asks:
        end = history.expire if step == "expire" else history.drop
        end(draw(st.sampled_from(sorted(history.asks))))
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
