from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.events import (
    Answered,
    AskDone,
    ClientsChanged,
    Connected,
    Disconnected,
    Event,
    Execute,
    RankChanged,
    Refused,
    Rejected,
    RosterReceived,
    Sent,
)
from client.session import Session, State
from rankserver import frames, protocol
from rankserver.exceptions import LocalProtocolError

BANNER = protocol.info(frames.Info(1, "rankserver/1.0.0", 1_000, auth=False, capacity=8))
OUTCOMES = ("ok", "refused", "fail", "denied", "timeout", "gone")


def welcome(rank: int, clients: int, seq: int = 0) -> bytes:
    return protocol.welcome(frames.Welcome(rank, clients, seq, "me", "s", 30))


def joined(rank: int, clients: int, seq: int = 0) -> Session:
    session = Session()
    session.hello(name="me")
    session.receive_data(BANNER + welcome(rank, clients, seq))
    session.data_to_send()
    return session


def bytewise(session: Session, data: bytes) -> list[Event]:
    return [event for byte in data for event in session.receive_data(bytes([byte]))]


# --- joining ---


def test_hello_is_sent_and_welcome_answers_it() -> None:
    session = Session()
    assert (session.state, session.name, session.rank, session.clients) == (State.GREETING, "", -1, 0)
    session.hello(name="me")
    assert session.data_to_send() == b'HELLO {"proto":1,"name":"me"}\n'
    assert session.data_to_send() == b""
    assert session.receive_data(BANNER) == []
    assert (session.state, session.max_line) == (State.JOINING, 1_000)
    assert session.receive_data(welcome(2, 3, seq=9)) == [Connected("me", 2, 3)]
    assert (session.state, session.name, session.rank, session.clients) == (State.JOINED, "me", 2, 3)
    assert session.seq == 9


@pytest.mark.parametrize(
    "data", [b"BYE full all 8 places are taken\n", BANNER + b"BYE full all 8 places are taken\n"]
)
def test_a_server_may_refuse_us(data: bytes) -> None:
    session = Session()
    assert session.receive_data(data) == [Disconnected("full", "all 8 places are taken")]
    assert session.state is State.OVER


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", "'HTTP/1.1 400 Bad Request'"),
        (b"SSH-2.0-OpenSSH\n", "'SSH-2.0-OpenSSH'"),
        (b"\xff\x1b[2J\n", r"'\ufffd\x1b[2J'"),
        (b"INFO {}\n", "'INFO {}'"),
        (b"PING\n", "'PING'"),
    ],
)
def test_something_else_than_a_rankserver_is_told_apart(said: bytes, shown: str) -> None:
    assert bytewise(Session(), said) == [Disconnected("", f"this is not a rankserver: it says {shown}")]


def test_an_endless_line_is_no_reason_to_use_all_memory() -> None:
    session = Session()
    chunk = b"x" * (1 << 20)
    happened = [event for _ in range(17) for event in session.receive_data(chunk)]
    assert [type(event) for event in happened] == [Disconnected]


def test_another_protocol_version_is_told() -> None:
    banner = BANNER.replace(b'"proto":1', b'"proto":2')
    assert Session().receive_data(banner) == [
        Disconnected("", "the server speaks protocol 2, this client speaks 1")
    ]


# --- what follows from the log ---


def test_commands_of_higher_ranks_are_executed() -> None:
    session = joined(1, 3)
    assert session.receive_data(b"CMD 1 0 df -h\nASK 2 0 uptime\n") == [
        Execute(1, 0, "df -h", False, 1, "me"),
        Execute(2, 0, "uptime", True, 1, "me"),
    ]
    assert session.data_to_send() == b""
    session.result(2, "fail", {"code": 3})
    assert session.data_to_send() == b'RES 2 fail {"code":3}\n'


