"""The C core through its typed wrapper, one behaviour at a time: ranks, cursors, and frames in the log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from rankserver.clist import Cursor, Flushed, Log
from tests.support.clist_peers import MAX_LINE, Peers, commands, logged_commands


@pytest.fixture
def peers() -> Iterator[Peers]:
    with Peers() as peers:
        yield peers


# --- ranks ------------------------------------------------------------------------------------


def test_a_cursor_that_was_opened_has_nothing_to_get(peers: Peers) -> None:
    client = peers.open()
    assert client.lag() == 0
    assert peers.log.count == 0
    assert not client.is_blocked()
    assert client.flush() is Flushed.DONE


def test_ranks_are_in_the_order_of_joining(peers: Peers) -> None:
    for member in (20, 30, 10):
        peers.log.join(member)
    assert [peers.log.rank(member) for member in (10, 20, 30)] == [2, 0, 1]
    assert peers.log.members() == [20, 30, 10]
    assert peers.log.count == 3


def test_members_below_one_that_leaves_move_up(peers: Peers) -> None:
    for member in range(6):
        peers.log.join(member)
    for member in (4, 2, 0):
        peers.log.leave(member)
    assert [peers.log.rank(member) for member in (1, 3, 5)] == [0, 1, 2]
    peers.log.join(6)
    assert peers.log.rank(6) == 3
    peers.log.check()


def test_a_join_before_ranks_are_renumbered_gets_the_last_rank(peers: Peers) -> None:
    for member in range(3):
        peers.log.join(member)
    peers.log.leave(0)
    peers.log.join(3)
    assert [peers.log.rank(member) for member in (3, 2, 1)] == [2, 1, 0]


def test_a_lower_class_ranks_above_and_the_first_of_one_above(peers: Peers) -> None:
    keys = [(rank_class, number) for number in range(3) for rank_class in (1, 0, 2)]
    for rank_class, number in keys:
        peers.log.join(10 * rank_class + number, rank_class)
    members = [10 * rank_class + number for rank_class, number in sorted(keys)]
    assert peers.log.members() == members
    assert [peers.log.rank(member) for member in members] == list(range(9))


def test_after_the_last_member_left_ranks_begin_at_0_again(peers: Peers) -> None:
    peers.log.join(1)
    peers.log.leave(1)
    assert (peers.log.count, peers.log.members()) == (0, [])
    peers.log.join(1)
    assert peers.log.rank(1) == 0


@pytest.mark.parametrize("member", [0, 2**64 - 1])
def test_a_member_may_have_any_number_of_64_bits(member: int, peers: Peers) -> None:
    peers.log.join(member)
    assert peers.log.members() == [member]


# --- attached and detached --------------------------------------------------------------------


def test_a_member_needs_no_cursor(peers: Peers) -> None:
    peers.log.join(100)
    client = peers.join()
    peers.feed(client, b"CMD a\n")
    peers.log.apply(100, b"CMD b\n")
    assert peers.rest(client) == b"CMD 1 1 a\nCMD 2 0 b\n"


def test_a_member_is_given_another_cursor_behind_any_frame(peers: Peers) -> None:
    for seq in range(4):
        client, other, again = peers.join(), peers.join(), peers.open()
        member, first = peers.members[client], peers.log.seq
        kept = peers.log.retain()
        client.detach()
        peers.feed(other, b"CMD a\nCMD b\nCMD c\n")
        again.private(b"WELCOME\n")
        again.attach(member, first + seq)
        peers.feed(again, b"CMD d\n")
        rank, below = peers.log.rank(member), peers.rank(other)
        logged = [b"CMD %d %d %c\n" % (first + 1 + at, below, 0x61 + at) for at in range(3)]
        logged.append(b"CMD %d %d d\n" % (first + 4, rank))
        assert peers.rest(client) == b""
        assert peers.rest(again) == b"WELCOME\n" + b"".join(logged[seq:])
        kept.discard()
        peers.log.check()


def test_a_detached_cursor_gets_what_was_logged_before(peers: Peers) -> None:
    client = peers.join()
    peers.log.append(b"JOIN", b"0")
    client.detach()
    peers.log.append(b"JOIN", b"1")
    client.private(b"BYE moved\n")
    assert peers.rest(client) == b"JOIN 1 0\nBYE moved\n"
    assert peers.rank(client) == 0
    assert peers.feed(client, b"CMD a\n") == [b"CMD a"]


def test_a_cursor_without_a_member_follows_the_log(peers: Peers) -> None:
    peers.log.append(b"JOIN", b"0")
    follower, client = peers.follow(), peers.join()
    peers.log.append(b"JOIN", b"1")
    assert peers.log.count == 1
    assert peers.log.flush_all() == ([], [])
    assert peers.read(follower) == peers.read(client) == b"JOIN 2 1\n"


def test_a_cursor_can_be_attached_at_any_kept_frame(peers: Peers) -> None:
    slow, fast = peers.join(), peers.join()
    peers.feed(fast, commands(50))
    peers.rest(fast)
    slow.advance(slow.lag() // 2)
    peers.log.check()
    first = next(seq for seq in range(50) if can_find(peers.log, seq))
    assert 10 < first < 25
    for seq in (0, first - 1):
        with pytest.raises(LookupError):
            peers.open().attach(None, seq)
    follower = peers.open()
    follower.attach(None, first)
    slow.discard()
    assert peers.rest(follower).split(b" ", 2)[1] == b"%d" % (first + 1)


def can_find(log: Log, seq: int) -> bool:
    try:
        log.find(seq)
    except LookupError:
        return False
    return True


def test_positions_are_found_behind_each_frame(peers: Peers) -> None:
    client = peers.join()
    assert peers.log.find(0) == peers.log.end == 0
    peers.feed(client, commands(30))
    ends = [0]
    for frame in logged_commands(30).splitlines(keepends=True):
        ends.append(ends[-1] + len(frame))
    assert [peers.log.find(seq) for seq in range(31)] == ends
    with pytest.raises(ValueError, match="does not allow the call"):
        peers.log.find(31)


def test_the_end_is_found_when_nothing_else_is_kept(peers: Peers) -> None:
    client = peers.join()
    peers.feed(client, commands(30))
    peers.log.flush_all()
    assert peers.log.find(30) == peers.log.end == len(logged_commands(30))
    with pytest.raises(LookupError):
        peers.log.find(29)


# --- misuse -----------------------------------------------------------------------------------


def test_a_member_cannot_join_twice(peers: Peers) -> None:
    peers.log.join(7)
    with pytest.raises(ValueError, match="member 7 already exists"):
        peers.log.join(7)
    assert peers.log.count == 1


@pytest.mark.parametrize(
    "call",
    [
        Log.leave,
        Log.rank,
        lambda log, member: log.open(-1).attach(member),
        lambda log, member: log.apply(member, b"CMD a\n"),
    ],
)
def test_an_unknown_member_is_named_in_the_error(call: Callable[[Log, int], object], peers: Peers) -> None:
    peers.log.join(7)
    peers.log.leave(7)
    with pytest.raises(ValueError, match="there is no member 7"):
        call(peers.log, 7)


@pytest.mark.parametrize("leave", [Peers.leave, lambda _, client: client.detach()])
def test_a_cursor_is_attached_once(leave: Callable[[Peers, Cursor], None], peers: Peers) -> None:
    client, other = peers.join(), peers.enter(peers.open())
    for _ in range(2):
        for member in (None, other):
            with pytest.raises(ValueError, match="does not allow the call"):
                client.attach(member)
        with contextlib.suppress(ValueError):
            leave(peers, client)
    peers.log.check()


def test_a_member_has_one_cursor(peers: Peers) -> None:
    member, second = peers.members[peers.join()], peers.open()
    with pytest.raises(ValueError, match="does not allow the call"):
        second.attach(member)
    second.attach(None)


def test_nothing_is_attached_behind_a_future_frame(peers: Peers) -> None:
    client = peers.open()
    with pytest.raises(ValueError, match="does not allow the call"):
        client.attach(None, 1)
    client.attach(None, 0)


def test_only_an_attached_cursor_can_be_detached(peers: Peers) -> None:
    fresh, left = peers.open(), peers.join()
    peers.leave(left)
    for client in (fresh, left):
        with pytest.raises(ValueError, match="does not allow the call"):
            client.detach()


CURSOR_CALLS: Final[list[Callable[[Cursor], object]]] = [
    lambda cursor: cursor.attach(None),
    Cursor.detach,
    Cursor.cut,
    Cursor.mute,
    Cursor.discard,
    lambda cursor: cursor.read(1),
    lambda cursor: cursor.take(b"CMD a\n"),
    lambda cursor: cursor.next_line(logs=True),
    Cursor.collect,
    Cursor.unread,
    Cursor.keep,
    Cursor.ignore,
    lambda cursor: cursor.private(b"a\n"),
    Cursor.flush,
    Cursor.peek,
    lambda cursor: cursor.advance(0),
    Cursor.lag,
    Cursor.sent,
    Cursor.in_flight,
    Cursor.queued,
    Cursor.is_blocked,
]


@pytest.mark.parametrize("call", CURSOR_CALLS)
def test_a_discarded_cursor_is_a_type_error(call: Callable[[Cursor], object], peers: Peers) -> None:
    client = peers.join()
    client.discard()
    with pytest.raises(TypeError):
        call(client)


@pytest.mark.parametrize("call", CURSOR_CALLS)
def test_a_cursor_of_a_closed_log_is_a_type_error(call: Callable[[Cursor], object]) -> None:
    with Log(MAX_LINE) as log:
        cursor = log.open(0)
        log.join(1)
        cursor.attach(1)
    with pytest.raises(TypeError):
        call(cursor)


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.open(0),
        lambda log: log.retain(),
        lambda log: log.join(2),
        lambda log: log.append(b"JOIN", b"0"),
        lambda log: log.reserve(1),
        lambda log: log.publish(None),
        lambda log: log.flush_all(),
        lambda log: log.unflushed,
        lambda log: log.seq,
        lambda log: log.end,
        lambda log: log.find(0),
        lambda log: log.held,
        lambda log: log.count,
        lambda log: log.members(),
        lambda log: log.behind(0),
        lambda log: log.check(),
    ],
)
def test_a_closed_log_is_a_type_error(call: Callable[[Log], object]) -> None:
    with Log(MAX_LINE) as log:
        log.join(1)
    with pytest.raises(TypeError):
        call(log)


def test_closing_twice_is_allowed() -> None:
    log = Log(MAX_LINE)
    log.close()
    log.close()


# --- into the log -----------------------------------------------------------------------------


def test_a_frame_gets_the_next_seq_and_goes_to_all_attached(peers: Peers) -> None:
    early, first, second, late = peers.open(), peers.join(), peers.join(), peers.open()
    assert peers.log.append(b"JOIN", b"0,1") == 1
    peers.enter(late)
    assert peers.log.append(b"ASK", b"0 what") == 2
    assert peers.log.seq == 2
    both = b"JOIN 1 0,1\nASK 2 0 what\n"
    got = [peers.rest(client) for client in (early, first, second, late)]
    assert got == [b"", both, both, b"ASK 2 0 what\n"]


def test_a_frame_that_no_block_can_hold_is_refused(peers: Peers) -> None:
    client = peers.join()
    most = MAX_LINE + 256 - len(b"LEFT 1 \n")
    with pytest.raises(MemoryError):
        peers.log.append(b"LEFT", b"x" * (most + 1))
    assert (peers.log.seq, client.lag()) == (0, 0)
    assert peers.log.append(b"LEFT", b"x" * most) == 1
    assert peers.rest(client) == b"LEFT 1 %s\n" % (b"x" * most)
