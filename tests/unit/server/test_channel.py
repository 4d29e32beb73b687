"""A channel over a real log: what it hands over, what it logs, what it keeps, and when it has had enough."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankserver.channel import Channel, State
from rankserver.clist import Flushed, Log
from rankserver.wire import protocol
from rankserver.wire.exceptions import RemoteProtocolError
from tests.support.clist_model import UNRANKED_BYTES

MAX_LINE: Final = 256
READ_SIZE: Final = 1 << 20  # more than a socket holds
SEND_BYTES: Final = 64 * 1024  # that a socket holds for sure
HELLO: Final = b'HELLO {"name":"web-1"}'


class Conversation:
    """A channel, driven as the server does it, and a watcher who has the rank above and sees the log.

    Attributes:
        most: bytes that one read may bring.
        pauses_after: lines that are handed over until a pause, None for no pause.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self.log = Log(max_line)
        self.ours, self.theirs = socket.socketpair()
        self.watcher_end, self.watch_end = socket.socketpair()
        for sock in (self.theirs, self.watch_end):
            sock.setblocking(False)
        self.watcher = self.log.open(self.watcher_end.fileno())
        self.log.join(self.watcher)
        self.channel = Channel(self.ours, "127.0.0.1:40112", self.log)
        self.most = READ_SIZE
        self.pauses_after: int | None = None
        self.lines: list[bytes] = []  # those that were handed over
        self.error: RemoteProtocolError | None = None

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.log.check()
        self.close()

    def close(self) -> None:
        self.log.close()
        for sock in (self.ours, self.theirs, self.watcher_end, self.watch_end):
            sock.close()

    def feed(self, data: bytes) -> None:
        """Send ``data``, and let the channel read for as long as it wants to and there is something."""
        for at in range(0, len(data), SEND_BYTES):
            piece = data[at : at + SEND_BYTES]
            assert self.theirs.send(piece) == len(piece)
            self.read()

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.channel.wants_read and not self.channel.paused:
                assert self.log.read(self.channel.client, self.most)
                self._handle()

    def join(self) -> None:
        """Do what the server does at the end of the turn that brought the HELLO, and read on."""
        assert self.channel.state is State.JOINING
        self.log.join(self.channel.client)
        self.channel.state = State.JOINED
        self.resume()

    def resume(self) -> None:
        self.channel.resume()
        self._handle()
        self.read()

    def dismiss(self) -> None:
        self.channel.state = State.CLOSING
        self.channel.paused = False
        self.log.ignore(self.channel.client)

    def logged(self) -> list[bytes]:
        """Return the frames that were logged since the last call."""
        assert self.log.flush(self.watcher) is Flushed.DONE
        try:
            return self.watch_end.recv(READ_SIZE).splitlines()
        except BlockingIOError:
            return []

    def _handle(self) -> None:
        count = 0
        try:
            while (line := self.channel.next_line()) is not None:
                count += 1
                self.lines.append(line)
                if self.channel.state is State.HANDSHAKE:
                    self.channel.state = State.JOINING
                elif line == b"BYE":
                    self.dismiss()
                else:
                    self.channel.paused = count == self.pauses_after
        except RemoteProtocolError as error:
            self.error = error
            self.dismiss()


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
    return talk.error is not None and talk.error.code == protocol.TOO_LONG and not talk.lines


# --- handshake --------------------------------------------------------------------------------


def test_a_new_channel_shakes_hands_has_no_rank_and_reads(talk: Conversation) -> None:
    channel = talk.channel
    assert channel.state is State.HANDSHAKE
    assert channel.fd == talk.ours.fileno()
    assert talk.log.rank(channel.client) == -1
    assert channel.wants_read
    assert not channel.wants_write


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


def test_a_cr_alone_is_a_part_of_the_line(talk: Conversation) -> None:
    talk.feed(b"\r\rHELLO\n")
    assert talk.lines == [b"\r\rHELLO"]


def test_nothing_is_logged_before_the_join(talk: Conversation) -> None:
    talk.feed(b"CMD early\n")
    assert talk.lines == [b"CMD early"]
    assert talk.logged() == []


# --- joining ----------------------------------------------------------------------------------


def test_who_is_joining_is_not_read_from(talk: Conversation) -> None:
    talk.feed(HELLO + b"\n")
    assert not talk.channel.wants_read
    talk.join()
    assert talk.channel.wants_read


