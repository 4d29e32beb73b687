from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankserver.client.events import (
    ClientsChanged,
    Connected,
    Disconnected,
    Execute,
    Outcome,
    RankChanged,
    Refused,
    Rejected,
    RosterReceived,
    Sent,
)
from rankserver.client.session import Session, SessionState
from rankserver.wire import frames, grammar, protocol
from rankserver.wire.exceptions import LocalProtocolError
from tests.support.scripted import SHORT_BANNER, bytewise, joined, welcome

# --- joining ---


def test_hello_is_sent_and_welcome_answers_it() -> None:
    session = Session()
    assert (session.state, session.log.name, session.log.rank, session.log.clients) == (
        SessionState.GREETING,
        "",
        -1,
        0,
    )
    session.hello(name="me")
    assert session.data_to_send() == b'HELLO {"proto":1,"name":"me"}\n'
    assert session.data_to_send() == b""
    assert session.receive_data(SHORT_BANNER) == []
    assert (session.state, session.info.max_line) == (SessionState.JOINING, 1_000)
    assert session.receive_data(welcome(2, 3, seq=9)) == [Connected("me", 2, 3, 9)]
    assert (session.state, session.log.name, session.log.rank, session.log.clients) == (
        SessionState.JOINED,
        "me",
        2,
        3,
    )
    assert session.log.seq == 9


AUTH_BANNER = SHORT_BANNER.replace(b'"auth":false', b'"auth":true')


@pytest.mark.parametrize(("banner", "token"), [(AUTH_BANNER, b',"token":"secret"'), (SHORT_BANNER, b"")])
def test_a_token_waits_for_a_banner_that_asks_for_it(banner: bytes, token: bytes) -> None:
    session = Session()
    session.hello(name="me", token="secret")  # noqa: S106 - of a test
    bytewise(session, banner[:-1])
    assert session.data_to_send() == b""
    session.receive_data(banner[-1:])
    assert session.data_to_send() == b'HELLO {"proto":1,"name":"me"%s}\n' % token


@pytest.mark.parametrize("first", [b"BYE full x\n", b"SSH-2.0\n", b"INFO {}\n", b"PING\n", b"x" * 70_000])
def test_whatever_is_no_banner_gets_no_token(first: bytes) -> None:
    session = Session()
    session.hello(token="secret")  # noqa: S106 - of a test
    session.receive_data(first + AUTH_BANNER)
    session.receive_data(AUTH_BANNER)
    assert session.data_to_send() == b""


@pytest.mark.parametrize(
    "data", [b"BYE full all 8 places are taken\n", SHORT_BANNER + b"BYE full all 8 places are taken\n"]
)
def test_a_server_may_refuse_us(data: bytes) -> None:
    session = Session()
    assert session.receive_data(data) == [Disconnected("full", "all 8 places are taken")]
    assert session.state is SessionState.OVER


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
def test_another_kind_of_server_is_recognized(said: bytes, shown: str) -> None:
    assert bytewise(Session(), said) == [Disconnected("", f"this is not a rankserver: it says {shown}")]


def test_an_endless_line_does_not_use_up_memory() -> None:
    session = Session()
    chunk = b"x" * (1 << 20)
    happened = [event for _ in range(17) for event in session.receive_data(chunk)]
    assert [type(event) for event in happened] == [Disconnected]


def test_another_protocol_version_is_reported() -> None:
    banner = SHORT_BANNER.replace(b'"proto":1', b'"proto":2')
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
    session.result(2, Outcome("fail", {"code": 3}))
    assert session.data_to_send() == b'RES 2 fail {"code":3}\n'


def test_commands_of_lower_ranks_are_refused_and_asks_answered() -> None:
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
    assert session.data_to_send() == b"CMD df\nWHO\nASK uptime\n"
    assert session.receive_data(b"CMD 1 1 df\nASK 2 1 uptime\n") == [
        Sent(1, "df", wants_answer=False, targets=2),
        Sent(2, "uptime", wants_answer=True, targets=2),
    ]