def test_commands_of_lower_ranks_are_refused_and_asks_get_that_as_an_answer() -> None:
    session = joined(1, 3)
    assert session.receive_data(b"CMD 1 2 reboot\nASK 2 2 halt\n") == [
        Refused(1, 2, "reboot"),
        Refused(2, 2, "halt"),
    ]
    assert session.data_to_send() == b"RES 2 refused\n"


def test_our_own_command_comes_back_as_sent() -> None:
    session = joined(1, 3)
    session.cmd("df")
    session.ask("uptime")
    assert session.data_to_send() == b"CMD df\nASK uptime\n"
    assert session.receive_data(b"CMD 1 1 df\nASK 2 1 uptime\n") == [
        Sent(1, "df", wants_answer=False),
        Sent(2, "uptime", wants_answer=True),
    ]


def test_the_rank_is_that_at_the_place_in_the_log() -> None:
    session = joined(2, 3)
    log = b"CMD 1 1 a\nLEFT 2 0\nCMD 3 0 b\nLEFT 4 0\nJOIN 5 1\nCMD 6 1 c\n"
    assert session.receive_data(log) == [
        Execute(1, 1, "a", False, 2, "me"),
        RankChanged(1, 2),
        Execute(3, 0, "b", False, 1, "me"),
        RankChanged(0, 1),
        ClientsChanged(2),
        Refused(6, 1, "c"),
    ]
    assert (session.rank, session.clients, session.seq) == (0, 2, 6)


def test_newcomers_may_rank_before_us() -> None:
    session = joined(1, 3)
    assert session.receive_data(b"JOIN 1 0,2,5\n") == [RankChanged(3, 6)]


def test_frames_of_a_later_version_are_ignored() -> None:
    assert joined(0, 1).receive_data(b"NEWS 1 {}\nPONG\nJOIN 1 1\n") == [ClientsChanged(2)]


def test_ping_is_answered() -> None:
    session = joined(0, 1)
    assert session.receive_data(b"PING\nPING are you there\n") == []
    assert session.data_to_send() == b"PONG\nPONG are you there\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"CMD 2 0 x\n", "log frame 2 where 1 was due"),
        (b"JOIN 1 3\nJOIN 1 4\n", "log frame 1 where 2 was due"),
        (b"CMD 1 3 x\n", "a command from rank 3 of 3"),
        (b"CMD 1 1 x\n", "log frame 1 is from us, but we sent no command"),
        (b"JOIN 1 4\n", "JOIN gives rank 4 among 4 clients"),
        (b"LEFT 1 3\n", "LEFT of rank 3 seen by rank 1 of 3"),
        (b"LEFT 1 0-1\n", "LEFT of rank 1 seen by rank 1 of 3"),
        (b"RES 1 3 a ok\n", "RES from rank 3 of 3"),
        (b'ROSTER {"total":3,"from":1,"clients":[]}\n', "ROSTER from 1 on where 0 was due"),
        (welcome(0, 1), "a second WELCOME"),
        (b"CMD x\n", "expected 3 words, got 'x'"),
        (b"CMD 1 0 \xff\n", "byte 0xff at offset 8 is not valid UTF-8"),
    ],
)
def test_a_server_that_breaks_the_protocol_is_left(data: bytes, words: str) -> None:
    session = joined(1, 3)
    *_, last = session.receive_data(data + b"PING\n")
    assert last == Disconnected("", f"the server broke the protocol: {words}")
    assert session.data_to_send() == b""
    assert session.receive_data(b"PING\n") == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (welcome(3, 3), "WELCOME with rank 3 of 3"),
        (welcome(0, protocol.MAX_CLIENTS + 1), "WELCOME with rank 0 of 1000001"),
        (b"JOIN 1 0\n", "a log frame before WELCOME"),
    ],
)
def test_a_server_that_breaks_the_protocol_before_we_joined_is_left(data: bytes, words: str) -> None:
    assert Session().receive_data(BANNER + data) == [
        Disconnected("", f"the server broke the protocol: {words}")
    ]