def test_what_is_sent_behind_the_hello_is_kept_and_handled_after_the_join_in_order(
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


def test_it_is_not_read_until_the_join_and_then_all_comes_in_order(talk: Conversation) -> None:
    talk.most = 40  # so that something stays in the socket
    talk.feed(HELLO + b"\n" + b"".join(b"CMD %d\n" % number for number in range(1, 100)))
    assert talk.lines == [HELLO]
    talk.join()
    assert talk.logged() == [b"CMD %d 1 %d" % (number, number) for number in range(1, 100)]


def test_what_is_kept_until_the_join_may_be_longer_than_a_line(talk: Conversation) -> None:
    talk.feed(HELLO + b"\n" + b"CMD a\n" * MAX_LINE)
    talk.join()
    assert len(talk.logged()) == MAX_LINE
    assert talk.error is None


def test_a_leave_that_was_pipelined_ends_the_conversation_there(talk: Conversation) -> None:
    talk.feed(HELLO + b"\nCMD a\nBYE\nCMD b\nWHO\n")
    talk.join()
    assert talk.lines == [HELLO, b"BYE"]
    assert talk.logged() == [b"CMD 1 1 a"]


# --- joined -----------------------------------------------------------------------------------


def test_commands_are_logged_and_other_lines_handed_over_in_their_order(joined: Conversation) -> None:
    joined.feed(b"CMD a\nCMD b\nASK c\n\nCMD\nCMD d\r\nCMD \x00\n")
    assert joined.lines == [b"ASK c", b"CMD", b"CMD \x00"]
    assert joined.logged() == [b"CMD 1 1 a", b"CMD 2 1 b", b"CMD 3 1 d"]


def test_a_line_handed_over_stands_between_the_commands_around_it(joined: Conversation) -> None:
    joined.log.take(joined.channel.client, b"CMD a\nWHO\nCMD b\n")
    assert joined.channel.next_line() == b"WHO"
    assert joined.logged() == [b"CMD 1 1 a"]
    assert joined.channel.next_line() is None
    assert joined.logged() == [b"CMD 2 1 b"]


def test_a_line_in_pieces_is_joined_and_the_rest_of_the_piece_handled(joined: Conversation) -> None:
    for piece in (b"CMD a\nCM", b"D ", b"b", b"\nCMD c\nWH", b"O\nCMD d\n"):
        joined.feed(piece)
    assert joined.lines == [b"WHO"]
    assert joined.logged() == [b"CMD %d 1 %s" % pair for pair in ((1, b"a"), (2, b"b"), (3, b"c"), (4, b"d"))]


def test_a_last_line_without_its_end_is_dropped(joined: Conversation) -> None:
    joined.feed(b"CMD a\nCMD b")
    assert joined.logged() == [b"CMD 1 1 a"]
    assert joined.lines == []


def test_a_leave_ends_the_conversation_in_the_middle_of_a_piece(joined: Conversation) -> None:
    joined.feed(b"B")
    joined.feed(b"YE\nCMD b\nWHO\n")
    joined.feed(b"CMD c\n")
    assert joined.lines == [b"BYE"]
    assert joined.logged() == []


def test_closing_throws_away_what_comes(joined: Conversation) -> None:
    joined.feed(b"CMD a\nCMD half")
    joined.dismiss()
    assert joined.channel.wants_read  # to see the end of the connection
    joined.feed(b"x" * MAX_LINE)
    joined.feed(b"\nCMD b\nWHO\n")
    assert joined.error is None
    assert joined.lines == []
    assert joined.logged() == [b"CMD 1 1 a"]


def test_a_read_brings_another_channels_input_and_nothing_of_this_one(joined: Conversation) -> None:
    joined.log.take(joined.watcher, b"CMD a\nWHO\n")
    assert joined.channel.next_line() is None
    assert joined.logged() == []
    assert joined.log.next_line(joined.watcher) == b"WHO"
    assert joined.logged() == [b"CMD 1 0 a"]


# --- pauses -----------------------------------------------------------------------------------


def test_in_a_pause_nothing_is_handled_and_after_it_all_in_order(joined: Conversation) -> None:
    joined.pauses_after = 2
    joined.feed(b"CMD a\nPING 1\nCMD b\nPING 2\nCMD c\nPING 3\nCMD d\nPI")
    joined.feed(b"NG 4\nCMD e\nPING 5\nCMD f\n")
    assert joined.channel.paused
    assert joined.channel.next_line() is None
    assert joined.lines == [b"PING 1", b"PING 2"]
    assert joined.logged() == [b"CMD 1 1 a", b"CMD 2 1 b"]
    with pytest.raises(BlockingIOError):
        joined.log.read(joined.channel.client, READ_SIZE)
    joined.resume()
    joined.resume()  # it was paused once more
    assert joined.lines == [b"PING %d" % number for number in range(1, 6)]
    assert joined.logged() == [b"CMD %d 1 %c" % (seq, 0x60 + seq) for seq in range(3, 7)]
    assert not joined.channel.paused


def test_it_may_be_paused_again_and_again(joined: Conversation) -> None:
    joined.pauses_after = 1
    joined.feed(b"".join(b"PING %d\nCMD %d\n" % (number, number) for number in range(1, 101)))
    for number in range(1, 101):
        assert joined.channel.paused
        assert joined.lines.pop() == b"PING %d" % number
        assert joined.logged() == ([b"CMD %d 1 %d" % (number - 1, number - 1)] if number > 1 else [])
        joined.log.check()
        joined.resume()
    assert not joined.channel.paused
    assert joined.lines == []
    assert joined.logged() == [b"CMD 100 1 100"]


@pytest.mark.parametrize("rest", [b"", b"CM"])
def test_a_pause_behind_the_last_line_loses_nothing(rest: bytes, joined: Conversation) -> None:
    joined.pauses_after = 1
    joined.feed(b"PING\n" + rest)
    assert joined.channel.paused
    joined.resume()
    assert not joined.channel.paused
    joined.feed(b"CMD a\n"[len(rest) :])
    assert joined.logged() == [b"CMD 1 1 a"]


def test_who_is_let_go_in_a_pause_is_heard_no_more(joined: Conversation) -> None:
    joined.pauses_after = 1
    joined.feed(b"PING\nCMD a\nWHO\n")
    joined.dismiss()
    joined.feed(b"CMD b\nWHO\n")
    assert joined.lines == [b"PING"]
    assert joined.logged() == []


# --- lines that are too long ------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"CMD ", b"ASK "])
@pytest.mark.parametrize("sizes", [[MAX_LINE], [1, MAX_LINE - 1], [MAX_LINE - 1, 1], [1] * MAX_LINE])
@pytest.mark.parametrize("excess", [0, 1])
def test_a_line_of_a_ranked_client_may_have_max_line_bytes_however_it_is_cut(
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


def test_what_comes_before_a_line_that_is_too_long_counts(joined: Conversation) -> None:
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


def test_a_line_that_is_too_long_and_was_pipelined_is_found_after_the_join(talk: Conversation) -> None:
    talk.feed(HELLO + b"\nCMD a\n" + b"x" * MAX_LINE + b"\n")
    assert talk.error is None
    talk.join()
    assert talk.logged() == [b"CMD 1 1 a"]
    assert talk.error is not None
    assert talk.error.code == protocol.TOO_LONG


def test_the_message_names_the_limit(joined: Conversation) -> None:
    joined.feed(b"x" * MAX_LINE)
    assert str(joined.error) == "a line is longer than 256 bytes"


# --- bounds -----------------------------------------------------------------------------------


def test_before_the_join_a_bounded_amount_is_read_whatever_max_line_is() -> None:
    with Conversation(16 * UNRANKED_BYTES) as talk:
        talk.feed(b"x" * 1000)
        talk.feed(b"x" * (UNRANKED_BYTES - 1001))
        assert talk.error is None
        talk.feed(b"x")
        assert is_too_long(talk)
        assert str(talk.error) == f"a line is longer than {UNRANKED_BYTES} bytes"


def test_a_ranked_client_has_room_for_the_longest_line() -> None:
    with Conversation(protocol.MAX_MAX_LINE) as talk:
        talk.feed(HELLO + b"\n")
        talk.join()
        text = b"x" * (protocol.MAX_MAX_LINE - len(b"CMD \n"))
        talk.feed(b"CMD " + text + b"\nWHO\n")
        assert talk.error is None
        assert talk.lines == [HELLO, b"WHO"]
        assert talk.log.lag(talk.watcher) == len(b"CMD 1 1 \n") + len(text)


# --- what it waits for ------------------------------------------------------------------------


def test_a_peer_that_has_closed_its_side_is_not_read_from(joined: Conversation) -> None:
    joined.channel.ended = True
    assert not joined.channel.wants_read


def test_it_waits_to_write_from_when_a_flush_is_blocked_until_all_is_sent(joined: Conversation) -> None:
    joined.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    client = joined.channel.client
    for _ in range(100):
        joined.log.private(client, b"PONG %s\n" % (b"x" * 200))
    assert not joined.channel.wants_write
    while joined.log.flush(client) is Flushed.BLOCKED:
        assert joined.channel.wants_write
        joined.theirs.recv(READ_SIZE)
    assert not joined.channel.wants_write


# --- whole and byte by byte -------------------------------------------------------------------

LINE: Final = st.one_of(
    st.sampled_from(
        [b"", b"\r", b"WHO", b"PING \xff", b"CMD", b"CMD ", b"CMD a\x00", b"BYE", b"x" * MAX_LINE]
    ),
    st.text(max_size=20).map(lambda text: b"CMD " + text.encode()),
    st.integers(0, MAX_LINE).map(lambda size: b"CMD " + b"x" * size),
    st.binary(max_size=8),
)


def outcome(data: bytes, sizes: list[int]) -> tuple[list[bytes], list[bytes], str | None, State]:
    """Return what becomes of ``data`` when it arrives in pieces of these sizes, again and again."""
    with Conversation() as talk:
        logged: list[bytes] = []
        at = turn = 0
        while at < len(data):
            size = sizes[turn % len(sizes)]
            talk.feed(data[at : at + size])
            if talk.channel.state is State.JOINING:
                talk.join()
            logged += talk.logged()
            at += size
            turn += 1
        return talk.lines, logged, talk.error.code if talk.error else None, talk.channel.state


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


def test_ten_thousand_commands_byte_by_byte_are_logged_in_order(joined: Conversation) -> None:
    data = b"".join(b"CMD %d\n" % number for number in range(1, 10_001))
    logged: list[bytes] = []
    for byte in data:
        joined.feed(bytes([byte]))
        if byte == ord("0"):
            logged += joined.logged()
    logged += joined.logged()
    assert logged == [b"CMD %d 1 %d" % (number, number) for number in range(1, 10_001)]
    assert joined.lines == []
