"""The asks of a session: their targets, the rank and name of each answer, and when they are done."""

from __future__ import annotations

import itertools

import pytest

from rankserver.client.events import (
    Answer,
    AskDone,
    ClientsChanged,
    Counts,
    Disconnected,
    Event,
    Lost,
    RosterReceived,
    Sent,
)
from rankserver.client.session import Session
from rankserver.wire import frames, protocol
from tests.support.scripted import joined

# Why an answer is missing to an ask that the server has forgotten.
FORGOTTEN = "the server has forgotten the command"


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


def test_the_missing_answers_of_a_dropped_ask_are_gone() -> None:
    session = asked(0, 3)
    session.ask("b")
    session.receive_data(b"RES 1 2 y ok\nASK 2 0 b\n")
    assert session.receive_data(b"DROPPED 1\n") == [
        Answer(1, 1, "", "gone", reason=FORGOTTEN),
        AskDone(1, "up", 2, Counts(ok=1, gone=1)),
    ]
    assert session.receive_data(b"DROPPED 1\nDROPPED 99\nRES 1 1 x ok\n") == []
    assert session.log.open_asks == {2}


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