def test_what_came_before_the_protocol_was_broken_counts() -> None:
    session = joined(1, 3)
    first, *_ = session.receive_data(b"CMD 1 0 x\nCMD 3 0 y\n")
    assert first == Execute(1, 0, "x", False, 1, "me")


# --- asks ---


def asked(rank: int, clients: int) -> Session:
    """Return a session whose ASK number 1 is in the log."""
    session = joined(rank, clients)
    session.ask("up")
    assert session.receive_data(b"ASK 1 %d up\n" % rank)[0] == Sent(1, "up", wants_answer=True)
    return session


def test_an_ask_with_nobody_else_there_is_done_at_once() -> None:
    session = joined(0, 1)
    session.ask("up")
    assert session.receive_data(b"ASK 1 0 up\n") == [
        Sent(1, "up", wants_answer=True),
        AskDone(1, "up", 0, 0, 0, 0, 0, 0, 0),
    ]


def test_an_ask_is_done_when_the_last_has_answered_or_left_in_whatever_order() -> None:
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
                frame = f"LEFT {session.seq + 1} {rank}\n"
            else:
                frame = f"RES 1 {rank} {member} {outcomes[member]}\n"
            happened = session.receive_data(frame.encode())
            done = [event for event in happened if isinstance(event, AskDone)]
        assert done == [
            AskDone(1, "up", may_execute=4, executed=1, refused=1, failed=1, denied=1, timed_out=0, gone=1)
        ]


def test_an_answer_is_reported_with_its_detail() -> None:
    session = asked(0, 3)
    assert session.receive_data(b'RES 1 2 web-2 timeout {"ms":5}\n') == [
        Answered(1, 2, "web-2", "timeout", '{"ms":5}')
    ]
    assert session.receive_data(b"RES 1 1 web-1 ok\n") == [
        Answered(1, 1, "web-1", "ok", ""),
        AskDone(1, "up", 2, executed=1, refused=0, failed=0, denied=0, timed_out=1, gone=0),
    ]


def test_newcomers_are_not_waited_for_even_where_somebody_left() -> None:
    session = asked(0, 3)
    assert session.receive_data(b"LEFT 2 1\nJOIN 3 1-2\n") == [ClientsChanged(2), ClientsChanged(4)]
    # Those of ranks 1 and 2 came later; the one of rank 3 was there.
    assert session.receive_data(b"RES 1 1 x ok\nRES 1 2 y ok\n") == []
    assert session.receive_data(b"RES 1 3 z ok\n") == [
        Answered(1, 3, "z", "ok", ""),
        AskDone(1, "up", 2, executed=1, refused=0, failed=0, denied=0, timed_out=0, gone=1),
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
    first, *rest = session.receive_data(b"LEFT 4 1\n")
    assert first == ClientsChanged(1)
    assert [(type(event), event.seq) for event in rest] == [(AskDone, 1), (AskDone, 3)]  # type: ignore[union-attr]


# --- what the server rejects, and the roster ---


def test_a_rejected_command_is_named() -> None:
    session = joined(0, 1)
    session.ask("a")
    session.ask("b")
    assert session.receive_data(b"ERR bad-frame no such luck\nASK 1 0 b\n")[:2] == [
        Rejected("bad-frame", "no such luck", "a"),
        Sent(1, "b", wants_answer=True),
    ]
    assert session.receive_data(b"ERR bad-frame what\n") == [Rejected("bad-frame", "what", None)]


def test_a_rejected_answer_is_not_taken_for_a_command() -> None:
    session = joined(0, 1)
    session.ask("a")
    assert session.receive_data(b"ERR no-such-ask 7\nERR bad-frame x\n") == [
        Rejected("no-such-ask", "7", None),
        Rejected("bad-frame", "x", "a"),
    ]


def test_a_roster_is_reported_when_it_is_complete() -> None:
    session = joined(0, 1)
    for _ in range(2):
        session.who()
        assert session.data_to_send() == b"WHO\n"
        first, *rest = list(protocol.roster([f"web-{i}" for i in range(50)], 300))
        assert session.receive_data(first) == []
        (received,) = session.receive_data(b"".join(rest))
        assert isinstance(received, RosterReceived)
        assert received.members[49] == frames.Member(49, "web-49")


# --- what may not be sent ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the command is empty"),
        ("a\x1bb", "control character U+001B at position 1; only TAB is allowed"),
        ("x" * 1_000, "the line has 1005 bytes, 1000 are allowed"),
    ],
)
def test_a_command_that_may_not_be_sent_has_no_effect(text: str, words: str) -> None:
    session = joined(0, 1)
    for send in (session.ask, session.cmd):
        with pytest.raises(LocalProtocolError) as caught:
            send(text)
        assert caught.value.text == words
    assert session.unsent == 0
    # Nothing is taken for it, either.
    assert isinstance(session.receive_data(b"CMD 1 0 fine\n")[0], Disconnected)