def test_events_have_the_rank_at_their_place_in_the_log() -> None:
    session = joined(2, 3)
    log = b"CMD 1 1 a\nLEFT 2 0\nCMD 3 0 b\nLEFT 4 0\nJOIN 5 1\nCMD 6 1 c\n"
    assert session.receive_data(log) == [
        Execute(1, 1, "a", False, 2, "me"),
        RankChanged(1, 2, 2),
        Execute(3, 0, "b", False, 1, "me"),
        RankChanged(0, 1, 4),
        ClientsChanged(2, 5),
        Refused(6, 1, "c"),
    ]
    assert (session.log.rank, session.log.clients, session.log.seq) == (0, 2, 6)


def test_newcomers_may_rank_before_us() -> None:
    session = joined(1, 3)
    assert session.receive_data(b"JOIN 1 0,2,5\n") == [RankChanged(3, 6, 1)]


def test_frames_of_a_later_version_are_ignored() -> None:
    assert joined(0, 1).receive_data(b"NEWS 1 {}\nPONG\nJOIN 1 1\n") == [ClientsChanged(2, 1)]


def test_ping_is_answered() -> None:
    session = joined(0, 1)
    assert session.receive_data(b"PING\nPING are you there\n") == []
    assert session.data_to_send() == b"PONG\nPONG are you there\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"CMD 2 0 x\n", "expected log frame 1, got 2"),
        (b"JOIN 1 3\nJOIN 1 4\n", "expected log frame 2, got 1"),
        (b"CMD 1 3 x\n", "a command from rank 3, but the number of clients is 3"),
        (b"CMD 1 1 x\n", "log frame 1 is from us, but we sent no command"),
        (b"JOIN 1 4\n", "JOIN has rank 4, but makes the number of clients 4"),
        (b"LEFT 1 3\n", "LEFT has rank 3, but this is rank 1 of 3"),
        (b"LEFT 1 0-1\n", "LEFT has rank 1, but this is rank 1 of 3"),
        (b"JOIN 1 3-999999\nJOIN 2 0\n", "JOIN makes the number of clients 1000001, more than 1000000"),
        (b"RES 1 3 a ok\n", "RES from rank 3, but the number of clients is 3"),
        (b'ROSTER {"total":3,"from":1,"clients":[]}\n', "expected ROSTER from rank 0 on, got it from 1 on"),
        (welcome(0, 1), "a second WELCOME"),
        (b"CMD x\n", "expected 3 words, got 'x'"),
        (b"CMD 1 0 \xff\n", "the byte at offset 8 is not valid UTF-8"),
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
        (welcome(0, grammar.MAX_CLIENTS + 1), "WELCOME with rank 0 of 1000001"),
        (b"JOIN 1 0\n", "a log frame before WELCOME"),
    ],
)
def test_a_server_that_breaks_the_protocol_early_is_left(data: bytes, words: str) -> None:
    assert Session().receive_data(SHORT_BANNER + data) == [
        Disconnected("", f"the server broke the protocol: {words}")
    ]


def test_what_came_before_the_protocol_was_broken_counts() -> None:
    session = joined(1, 3)
    first, *_ = session.receive_data(b"CMD 1 0 x\nCMD 3 0 y\n")
    assert first == Execute(1, 0, "x", False, 1, "me")


# --- what the server rejects, and the roster ---


def test_a_rejected_command_is_named() -> None:
    session = joined(0, 1)
    session.ask("a")
    session.ask("b")
    assert session.receive_data(b"ERR bad-frame no such luck\nASK 1 0 b\n")[:2] == [
        Rejected("bad-frame", "no such luck", "a"),
        Sent(1, "b", wants_answer=True, targets=0),
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
    members = [frames.RosterEntry(i, f"web-{i}", i // 20) for i in range(50)]
    for receive in (Session.receive_data, bytewise):
        session = joined(0, 50)
        session.who()
        assert session.data_to_send() == b"WHO\n"
        first, *rest = list(protocol.roster(members, 300))
        assert receive(session, first) == []
        (received,) = receive(session, b"".join(rest))
        assert received == RosterReceived(tuple(members))


# --- what may not be sent ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the command is empty"),
        ("a\x1bb", "control character U+001B at position 1; only TAB is allowed"),
        ("x" * 1_000, "the line is 1005 bytes long; the limit is 1000"),
    ],
)
def test_a_command_that_may_not_be_sent_has_no_effect(text: str, words: str) -> None:
    session = joined(0, 1)
    for send in (session.ask, session.cmd):
        with pytest.raises(LocalProtocolError) as caught:
            send(text)
        assert caught.value.text == words
    assert session.unsent == 0
    # It takes no seq or slot either.
    assert isinstance(session.receive_data(b"CMD 1 0 fine\n")[0], Disconnected)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome("ok", {"reason": "x" * 1_000}), "the result is 1023 bytes long; the limit is 1000"),
        (
            Outcome("ok", {"reason": "x" * 1_000, "out": "y"}),
            "the result is 1049 bytes long; the limit is 1000",
        ),
        (Outcome("done"), "status 'done' is not one of ok, fail, refused, denied, timeout"),
        (Outcome("ok\nBYE"), r"status 'ok\\nBYE' is not one of ok, fail, refused, denied, timeout"),
        (Outcome("ok", {"ms": float("nan")}), "the detail is not a JSON object: bad JSON: NaN is not JSON"),
        (Outcome("ok", {"out": b"x"}), "the detail is not a JSON object: Object of type bytes is not"),
        (Outcome("ok", ["x"]), "the detail is not a JSON object: "),  # type: ignore[arg-type]
    ],
)
def test_a_result_that_the_server_would_reject_has_no_effect(outcome: Outcome, words: str) -> None:
    session = joined(1, 2)
    with pytest.raises(LocalProtocolError, match=words):
        session.result(1, outcome)
    assert session.unsent == 0


