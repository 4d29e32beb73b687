"""Input that is not handled at once: it is kept, brought back or discarded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankserver.clist import Cursor
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

# No line of these tests is too long for this.
HUGE_LINE: Final = 100_000


@pytest.fixture
def peers() -> Iterator[Peers]:
    with Peers() as peers:
        yield peers


# --- kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [0, 1, 2])
@pytest.mark.parametrize("others", [0, 1])
def test_input_goes_on_where_it_stopped(times: int, others: int, peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    client.take(b"CMD a\nWHO\nCMD b\nPING\nCMD c\nCM")
    assert peers.next_line(client) == b"WHO"
    for _ in range(times):
        client.keep()
        peers.log.check()
    for _ in range(others):
        assert peers.feed(other, b"WHO\nPI\n") == [b"WHO", b"PI"]
        peers.log.check()
    assert peers.log.seq == 1
    assert peers.lines(client) == [b"PING"]
    assert peers.log.seq == 3
    assert peers.feed(client, b"D d\n") == []
    expected = b"".join(b"CMD %d 0 %c\n" % (seq, 0x60 + seq) for seq in range(1, 5))
    assert peers.rest(client) == expected


def test_input_is_kept_again_and_again_until_nothing_is_left(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    client.take(b"".join(b"CMD %d\nPING %d\n" % (number, number) for number in range(100)))
    for number in range(100):
        assert peers.next_line(client) == b"PING %d" % number
        assert peers.log.seq == 2 * number + 1
        peers.log.check()
        assert peers.feed(other, b"WHO\nCMD other\n") == [b"WHO"]
        peers.log.check()
    assert peers.next_line(client) is None


def test_keeping_leaves_the_input_of_others_alone(peers: Peers) -> None:
    first, second = peers.join(), peers.join()
    peers.feed(first, b"CMD a")
    second.take(b"CMD b\nWHO\n")
    first.keep()
    assert peers.lines(second) == [b"WHO"]
    assert peers.lines(first) == []
    assert peers.feed(first, b"\n") == []
    assert peers.rest(first) == b"CMD 1 1 b\nCMD 2 0 a\n"


@pytest.mark.parametrize("data", [b"", b"CMD a\n", b"WHO\n"])
def test_a_cursor_with_nothing_left_can_be_read(data: bytes, peers: Peers) -> None:
    client = peers.join()
    peers.feed(client, data)
    seq = peers.log.seq
    client.keep()
    peers.send(client, b"CMD b\n")
    assert peers.receive(client) == []
    assert peers.log.seq == seq + 1
    client.keep()
    assert peers.next_line(client) is None
    assert peers.log.seq == seq + 1


@pytest.mark.parametrize("keeps", [False, True])
def test_nothing_is_read_before_all_input_is_handled(keeps: bool, peers: Peers) -> None:
    client = peers.join()
    peers.send(client, b"CMD b\n")
    for left in (b"CMD a\n", b"CM", b"D a\nWHO"):
        client.take(left)
        if keeps:
            client.keep()
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                client.read(READ_SIZE)
            with pytest.raises(ValueError, match="does not allow the call"):
                client.take(b"CMD c\n")
            peers.log.check()
        assert peers.lines(client) == []
    assert peers.log.seq == 2
    assert peers.receive(client) == [b"WHOCMD b"]


def test_a_line_that_may_be_brought_back_holds_up_the_next_read(peers: Peers) -> None:
    client = peers.join()
    peers.send(client, b"CMD b\n")
    client.take(b"WHO\n")
    assert peers.next_line(client) == b"WHO"
    with pytest.raises(BlockingIOError):
        client.read(READ_SIZE)
    assert peers.next_line(client) is None
    assert peers.receive(client) == []
    assert peers.log.seq == 1


def test_an_incomplete_line_is_kept_with_its_continuation(peers: Peers) -> None:
    client = peers.join()
    for piece in (b"CM", b"D", b" a"):
        assert peers.feed(client, piece) == []
    client.take(b"bc")
    client.keep()
    assert peers.lines(client) == []
    client.take(b"d\nCMD e\nCMD f")
    client.keep()
    assert peers.log.seq == 0
    assert peers.lines(client) == []
    assert peers.feed(client, b"\n") == []
    assert peers.rest(client) == b"CMD 1 0 abcd\nCMD 2 0 e\nCMD 3 0 f\n"


def test_a_whole_read_is_kept_behind_a_begun_line() -> None:
    with Peers(read_bytes=40 * MAX_LINE) as peers:
        client = peers.join()
        peers.feed(client, b"CMD ".ljust(MAX_LINE - 1, b"x"))
        data = (b"\n" + b"WHO\n" + commands(1000))[: 40 * MAX_LINE]
        client.take(data)
        client.keep()
        peers.log.check()
        assert peers.next_line(client) == b"WHO"
        assert peers.log.seq == 1
        client.keep()
        assert peers.lines(client) == []
        assert peers.log.seq == data.count(b"\n") - 1


@pytest.mark.parametrize("rest", [b"", b"\n", b"\nCMD b\n"])
def test_a_line_that_is_too_long_is_found_after_keeping(rest: bytes, peers: Peers) -> None:
    client = peers.join()
    client.take(b"CMD a\n" + b"x" * MAX_LINE + rest)
    client.keep()
    with expect_too_long():
        peers.next_line(client)
    assert peers.log.seq == 1


def test_keeping_input_twice_changes_nothing(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.feed(client, b"CMD a")
    peers.feed(other, b"WHO\n")
    for _ in range(2):
        client.keep()
        peers.log.check()
        assert peers.next_line(client) is None
    assert peers.feed(client, b"\n") == []
    assert peers.rest(client) == b"CMD 1 0 a\n"


@pytest.mark.parametrize("keeps", [False, True])
def test_a_cursor_is_discarded_with_its_input(keeps: bool, peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    client.take(b"CMD a\nCMD b\nCM")
    if keeps:
        client.keep()
    client.discard()
    peers.log.check()
    assert peers.next_line(other) is None
    assert peers.log.seq == 0


# --- several cursors at once ------------------------------------------------------------------


PIECES: Final = st.lists(
    st.sampled_from([b"CMD a\n", b"CMD ", b"CM", b"D b\r\n", b"WHO\n", b"\n", b"PING\r\n", b"x" * 100]),
    max_size=6,
).map(b"".join)


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["take", "line", "command", "unread", "keep", "collect"]),
            PIECES,
        ),
        max_size=30,
    ),
    byte_by_byte=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_inputs_of_several_cursors_are_handled_in_any_order(
    steps: list[tuple[int, str, bytes]], byte_by_byte: bool
) -> None:
    """Each cursor's lines are those of a model without other cursors."""
    with Peers(HUGE_LINE, read_bytes=700) as peers:
        clients = [peers.join() for _ in range(3)]
        models = [ModelLog(HUGE_LINE) for _ in clients]
        cursors = [ModelCursor() for _ in clients]
        for model, cursor in zip(models, cursors, strict=True):
            model.attach(cursor, model.join(1), 0)
        for which, step, data in steps:
            client, model, cursor = clients[which], models[which], cursors[which]
            if step == "take":
                for piece in [data[at : at + 1] for at in range(len(data))] if byte_by_byte else [data]:
                    while (line := model.next_line(cursor)) is not None:
                        assert peers.next_line(client) == line
                    assert peers.next_line(client) is None
                    client.take(piece)
                    model.take(cursor, piece)
            elif step == "unread":
                client.unread()
                model.unread(cursor)
            elif step == "keep":
                client.keep()
            elif step == "collect":
                assert client.collect() == model.collect(cursor)
            else:
                logs = step == "line"
                line = model.next_line(cursor, logs=logs)
                assert client.next_line(logs=logs) == line
            peers.log.check()
        assert peers.log.seq == sum(model.seq for model in models)


