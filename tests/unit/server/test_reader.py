"""The reader over a real log: the input that it hands over, logs, keeps and refuses.

Its handler knows no frames, which shows that a loop needs no server.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankserver import loop
from rankserver.channel import NO_MEMORY, Blocker, Channel, ChannelState, Wait
from rankserver.clist import Cursor
from rankserver.wire import codes, protocol
from tests.support.conversation import MAX_LINE, Conversation
from tests.support.memory import no_memory
from tests.support.turns import READ_SIZE

# The most bytes that are kept from a client before it joins.
FRESH_BYTES: Final = 64 * 1024
HELLO: Final = b'HELLO {"name":"web-1"}'


@pytest.fixture
def two_lines_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_COST", 2)
    monkeypatch.setattr(loop, "MIN_COST", 1)


@pytest.fixture
def a_line_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_COST", 1)
    monkeypatch.setattr(loop, "MIN_COST", 1)


@pytest.fixture
def talk() -> Iterator[Conversation]:
    with Conversation() as talk:
        yield talk


@pytest.fixture
def joined(talk: Conversation) -> Conversation:
    talk.feed(HELLO + b"\n")
    talk.join()
    talk.lines.clear()
    return talk


def is_too_long(talk: Conversation) -> bool:
    return talk.error is not None and talk.error.code == codes.TOO_LONG and not talk.lines


# --- handshake --------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", b"\n", b"\r\n\n\r\n", b"\n" * 70_000])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_the_first_line_that_is_not_empty_is_handed_over(
    before: bytes, ending: bytes, talk: Conversation
) -> None:
    talk.feed(before + HELLO + ending)
    assert talk.lines == [HELLO]


def test_the_first_line_may_come_in_pieces(talk: Conversation) -> None:
    for piece in (b"\nHE", b"LLO", b' {"name":"web', b'-1"}', b"\r"):
        talk.feed(piece)
        assert talk.lines == []
    talk.feed(b"\n")
    assert talk.lines == [HELLO]


def test_a_single_cr_is_part_of_the_line(talk: Conversation) -> None:
    talk.feed(b"\r\rHELLO\n")
    assert talk.lines == [b"\r\rHELLO"]


def test_nothing_is_logged_before_the_join(talk: Conversation) -> None:
    talk.feed(b"CMD early\n")
    assert talk.lines == [b"CMD early"]
    assert talk.logged() == []


# --- joining ----------------------------------------------------------------------------------


def test_a_joining_channel_is_not_read(talk: Conversation) -> None:
    talk.feed(HELLO + b"\n")
    assert not talk.channel.wants_read
    talk.join()
    assert talk.channel.wants_read


def test_lines_behind_the_hello_are_handled_after_the_join(
    talk: Conversation,
) -> None:
    talk.feed(HELLO + b"\nCMD a\nWHO\r\n\nCMD b\nPI")
    talk.feed(b"NG x\nCMD c")
    assert talk.lines == [HELLO]
    assert talk.logged() == []
    talk.join()
    assert talk.lines == [HELLO, b"WHO", b"PING x"]
    assert talk.logged() == [b"CMD 1 1 a", b"CMD 2 1 b"]
    talk.feed(b"\n")
    assert talk.logged() == [b"CMD 3 1 c"]


def test_it_is_not_read_until_the_join_and_then_all_comes(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MIN_READ_BYTES", 40)
    # This leaves something in the socket.
    talk.loop.reader.budget = 40
    talk.feed(HELLO + b"\n" + b"".join(b"CMD %d\n" % number for number in range(1, 100)))
    assert talk.lines == [HELLO]
    talk.join()
    assert talk.logged() == [b"CMD %d 1 %d" % (number, number) for number in range(1, 100)]


def test_input_kept_until_the_join_may_exceed_a_line(talk: Conversation) -> None:
    talk.feed(HELLO + b"\n" + b"CMD a\n" * MAX_LINE)
    talk.join()
    assert len(talk.logged()) == MAX_LINE
    assert talk.error is None


def test_a_leave_that_was_pipelined_ends_the_conversation(talk: Conversation) -> None:
    talk.feed(HELLO + b"\nCMD a\nBYE\nCMD b\nWHO\n")
    talk.join()
    assert talk.lines == [HELLO, b"BYE"]
    assert talk.logged() == [b"CMD 1 1 a"]


# --- joined -----------------------------------------------------------------------------------


def test_commands_are_logged_and_other_lines_handed_over(joined: Conversation) -> None:
    joined.feed(b"CMD a\nCMD b\nASK c\n\nCMD\nCMD d\r\nCMD \x00\n")
    assert joined.lines == [b"ASK c", b"CMD", b"CMD \x00"]
    assert joined.logged() == [b"CMD 1 1 a", b"CMD 2 1 b", b"CMD 3 1 d"]


def test_a_line_handed_over_stands_between_its_neighbours(
    joined: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[tuple[bytes, list[bytes]]] = []

    def on_line(_: Channel, line: bytes) -> Blocker:
        handled.append((line, joined.logged()))
        return None

    monkeypatch.setattr(joined.handler, "on_line", on_line)
    joined.feed(b"CMD a\nWHO\nCMD b\n")
    assert handled == [(b"WHO", [b"CMD 1 1 a"])]
    assert joined.logged() == [b"CMD 2 1 b"]


def test_a_line_in_pieces_is_joined_and_the_rest_handled(joined: Conversation) -> None:
    for piece in (b"CMD a\nCM", b"D ", b"b", b"\nCMD c\nWH", b"O\nCMD d\n"):
        joined.feed(piece)
    assert joined.lines == [b"WHO"]
    assert joined.logged() == [b"CMD %d 1 %s" % pair for pair in ((1, b"a"), (2, b"b"), (3, b"c"), (4, b"d"))]


def test_a_last_line_without_its_end_is_dropped(joined: Conversation) -> None:
    joined.feed(b"CMD a\nCMD b")
    assert joined.logged() == [b"CMD 1 1 a"]
    assert joined.lines == []


def test_a_leave_ends_the_conversation_within_a_piece(joined: Conversation) -> None:
    joined.feed(b"B")
    joined.feed(b"YE\nCMD b\nWHO\n")
    joined.feed(b"CMD c\n")
    assert joined.lines == [b"BYE"]
    assert joined.logged() == []


def test_input_is_discarded_while_closing(joined: Conversation) -> None:
    joined.feed(b"CMD a\nCMD half")
    joined.depart()
    # It is read to notice the end of the connection.
    assert joined.channel.wants_read
    joined.feed(b"x" * MAX_LINE)
    joined.feed(b"\nCMD b\nWHO\n")
    assert joined.error is None
    assert joined.lines == []
    assert joined.logged() == [b"CMD 1 1 a"]


# --- pauses -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("two_lines_a_turn")
def test_a_pause_defers_all_input(joined: Conversation) -> None:
    joined.feed(b"CMD a\nPING 1\nCMD b\nPING 2\nCMD c\nPING 3\nCMD d\nPI")
    joined.feed(b"NG 4\nCMD e\nPING 5\nCMD f\n")
    assert joined.is_paused
    assert joined.lines == [b"PING 1", b"PING 2"]
    assert joined.logged() == [b"CMD 1 1 a", b"CMD 2 1 b", b"CMD 3 1 c"]
    with pytest.raises(BlockingIOError):
        joined.channel.cursor.read(READ_SIZE)
    joined.loop.turn()
    assert joined.is_paused
    joined.loop.turn()
    assert joined.lines == [b"PING %d" % number for number in range(1, 6)]
    assert joined.logged() == [b"CMD %d 1 %c" % (seq, 0x60 + seq) for seq in range(4, 7)]
    assert not joined.is_paused


@pytest.mark.usefixtures("a_line_a_turn")
def test_it_may_be_paused_repeatedly(joined: Conversation) -> None:
    joined.feed(b"".join(b"PING %d\nCMD %d\n" % (number, number) for number in range(1, 101)))
    for number in range(1, 101):
        assert joined.is_paused == (number < 100)
        assert joined.lines.pop() == b"PING %d" % number
        assert joined.logged() == [b"CMD %d 1 %d" % (number, number)]
        joined.log.check()
        joined.loop.turn()
    assert joined.lines == []


@pytest.mark.usefixtures("a_line_a_turn")
@pytest.mark.parametrize("rest", [b"", b"CM"])
def test_a_pause_before_the_last_line_loses_nothing(rest: bytes, joined: Conversation) -> None:
    joined.feed(b"PING\nPING\n" + rest)
    assert joined.is_paused
    joined.loop.turn()
    assert not joined.is_paused
    joined.feed(b"CMD a\n"[len(rest) :])
    assert joined.lines == [b"PING", b"PING"]
    assert joined.logged() == [b"CMD 1 1 a"]


@pytest.mark.usefixtures("a_line_a_turn")
def test_a_client_that_departs_in_a_pause_is_heard_no_more(joined: Conversation) -> None:
    joined.feed(b"PING\nPING\nCMD a\nWHO\n")
    joined.depart()
    joined.feed(b"CMD b\nWHO\n")
    assert joined.lines == [b"PING"]
    assert joined.logged() == []


# --- waits ------------------------------------------------------------------------------------


def test_a_line_that_waits_comes_again_with_all_behind_it(joined: Conversation) -> None:
    joined.handler.blocker = joined.congested()
    joined.feed(b"CMD a\nWHO\nCMD b\nCM")
    assert joined.channel.waits_for is joined.handler.blocker
    assert not joined.channel.wants_read
    assert joined.logged() == [b"CMD 1 1 a"]
    assert joined.lines == []
    joined.theirs.send(b"D c\n")
    joined.loop.turn()
    assert joined.logged() == []
    joined.relieve(joined.handler.blocker)
    joined.handler.blocker = None
    joined.loop.turn()
    assert joined.lines == [b"WHO"]
    joined.read()
    assert joined.logged() == [b"CMD 2 1 b", b"CMD 3 1 c"]


def test_commands_are_handed_over_while_commands_wait(joined: Conversation) -> None:
    joined.loop.pace.is_under_pressure = joined.loop.pace.is_holding = True
    joined.feed(b"CMD a\nPING\n")
    assert joined.lines == [b"CMD a", b"PING"]
    assert joined.logged() == []


def test_another_channels_input_is_kept_apart(joined: Conversation) -> None:
    joined.handler.blocker = joined.congested()
    joined.feed(b"PING\nCMD a\n")
    joined.relieve(joined.handler.blocker)
    joined.handler.blocker = None
    other, theirs = joined.connect()
    theirs.send(b"HELLO other\nCMD b\n")
    assert joined.loop.reader.read(other, READ_SIZE)
    assert joined.lines == [b"HELLO other"]
    joined.loop.turn()
    assert joined.lines == [b"HELLO other", b"PING"]
    assert joined.logged() == [b"CMD 1 1 a"]


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["next_line", "keep"])
def test_without_memory_for_its_input_the_channel_departs(
    fails: str, joined: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined.handler.blocker = Wait.BACKLOG
    monkeypatch.setattr(Cursor, fails, no_memory)
    joined.feed(b"PING\n")
    assert joined.error == NO_MEMORY
    assert joined.state is ChannelState.LEAVING


def test_the_end_of_the_stream_is_told_once_and_not_read(joined: Conversation) -> None:
    joined.feed(b"CMD a\nCMD b")
    joined.theirs.shutdown(socket.SHUT_WR)
    joined.read()
    assert joined.handler.ended == "connection closed"
    assert joined.logged() == [b"CMD 1 1 a"]
    assert not joined.channel.wants_read


def test_a_reset_is_an_end(joined: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(_: Cursor, __: int) -> int:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(Cursor, "read", reset)
    joined.feed(b"CMD a\n")
    assert joined.handler.ended == "Connection reset by peer"


# --- lines that are too long ------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"CMD ", b"ASK "])
@pytest.mark.parametrize("sizes", [[MAX_LINE], [1, MAX_LINE - 1], [MAX_LINE - 1, 1], [1] * MAX_LINE])
@pytest.mark.parametrize("excess", [0, 1])
def test_a_line_may_have_max_line_bytes_however_it_is_cut(
    start: bytes, sizes: list[int], excess: int, joined: Conversation
) -> None:
    data = start.ljust(MAX_LINE - 1 + excess, b"x") + b"\n"
    at = 0
    for size in (*sizes, 1):
        joined.feed(data[at : at + size])
        at += size
    if excess:
        assert is_too_long(joined)
        assert joined.logged() == []
    else:
        assert joined.error is None
        assert len(joined.lines) + len(joined.logged()) == 1


def test_input_before_a_line_that_is_too_long_counts(joined: Conversation) -> None:
    joined.feed(b"CMD a\n" + b"x" * MAX_LINE + b"\nCMD b\n")
    assert is_too_long(joined)
    assert joined.logged() == [b"CMD 1 1 a"]


def test_a_line_that_is_too_long_is_not_waited_for(joined: Conversation) -> None:
    joined.feed(b"x" * (MAX_LINE - 1))
    assert joined.error is None
    joined.feed(b"x")
    assert is_too_long(joined)


@pytest.mark.parametrize("excess", [0, 1])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_hello_may_have_max_line_bytes(excess: int, pieces: int, talk: Conversation) -> None:
    line = HELLO.ljust(MAX_LINE - 1 + excess)
    if pieces == 1:
        talk.feed(line + b"\n")
    else:
        talk.feed(line)
        talk.feed(b"\n")
    assert is_too_long(talk) == bool(excess)
    assert talk.lines == ([] if excess else [line])


def test_a_pipelined_line_that_is_too_long_is_found_in_its_turn(talk: Conversation) -> None:
    talk.feed(HELLO + b"\nCMD a\n" + b"x" * MAX_LINE + b"\n")
    assert talk.error is None
    talk.join()
    assert talk.logged() == [b"CMD 1 1 a"]
    assert talk.error is not None
    assert talk.error.code == codes.TOO_LONG


def test_the_message_names_the_limit(joined: Conversation) -> None:
    joined.feed(b"x" * MAX_LINE)
    assert joined.error is not None
    assert joined.error.text == "a line is longer than 256 bytes"


# --- bounds -----------------------------------------------------------------------------------


def test_before_the_join_a_bounded_amount_is_read() -> None:
    with Conversation(16 * FRESH_BYTES) as talk:
        talk.feed(b"x" * 1000)
        talk.feed(b"x" * (FRESH_BYTES - 1001))
        assert talk.error is None
        talk.feed(b"x")
        assert is_too_long(talk)
        assert talk.error is not None
        assert talk.error.text == f"a line is longer than {FRESH_BYTES} bytes"


def test_a_member_has_room_for_the_longest_line() -> None:
    with Conversation(protocol.MAX_MAX_LINE) as talk:
        talk.feed(HELLO + b"\n")
        talk.join()
        text = b"x" * (protocol.MAX_MAX_LINE - len(b"CMD \n"))
        talk.feed(b"CMD " + text + b"\nWHO\n")
        assert talk.error is None
        assert talk.lines == [HELLO, b"WHO"]
        assert talk.watcher.lag() == len(b"CMD 1 1 \n") + len(text)


# --- whole and byte by byte -------------------------------------------------------------------

LINE: Final = st.one_of(
    st.sampled_from(
        [b"", b"\r", b"WHO", b"PING \xff", b"CMD", b"CMD ", b"CMD a\x00", b"BYE", b"x" * MAX_LINE]
    ),
    st.text(max_size=20).map(lambda text: b"CMD " + text.encode()),
    st.integers(0, MAX_LINE).map(lambda size: b"CMD " + b"x" * size),
    st.binary(max_size=8),
)


def outcome(data: bytes, sizes: list[int]) -> tuple[list[bytes], list[bytes], str | None, ChannelState]:
    """Return the result of reading ``data`` in pieces of these sizes, which repeat."""
    with Conversation() as talk:
        logged: list[bytes] = []
        at = turn = 0
        while at < len(data):
            size = sizes[turn % len(sizes)]
            talk.feed(data[at : at + size])
            if talk.state is ChannelState.JOINING:
                talk.join()
            logged += talk.logged()
            at += size
            turn += 1
        return talk.lines, logged, talk.error.code if talk.error else None, talk.state


@given(
    lines=st.lists(LINE, max_size=12),
    ending=st.sampled_from([b"\n", b"\r\n", b""]),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_how_the_bytes_are_cut_makes_no_difference(
    lines: list[bytes], ending: bytes, sizes: list[int]
) -> None:
    data = HELLO + b"\n" + b"\n".join(lines) + ending
    whole = outcome(data, [len(data)])
    assert outcome(data, [1]) == whole
    assert outcome(data, sizes) == whole


def test_many_commands_byte_by_byte_are_logged_in_order(joined: Conversation) -> None:
    data = b"".join(b"CMD %d\n" % number for number in range(1, 1001))
    logged: list[bytes] = []
    for byte in data:
        joined.feed(bytes([byte]))
        if byte == ord("0"):
            logged += joined.logged()
    logged += joined.logged()
    assert logged == [b"CMD %d 1 %d" % (number, number) for number in range(1, 1001)]
    assert joined.lines == []