def test_a_result_that_is_too_long_has_no_effect() -> None:
    session = joined(1, 2)
    with pytest.raises(LocalProtocolError, match="the result has 1020 bytes, 1000 are allowed"):
        session.result(1, "ok", {"out": "x" * 1_000})
    assert session.unsent == 0


def test_nothing_can_be_sent_before_we_joined_or_after_it_is_over() -> None:
    early, late = Session(), joined(0, 1)
    late.receive_eof()
    for session in (early, late):
        calls = (lambda s: s.ask("x"), lambda s: s.cmd("x"), Session.who, lambda s: s.result(1, "ok"))
        for call in calls:
            with pytest.raises(LocalProtocolError, match="cannot send: the session is"):
                call(session)
    with pytest.raises(LocalProtocolError, match="cannot join: the session is over"):
        late.hello()


# --- the end ---


def test_bye_ends_the_session_and_what_follows_is_ignored() -> None:
    session = joined(0, 1)
    assert session.receive_data(b"BYE shutdown the server is stopping\nJOIN 1 1\n") == [
        Disconnected("shutdown", "the server is stopping")
    ]
    assert session.receive_data(b"\xff\n") == []
    assert session.receive_eof() == []


@pytest.mark.parametrize("before", [b"", BANNER, BANNER + welcome(0, 1), BANNER + welcome(0, 1) + b"JOIN 1"])
def test_an_end_without_bye_is_a_lost_connection(before: bytes) -> None:
    session = Session()
    session.receive_data(before)
    assert session.receive_eof() == [Disconnected("", "connection lost")]
    assert session.receive_eof() == []


def test_leaving_sends_bye_last_and_no_event_follows() -> None:
    session = joined(0, 1)
    session.ask("x")
    session.leave()
    session.leave()
    assert session.data_to_send() == b"ASK x\nBYE\n"
    assert session.receive_data(b"ASK 1 0 x\n") == []
    assert session.receive_eof() == []


# --- any history at all ---