def test_any_mapping_may_be_the_detail_of_a_result() -> None:
    session = joined(1, 2)
    session.result(1, Outcome("ok", MappingProxyType({"out": "x"})))
    assert session.data_to_send() == b'RES 1 ok {"out":"x"}\n'


TEXTS = st.text(st.sampled_from('a"\\\n\x1b\x7fé€😀\ud83d\ude00'), min_size=100, max_size=400)


@given(TEXTS | st.text(min_size=200, max_size=2_000), st.sampled_from([{}, {"code": 1, "truncated": False}]))
def test_an_output_is_cut_to_what_fits(out: str, detail: Mapping[str, object]) -> None:
    session = joined(1, 2)
    session.result(1, Outcome("fail", {**detail, "out": out}))
    line = session.data_to_send()
    assert grammar.text_problem(line.decode().removesuffix("\n")) is None
    assert len(line) <= 1_000
    fields = json.loads(line.removeprefix(b"RES 1 fail "))
    # Two surrogates become one character, and a single one becomes U+FFFD.
    whole = out.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if len(protocol.result(1, "fail", {**detail, "out": out})) <= 1_000:
        assert fields == {**detail, "out": whole}
        return
    assert fields == {**detail, "out": fields["out"], "truncated": True}
    longest = len("\\u001b") + len(',"truncated":true')
    # No more than necessary is cut.
    assert len(line) >= 1_000 - longest
    kept = fields["out"]
    # The cut may go through two surrogates.
    assert whole.startswith(kept) or (kept[-1] == "\ufffd" and whole.startswith(kept[:-1]))


@pytest.mark.parametrize(
    ("character", "bytes_each"),
    [("a", 1), ("ü", 2), ("€", 3), ("😀", 4), ('"', 2), ("\x1b", 6), ("\x9b", 6)],
)
def test_output_fills_the_line_up_to_its_limit(character: str, bytes_each: int) -> None:
    session = joined(1, 2)
    room = 1_000 - len(b'RES 1 ok {"out":""}\n')
    session.result(1, Outcome("ok", {"out": character * (room // bytes_each)}))
    assert "truncated" not in json.loads(session.data_to_send().removeprefix(b"RES 1 ok "))
    session.result(1, Outcome("ok", {"out": character * 1_000}))
    kept = (room - len(',"truncated":true')) // bytes_each
    fields = json.loads(session.data_to_send().removeprefix(b"RES 1 ok "))
    assert fields == {"out": character * kept, "truncated": True}


def test_nothing_can_be_sent_before_joining_or_after_the_end() -> None:
    early, late = Session(), joined(0, 1)
    late.receive_eof()
    for session in (early, late):
        calls = (
            lambda s: s.ask("x"),
            lambda s: s.cmd("x"),
            Session.who,
            lambda s: s.result(1, Outcome("ok")),
        )
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


@pytest.mark.parametrize(
    "before", [b"", SHORT_BANNER, SHORT_BANNER + welcome(0, 1), SHORT_BANNER + welcome(0, 1) + b"JOIN 1"]
)
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
