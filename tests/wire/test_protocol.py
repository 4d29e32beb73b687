from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rankserver.wire import codes, grammar, protocol
from rankserver.wire.exceptions import LocalProtocolError, RemoteProtocolError
from rankserver.wire.frames import (
    AnswerFrame,
    ByeFrame,
    ClientFrame,
    CommandFrame,
    DroppedFrame,
    ErrFrame,
    Hello,
    InfoFrame,
    JoinFrame,
    Leave,
    LeftFrame,
    Ping,
    Pong,
    Result,
    Resume,
    RosterEntry,
    RosterFrame,
    ServerFrame,
    Submit,
    WelcomeFrame,
    Who,
)
from tests.support.pieces import cut

NAME_CHARACTERS = "ABCXYZabcxyz0189._:@-"

# Text that the text rule allows.
texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.just("\t"), min_size=1, max_size=40)
names = st.text(NAME_CHARACTERS, min_size=1, max_size=64)
numbers = st.integers(0, 10**grammar.MAX_NUMBER_DIGITS - 1)
details = st.dictionaries(texts, st.none() | st.booleans() | st.integers(-99, 99) | st.text(), max_size=3)
rank_sets = st.sets(st.integers(0, 3_000), min_size=1).map(sorted)


# --- the text rule ---


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_no_control_character_but_tab_is_allowed(code: int) -> None:
    problem = grammar.text_problem(f"ab{chr(code)}c")
    if chr(code) == "\t":
        assert problem is None
    else:
        assert problem == f"control character U+{code:04X} at position 2; only TAB is allowed"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"CMD a\x1bb", "control character U+001B at position 5"),
        (b"CMD \xc2\x85", "control character U+0085 at position 4"),
        (b"CMD \xe2\x80\xa8\xc4\x80\t\xc2\x9f", "control character U+009F at position 7"),
        (b"CMD \xff", "the byte at offset 4 is not valid UTF-8"),
        (b"CMD \xed\xa0\x80", "the byte at offset 4 is not valid UTF-8"),
        (b"CMD \xc3", "the byte at offset 4 is not valid UTF-8"),
    ],
)
@pytest.mark.parametrize("parse", [protocol.parse_client_line, protocol.parse_server_line])
def test_both_sides_reject_what_breaks_the_text_rule(
    parse: Callable[[bytes], object], line: bytes, words: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=re.escape(words)) as caught:
        parse(line)
    assert caught.value.code == "bad-frame"


@pytest.mark.parametrize("name", ["a", "web-1", "A.b_C:d@e-9", "x" * 64])
def test_names_of_the_allowed_characters_pass(name: str) -> None:
    assert grammar.is_name(name)


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "ü", "a\n", "a/b", "\u0661"])
def test_other_names_are_refused(name: str) -> None:
    assert not grammar.is_name(name)


@given(st.text(max_size=200))
def test_a_shown_value_is_short_ascii_on_one_line(text: str) -> None:
    assert len(grammar.shown(text)) <= 10 * grammar.MAX_SHOWN + 5
    assert grammar.shown(text).isascii()
    assert grammar.text_problem(grammar.shown(text)) is None


# --- what a client sends ---


def from_client(frame: bytes) -> ClientFrame:
    """Parse a frame after checking that it is one line, whole or byte by byte."""
    assert cut(frame, bytewise=False) == cut(frame, bytewise=True) == [frame[:-1]]
    return protocol.parse_client_line(frame[:-1])


@given(texts, st.booleans())
@example(" two  spaces ", True)
@example("CMD x", False)
def test_a_command_comes_through_unchanged(text: str, wants_answer: bool) -> None:
    frame = protocol.submit(text, wants_answer=wants_answer)
    assert from_client(frame) == Submit(text, wants_answer)


@given(st.none() | names, st.none() | texts)
def test_hello_comes_through_unchanged(name: str | None, token: str | None) -> None:
    assert from_client(protocol.hello(name=name, token=token)) == Hello(name=name, token=token)


@given(numbers, st.sampled_from(codes.STATUSES), st.none() | details)
def test_a_result_comes_through_unchanged(seq: int, status: str, detail: dict[str, object] | None) -> None:
    result = from_client(protocol.result(seq, status, detail))
    assert isinstance(result, Result)
    assert (result.seq, result.status) == (seq, status)
    assert (json.loads(result.detail) if result.detail else None) == detail


