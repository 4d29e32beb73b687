"""The stream of a cursor: private frames in their places, how far it is sent, and what is kept for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rankserver.clist import Cursor, Flushed
from tests.support.clist_peers import MAX_LINE, Peers, commands, logged_commands
from tests.support.draining import drain


@pytest.fixture
def peers() -> Iterator[Peers]:
    with Peers() as peers:
        yield peers


# --- private frames ---------------------------------------------------------------------------


def test_a_private_frame_comes_in_its_place_and_to_nobody_else(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.log.append(b"JOIN", b"1")
    client.private(b"PONG a\n")
    client.private(b"PONG b\n")
    peers.log.append(b"LEFT", b"1")
    client.private(b"PONG c\n")
    assert client.lag() == len(b"JOIN 1 1\nPONG a\nPONG b\nLEFT 2 1\nPONG c\n")
    assert peers.rest(client) == b"JOIN 1 1\nPONG a\nPONG b\nLEFT 2 1\nPONG c\n"
    assert peers.rest(other) == b"JOIN 1 1\nLEFT 2 1\n"


def test_what_was_queued_before_the_attachment_comes_first(peers: Peers) -> None:
    client = peers.open()
    client.private(b"INFO\n")
    peers.log.append(b"JOIN", b"0")
    peers.enter(client)
    peers.log.append(b"LEFT", b"0")
    assert peers.rest(client) == b"INFO\nLEFT 2 0\n"


def test_a_client_is_sent_to_before_it_joins(peers: Peers) -> None:
    client = peers.open()
    client.private(b"INFO\n")
    assert client.flush() is Flushed.DONE
    assert peers.read(client) == b"INFO\n"


def test_a_farewell_comes_last_after_all_that_was_logged(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.feed(other, commands(20))
    peers.leave(client)
    peers.log.append(b"LEFT", b"0")
    client.private(b"BYE shutdown\n")
    *logged, last = peers.rest(client).splitlines()
    assert [line.split()[1] for line in logged] == [b"%d" % seq for seq in range(1, 21)]
    assert last == b"BYE shutdown"


def test_many_small_frames_for_one_place_share_memory(peers: Peers) -> None:
    client = peers.join()
    frames = [b"PONG %d\n" % number for number in range(10_000)]
    peers.log.append(b"JOIN", b"1")
    for frame in frames:
        client.private(frame)
    peers.log.append(b"LEFT", b"1")
    stream = b"JOIN 1 1\n" + b"".join(frames) + b"LEFT 2 1\n"
    assert client.lag() == len(stream)
    peers.log.check()
    got = bytearray()
    pieces = 0
    while spans := client.peek():
        pieces += len(spans)
        data = b"".join(spans)
        got += data
        client.advance(len(data))
        peers.log.check()
    assert got == stream
    assert pieces < 100


@pytest.mark.parametrize("sizes", [(4_000, 90, 10, 10), (10, 4_096, 10), (10, 10, 5_000, 10), (10, 100_000)])
def test_small_and_large_private_frames_keep_their_order(sizes: tuple[int, ...], peers: Peers) -> None:
    client = peers.join()
    frames = [b"PONG %d %s\n" % (number, b"x" * size) for number, size in enumerate(sizes * 3)]
    for frame in frames:
        client.private(frame)
        peers.log.check()
    assert peers.rest(client) == b"".join(frames)


def test_a_private_frame_joins_those_that_are_sent_in_part(peers: Peers) -> None:
    client = peers.join()
    expected = got = b""
    for number in range(200):
        frame = b"PONG %d\n" % number
        client.private(frame)
        expected += frame
        sent = b"".join(client.peek())[: number % 11]
        client.advance(len(sent))
        got += sent
        peers.log.check()
        assert client.lag() == len(expected) - len(got)
    assert got + peers.rest(client) == expected


# --- cut --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", range(31))
def test_a_cut_cursor_gets_only_the_frame_that_was_begun(sent: int, peers: Peers) -> None:
    client = peers.join()
    peers.log.append(b"JOIN", b"1")  # bytes 0 to 9
    client.private(b"PONG alpha\n")  # 9 to 20
    client.private(b"PONG b\n")  # 20 to 27
    peers.log.append(b"LEFT", b"1")  # 27 to 36
    client.advance(sent)
    client.cut()
    peers.log.check()
    peers.log.append(b"JOIN", b"1")
    stream = b"JOIN 1 1\nPONG alpha\nPONG b\nLEFT 2 1\n"
    end = next(end for end in (0, 9, 20, 27, 36) if end >= sent)
    assert peers.rest(client) == stream[sent:end]


@pytest.mark.parametrize("sent", range(1, 18))
def test_a_cursor_cut_twice_gets_the_frame_that_was_begun(sent: int, peers: Peers) -> None:
    client = peers.join()
    peers.log.append(b"JOIN", b"1")
    peers.log.append(b"LEFT", b"1")
    client.advance(sent)
    client.cut()
    client.private(b"BYE slow\n")
    assert client.sent() == sent
    client.cut()
    peers.log.check()
    assert peers.rest(client) == b"JOIN 1 1\nLEFT 2 1\n"[sent : 9 if sent <= 9 else 18]


@pytest.mark.parametrize("sent", range(36))
def test_a_cut_cursor_gets_no_other_private_frame_of_the_place(sent: int, peers: Peers) -> None:
    client = peers.join()
    peers.log.append(b"JOIN", b"1")  # bytes 0 to 9
    for text in (b"alpha", b"b", b"gamma"):  # to 20, 27 and 38
        client.private(b"PONG %s\n" % text)
    client.advance(sent)
    client.cut()
    peers.log.check()
    client.private(b"BYE slow\n")
    peers.log.append(b"LEFT", b"1")
    end = next(end for end in (0, 9, 20, 27, 38) if end >= sent)
    stream = b"JOIN 1 1\nPONG alpha\nPONG b\nPONG gamma\n"
    assert client.lag() == end - sent + len(b"BYE slow\n")
    assert peers.rest(client) == stream[sent:end] + b"BYE slow\n"


def test_a_cursor_cut_at_the_end_of_a_block_gets_no_more(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.log.append(b"JOIN", b"0".ljust(500))
    got = peers.rest(client)
    # These commands begin in the next block.
    peers.feed(other, commands(3, 200))
    client.cut()
    assert got.count(b"\n") == 1
    assert peers.rest(client) == b""
    assert peers.rest(other).count(b"\n") == 4


def test_a_farewell_follows_the_frame_that_was_begun(peers: Peers) -> None:
    client = peers.join()
    peers.feed(client, commands(50))
    client.advance(150)
    client.cut()
    client.private(b"BYE slow\n")
    assert peers.rest(client) == logged_commands(2)[150:] + b"BYE slow\n"


# --- muted ------------------------------------------------------------------------------------


def test_a_muted_client_keeps_its_rank_and_gets_no_more(peers: Peers) -> None:
    muted, below = peers.join(), peers.join()
    peers.log.append(b"JOIN", b"1")
    assert muted.private(b"PONG\n") == 5
    muted.advance(3)
    muted.mute()
    peers.log.check()
    assert muted.private(b"PONG\n") == 0
    peers.feed(muted, commands(1))
    assert [peers.rank(client) for client in (muted, below)] == [0, 1]
    assert muted.flush() is Flushed.BROKEN
    assert peers.log.flush_all() == ([], [])
    assert (muted.lag(), muted.queued(), muted.peek()) == (0, 0, [])
    assert not muted.is_blocked()
    assert peers.read(muted) == b""
    assert peers.read(below).endswith(b"CMD 2 0 %s\n" % commands(1)[4:-1])


@pytest.mark.parametrize("leave", [Cursor.detach, Cursor.cut, Cursor.discard])
def test_nothing_is_kept_for_a_muted_client(leave: Callable[[Cursor], None], peers: Peers) -> None:
    muted, below = peers.join(), peers.join()
    muted.mute()
    peers.feed(below, commands(200))
    peers.rest(below)
    assert peers.log.held <= MAX_LINE + 256
    leave(muted)
    peers.log.check()
    assert peers.log.held <= MAX_LINE + 256
    assert [peers.rank(client) for client in (muted, below)] == [0, 1]


def test_a_muted_cursor_that_is_attached_gets_nothing(peers: Peers) -> None:
    client = peers.open()
    client.private(b"INFO\n")
    client.mute()
    peers.enter(client)
    peers.log.append(b"JOIN", b"0")
    peers.log.check()
    assert peers.rank(client) == 0
    assert client.lag() == 0


def test_frames_owed_to_a_detached_cursor_are_not_overwritten(
    peers: Peers,
) -> None:
    left, muted, below = (peers.join() for _ in range(3))
    peers.log.append(b"JOIN", b"1")
    muted.advance(muted.lag())
    muted.mute()
    peers.leave(left)
    assert peers.log.flush_all() == ([], [])
    peers.log.check()
    peers.log.append(b"LEFT", b"0")
    assert peers.rest(left) == b"JOIN 1 1\n"
    assert peers.rest(below) == b"JOIN 1 1\nLEFT 2 0\n"


def test_cursors_for_which_more_is_kept_are_behind(peers: Peers) -> None:
    slow, left, muted, fast, stranger = (*(peers.join() for _ in range(4)), peers.open())
    muted.mute()
    peers.log.append(b"JOIN", b"0")
    peers.leave(left)
    stranger.private(b"x" * 200)
    peers.log.append(b"JOIN", b"1")
    peers.rest(fast)
    assert peers.log.behind(17) == [peers.fd(slow), peers.fd(left)]
    assert peers.log.behind(18) == []
    peers.rest(left)
    assert peers.log.behind(17) == [peers.fd(slow)]


# --- published --------------------------------------------------------------------------------


def test_unpublished_frames_are_not_sent(peers: Peers) -> None:
    client, follower = peers.join(), peers.follow()
    peers.log.append(b"JOIN", b"0")
    peers.log.publish(peers.log.end)
    peers.log.append(b"JOIN", b"1")
    client.private(b"PONG\n")
    peers.log.append(b"JOIN", b"2")
    assert peers.log.flush_all() == ([], [])
    assert [peers.rest(one) for one in (client, follower)] == [b"JOIN 1 0\n"] * 2
    assert client.peek() == []
    peers.log.publish(peers.log.find(2))
    assert [peers.rest(one) for one in (client, follower)] == [b"JOIN 2 1\nPONG\n", b"JOIN 2 1\n"]
    peers.log.publish(None)
    assert [peers.rest(one) for one in (client, follower)] == [b"JOIN 3 2\n"] * 2


def test_a_private_frame_waits_for_its_place_to_be_published(peers: Peers) -> None:
    peers.log.publish(0)
    fresh, client = peers.open(), peers.join()
    client.private(b"WELCOME\n")
    peers.log.append(b"JOIN", b"0")
    client.private(b"PONG\n")
    fresh.private(b"INFO\n")
    assert (peers.rest(client), peers.rest(fresh)) == (b"WELCOME\n", b"INFO\n")
    client.detach()
    client.private(b"BYE\n")
    assert peers.rest(client) == b""
    peers.log.publish(peers.log.end)
    assert peers.rest(client) == b"JOIN 1 0\nPONG\nBYE\n"


def test_a_cursor_attached_beyond_what_is_published_waits(peers: Peers) -> None:
    peers.log.publish(0)
    peers.log.append(b"JOIN", b"0")
    client = peers.join()
    client.private(b"WELCOME\n")
    assert client.flush() is Flushed.DONE
    assert peers.log.flush_all() == ([], [])
    assert client.lag() == len(b"WELCOME\n")
    peers.log.publish(None)
    assert peers.rest(client) == b"WELCOME\n"


def test_unpublished_frames_block_nobody(peers: Peers) -> None:
    client = peers.join()
    peers.log.publish(0)
    peers.feed(client, commands(3))
    assert client.flush() is Flushed.DONE
    assert not client.is_blocked()
    assert peers.log.behind(0) == [peers.fd(client)]


# --- retaining --------------------------------------------------------------------------------


def test_a_retaining_cursor_sees_the_log_to_its_end(peers: Peers) -> None:
    client, reader = peers.join(), peers.log.retain()
    peers.log.publish(0)
    peers.feed(client, commands(20))
    assert drain(reader) == logged_commands(20)
    assert peers.rest(client) == b""


def test_a_retaining_cursor_keeps_the_log_from_its_place_on(peers: Peers) -> None:
    client = peers.join()
    peers.feed(client, commands(20))
    reader = peers.log.retain()
    peers.feed(client, commands(20))
    peers.rest(client)
    assert [peers.log.find(seq) for seq in (20, 40)] == [len(logged_commands(20)), peers.log.end]
    assert peers.log.held >= reader.lag() > 0
    reader.discard()
    assert peers.log.held <= MAX_LINE + 256


def test_a_retaining_cursor_never_counts_as_behind(peers: Peers) -> None:
    client, reader = peers.join(), peers.log.retain()
    peers.feed(client, commands(20))
    assert peers.log.behind(0) == [peers.fd(client)]
    assert peers.log.flush_all() == ([], [])
    assert peers.log.behind(0) == []
    assert reader.lag() == len(logged_commands(20))
    assert peers.log.count == 1


# --- what is kept -----------------------------------------------------------------------------


def test_the_log_is_kept_for_the_slowest_client_only(peers: Peers) -> None:
    slow, fast = peers.join(), peers.join()
    data = commands(200)
    for _ in range(5):
        peers.feed(fast, data)
        peers.rest(fast)
    assert peers.log.held == slow.lag() > 5 * len(data)
    assert fast.lag() == 0
    peers.rest(slow)
    assert peers.log.held <= MAX_LINE + 256


@pytest.mark.parametrize("leave", [Cursor.cut, Cursor.discard])
def test_nothing_is_kept_for_a_client_that_is_cut_or_discarded(
    leave: Callable[[Cursor], None], peers: Peers
) -> None:
    slow, fast = peers.join(), peers.join()
    peers.feed(fast, commands(200))
    peers.rest(fast)
    leave(slow)
    assert peers.log.held <= MAX_LINE + 256


def test_nothing_is_kept_for_a_cursor_cut_within_a_frame(peers: Peers) -> None:
    slow, fast = peers.join(), peers.join()
    peers.feed(fast, commands(200))
    slow.advance(150)
    peers.rest(fast)
    slow.cut()
    peers.feed(fast, commands(200))
    peers.rest(fast)
    assert peers.log.held <= MAX_LINE + 256
    rest = peers.rest(slow)
    assert rest.count(b"\n") == 1
    assert rest.endswith(b"x\n")


def test_the_log_is_kept_for_a_leaver_until_it_has_all(peers: Peers) -> None:
    client = peers.join()
    peers.feed(client, commands(100))
    peers.leave(client)
    for _ in range(100):
        peers.log.append(b"JOIN", b"0")
    assert peers.rest(client).count(b"\n") == 100
    assert peers.log.held <= MAX_LINE + 256


def test_with_nobody_ranked_the_log_does_not_grow(peers: Peers) -> None:
    for _ in range(1000):
        peers.log.append(b"JOIN", b"0")
    assert peers.log.seq == 1000
    assert peers.log.held <= MAX_LINE + 256


def test_the_log_is_given_back_block_by_block(peers: Peers) -> None:
    client = peers.join()
    # Each frame takes more than half a block, so each block holds one.
    frame = b"JOIN 1 %s\n" % (b"x" * 300)
    for _ in range(5):
        peers.log.append(b"JOIN", b"x" * 300)
    for left in range(5, 0, -1):
        assert peers.log.held == left * len(frame)
        client.advance(len(frame))
