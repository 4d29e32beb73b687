"""Input of clients: it is received, cut into lines, and logged or handed over.

``test_clist_kept`` has the tests of input that is not handled at once.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clist_model import ModelCursor, ModelLog
from tests.support.clist_peers import (
    MAX_LINE,
    READ_SIZE,
    Arrive,
    Peers,
    arrive_in_any_way,
    commands,
    expect_too_long,
)


@pytest.fixture
def peers() -> Iterator[Peers]:
    with Peers() as peers:
        yield peers


# --- lines ------------------------------------------------------------------------------------


def test_a_command_carries_the_rank_at_the_time_of_logging(peers: Peers) -> None:
    first, second = peers.join(), peers.join()
    peers.feed(second, b"CMD a\nCMD ")
    peers.leave(first)
    peers.feed(second, b"b\n")
    assert peers.rest(second) == b"CMD 1 1 a\nCMD 2 0 b\n"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_input_may_be_any_bytes_like_object(kind: Callable[[bytes], Any], peers: Peers) -> None:
    client = peers.join()
    client.take(kind(b"CMD a\nWHO\nCMD b\n"))
    assert peers.lines(client) == [b"WHO"]
    assert peers.rest(client) == b"CMD 1 0 a\nCMD 2 0 b\n"


def test_a_taken_buffer_may_change_before_it_is_handled(peers: Peers) -> None:
    client = peers.join()
    data = bytearray(b"CMD a\nWHO\n")
    client.take(data)
    data[:] = b"CMD b\nX X\n"
    assert peers.lines(client) == [b"WHO"]
    assert peers.rest(client) == b"CMD 1 0 a\n"


@arrive_in_any_way
@pytest.mark.parametrize(
    ("data", "lines", "logged"),
    [
        (b"", [], b""),
        (b"CMD a", [], b""),
        (b"CMD a\nCMD b", [], b"CMD 1 0 a\n"),
        (b"\n\r\n\nCMD a\r\n\n", [], b"CMD 1 0 a\n"),
        (b"CMD  a \n", [], b"CMD 1 0  a \n"),
        (b"CMD \t\n", [], b"CMD 1 0 \t\n"),
        ("CMD é€😀\n".encode(), [], "CMD 1 0 é€😀\n".encode()),
        (b"CMD \n", [b"CMD "], b""),
        (b"CMD \r\n", [b"CMD "], b""),
        (b"CMD\n", [b"CMD"], b""),
        (b"CMD\ta\n", [b"CMD\ta"], b""),
        (b"cmd a\n", [b"cmd a"], b""),
        (b"CMDa b\n", [b"CMDa b"], b""),
        (b"ASK a\nCMD b\n", [b"ASK a"], b"CMD 1 0 b\n"),
        (b"CMD a\nPING\r\nCMD b\n", [b"PING"], b"CMD 1 0 a\nCMD 2 0 b\n"),
        (b"WHO\nPING\n\nCMD a\nBYE\n", [b"WHO", b"PING", b"BYE"], b"CMD 1 0 a\n"),
        (b"\r\r\n", [b"\r"], b""),
        (b"CMD a\r\r\n", [b"CMD a\r"], b""),
        (b"CMD a\0\n", [b"CMD a\0"], b""),
        (b"CMD a\x7f\n", [b"CMD a\x7f"], b""),
        (b"CMD \xff\n", [b"CMD \xff"], b""),
        # A UTF-8 sequence does not continue across lines.
        (b"CMD \xc2\n\x80\n", [b"CMD \xc2", b"\x80"], b""),
    ],
)
def test_valid_commands_are_logged_and_other_lines_handed_over(
    data: bytes, lines: list[bytes], logged: bytes, arrive: Arrive, peers: Peers
) -> None:
    client = peers.join()
    assert arrive(peers, client, data) == lines
    assert peers.rest(client) == logged
    peers.log.check()


def test_a_line_is_handed_over_before_what_is_behind_it(peers: Peers) -> None:
    client = peers.join()
    client.take(b"CMD a\nWHO\nCMD b\nPING\nCMD c\n")
    for line, seq in ((b"WHO", 1), (b"PING", 2), (None, 3), (None, 3)):
        assert peers.next_line(client) == line
        assert peers.log.seq == seq


@pytest.mark.parametrize(
    "pieces",
    [
        [b"C", b"MD a\nWHO\nCMD b\n"],
        [b"CMD a\nW", b"HO\nCMD b\n"],
        [b"CMD a\nWHO\nCMD b", b"\n"],
        [b"CMD a\n", b"WHO\nC", b"M", b"D ", b"", b"b", b"\n"],
        [b"CMD a\r", b"\nWHO\r", b"\nCMD b\r", b"\n\r", b"\n"],
    ],
)
def test_a_line_may_come_in_pieces(pieces: list[bytes], peers: Peers) -> None:
    client = peers.join()
    lines = []
    for piece in pieces:
        lines += peers.feed(client, piece)
        peers.log.check()
    assert lines == [b"WHO"]
    assert peers.rest(client) == b"CMD 1 0 a\nCMD 2 0 b\n"


def test_a_begun_line_is_completed_by_a_read_of_any_length() -> None:
    room = 2 * MAX_LINE
    for begun in range(1, MAX_LINE):
        for behind in (b"", b"P", b"CMD b\n", b"CMD b\n" * (room // 6 - 1)):
            with Peers(read_bytes=room) as peers:
                client = peers.join()
                line = b"ASK ".ljust(begun, b"x")[:begun]
                assert peers.feed(client, line) == []
                assert peers.feed(client, b"\n" + behind) == [line]
                assert peers.log.seq == behind.count(b"\n")
                assert peers.feed(client, b"\n") == ([behind] if behind == b"P" else [])


def test_the_longest_beginning_and_the_largest_read_fit() -> None:
    with Peers(read_bytes=600) as peers:
        client = peers.join()
        for number in range(3):
            peers.feed(client, b"CMD ".ljust(MAX_LINE - 1, b"x"))
            last = b"CMD ".ljust(MAX_LINE - 1, b"y")
            data = b"\n" + b"\n" * (599 - len(last)) + last
            assert len(data) == 600
            assert peers.feed(client, data) == []
            assert peers.log.seq == 2 * number + 1
            assert peers.feed(client, b"\n") == []
            peers.log.check()
        text = b"x" * (MAX_LINE - 5), b"y" * (MAX_LINE - 5)
        assert peers.rest(client) == b"".join(b"CMD %d 0 %s\n" % (seq + 1, text[seq % 2]) for seq in range(6))


def test_ten_thousand_commands_in_one_piece_are_logged_in_order(peers: Peers) -> None:
    peers.join()
    client = peers.join()
    data = b"".join(b"CMD %d\n" % number for number in range(1, 10_001))
    assert peers.feed(client, data) == []
    assert peers.log.seq == 10_000
    expected = b"".join(b"CMD %d 1 %d\n" % (number, number) for number in range(1, 10_001))
    assert peers.rest(client) == expected


@pytest.mark.parametrize("seq", [8, 9, 98, 99, 100, 999, 9_998, 9_999])
def test_seq_goes_on_where_its_number_gets_longer(seq: int, peers: Peers) -> None:
    for _ in range(seq):
        peers.log.append(b"JOIN", b"0")
    client = peers.join()
    peers.feed(client, b"CMD a\n" * 3)
    assert peers.rest(client) == b"".join(b"CMD %d 0 a\n" % (seq + more) for more in (1, 2, 3))


def test_seq_goes_on_behind_a_line_that_caused_frames(peers: Peers) -> None:
    client = peers.join()
    client.take(b"CMD a\nASK b\nCMD c\n")
    assert peers.next_line(client) == b"ASK b"
    assert peers.log.append(b"ASK", b"0 b") == 2
    assert peers.next_line(client) is None
    assert peers.rest(client) == b"CMD 1 0 a\nASK 2 0 b\nCMD 3 0 c\n"


@given(
    sizes=st.lists(st.sampled_from([1, 30, 700, 4091, 4092, 5000, 9000]), min_size=1, max_size=6),
    spoil=st.lists(
        st.tuples(st.integers(0, 40_000), st.sampled_from([b"\r", b"\xff", b"\x01", "é".encode()]))
    ),
    cuts=st.lists(st.integers(0, 40_000), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_one_bad_line_among_many_is_found_wherever_it_is(
    sizes: list[int], spoil: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    """The core checks plain text in large pieces; a bad byte may be anywhere in a piece, or next to one."""
    data = bytearray(b"".join(commands(1, size) for size in sizes) * 2)
    for place, what in spoil:
        at = place % len(data)
        data[at : at + len(what)] = what
    model, sender = ModelLog(10_000), ModelCursor()
    model.attach(sender, model.join(1), 0)
    with Peers(10_000) as peers:
        client = peers.join()
        edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
        for start, stop in itertools.pairwise(edges):
            piece = bytes(data[start:stop])
            model.take(sender, piece)
            lines = list(iter(lambda: model.next_line(sender), None))
            assert peers.feed(client, piece) == lines
        assert peers.rest(client) == sender.stream


# --- lines that are too long ------------------------------------------------------------------


@arrive_in_any_way
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"CMD ", b"ASK "])
def test_the_longest_line_has_max_line_bytes_with_its_end(
    start: bytes, ending: bytes, arrive: Arrive, peers: Peers
) -> None:
    client = peers.join()
    longest = start.ljust(MAX_LINE - len(ending), b"x") + ending
    lines = arrive(peers, client, longest)
    assert (len(lines), peers.log.seq) == ((0, 1) if start == b"CMD " else (1, 0))
    seq = peers.log.seq
    with expect_too_long():
        arrive(peers, client, b"CMD a\nx" + longest + b"CMD b\n")
    assert peers.log.seq == seq + 1


@pytest.mark.parametrize("rest", [b"", b"\n", b"\nCMD b\n"])
@pytest.mark.parametrize("size", [MAX_LINE, 3 * MAX_LINE])
def test_a_line_that_is_too_long_stays_too_long(size: int, rest: bytes, peers: Peers) -> None:
    client = peers.join()
    client.take(b"CMD a\nWHO\n" + b"CMD ".ljust(size, b"x") + rest)
    assert peers.next_line(client) == b"WHO"
    for _ in range(3):
        with expect_too_long():
            peers.next_line(client)
        peers.log.check()
    assert peers.rest(client) == b"CMD 1 0 a\n"


@pytest.mark.parametrize("size", [MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE, 40 * MAX_LINE])
@pytest.mark.parametrize("begun", [b"", b"CMD "])
def test_nothing_is_read_behind_a_line_that_is_too_long(begun: bytes, size: int, peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.send(client, b"\nCMD b\n")
    peers.feed(client, begun)
    with expect_too_long():
        peers.feed(client, b"CMD ".ljust(size, b"x"))
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            client.read(READ_SIZE)
        with pytest.raises(ValueError, match="does not allow the call"):
            client.take(b"\n")
        assert peers.feed(other, b"WHO\n") == [b"WHO"]
        with expect_too_long():
            peers.next_line(client)
        peers.log.check()
    assert peers.log.seq == 0


@arrive_in_any_way
def test_a_line_that_is_too_long_is_not_waited_for(arrive: Arrive, peers: Peers) -> None:
    client = peers.join()
    assert arrive(peers, client, b"CMD a\n" + b"x" * (MAX_LINE - 1)) == []
    with expect_too_long():
        arrive(peers, client, b"x")
    assert peers.log.seq == 1


# --- out of the socket ------------------------------------------------------------------------


def test_one_read_brings_at_most_what_was_asked_for(peers: Peers) -> None:
    client = peers.join()
    peers.send(client, b"CMD a\nWHO\nCMD b\n")
    assert client.read(8) == 8
    assert peers.lines(client) == []
    assert peers.log.seq == 1
    assert client.read(READ_SIZE) == 8
    assert peers.lines(client) == [b"WHO"]
    assert peers.log.seq == 2


def test_one_read_brings_at_most_what_the_log_was_made_for() -> None:
    with Peers(read_bytes=1000) as peers:
        client = peers.join()
        peers.send(client, b"\n" * 2500)
        for count in (1000, 1000, 500):
            assert client.read(READ_SIZE) == count
            assert peers.lines(client) == []


def test_nothing_to_read_is_an_error_that_changes_nothing(peers: Peers) -> None:
    client = peers.join()
    for data, seq in ((b"CMD a\nCM", 1), (b"D b\n", 2)):
        peers.send(client, data)
        peers.receive(client)
        with pytest.raises(BlockingIOError) as caught:
            client.read(READ_SIZE)
        assert caught.value.errno == errno.EAGAIN
        assert peers.next_line(client) is None
        assert peers.log.seq == seq
    assert peers.rest(client) == b"CMD 1 0 a\nCMD 2 0 b\n"


def test_the_end_of_the_stream_is_0_and_ends_no_line(peers: Peers) -> None:
    client = peers.join()
    peers.send(client, b"CMD a\nCMD b")
    peers.hang_up(client)
    assert client.read(READ_SIZE) == len(b"CMD a\nCMD b")
    assert peers.next_line(client) is None
    for _ in range(2):
        assert client.read(READ_SIZE) == 0
        assert peers.next_line(client) is None
    assert peers.log.seq == 1


def test_a_connection_that_was_reset_is_an_os_error(peers: Peers) -> None:
    client = peers.join()
    client.private(b"PONG\n")
    client.flush()
    # The client never reads that.
    peers.hang_up(client)
    with pytest.raises(ConnectionResetError) as caught:
        client.read(READ_SIZE)
    assert caught.value.errno == errno.ECONNRESET
    assert peers.next_line(client) is None


def test_a_bad_descriptor_is_an_os_error_with_its_errno(peers: Peers) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        peers.log.open(-1).read(READ_SIZE)
    assert caught.value.errno == errno.EBADF


def test_more_than_one_read_cannot_be_taken() -> None:
    with Peers(read_bytes=1000) as peers:
        client = peers.join()
        peers.feed(client, b"CMD a")
        with pytest.raises(ValueError, match="does not allow the call"):
            client.take(b"\n" * 1001)
        assert peers.next_line(client) is None
        assert peers.log.seq == 0
        assert peers.feed(client, b"\n" * 1000) == []
        assert peers.log.seq == 1


# --- of several clients -----------------------------------------------------------------------


def test_each_cursor_has_its_own_input_whichever_was_read_last(peers: Peers) -> None:
    first, second, third = peers.join(), peers.join(), peers.open()
    first.take(b"CMD a\nWHO\n")
    second.take(b"CMD b\nPING\n")
    assert peers.next_line(third) is None
    assert peers.log.seq == 0
    assert peers.next_line(first) == b"WHO"
    assert peers.next_line(second) == b"PING"
    assert [peers.lines(client) for client in (first, second)] == [[], []]
    assert peers.rest(first) == b"CMD 1 0 a\nCMD 2 1 b\n"


@arrive_in_any_way
def test_incomplete_lines_of_clients_are_kept_apart(arrive: Arrive, peers: Peers) -> None:
    clients = [peers.join() for _ in range(5)]
    lines = [b"CMD of %d" % number for number in range(5)]
    for at in range(len(lines[0])):
        for client, line in zip(clients, lines, strict=True):
            assert arrive(peers, client, line[at : at + 1]) == []
            peers.log.check()
    for client in reversed(clients):
        assert arrive(peers, client, b"\nWHO\n") == [b"WHO"]
    assert peers.rest(clients[0]) == b"".join(b"CMD %d %d of %d\n" % (5 - n, n, n) for n in range(4, -1, -1))


def test_a_read_that_brings_nothing_leaves_others_input_alone(peers: Peers) -> None:
    first, second = peers.join(), peers.join()
    first.take(b"CMD a\nWHO\nCMD b\n")
    assert peers.next_line(first) == b"WHO"
    with pytest.raises(BlockingIOError):
        second.read(READ_SIZE)
    assert peers.next_line(second) is None
    assert peers.next_line(first) is None
    assert peers.rest(first) == b"CMD 1 0 a\nCMD 2 0 b\n"


@pytest.mark.parametrize("begun", [b"", b"CMD begun"])
def test_the_input_of_a_discarded_client_goes_to_nobody(begun: bytes, peers: Peers) -> None:
    clients = [peers.join() for _ in range(20)]
    gone = clients.pop()
    peers.feed(gone, begun)
    gone.take(b"\nCMD a\nWHO\n")
    # Enough clients that the allocator reuses their memory for the next ones.
    for client in (*clients, gone):
        client.discard()
    peers.log.check()
    for _ in range(20):
        assert peers.next_line(peers.join()) is None
    assert peers.log.seq == 0


def test_commands_are_handed_over_if_the_caller_asks_for_them(peers: Peers) -> None:
    client = peers.join()
    client.take(b"CMD a\nPING\nCMD b\n")
    lines = [client.next_line(logs=False) for _ in range(4)]
    assert lines == [b"CMD a", b"PING", b"CMD b", None]
    assert peers.log.seq == 0
    client.take(b"CMD c\nCMD d\n")
    assert client.next_line(logs=False) == b"CMD c"
    assert peers.next_line(client) is None
    assert peers.rest(client) == b"CMD 1 0 d\n"