def test_json_is_utf_8_except_where_a_line_cannot_have_it() -> None:
    out = "aä€😀\u2028\t\n\x1b\x7f\x9f"
    frame = protocol.result(1, "ok", {"out": out})
    assert frame == 'RES 1 ok {"out":"aä€😀\u2028\\t\\n\\u001b\\u007f\\u009f"}\n'.encode()
    result = from_client(frame)
    assert isinstance(result, Result)
    assert json.loads(result.detail) == {"out": out}


@given(texts)
def test_ping_and_pong_come_through_unchanged(text: str) -> None:
    assert (
        from_client(protocol.ping(text)) == protocol.parse_server_line(f"PING {text}".encode()) == Ping(text)
    )
    assert (
        from_client(protocol.pong(text)) == protocol.parse_server_line(f"PONG {text}".encode()) == Pong(text)
    )


def test_frames_without_arguments_come_through() -> None:
    assert from_client(protocol.who()) == Who()
    assert from_client(protocol.leave()) == Leave()
    assert from_client(protocol.ping()) == Ping("")
    assert from_client(protocol.pong()) == Pong("")


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        (b"HELLO", Hello()),
        (b"HELLO ", Hello()),
        (b"HELLO {}", Hello()),
        (b'HELLO {"later":[1],"name":"a"}', Hello(name="a")),
        (b'HELLO {"resume":{"session":"s","seq":0}}', Hello(resume=Resume("s", 0))),
        (b'RES 1 ok \t{"a": 1} ', Result(1, "ok", '\t{"a": 1} ')),
        (b"WHO whatever", Who()),
    ],
)
def test_lenient_forms_are_understood(line: bytes, frame: ClientFrame) -> None:
    assert protocol.parse_client_line(line) == frame


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"CMD", "CMD needs a command"),
        (b"ASK ", "ASK needs a command"),
        (b"cmd x", "unknown verb of 3 characters"),
        (b" CMD x", "unknown verb of 0 characters"),
        (b"JOIN 1 2", "unknown verb of 4 characters"),
        (b"RES", "seq is not a number"),
        (b"RES 1", "status is not one of ok, fail, refused, denied, timeout"),
        (b"RES 1 done", "status is not one of ok"),
        (b"RES -1 ok", "seq is not a number of at most 19 digits"),
        (b"RES 12345678901234567890 ok", "is not a number"),
        ("RES \u0661 ok".encode(), "is not a number"),
        (b"RES 1 ok []", "expected one object"),
        (b"RES 1 ok {", "bad JSON"),
        (b'RES 1 ok {"a":NaN}', "NaN is not JSON"),
        (b"RES 1 ok {} {}", "bad JSON: more text behind it at position 2"),
        (b"HELLO " + b'{"a":' * 100_000, "bad JSON"),
        (b"HELLO 1", "expected one object"),
        (b'HELLO {"proto":2}', "this server speaks only protocol 1"),
        (b'HELLO {"proto":true}', "this server speaks only protocol 1"),
        (b'HELLO {"name":"a b"}', "name is not 1 to 64 characters"),
        (b'HELLO {"name":1}', "name is not 1 to 64 characters"),
        (b'HELLO {"token":1}', "token is not a string"),
        (b'HELLO {"resume":{"session":"s"}}', "resume needs a session and a seq"),
        (b'HELLO {"resume":{"session":"s","seq":-1}}', "resume needs"),
        (b'HELLO {"resume":1}', "resume needs"),
    ],
)
def test_bad_lines_from_a_client_are_named(line: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=re.escape(words)) as caught:
        protocol.parse_client_line(line)
    assert caught.value.code == "bad-frame"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", "bad-frame", "the command is empty"),
        ("a\x1b[2J", "bad-frame", "control character U+001B at position 1; only TAB is allowed"),
        ("a\nb", "bad-frame", "U+000A at position 1"),
        ("\ud800", "bad-frame", "not valid Unicode"),
        ("ü" * 6, "too-long", "the line is 17 bytes long; the limit is 16"),
    ],
)
def test_a_bad_command_is_refused_before_it_is_sent(text: str, code: str, words: str) -> None:
    with pytest.raises(LocalProtocolError, match=re.escape(words)) as caught:
        protocol.submit(text, wants_answer=True, max_line=16)
    assert caught.value.code == code