@dataclass
class History:
    """A log as a server would write it, and what its reader should see, told from plain lists."""

    members: list[int]
    me: int
    frames: list[bytes] = field(default_factory=list)
    asked: dict[int, str] = field(default_factory=dict)  # what the reader submits, by its number in the log
    seen: list[Event] = field(default_factory=list)
    owed: list[bytes] = field(default_factory=list)  # what the reader answers by itself
    open: dict[int, dict[int, str]] = field(default_factory=dict)  # ask -> member -> outcome or ""
    may_execute: dict[int, int] = field(default_factory=dict)
    seq: int = 0
    born: int = 1_000

    @property
    def rank(self) -> int:
        return self.members.index(self.me)

    def log(self, verb: str, rest: str) -> int:
        self.seq += 1
        self.frames.append(f"{verb} {self.seq} {rest}\n".encode())
        return self.seq

    def join(self, ranks: list[int]) -> None:
        before = self.rank
        for rank in ranks:
            self.members.insert(rank, self.born)
            self.born += 1
        self.log("JOIN", ",".join(map(str, ranks)))
        self.changed(before)

    def leave(self, ranks: list[int]) -> None:
        before = self.rank
        gone = [self.members[rank] for rank in ranks]
        self.members = [member for member in self.members if member not in gone]
        self.log("LEFT", ",".join(map(str, ranks)))
        self.changed(before)
        for seq, outcomes in list(self.open.items()):
            for member in gone:
                if outcomes.get(member) == "":
                    outcomes[member] = "gone"
            self.settle(seq)

    def changed(self, before: int) -> None:
        count = len(self.members)
        self.seen.append(ClientsChanged(count) if self.rank == before else RankChanged(self.rank, count))

    def ask(self) -> None:
        text = f"mine {len(self.asked)}"
        seq = self.log("ASK", f"{self.rank} {text}")
        self.asked[seq] = text
        self.seen.append(Sent(seq, text, wants_answer=True))
        self.open[seq] = {member: "" for member in self.members if member != self.me}
        self.may_execute[seq] = len(self.members) - 1 - self.rank
        self.settle(seq)

    def command(self, rank: int, verb: str) -> None:
        seq = self.log(verb, f"{rank} theirs")
        if rank < self.rank:
            self.seen.append(Execute(seq, rank, "theirs", verb == "ASK", self.rank, "me"))
            return
        self.seen.append(Refused(seq, rank, "theirs"))
        if verb == "ASK":
            self.owed.append(b"RES %d refused\n" % seq)

    def answer(self, seq: int, member: int, status: str) -> None:
        rank = self.members.index(member)
        self.frames.append(f"RES {seq} {rank} m{member} {status}\n".encode())
        self.seen.append(Answered(seq, rank, f"m{member}", status, ""))
        self.open[seq][member] = status
        self.settle(seq)

    def settle(self, seq: int) -> None:
        outcomes = list(self.open[seq].values())
        if "" not in outcomes:
            del self.open[seq]
            counts = [outcomes.count(outcome) for outcome in OUTCOMES]
            self.seen.append(AskDone(seq, self.asked[seq], self.may_execute[seq], *counts))

    def unanswered(self) -> list[tuple[int, int]]:
        return [(seq, member) for seq in self.open for member, done in self.open[seq].items() if not done]


STEPS = ("join", "leave", "ask", "command", "answer", "answer")


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, History]:
    clients = draw(st.integers(1, 6))
    me = draw(st.integers(0, clients - 1))
    history = History(list(range(clients)), me)
    for step in draw(st.lists(st.sampled_from(STEPS), max_size=25)):
        count = len(history.members)
        others = [rank for rank in range(count) if rank != history.rank]
        if step == "join":
            ranks = sorted(draw(st.sets(st.integers(0, count), min_size=1, max_size=3)))
            history.join(ranks)
        elif step == "ask":
            history.ask()
        elif step == "answer" and history.unanswered():
            seq, member = draw(st.sampled_from(history.unanswered()))
            history.answer(seq, member, draw(st.sampled_from(protocol.STATUSES)))
        elif step == "command" and others:
            history.command(draw(st.sampled_from(others)), draw(st.sampled_from(["CMD", "ASK"])))
        elif step == "leave" and others:
            history.leave(sorted(draw(st.sets(st.sampled_from(others), min_size=1))))
    return clients, me, history


@settings(max_examples=200)
@given(histories())
def test_any_history_is_understood_whole_and_byte_by_byte(made: tuple[int, int, History]) -> None:
    clients, me, history = made
    for receive in (Session.receive_data, bytewise):
        session = joined(me, clients)
        for text in history.asked.values():
            session.ask(text)
        session.data_to_send()
        assert receive(session, b"".join(history.frames)) == history.seen
        assert session.data_to_send() == b"".join(history.owed)
        assert (session.rank, session.clients) == (history.rank, len(history.members))
        assert session.seq == history.seq
