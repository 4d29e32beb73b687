"""What a cursor is owed: private frames in their places, how far it is sent, and what is kept for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rankserver.clist import Cursor, Flushed, Log
from tests.support.clist_peers import MAX_LINE, Peers, commands, logged_commands


@pytest.fixture
def peers() -> Iterator[Peers]:
    with Peers() as peers:
        yield peers


# --- private frames ---------------------------------------------------------------------------


def test_a_private_frame_comes_in_its_place_and_to_nobody_else(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.log.append(b"JOIN", b"1")
    peers.log.private(client, b"PONG a\n")
    peers.log.private(client, b"PONG b\n")
    peers.log.append(b"LEFT", b"1")
    peers.log.private(client, b"PONG c\n")
    assert peers.log.lag(client) == len(b"JOIN 1 1\nPONG a\nPONG b\nLEFT 2 1\nPONG c\n")
    assert peers.rest(client) == b"JOIN 1 1\nPONG a\nPONG b\nLEFT 2 1\nPONG c\n"
    assert peers.rest(other) == b"JOIN 1 1\nLEFT 2 1\n"


def test_what_was_queued_before_the_attachment_comes_first(peers: Peers) -> None:
    client = peers.open()
    peers.log.private(client, b"INFO\n")
    peers.log.append(b"JOIN", b"0")
    peers.enter(client)
    peers.log.append(b"LEFT", b"0")
    assert peers.rest(client) == b"INFO\nLEFT 2 0\n"


def test_a_client_is_sent_to_before_it_joins(peers: Peers) -> None:
    client = peers.open()
    peers.log.private(client, b"INFO\n")
    assert peers.log.flush(client) is Flushed.DONE
    assert peers.read(client) == b"INFO\n"


def test_a_farewell_comes_last_after_all_that_was_logged(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.feed(other, commands(20))
    peers.leave(client)
    peers.log.append(b"LEFT", b"0")
    peers.log.private(client, b"BYE shutdown\n")
    *logged, last = peers.rest(client).splitlines()
    assert [line.split()[1] for line in logged] == [b"%d" % seq for seq in range(1, 21)]
    assert last == b"BYE shutdown"


def test_many_small_frames_for_one_place_share_memory(peers: Peers) -> None:
    client = peers.join()
    frames = [b"PONG %d\n" % number for number in range(10_000)]
    peers.log.append(b"JOIN", b"1")
    for frame in frames:
        peers.log.private(client, frame)
    peers.log.append(b"LEFT", b"1")
    stream = b"JOIN 1 1\n" + b"".join(frames) + b"LEFT 2 1\n"
    assert peers.log.lag(client) == len(stream)
    peers.log.check()
    got = bytearray()
    pieces = 0
    while spans := peers.log.peek(client):
        pieces += len(spans)
        data = b"".join(spans)
        got += data
        peers.log.advance(client, len(data))
        peers.log.check()
    assert got == stream
    assert pieces < 100


@pytest.mark.parametrize("sizes", [(4_000, 90, 10, 10), (10, 4_096, 10), (10, 10, 5_000, 10), (10, 100_000)])
def test_small_and_large_private_frames_keep_their_order(sizes: tuple[int, ...], peers: Peers) -> None:
    client = peers.join()
    frames = [b"PONG %d %s\n" % (number, b"x" * size) for number, size in enumerate(sizes * 3)]
    for frame in frames:
        peers.log.private(client, frame)
        peers.log.check()
    assert peers.rest(client) == b"".join(frames)


def test_a_private_frame_joins_those_that_are_sent_in_part(peers: Peers) -> None:
    client = peers.join()
    expected = got = b""
    for number in range(200):
        frame = b"PONG %d\n" % number
        peers.log.private(client, frame)
        expected += frame
        sent = b"".join(peers.log.peek(client))[: number % 11]
        peers.log.advance(client, len(sent))
        got += sent
        peers.log.check()
        assert peers.log.lag(client) == len(expected) - len(got)
    assert got + peers.rest(client) == expected


# --- cut --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", range(31))
def test_who_is_cut_gets_the_frame_that_was_begun_and_no_other(sent: int, peers: Peers) -> None:
    client = peers.join()
    peers.log.append(b"JOIN", b"1")  # bytes 0 to 9
    peers.log.private(client, b"PONG alpha\n")  # 9 to 20
    peers.log.private(client, b"PONG b\n")  # 20 to 27
    peers.log.append(b"LEFT", b"1")  # 27 to 36
    peers.log.advance(client, sent)
    peers.log.cut(client)
    peers.log.check()
    peers.log.append(b"JOIN", b"1")
    stream = b"JOIN 1 1\nPONG alpha\nPONG b\nLEFT 2 1\n"
    end = next(end for end in (0, 9, 20, 27, 36) if end >= sent)
    assert peers.rest(client) == stream[sent:end]


@pytest.mark.parametrize("sent", range(1, 18))
def test_who_is_cut_twice_still_gets_the_frame_that_was_begun(sent: int, peers: Peers) -> None:
    client = peers.join()
    peers.log.append(b"JOIN", b"1")
    peers.log.append(b"LEFT", b"1")
    peers.log.advance(client, sent)
    peers.log.cut(client)
    peers.log.private(client, b"BYE slow\n")
    assert peers.log.sent(client) == sent
    peers.log.cut(client)
    peers.log.check()
    assert peers.rest(client) == b"JOIN 1 1\nLEFT 2 1\n"[sent : 9 if sent <= 9 else 18]


@pytest.mark.parametrize("sent", range(36))
def test_who_is_cut_gets_no_other_private_frame_of_one_place(sent: int, peers: Peers) -> None:
    client = peers.join()
    peers.log.append(b"JOIN", b"1")  # bytes 0 to 9
    for text in (b"alpha", b"b", b"gamma"):  # to 20, 27 and 38
        peers.log.private(client, b"PONG %s\n" % text)
    peers.log.advance(client, sent)
    peers.log.cut(client)
    peers.log.check()
    peers.log.private(client, b"BYE slow\n")
    peers.log.append(b"LEFT", b"1")
    end = next(end for end in (0, 9, 20, 27, 38) if end >= sent)
    stream = b"JOIN 1 1\nPONG alpha\nPONG b\nPONG gamma\n"
    assert peers.log.lag(client) == end - sent + len(b"BYE slow\n")
    assert peers.rest(client) == stream[sent:end] + b"BYE slow\n"


def test_who_is_cut_at_the_end_of_a_block_gets_no_more(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.log.append(b"JOIN", b"0".ljust(500))
    got = peers.rest(client)
    peers.feed(other, commands(3, 200))  # these begin in the next block
    peers.log.cut(client)
    assert got.count(b"\n") == 1
    assert peers.rest(client) == b""
    assert peers.rest(other).count(b"\n") == 4


def test_a_farewell_follows_the_frame_that_was_begun(peers: Peers) -> None:
    client = peers.join()
    peers.feed(client, commands(50))
    peers.log.advance(client, 150)
    peers.log.cut(client)
    peers.log.private(client, b"BYE slow\n")
    assert peers.rest(client) == logged_commands(2)[150:] + b"BYE slow\n"


# --- muted ------------------------------------------------------------------------------------


def test_who_is_muted_keeps_its_rank_and_gets_nothing_more(peers: Peers) -> None:
    muted, below = peers.join(), peers.join()
    peers.log.append(b"JOIN", b"1")
    assert peers.log.private(muted, b"PONG\n") == 5
    peers.log.advance(muted, 3)
    peers.log.mute(muted)
    peers.log.check()
    assert peers.log.private(muted, b"PONG\n") == 0
    peers.feed(muted, commands(1))
    assert [peers.rank(client) for client in (muted, below)] == [0, 1]
    assert peers.log.flush(muted) is Flushed.BROKEN
    assert peers.log.flush_all() == ([], [])
    assert (peers.log.lag(muted), peers.log.queued(muted), peers.log.peek(muted)) == (0, 0, [])
    assert not peers.log.is_blocked(muted)
    assert peers.read(muted) == b""
    assert peers.read(below).endswith(b"CMD 2 0 %s\n" % commands(1)[4:-1])


@pytest.mark.parametrize("leave", [Log.detach, Log.cut, Log.discard])
def test_nothing_is_kept_for_who_is_muted(leave: Callable[[Log, Cursor], None], peers: Peers) -> None:
    muted, below = peers.join(), peers.join()
    peers.log.mute(muted)
    peers.feed(below, commands(200))
    peers.rest(below)
    assert peers.log.held <= MAX_LINE + 256
    leave(peers.log, muted)
    peers.log.check()
    assert peers.log.held <= MAX_LINE + 256
    assert [peers.rank(client) for client in (muted, below)] == [0, 1]


def test_who_is_muted_and_then_attached_gets_nothing(peers: Peers) -> None:
    client = peers.open()
    peers.log.private(client, b"INFO\n")
    peers.log.mute(client)
    peers.enter(client)
    peers.log.append(b"JOIN", b"0")
    peers.log.check()
    assert peers.rank(client) == 0
    assert peers.log.lag(client) == 0


def test_what_a_detached_cursor_is_owed_is_not_written_over(
    peers: Peers,
) -> None:
    left, muted, below = (peers.join() for _ in range(3))
    peers.log.append(b"JOIN", b"1")
    peers.log.advance(muted, peers.log.lag(muted))
    peers.log.mute(muted)
    peers.leave(left)
    assert peers.log.flush_all() == ([], [])
    peers.log.check()
    peers.log.append(b"LEFT", b"0")
    assert peers.rest(left) == b"JOIN 1 1\n"
    assert peers.rest(below) == b"JOIN 1 1\nLEFT 2 0\n"


def test_behind_are_those_for_whom_more_is_kept(peers: Peers) -> None:
    slow, left, muted, fast, stranger = (*(peers.join() for _ in range(4)), peers.open())
    peers.log.mute(muted)
    peers.log.append(b"JOIN", b"0")
    peers.leave(left)
    peers.log.private(stranger, b"x" * 200)
    peers.log.append(b"JOIN", b"1")
    peers.rest(fast)
    assert peers.log.behind(17) == [peers.fd(slow), peers.fd(left)]
    assert peers.log.behind(18) == []
    peers.rest(left)
    assert peers.log.behind(17) == [peers.fd(slow)]


# --- published --------------------------------------------------------------------------------


def test_nothing_is_sent_that_is_not_published(peers: Peers) -> None:
    client, follower = peers.join(), peers.follow()
    peers.log.append(b"JOIN", b"0")
    peers.log.publish(peers.log.end)
    peers.log.append(b"JOIN", b"1")
    peers.log.private(client, b"PONG\n")
    peers.log.append(b"JOIN", b"2")
    assert peers.log.flush_all() == ([], [])
    assert [peers.rest(one) for one in (client, follower)] == [b"JOIN 1 0\n"] * 2
    assert peers.log.peek(client) == []
    peers.log.publish(peers.log.find(2))
    assert [peers.rest(one) for one in (client, follower)] == [b"JOIN 2 1\nPONG\n", b"JOIN 2 1\n"]
    peers.log.publish(None)
    assert [peers.rest(one) for one in (client, follower)] == [b"JOIN 3 2\n"] * 2


def test_a_private_frame_waits_for_its_place_to_be_published(peers: Peers) -> None:
    peers.log.publish(0)
    fresh, client = peers.open(), peers.join()
    peers.log.private(client, b"WELCOME\n")
    peers.log.append(b"JOIN", b"0")
    peers.log.private(client, b"PONG\n")
    peers.log.private(fresh, b"INFO\n")
    assert (peers.rest(client), peers.rest(fresh)) == (b"WELCOME\n", b"INFO\n")
    peers.log.detach(client)
    peers.log.private(client, b"BYE\n")
    assert peers.rest(client) == b""
    peers.log.publish(peers.log.end)
    assert peers.rest(client) == b"JOIN 1 0\nPONG\nBYE\n"


def test_who_is_attached_beyond_what_is_published_waits(peers: Peers) -> None:
    peers.log.publish(0)
    peers.log.append(b"JOIN", b"0")
    client = peers.join()
    peers.log.private(client, b"WELCOME\n")
    assert peers.log.flush(client) is Flushed.DONE
    assert peers.log.flush_all() == ([], [])
    assert peers.log.lag(client) == len(b"WELCOME\n")
    peers.log.publish(None)
    assert peers.rest(client) == b"WELCOME\n"


def test_what_is_not_published_blocks_nobody(peers: Peers) -> None:
    client = peers.join()
    peers.log.publish(0)
    peers.feed(client, commands(3))
    assert peers.log.flush(client) is Flushed.DONE
    assert not peers.log.is_blocked(client)
    assert peers.log.behind(0) == [peers.fd(client)]


# --- retaining --------------------------------------------------------------------------------


def test_a_retaining_cursor_sees_the_log_to_its_end(peers: Peers) -> None:
    client, reader = peers.join(), peers.log.retain()
    peers.log.publish(0)
    peers.feed(client, commands(20))
    got = b""
    while spans := peers.log.peek(reader):
        got += b"".join(spans)
        peers.log.advance(reader, sum(map(len, spans)))
    assert got == logged_commands(20)
    assert peers.rest(client) == b""


def test_a_retaining_cursor_keeps_the_log_from_its_place_on(peers: Peers) -> None:
    client = peers.join()
    peers.feed(client, commands(20))
    reader = peers.log.retain()
    peers.feed(client, commands(20))
    peers.rest(client)
    assert [peers.log.find(seq) for seq in (20, 40)] == [len(logged_commands(20)), peers.log.end]
    assert peers.log.held >= peers.log.lag(reader) > 0
    peers.log.discard(reader)
    assert peers.log.held <= MAX_LINE + 256


def test_a_retaining_cursor_is_behind_in_no_question(peers: Peers) -> None:
    client, reader = peers.join(), peers.log.retain()
    peers.feed(client, commands(20))
    assert peers.log.behind(0) == [peers.fd(client)]
    assert peers.log.flush_all() == ([], [])
    assert peers.log.behind(0) == []
    assert peers.log.lag(reader) == len(logged_commands(20))
    assert peers.log.count == 1


# --- what is kept -----------------------------------------------------------------------------


def test_the_log_is_kept_for_the_slowest_client_only(peers: Peers) -> None:
    slow, fast = peers.join(), peers.join()
    data = commands(200)
    for _ in range(5):
        peers.feed(fast, data)
        peers.rest(fast)
    assert peers.log.held == peers.log.lag(slow) > 5 * len(data)
    assert peers.log.lag(fast) == 0
    peers.rest(slow)
    assert peers.log.held <= MAX_LINE + 256


@pytest.mark.parametrize("leave", [Log.cut, Log.discard])
def test_nothing_is_kept_for_a_client_that_is_cut_or_discarded(
    leave: Callable[[Log, Cursor], None], peers: Peers
) -> None:
    slow, fast = peers.join(), peers.join()
    peers.feed(fast, commands(200))
    peers.rest(fast)
    leave(peers.log, slow)
    assert peers.log.held <= MAX_LINE + 256


def test_nothing_is_kept_for_who_is_cut_in_the_middle_of_a_frame(peers: Peers) -> None:
    slow, fast = peers.join(), peers.join()
    peers.feed(fast, commands(200))
    peers.log.advance(slow, 150)
    peers.rest(fast)
    peers.log.cut(slow)
    peers.feed(fast, commands(200))
    peers.rest(fast)
    assert peers.log.held <= MAX_LINE + 256
    rest = peers.rest(slow)
    assert rest.count(b"\n") == 1
    assert rest.endswith(b"x\n")


def test_the_log_is_kept_for_who_has_left_until_it_has_all(peers: Peers) -> None:
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
    frame = b"JOIN 1 %s\n" % (b"x" * 300)  # more than half a block, so there is one in each
    for _ in range(5):
        peers.log.append(b"JOIN", b"x" * 300)
    for left in range(5, 0, -1):
        assert peers.log.held == left * len(frame)
        peers.log.advance(client, len(frame))