def test_a_command_may_fill_the_line_to_the_last_byte() -> None:
    assert len(protocol.submit("x" * 11, wants_answer=False, max_line=16)) == 16


def test_a_bad_name_is_refused_before_it_is_sent() -> None:
    with pytest.raises(LocalProtocolError, match="name 'a b' is not 1 to 64"):
        protocol.hello(name="a b")


# --- what the server sends ---


def from_server(frame: bytes) -> ServerFrame | None:
    """Parse a frame after checking that it is one line, whole or byte by byte."""
    assert (
        cut(frame, bytewise=False, max_line=100_000)
        == cut(frame, bytewise=True, max_line=100_000)
        == [frame[:-1]]
    )
    return protocol.parse_server_line(frame[:-1])


@given(st.builds(InfoFrame, numbers, texts, numbers, st.booleans(), numbers))
def test_info_comes_through_unchanged(frame: InfoFrame) -> None:
    assert from_server(protocol.info(frame)) == frame


@given(st.builds(WelcomeFrame, numbers, numbers, numbers, names, texts, st.floats(0, 1e6), numbers))
def test_welcome_comes_through_unchanged(frame: WelcomeFrame) -> None:
    assert from_server(protocol.welcome(frame)) == frame


@given(numbers, numbers, names, st.sampled_from(codes.STATUSES), st.none() | details)
def test_an_answer_comes_through_unchanged(
    seq: int, rank: int, name: str, status: str, detail: dict[str, object] | None
) -> None:
    result = Result(seq, status, "" if detail is None else json.dumps(detail))
    assert from_server(protocol.answer(rank, name, *result)) == AnswerFrame(
        seq, rank, name, status, detail or {}
    )


@given(numbers)
def test_a_forgotten_ask_comes_through_unchanged(seq: int) -> None:
    assert from_server(protocol.dropped(seq)) == DroppedFrame(seq)


@given(st.sampled_from(["full", "auth", "slow"]), texts)
def test_err_and_bye_come_through_unchanged(code: str, text: str) -> None:
    assert from_server(protocol.err(code, text)) == ErrFrame(code, text)
    assert from_server(protocol.bye(code, text)) == ByeFrame(code, text)


@given(numbers, st.integers(0, 10**6), texts)
def test_log_frames_are_understood(seq: int, rank: int, text: str) -> None:
    assert from_server(f"CMD {seq} {rank} {text}\n".encode()) == CommandFrame(
        seq, rank, text, wants_answer=False
    )
    assert from_server(f"ASK {seq} {rank} {text}\n".encode()) == CommandFrame(
        seq, rank, text, wants_answer=True
    )
    assert from_server(b"JOIN %d 0,2-4\n" % seq) == JoinFrame(seq, [range(1), range(2, 5)])
    assert from_server(b"LEFT %d 7\n" % seq) == LeftFrame(seq, [range(7, 8)])


def test_verbs_of_a_later_version_are_no_error() -> None:
    assert protocol.parse_server_line(b"NEWS 1 2 3") is None


def test_fields_of_a_later_version_are_ignored() -> None:
    line = b'INFO {"proto":1,"server":"s","max_line":9,"auth":false,"capacity":8,"later":{}}'
    assert protocol.parse_server_line(line) == InfoFrame(1, "s", 9, auth=False, capacity=8)


INFO_FIELDS = {"proto": 1, "server": "s", "max_line": 9, "auth": False, "capacity": 8}
WELCOME_FIELDS = {"rank": 0, "clients": 1, "seq": 0, "name": "a", "session": "s", "heartbeat": 30}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"CMD 1 2", "expected 3 words"),
        (b"ASK x 2 t", "seq is not a number"),
        (b"CMD 1 x t", "rank is not a number"),
        (b"JOIN 1", "expected 2 words"),
        (b"LEFT 1 ", "rank is not a number"),
        (b"RES 1 2 name", "expected 4 words"),
        (b"RES 1 2 na/me ok", "name is not 1 to 64"),
        (b"RES 1 2 name good", "status is not one of"),
        (b"RES 1 2 name ok {", "bad JSON"),
        (b"DROPPED", "seq is not a number"),
        (b"DROPPED 1 2", "seq is not a number"),
        (b"INFO", "bad JSON"),
        (b"INFO []", "expected one object"),
        (b"WELCOME {}", "WELCOME has no rank"),
        (b'ROSTER {"total":1,"from":0,"clients":[{"rank":0}]}', "ROSTER has no name"),
        (b'ROSTER {"total":1,"from":0,"clients":[1]}', "clients is not a list of objects"),
        (b'ROSTER {"total":1,"from":0,"clients":{}}', "clients is not a list of objects"),
        (b'ROSTER {"total":1,"from":0,"clients":[{"rank":0,"name":"\\u001b[2J"}]}', "is not 1 to 64"),
    ],
)
def test_bad_lines_from_a_server_are_named(line: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=re.escape(words)):
        protocol.parse_server_line(line)