# --- brought back -----------------------------------------------------------------------------


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("others", [0, 1])
def test_a_line_brought_back_comes_again_with_all_behind_it(keeps: bool, others: int, peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    assert peers.feed(client, b"CMD a\nPI") == []
    client.take(b"NG\r\nCMD b\nWHO\n")
    for _ in range(3):
        assert peers.next_line(client) == b"PING"
        if keeps:
            client.keep()
        for _ in range(others):
            assert peers.feed(other, b"WHO\n") == [b"WHO"]
        client.unread()
        peers.log.check()
    assert peers.lines(client) == [b"PING", b"WHO"]
    assert peers.rest(client) == b"CMD 1 0 a\nCMD 2 0 b\n"


def test_each_cursor_has_a_line_to_bring_back(peers: Peers) -> None:
    first, second = peers.join(), peers.join()
    first.take(b"WHO 1\nPING 1\n")
    assert peers.next_line(first) == b"WHO 1"
    second.take(b"WHO 2\nPING 2\n")
    assert peers.next_line(second) == b"WHO 2"
    assert peers.next_line(first) == b"PING 1"
    second.unread()
    first.unread()
    assert peers.lines(second) == [b"WHO 2", b"PING 2"]
    assert peers.lines(first) == [b"PING 1"]


@pytest.mark.parametrize("take", [Peers.next_line, lambda _, client: client.collect()])
def test_a_line_is_taken_when_the_cursor_goes_on(
    take: Callable[[Peers, Cursor], object], peers: Peers
) -> None:
    client = peers.join()
    client.take(b"WHO\nCM")
    assert peers.next_line(client) == b"WHO"
    take(peers, client)
    client.unread()
    assert peers.lines(client) == []
    assert peers.feed(client, b"D a\n") == []
    assert peers.log.seq == 1


def test_a_command_that_is_brought_back_is_logged_later(peers: Peers) -> None:
    client = peers.join()
    client.take(b"CMD a\nCMD b\n")
    assert client.next_line(logs=False) == b"CMD a"
    client.unread()
    assert peers.log.seq == 0
    assert peers.next_line(client) is None
    assert peers.rest(client) == b"CMD 1 0 a\nCMD 2 0 b\n"


# --- ignored ----------------------------------------------------------------------------------


def ignored_while_read(peers: Peers, client: Cursor) -> None:
    client.take(b"WHO\nCMD a\nWHO\nCMD")
    assert peers.next_line(client) == b"WHO"
    client.ignore()


def ignored_in_the_middle_of_a_line(peers: Peers, client: Cursor) -> None:
    peers.feed(client, b"CMD")
    client.ignore()


def ignored_with_input_kept(_: Peers, client: Cursor) -> None:
    client.take(b"CMD a\nCMD")
    client.keep()
    client.ignore()


def ignored_twice(peers: Peers, client: Cursor) -> None:
    ignored_while_read(peers, client)
    client.ignore()


def ignored_for_a_line_that_is_too_long(peers: Peers, client: Cursor) -> None:
    with expect_too_long():
        peers.feed(client, b"x" * 3 * MAX_LINE)
    client.ignore()


@arrive_in_any_way
@pytest.mark.parametrize("enter", [Peers.open, Peers.join])
@pytest.mark.parametrize(
    "ignored",
    [
        ignored_while_read,
        ignored_in_the_middle_of_a_line,
        ignored_with_input_kept,
        ignored_twice,
        ignored_for_a_line_that_is_too_long,
    ],
)
def test_past_and_future_input_of_an_ignored_cursor_is_lost(
    ignored: Callable[[Peers, Cursor], None], enter: Callable[[Peers], Cursor], arrive: Arrive, peers: Peers
) -> None:
    client = enter(peers)
    ignored(peers, client)
    peers.log.check()
    client.unread()
    assert peers.next_line(client) is None
    data = b" b\nCMD c\nWHO\n" + b"x" * 2 * MAX_LINE + b"\nCMD d"
    for _ in range(2):
        assert arrive(peers, client, data) == []
        peers.log.check()
    assert peers.log.seq == 0


def test_nothing_is_kept_of_an_ignored_cursor(peers: Peers) -> None:
    client = peers.join()
    client.ignore()
    client.take(b"CMD a\nWHO\n")
    client.keep()
    peers.log.check()
    peers.send(client, b"CMD b\n")
    # The cursor can be read again.
    assert peers.receive(client) == []
    assert peers.next_line(client) is None
    assert peers.log.seq == 0


def test_ignoring_a_cursor_leaves_anothers_input_alone(peers: Peers) -> None:
    first, second = peers.join(), peers.join()
    peers.feed(first, b"CMD a")
    second.take(b"CMD b\nWHO\n")
    first.ignore()
    assert peers.lines(second) == [b"WHO"]
    assert peers.rest(second) == b"CMD 1 1 b\n"


def test_the_end_of_an_ignored_cursors_stream_is_seen(peers: Peers) -> None:
    client = peers.join()
    client.ignore()
    peers.send(client, b"CMD a\n")
    peers.hang_up(client)
    assert client.read(READ_SIZE) == 6
    assert peers.next_line(client) is None
    assert client.read(READ_SIZE) == 0
