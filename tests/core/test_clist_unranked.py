"""Input without a rank: before a cursor is attached, without a member, or after the member has left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.clist_model import FRESH_BYTES
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

HUGE_LINE: Final = 16 * FRESH_BYTES


@pytest.fixture
def peers() -> Iterator[Peers]:
    with Peers() as peers:
        yield peers


@arrive_in_any_way
@pytest.mark.parametrize("has_left", [False, True])
def test_without_a_rank_each_line_is_handed_over(has_left: bool, arrive: Arrive, peers: Peers) -> None:
    client = peers.open()
    if has_left:
        peers.enter(client)
        peers.leave(client)
    data = b"\r\n\nHELLO\r\nCMD a\n\nCMD \xff\nWHO"
    assert arrive(peers, client, data) == [b"HELLO", b"CMD a", b"CMD \xff"]
    assert arrive(peers, client, b"\n") == [b"WHO"]
    assert peers.log.seq == 0


def test_lines_of_a_cursor_that_follows_are_handed_over(peers: Peers) -> None:
    peers.join()
    follower = peers.follow()
    assert peers.feed(follower, b"CMD a\nWHO\n") == [b"CMD a", b"WHO"]
    follower.take(b"CMD b\n")
    assert follower.collect() == b""
    assert peers.lines(follower) == [b"CMD b"]
    assert peers.log.seq == 0


def test_input_left_at_the_attachment_is_the_members(peers: Peers) -> None:
    client = peers.open()
    client.take(b"HELLO\nCMD a\nWHO\nCMD b\nCM")
    assert peers.next_line(client) == b"HELLO"
    peers.enter(client)
    assert peers.lines(client) == [b"WHO"]
    assert peers.feed(client, b"D c\n") == []
    assert peers.rest(client) == b"CMD 1 0 a\nCMD 2 0 b\nCMD 3 0 c\n"


def test_input_left_when_a_member_leaves_is_handed_over(peers: Peers) -> None:
    client = peers.join()
    client.take(b"CMD a\nBYE\nCMD b\n")
    assert peers.next_line(client) == b"BYE"
    peers.leave(client)
    assert peers.lines(client) == [b"CMD b"]
    assert peers.log.seq == 1


def test_input_begun_or_kept_before_is_the_members(peers: Peers) -> None:
    first, second = peers.open(), peers.open()
    peers.feed(first, b"CMD a")
    second.take(b"CMD b\nWHO\nCM")
    second.keep()
    peers.enter(first)
    peers.enter(second)
    assert peers.feed(first, b"\n") == []
    assert peers.lines(second) == [b"WHO"]
    assert peers.feed(second, b"D c\n") == []
    assert peers.rest(first) == b"CMD 1 0 a\nCMD 2 1 b\nCMD 3 1 c\n"


@pytest.mark.parametrize("max_line", [MAX_LINE, FRESH_BYTES - 1, FRESH_BYTES, HUGE_LINE])
def test_a_fresh_cursors_line_has_at_most_64_kib(max_line: int) -> None:
    longest = min(max_line, FRESH_BYTES)
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


def test_a_bounded_amount_is_read_from_a_fresh_cursor() -> None:
    with Peers(HUGE_LINE, read_bytes=READ_SIZE) as peers:
        client = peers.open()
        peers.send(client, b"x" * (FRESH_BYTES + 1000))
        assert client.read(READ_SIZE) == FRESH_BYTES
        with expect_too_long(FRESH_BYTES):
            peers.next_line(client)


@pytest.mark.parametrize("first", [1000, FRESH_BYTES - 1])
def test_input_kept_for_a_fresh_cursor_counts_as_read(first: int) -> None:
    with Peers(HUGE_LINE, read_bytes=READ_SIZE) as peers:
        client = peers.open()
        peers.send(client, b"x" * (FRESH_BYTES + 1000))
        assert client.read(first) == first
        assert peers.next_line(client) is None
        assert client.read(READ_SIZE) == FRESH_BYTES - first
        with expect_too_long(FRESH_BYTES):
            peers.next_line(client)


def test_a_fresh_cursor_may_send_many_lines_bit_by_bit(peers: Peers) -> None:
    client = peers.open()
    for _ in range(3):
        assert peers.feed(client, b"\n" * FRESH_BYTES + b"WHO\n") == [b"WHO"]


def test_one_read_of_a_fresh_cursor_is_kept_with_all_its_lines() -> None:
    with Peers(read_bytes=READ_SIZE) as peers:
        client = peers.open()
        data = b"HELLO\n" + commands(2000, 45)
        peers.send(client, data)
        assert client.read(READ_SIZE) == FRESH_BYTES
        assert peers.next_line(client) == b"HELLO"
        client.keep()
        peers.log.check()
        with pytest.raises(BlockingIOError):
            client.read(READ_SIZE)
        peers.enter(client)
        assert peers.lines(client) == []
        assert peers.log.seq == (FRESH_BYTES - 6) // 50
        assert peers.receive(client) == []
        assert peers.rest(client) == logged_commands(2000, 45)


@pytest.mark.parametrize("has_left", [False, True])
def test_from_the_attachment_on_a_line_has_max_line_bytes(has_left: bool) -> None:
    with Peers(HUGE_LINE, read_bytes=2 * READ_SIZE) as peers:
        client = peers.open()
        peers.send(client, b"CMD".ljust(60_000))
        assert peers.receive(client) == []
        peers.enter(client)
        if has_left:
            peers.leave(client)
        peers.send(client, b"x" * (FRESH_BYTES + 1000))
        assert client.read(READ_SIZE) == FRESH_BYTES + 1000
        assert peers.next_line(client) is None
        sent = 60_000 + FRESH_BYTES + 1000
        lines = peers.feed(client, b"y" * (HUGE_LINE - 1 - sent) + b"\n")
        assert [len(line) for line in lines] == ([HUGE_LINE - 1] if has_left else [])
        assert peers.log.seq == (0 if has_left else 1)
        with expect_too_long(HUGE_LINE):
            peers.feed(client, b"x" * HUGE_LINE)