@pytest.mark.parametrize(
    ("verb", "fields", "change"),
    [
        ("INFO", INFO_FIELDS, {"max_line": "9"}),
        ("INFO", INFO_FIELDS, {"capacity": -1}),
        ("INFO", INFO_FIELDS, {"proto": True}),
        ("INFO", INFO_FIELDS, {"proto": 10**30}),
        ("INFO", INFO_FIELDS, {"server": 1}),
        ("INFO", INFO_FIELDS, {"auth": "false"}),
        ("WELCOME", WELCOME_FIELDS, {"rank": 0.5}),
        ("WELCOME", WELCOME_FIELDS, {"seq": None}),
        ("WELCOME", WELCOME_FIELDS, {"name": "\x1b[2J"}),
        ("INFO", INFO_FIELDS, {"server": [1]}),
        ("WELCOME", WELCOME_FIELDS, {"session": ["s"]}),
        ("WELCOME", WELCOME_FIELDS, {"class": 10**30}),
        ("WELCOME", WELCOME_FIELDS, {"heartbeat": "often"}),
        ("WELCOME", WELCOME_FIELDS, {"heartbeat": "nan"}),
        ("WELCOME", WELCOME_FIELDS, {"heartbeat": True}),
        ("WELCOME", WELCOME_FIELDS, {"heartbeat": -1}),
        ("WELCOME", WELCOME_FIELDS, {"heartbeat": float("nan")}),
        ("WELCOME", WELCOME_FIELDS, {"heartbeat": float("inf")}),
        ("WELCOME", WELCOME_FIELDS, {"heartbeat": 10**400}),
    ],
)
def test_fields_of_the_wrong_kind_are_rejected(
    verb: str, fields: dict[str, object], change: dict[str, object]
) -> None:
    assert protocol.parse_server_line(f"{verb} {json.dumps(fields)}".encode())
    with pytest.raises(RemoteProtocolError):
        protocol.parse_server_line(f"{verb} {json.dumps(fields | change)}".encode())


# --- ranks ---


@pytest.mark.parametrize(
    ("text", "ranks"),
    [("0", [0]), ("0,3,7-9", [0, 3, 7, 8, 9]), ("4-4", [4]), ("999999", [999_999])],
)
def test_ranks_and_ranges_are_understood(text: str, ranks: list[int]) -> None:
    assert parsed_ranks(text) == ranks


def parsed_ranks(text: str) -> list[int]:
    return list(chain.from_iterable(grammar.parse_ranks(text)))


