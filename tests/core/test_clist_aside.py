"""What clients send that is not handled at once: set aside, thrown away, or sent without a rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest

from rankserver.clist import Client
from tests.support.clist_model import UNRANKED_BYTES
from tests.support.clist_peers import (
    MAX_LINE,
    READ_SIZE,
    Arrive,
    Peers,
    arrive_in_any_way,
    commands,
    expect_too_long,
    logged_commands,
)

HUGE_LINE: Final = 16 * UNRANKED_BYTES


@pytest.fixture
def peers() -> Iterator[Peers]:
    with Peers() as peers:
        yield peers


# --- set aside --------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_left_is_set_aside_and_goes_on_after_the_resume(times: int, peers: Peers) -> None:
    client = peers.join()
    peers.log.take(client, b"CMD a\nWHO\nCMD b\nPING\nCMD c\nCM")
    assert peers.log.next_line(client) == b"WHO"
    for _ in range(times):
        peers.log.set_aside(client)
        peers.log.check()
    assert peers.log.next_line(client) is None
    assert peers.log.seq == 1
    peers.log.resume(client)
    assert peers.lines(client) == [b"PING"]
    assert peers.log.seq == 3
    assert peers.feed(client, b"D d\n") == []
    expected = b"".join(b"CMD %d 0 %c\n" % (seq, 0x60 + seq) for seq in range(1, 5))
    assert peers.rest(client) == expected


def test_it_may_be_set_aside_again_and_again_until_nothing_is_left(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.log.take(client, b"".join(b"CMD %d\nPING %d\n" % (number, number) for number in range(100)))
    for number in range(100):
        assert peers.log.next_line(client) == b"PING %d" % number
        assert peers.log.seq == 2 * number + 1
        peers.log.set_aside(client)
        peers.log.check()
        assert peers.feed(other, b"WHO\nCMD other\n") == [b"WHO"]
        peers.log.resume(client)
        peers.log.check()
    assert peers.log.next_line(client) is None


def test_nothing_of_another_clients_input_is_set_aside(peers: Peers) -> None:
    first, second = peers.join(), peers.join()
    peers.feed(first, b"CMD a")
    peers.log.take(second, b"CMD b\nWHO\n")
    peers.log.set_aside(first)
    assert peers.lines(second) == [b"WHO"]
    peers.log.resume(first)
    assert peers.lines(first) == []
    assert peers.feed(first, b"\n") == []
    assert peers.rest(first) == b"CMD 1 1 b\nCMD 2 0 a\n"


@pytest.mark.parametrize("data", [b"", b"CMD a\n", b"WHO\n"])
def test_with_nothing_left_nothing_is_set_aside_and_the_client_can_be_read(data: bytes, peers: Peers) -> None:
    client = peers.join()
    peers.feed(client, data)
    seq = peers.log.seq
    peers.log.set_aside(client)
    peers.send(client, b"CMD b\n")
    assert peers.receive(client) == []
    assert peers.log.seq == seq + 1
    peers.log.set_aside(client)
    peers.log.resume(client)
    assert peers.log.next_line(client) is None
    assert peers.log.seq == seq + 1


def test_while_something_is_set_aside_nothing_is_read(peers: Peers) -> None:
    client = peers.join()
    peers.send(client, b"CMD b\n")
    for left in (b"CMD a\n", b"CM", b"D a\nWHO"):
        peers.log.take(client, left)
        peers.log.set_aside(client)
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                peers.log.read(client, READ_SIZE)
            with pytest.raises(ValueError, match="not one for this call"):
                peers.log.take(client, b"CMD c\n")
            assert peers.log.next_line(client) is None
            peers.log.check()
        peers.log.resume(client)
        assert peers.lines(client) == []
    assert peers.log.seq == 2
    assert peers.receive(client) == [b"WHOCMD b"]


def test_a_half_line_that_was_begun_before_is_set_aside_with_what_goes_on_with_it(peers: Peers) -> None:
    client = peers.join()
    for piece in (b"CM", b"D", b" a"):
        assert peers.feed(client, piece) == []
    peers.log.take(client, b"bc")
    peers.log.set_aside(client)
    peers.log.resume(client)
    assert peers.lines(client) == []
    peers.log.take(client, b"d\nCMD e\nCMD f")
    peers.log.set_aside(client)
    assert peers.log.seq == 0
    peers.log.resume(client)
    assert peers.lines(client) == []
    assert peers.feed(client, b"\n") == []
    assert peers.rest(client) == b"CMD 1 0 abcd\nCMD 2 0 e\nCMD 3 0 f\n"


def test_as_much_as_one_read_brings_can_be_set_aside_behind_a_begun_line() -> None:
    with Peers(read_bytes=40 * MAX_LINE) as peers:
        client = peers.join()
        peers.feed(client, b"CMD ".ljust(MAX_LINE - 1, b"x"))
        data = (b"\n" + b"WHO\n" + commands(1000))[: 40 * MAX_LINE]
        peers.log.take(client, data)
        peers.log.set_aside(client)
        peers.log.check()
        assert peers.log.next_line(client) is None
        peers.log.resume(client)
        assert peers.log.next_line(client) == b"WHO"
        assert peers.log.seq == 1
        peers.log.set_aside(client)
        peers.log.resume(client)
        assert peers.lines(client) == []
        assert peers.log.seq == data.count(b"\n") - 1


@pytest.mark.parametrize("rest", [b"", b"\n", b"\nCMD b\n"])
def test_a_line_that_is_too_long_is_found_after_the_resume(rest: bytes, peers: Peers) -> None:
    client = peers.join()
    peers.log.take(client, b"CMD a\n" + b"x" * MAX_LINE + rest)
    peers.log.set_aside(client)
    assert peers.log.next_line(client) is None
    peers.log.resume(client)
    with expect_too_long():
        peers.log.next_line(client)
    assert peers.log.seq == 1


def test_resuming_what_was_not_set_aside_makes_a_begun_line_the_input(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.feed(client, b"CMD a")
    peers.feed(other, b"WHO\n")
    for _ in range(2):
        peers.log.resume(client)
        peers.log.check()
        assert peers.log.next_line(client) is None
    assert peers.feed(client, b"\n") == []
    assert peers.rest(client) == b"CMD 1 0 a\n"


@pytest.mark.parametrize("resumes", [False, True])
def test_a_client_can_be_discarded_with_something_set_aside(resumes: bool, peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.log.take(client, b"CMD a\nCMD b\nCM")
    peers.log.set_aside(client)
    if resumes:
        peers.log.resume(client)
    peers.log.discard(client)
    peers.log.check()
    assert peers.log.next_line(other) is None
    assert peers.log.seq == 0


# --- unread -----------------------------------------------------------------------------------


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_line_that_is_taken_back_comes_again_and_all_behind_it(goes_on: bool, peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    assert peers.feed(client, b"CMD a\nPI") == []
    peers.log.take(client, b"NG\r\nCMD b\nWHO\n")
    for _ in range(3):
        assert peers.log.next_line(client) == b"PING"
        peers.log.unread()
    if not goes_on:
        peers.log.set_aside(client)
        peers.log.check()
        assert peers.feed(other, b"WHO\n") == [b"WHO"]
        peers.log.resume(client)
    assert peers.lines(client) == [b"PING", b"WHO"]
    assert peers.rest(client) == b"CMD 1 0 a\nCMD 2 0 b\n"


def test_a_command_that_was_on_hold_and_taken_back_is_logged_when_it_is_not(peers: Peers) -> None:
    client = peers.join()
    peers.log.hold(on_hold=True)
    peers.log.take(client, b"CMD a\nCMD b\n")
    assert peers.log.next_line(client) == b"CMD a"
    peers.log.unread()
    assert peers.log.seq == 0
    peers.log.hold(on_hold=False)
    assert peers.log.next_line(client) is None
    assert peers.rest(client) == b"CMD 1 0 a\nCMD 2 0 b\n"


# --- ignored ----------------------------------------------------------------------------------


def ignored_while_read(peers: Peers, client: Client) -> None:
    peers.log.take(client, b"WHO\nCMD a\nWHO\nCMD")
    assert peers.log.next_line(client) == b"WHO"
    peers.log.ignore(client)


def ignored_in_the_middle_of_a_line(peers: Peers, client: Client) -> None:
    peers.feed(client, b"CMD")
    peers.log.ignore(client)


def ignored_with_something_set_aside(peers: Peers, client: Client) -> None:
    peers.log.take(client, b"CMD a\nCMD")
    peers.log.set_aside(client)
    peers.log.ignore(client)


def ignored_after_the_resume(peers: Peers, client: Client) -> None:
    peers.log.take(client, b"CMD a\nCMD")
    peers.log.set_aside(client)
    peers.log.resume(client)
    peers.log.ignore(client)


def ignored_twice(peers: Peers, client: Client) -> None:
    ignored_while_read(peers, client)
    peers.log.ignore(client)


def ignored_for_a_line_that_is_too_long(peers: Peers, client: Client) -> None:
    with expect_too_long():
        peers.feed(client, b"x" * 3 * MAX_LINE)
    peers.log.ignore(client)


@arrive_in_any_way
@pytest.mark.parametrize("enter", [Peers.open, Peers.join])
@pytest.mark.parametrize(
    "ignored",
    [
        ignored_while_read,
        ignored_in_the_middle_of_a_line,
        ignored_with_something_set_aside,
        ignored_after_the_resume,
        ignored_twice,
        ignored_for_a_line_that_is_too_long,
    ],
)
def test_what_an_ignored_client_has_sent_and_sends_is_thrown_away(
    ignored: Callable[[Peers, Client], None], enter: Callable[[Peers], Client], arrive: Arrive, peers: Peers
) -> None:
    client = enter(peers)
    ignored(peers, client)
    peers.log.check()
    assert peers.log.next_line(client) is None
    data = b" b\nCMD c\nWHO\n" + b"x" * 2 * MAX_LINE + b"\nCMD d"
    for _ in range(2):
        assert arrive(peers, client, data) == []
        peers.log.check()
    assert peers.log.seq == 0


def test_nothing_is_set_aside_of_an_ignored_client(peers: Peers) -> None:
    client = peers.join()
    peers.log.ignore(client)
    peers.log.take(client, b"CMD a\nWHO\n")
    peers.log.set_aside(client)
    peers.log.check()
    peers.send(client, b"CMD b\n")
    assert peers.receive(client) == []  # and it can be read
    peers.log.resume(client)
    assert peers.log.next_line(client) is None
    assert peers.log.seq == 0


def test_ignoring_a_client_leaves_another_ones_input_alone(peers: Peers) -> None:
    first, second = peers.join(), peers.join()
    peers.feed(first, b"CMD a")
    peers.log.take(second, b"CMD b\nWHO\n")
    peers.log.ignore(first)
    assert peers.lines(second) == [b"WHO"]
    assert peers.rest(second) == b"CMD 1 1 b\n"


def test_the_end_of_an_ignored_clients_stream_is_seen(peers: Peers) -> None:
    client = peers.join()
    peers.log.ignore(client)
    peers.send(client, b"CMD a\n")
    peers.hang_up(client)
    assert peers.log.read(client, READ_SIZE) == 6
    assert peers.log.next_line(client) is None
    assert peers.log.read(client, READ_SIZE) == 0


# --- without a rank ---------------------------------------------------------------------------


@arrive_in_any_way
@pytest.mark.parametrize("has_left", [False, True])
def test_without_a_rank_each_line_is_handed_over_and_nothing_logged(
    has_left: bool, arrive: Arrive, peers: Peers
) -> None:
    client = peers.open()
    if has_left:
        peers.log.join(client)
        peers.log.retire(client)
    data = b"\r\n\nHELLO\r\nCMD a\n\nCMD \xff\nWHO"
    assert arrive(peers, client, data) == [b"HELLO", b"CMD a", b"CMD \xff"]
    assert arrive(peers, client, b"\n") == [b"WHO"]
    assert peers.log.seq == 0


def test_what_is_left_when_a_client_joins_is_a_ranked_clients(peers: Peers) -> None:
    client = peers.open()
    peers.log.take(client, b"HELLO\nCMD a\nWHO\nCMD b\nCM")
    assert peers.log.next_line(client) == b"HELLO"
    peers.log.join(client)
    assert peers.lines(client) == [b"WHO"]
    assert peers.feed(client, b"D c\n") == []
    assert peers.rest(client) == b"CMD 1 0 a\nCMD 2 0 b\nCMD 3 0 c\n"


def test_what_is_left_when_a_client_leaves_is_handed_over(peers: Peers) -> None:
    client = peers.join()
    peers.log.take(client, b"CMD a\nBYE\nCMD b\n")
    assert peers.log.next_line(client) == b"BYE"
    peers.log.retire(client)
    assert peers.lines(client) == [b"CMD b"]
    assert peers.log.seq == 1


def test_what_was_set_aside_or_begun_before_the_join_is_a_ranked_clients(peers: Peers) -> None:
    first, second = peers.open(), peers.open()
    peers.feed(first, b"CMD a")
    peers.log.take(second, b"CMD b\nWHO\nCM")
    peers.log.set_aside(second)
    peers.log.join(first)
    peers.log.join(second)
    assert peers.feed(first, b"\n") == []
    peers.log.resume(second)
    assert peers.lines(second) == [b"WHO"]
    assert peers.feed(second, b"D c\n") == []
    assert peers.rest(first) == b"CMD 1 0 a\nCMD 2 1 b\nCMD 3 1 c\n"


@pytest.mark.parametrize("max_line", [MAX_LINE, UNRANKED_BYTES - 1, UNRANKED_BYTES, HUGE_LINE])
def test_before_the_join_a_line_has_at_most_max_line_bytes_and_64_kib(max_line: int) -> None:
    longest = min(max_line, UNRANKED_BYTES)
    for pieces in (1, 2):
        for excess in (0, 1):
            with Peers(max_line, read_bytes=READ_SIZE) as peers:
                client = peers.open()
                line = b"HELLO".ljust(longest - 1 + excess)
                data = line + b"\n"
                edge = len(data) // pieces
                if excess:
                    with expect_too_long(longest):
                        for piece in (data[:edge], data[edge:]):
                            peers.feed(client, piece)
                else:
                    assert peers.feed(client, data[:edge]) + peers.feed(client, data[edge:]) == [line]


def test_before_the_join_a_bounded_amount_is_read_whatever_max_line_is() -> None:
    with Peers(HUGE_LINE, read_bytes=READ_SIZE) as peers:
        client = peers.open()
        peers.send(client, b"x" * (UNRANKED_BYTES + 1000))
        assert peers.log.read(client, READ_SIZE) == UNRANKED_BYTES
        with expect_too_long(UNRANKED_BYTES):
            peers.log.next_line(client)


def test_before_the_join_what_is_kept_counts_towards_what_may_be_read() -> None:
    with Peers(HUGE_LINE, read_bytes=READ_SIZE) as peers:
        client = peers.open()
        peers.send(client, b"x" * (UNRANKED_BYTES + 1000))
        for most, count in ((1000, 1000), (READ_SIZE - 1, UNRANKED_BYTES - 1000)):
            assert peers.log.read(client, most) == count
            if most == 1000:
                assert peers.log.next_line(client) is None
        with expect_too_long(UNRANKED_BYTES):
            peers.log.next_line(client)

        client = peers.open()
        peers.send(client, b"x" * (UNRANKED_BYTES + 1000))
        assert peers.log.read(client, UNRANKED_BYTES - 1) == UNRANKED_BYTES - 1
        assert peers.log.next_line(client) is None
        assert peers.log.read(client, READ_SIZE) == 1
        with expect_too_long(UNRANKED_BYTES):
            peers.log.next_line(client)


def test_before_the_join_many_lines_may_be_sent_bit_by_bit(peers: Peers) -> None:
    client = peers.open()
    for _ in range(3):
        assert peers.feed(client, b"\n" * UNRANKED_BYTES + b"WHO\n") == [b"WHO"]


def test_what_is_set_aside_before_the_join_is_one_read_however_many_lines() -> None:
    with Peers(read_bytes=READ_SIZE) as peers:
        client = peers.open()
        data = b"HELLO\n" + commands(2000, 45)
        peers.send(client, data)
        assert peers.log.read(client, READ_SIZE) == UNRANKED_BYTES
        assert peers.log.next_line(client) == b"HELLO"
        peers.log.set_aside(client)
        peers.log.check()
        with pytest.raises(BlockingIOError):
            peers.log.read(client, READ_SIZE)
        peers.log.join(client)
        peers.log.resume(client)
        assert peers.lines(client) == []
        assert peers.log.seq == (UNRANKED_BYTES - 6) // 50
        assert peers.receive(client) == []
        assert peers.rest(client) == logged_commands(2000, 45)


@pytest.mark.parametrize("has_left", [False, True])
def test_after_the_join_a_line_has_max_line_bytes_and_nothing_else_bounds_a_read(has_left: bool) -> None:
    with Peers(HUGE_LINE, read_bytes=2 * READ_SIZE) as peers:
        client = peers.open()
        peers.send(client, b"CMD".ljust(60_000))
        assert peers.receive(client) == []
        peers.log.join(client)
        if has_left:
            peers.log.retire(client)
        peers.send(client, b"x" * (UNRANKED_BYTES + 1000))
        assert peers.log.read(client, READ_SIZE) == UNRANKED_BYTES + 1000
        assert peers.log.next_line(client) is None
        sent = 60_000 + UNRANKED_BYTES + 1000
        lines = peers.feed(client, b"y" * (HUGE_LINE - 1 - sent) + b"\n")
        assert [len(line) for line in lines] == ([HUGE_LINE - 1] if has_left else [])
        assert peers.log.seq == (0 if has_left else 1)
        with expect_too_long(HUGE_LINE):
            peers.feed(client, b"x" * HUGE_LINE)