@pytest.mark.parametrize(
    "text",
    ["", ",", "1,", "3,1", "1,1", "1-3,3", "3-1", "-1", "1-", "1--2", "1-2-3", "1 ,2", "a", "0-999999999999"],
)
def test_other_lists_of_ranks_are_rejected(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        grammar.parse_ranks(text)


@given(rank_sets, st.integers(9, 60))
def test_split_lists_of_ranks_fit_and_join_to_the_whole(ranks: list[int], most: int) -> None:
    pieces = protocol.rank_lists(ranks, most)
    assert all(len(piece) <= most for piece in pieces)
    assert [rank for piece in pieces for rank in parsed_ranks(piece.decode())] == ranks


@given(rank_sets)
def test_a_list_of_ranks_that_fits_is_whole_and_uses_ranges(ranks: list[int]) -> None:
    (piece,) = protocol.rank_lists(ranks, 10**6)
    ends = sum(rank - 1 not in ranks for rank in ranks)
    assert piece.count(b",") == ends - 1


def test_no_ranks_make_no_frame() -> None:
    assert protocol.rank_lists([], 100) == []


# --- the roster ---


@given(st.lists(st.tuples(names, numbers), max_size=60), st.integers(protocol.MIN_MAX_LINE, 2_000))
def test_a_split_roster_fits_and_joins_to_the_whole(roster: list[tuple[str, int]], max_line: int) -> None:
    everybody = [RosterEntry(rank, *member) for rank, member in enumerate(roster)]
    members: list[RosterEntry] = []
    for line in protocol.roster(everybody, max_line):
        assert len(line) <= max_line
        frame = protocol.parse_server_line(line[:-1])
        assert isinstance(frame, RosterFrame)
        assert (frame.total, frame.start) == (len(roster), len(members))
        members += frame.members
    assert members == everybody


def test_a_roster_of_a_few_is_one_frame() -> None:
    assert b"".join(protocol.roster([RosterEntry(0, "a"), RosterEntry(1, "b", 3)], 256)) == (
        b'ROSTER {"total":2,"from":0,"clients":'
        b'[{"rank":0,"name":"a","class":0},{"rank":1,"name":"b","class":3}]}\n'
    )


# --- the verbs ---

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()

CLIENT_ARGUMENTS: dict[str, dict[str, object]] = {
    "HELLO": {"name": "a"},
    "CMD": {"text": "ls", "wants_answer": False},
    "ASK": {"text": "ls", "wants_answer": True},
    "RES": {"seq": 1, "status": "ok"},
    "WHO": {},
    "PING": {"text": "x"},
    "PONG": {"text": "x"},
    "BYE": {},
}
SERVER_ARGUMENTS: dict[str, dict[str, object]] = {
    "INFO": {"frame": InfoFrame(1, "s", 256, auth=False, capacity=1)},
    "WELCOME": {"frame": WelcomeFrame(0, 1, 0, "a", "s", 30)},
    "RES": {"rank": 0, "name": "a", "seq": 1, "status": "ok", "detail": ""},
    "DROPPED": {"seq": 1},
    "ROSTER": {"members": [RosterEntry(0, "a")], "max_line": 256},
    "PING": {"text": "x"},
    "PONG": {"text": "x"},
    "ERR": {"code": "bad-frame", "text": "x"},
    "BYE": {"code": "slow", "text": "x"},
}
LOG_FRAMES = {"JOIN": b"JOIN 1 0", "LEFT": b"LEFT 1 0", "CMD": b"CMD 1 0 ls", "ASK": b"ASK 1 0 ls"}


def documented_verbs(heading: str) -> set[str]:
    """Return the verbs in the first column of the tables below a heading."""
    section = DOCUMENT.split(f"\n{heading}\n")[1].split("\n#")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {verb for cell in cells for verb in re.findall(r"`([A-Z]+)", cell)}


def test_each_documented_verb_has_a_row() -> None:
    from_server = documented_verbs("### Log frames (server → every client)")
    from_server |= documented_verbs("### Private frames (server → one client)")
    assert set(protocol.SERVER_VERBS) == from_server
    assert set(protocol.CLIENT_VERBS) == documented_verbs("## Client → server")


def built(row: protocol.Verb[Any], arguments: dict[str, object]) -> bytes:
    assert row.build
    lines = row.build(**arguments)
    return lines if isinstance(lines, bytes) else b"".join(lines)


@pytest.mark.parametrize("verb", protocol.CLIENT_VERBS)
def test_a_client_verb_parses_the_line_that_it_builds(verb: str) -> None:
    row = protocol.CLIENT_VERBS[verb]
    line = built(row, CLIENT_ARGUMENTS[verb])
    assert line.split()[0].decode() == verb
    assert type(protocol.parse_client_line(line.rstrip(b"\n"))) is row.frame


@pytest.mark.parametrize("verb", protocol.SERVER_VERBS)
def test_a_server_verb_parses_the_line_that_it_builds(verb: str) -> None:
    row = protocol.SERVER_VERBS[verb]
    assert (row.build is None) == (verb in LOG_FRAMES)
    line = built(row, SERVER_ARGUMENTS[verb]) if row.build else LOG_FRAMES[verb]
    assert line.split()[0].decode() == verb
    assert type(protocol.parse_server_line(line.rstrip(b"\n"))) is row.frame
