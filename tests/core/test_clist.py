"""The C core through its typed face, one behaviour at a time: ranks, the log, and what is kept of it.

What clients send is ``test_clist_input``'s, what they are sent ``test_clist_output``'s; ``test_clist_model``
is the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rankserver._clist_cffi import lib
from rankserver.clist import Client, Flushed, Log, text_ok
from tests.support.clist_model import keeps_text_rule
from tests.support.clist_peers import MAX_LINE, Peers, commands, logged_commands


@pytest.fixture
def peers() -> Iterator[Peers]:
    with Peers() as peers:
        yield peers


# --- ranks ------------------------------------------------------------------------------------


def test_a_client_that_was_opened_has_no_rank_and_nothing_to_get(peers: Peers) -> None:
    client = peers.open()
    assert peers.log.rank(client) == -1
    assert peers.log.lag(client) == 0
    assert peers.log.clients == 0
    assert not peers.log.is_blocked(client)
    assert peers.log.flush(client) is Flushed.DONE


def test_ranks_are_in_the_order_of_joining(peers: Peers) -> None:
    first, second, third = peers.open(), peers.open(), peers.open()
    for client in (second, third, first):
        peers.log.join(client)
    assert [peers.log.rank(client) for client in (first, second, third)] == [2, 0, 1]
    assert peers.log.ranked_fds() == [peers.fd(client) for client in (second, third, first)]
    assert peers.log.clients == 3


@pytest.mark.parametrize("leave", [Log.retire, Log.cut, Log.discard])
def test_those_below_a_client_that_leaves_move_up(leave: Callable[[Log, Client], None], peers: Peers) -> None:
    clients = [peers.join() for _ in range(6)]
    gone = [clients.pop(4), clients.pop(2), clients.pop(0)]
    for client in gone:
        leave(peers.log, client)
    assert [peers.log.rank(client) for client in clients] == [0, 1, 2]
    assert peers.log.rank(peers.join()) == 3
    peers.log.check()


def test_a_client_that_joins_while_ranks_wait_to_be_renumbered_is_last(peers: Peers) -> None:
    clients = [peers.join() for _ in range(3)]
    peers.log.retire(clients.pop(0))
    clients.append(peers.join())
    assert [peers.log.rank(client) for client in reversed(clients)] == [2, 1, 0]


def test_a_lower_class_ranks_above_and_within_one_it_is_first_come_first_served(peers: Peers) -> None:
    clients = {(rank_class, number): peers.open() for number in range(3) for rank_class in (1, 0, 2)}
    for (rank_class, _), client in clients.items():
        peers.log.join(client, rank_class)
    assert [peers.log.rank(clients[key]) for key in sorted(clients)] == list(range(9))
    assert peers.log.ranked_fds() == [peers.fd(clients[key]) for key in sorted(clients)]


def test_the_last_can_leave_and_ranks_begin_at_0_again(peers: Peers) -> None:
    peers.log.retire(peers.join())
    assert peers.log.clients == 0
    assert peers.log.ranked_fds() == []
    assert peers.log.rank(peers.join()) == 0


def test_descriptors_of_more_clients_than_at_first_expected_are_all_named(peers: Peers) -> None:
    clients = [peers.join() for _ in range(200)]
    assert peers.log.ranked_fds() == [peers.fd(client) for client in clients]


# --- misuse -----------------------------------------------------------------------------------


def test_nobody_joins_twice(peers: Peers) -> None:
    with pytest.raises(ValueError, match="not one for this call"):
        peers.log.join(peers.join())
    assert peers.log.clients == 1


@pytest.mark.parametrize("leave", [Log.retire, Log.cut])
@pytest.mark.parametrize("logged", [0, 1])
def test_who_has_left_cannot_join_again(
    leave: Callable[[Log, Client], None], logged: int, peers: Peers
) -> None:
    client = peers.join()
    for _ in range(logged):
        peers.log.append(b"JOIN", b"0")
    leave(peers.log, client)
    with pytest.raises(ValueError, match="not one for this call"):
        peers.log.join(client)
    assert peers.log.clients == 0


@pytest.mark.parametrize("call", [Log.retire, Log.cut])
def test_what_needs_a_rank_is_refused_before_the_join_and_after_the_leave(
    call: Callable[[Log, Client], object], peers: Peers
) -> None:
    early, late = peers.open(), peers.join()
    peers.log.retire(late)
    for client in (early, late):
        with pytest.raises(ValueError, match="not one for this call"):
            call(peers.log, client)
    assert peers.log.seq == 0


CLIENT_CALLS: Final[list[Callable[[Log, Client], object]]] = [
    Log.join,
    Log.retire,
    Log.cut,
    Log.discard,
    lambda log, client: log.read(client, 1),
    lambda log, client: log.take(client, b"CMD a\n"),
    Log.next_line,
    Log.set_aside,
    Log.resume,
    Log.ignore,
    lambda log, client: log.private(client, b"a\n"),
    Log.flush,
    Log.peek,
    lambda log, client: log.advance(client, 0),
    Log.rank,
    Log.lag,
    Log.is_blocked,
]


@pytest.mark.parametrize("call", CLIENT_CALLS)
def test_a_discarded_client_is_a_type_error(call: Callable[[Log, Client], object], peers: Peers) -> None:
    client = peers.join()
    peers.log.discard(client)
    with pytest.raises(TypeError):
        call(peers.log, client)


@pytest.mark.parametrize(
    "call",
    [
        *CLIENT_CALLS,
        lambda log, _: log.open(0),
        lambda log, _: log.append(b"JOIN", b"0"),
        lambda log, _: log.flush_all(),
        lambda log, _: log.unflushed,
        lambda log, _: log.seq,
        lambda log, _: log.held,
        lambda log, _: log.clients,
        lambda log, _: log.ranked_fds(),
        lambda log, _: log.check(),
    ],
)
def test_a_closed_log_is_a_type_error(call: Callable[[Log, Client], object]) -> None:
    with Log(MAX_LINE) as log:
        client = log.open(0)
        log.join(client)
    with pytest.raises(TypeError):
        call(log, client)


def test_closing_twice_is_allowed() -> None:
    log = Log(MAX_LINE)
    log.close()
    log.close()


# --- into the log -----------------------------------------------------------------------------


def test_a_frame_gets_the_next_seq_and_goes_to_all_who_are_ranked(peers: Peers) -> None:
    early, first, second, late = peers.open(), peers.join(), peers.join(), peers.open()
    assert peers.log.append(b"JOIN", b"0,1") == 1
    peers.log.join(late)
    assert peers.log.append(b"ASK", b"0 what") == 2
    assert peers.log.seq == 2
    both = b"JOIN 1 0,1\nASK 2 0 what\n"
    got = [peers.rest(client) for client in (early, first, second, late)]
    assert got == [b"", both, both, b"ASK 2 0 what\n"]


def test_a_frame_that_no_block_can_hold_is_refused_and_changes_nothing(peers: Peers) -> None:
    client = peers.join()
    most = MAX_LINE + 256 - len(b"LEFT 1 \n")
    with pytest.raises(MemoryError):
        peers.log.append(b"LEFT", b"x" * (most + 1))
    assert (peers.log.seq, peers.log.lag(client)) == (0, 0)
    assert peers.log.append(b"LEFT", b"x" * most) == 1
    assert peers.rest(client) == b"LEFT 1 %s\n" % (b"x" * most)


# --- the text rule ----------------------------------------------------------------------------


def test_every_text_of_one_or_two_bytes_is_judged_as_in_python() -> None:
    texts = [bytes(text) for length in (1, 2) for text in itertools.product(range(256), repeat=length)]
    assert [text for text in texts if text_ok(text) != keeps_text_rule(text)] == []


def test_every_kind_of_longer_sequence_is_judged_as_in_python() -> None:
    edges = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    three = itertools.product(range(0xE0, 0xF0), range(256), edges)
    four = itertools.product(range(0xF0, 0x100), range(256), edges, (0x7F, 0x80, 0xBF, 0xC0))
    texts = [bytes(text) for text in itertools.chain(three, four)]
    texts += [b"a" + text[:length] + b"a" for text in texts[::7] for length in (2, 3)]
    assert [text for text in texts if text_ok(text) != keeps_text_rule(text)] == []


def test_a_sequence_that_the_length_cuts_off_is_no_text_whatever_is_in_memory_behind_it() -> None:
    text = "😀".encode()
    assert [lib.cl_text_ok(text, length) for length in range(5)] == [1, 0, 0, 0, 1]


@given(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(str.encode)))
@example(b"")
@settings(max_examples=200, deadline=None)
def test_any_text_is_judged_as_in_python(text: bytes) -> None:
    assert text_ok(text) == keeps_text_rule(text)


# --- private frames ---------------------------------------------------------------------------


def test_a_private_frame_comes_where_it_was_queued_and_to_nobody_else(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.log.append(b"JOIN", b"1")
    peers.log.private(client, b"PONG a\n")
    peers.log.private(client, b"PONG b\n")
    peers.log.append(b"LEFT", b"1")
    peers.log.private(client, b"PONG c\n")
    assert peers.log.lag(client) == len(b"JOIN 1 1\nPONG a\nPONG b\nLEFT 2 1\nPONG c\n")
    assert peers.rest(client) == b"JOIN 1 1\nPONG a\nPONG b\nLEFT 2 1\nPONG c\n"
    assert peers.rest(other) == b"JOIN 1 1\nLEFT 2 1\n"


def test_what_was_queued_before_the_join_comes_first_though_the_log_went_on(peers: Peers) -> None:
    client = peers.open()
    peers.log.private(client, b"INFO\n")
    peers.log.append(b"JOIN", b"0")
    peers.log.join(client)
    peers.log.append(b"LEFT", b"0")
    assert peers.rest(client) == b"INFO\nLEFT 2 0\n"


def test_a_client_is_sent_to_before_it_joins(peers: Peers) -> None:
    client = peers.open()
    peers.log.private(client, b"INFO\n")
    assert peers.log.flush(client) is Flushed.DONE
    assert peers.read(client) == b"INFO\n"


def test_a_farewell_comes_after_all_that_was_logged_before_the_leave_and_nothing_after(peers: Peers) -> None:
    client, other = peers.join(), peers.join()
    peers.feed(other, commands(20))
    peers.log.retire(client)
    peers.log.append(b"LEFT", b"0")
    peers.log.private(client, b"BYE shutdown\n")
    *logged, last = peers.rest(client).splitlines()
    assert [line.split()[1] for line in logged] == [b"%d" % seq for seq in range(1, 21)]
    assert last == b"BYE shutdown"


def test_many_small_frames_for_one_place_are_sent_in_order_and_in_few_pieces(peers: Peers) -> None:
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


def test_a_private_frame_joins_those_of_its_place_that_are_sent_in_part(peers: Peers) -> None:
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


@pytest.mark.parametrize("sent", range(36))
def test_who_is_cut_gets_no_other_of_the_private_frames_for_one_place(sent: int, peers: Peers) -> None:
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


def test_a_farewell_follows_the_frame_that_a_cut_client_has_begun(peers: Peers) -> None:
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
    assert [peers.log.rank(client) for client in (muted, below)] == [0, 1]
    assert peers.log.flush(muted) is Flushed.BROKEN
    assert peers.log.flush_all() == ([], [])
    assert (peers.log.lag(muted), peers.log.queued(muted), peers.log.peek(muted)) == (0, 0, [])
    assert not peers.log.is_blocked(muted)
    assert peers.read(muted) == b""
    assert peers.read(below).endswith(b"CMD 2 0 %s\n" % commands(1)[4:-1])


@pytest.mark.parametrize("leave", [Log.retire, Log.cut, Log.discard])
def test_nothing_is_kept_for_who_is_muted_and_it_leaves_like_any_other(
    leave: Callable[[Log, Client], None], peers: Peers
) -> None:
    muted, below = peers.join(), peers.join()
    peers.log.mute(muted)
    peers.feed(below, commands(200))
    peers.rest(below)
    assert peers.log.held <= MAX_LINE + 256
    leave(peers.log, muted)
    peers.log.check()
    assert peers.log.rank(below) == 0


def test_who_is_muted_before_it_joins_has_a_rank_and_gets_nothing(peers: Peers) -> None:
    client = peers.open()
    peers.log.private(client, b"INFO\n")
    peers.log.mute(client)
    peers.log.join(client)
    peers.log.append(b"JOIN", b"0")
    peers.log.check()
    assert peers.log.rank(client) == 0
    assert peers.log.lag(client) == 0


def test_what_is_owed_to_who_has_left_is_not_written_over_though_as_many_cursors_as_ranks_are_left(
    peers: Peers,
) -> None:
    left, muted, below = (peers.join() for _ in range(3))
    peers.log.append(b"JOIN", b"1")
    peers.log.advance(muted, peers.log.lag(muted))
    peers.log.mute(muted)
    peers.log.retire(left)
    assert peers.log.flush_all() == ([], [])
    peers.log.check()
    peers.log.append(b"LEFT", b"0")
    assert peers.rest(left) == b"JOIN 1 1\n"
    assert peers.rest(below) == b"JOIN 1 1\nLEFT 2 0\n"


def test_behind_are_those_for_whom_more_is_kept_also_after_they_have_left(peers: Peers) -> None:
    slow, left, muted, fast, stranger = (*(peers.join() for _ in range(4)), peers.open())
    peers.log.mute(muted)
    peers.log.append(b"JOIN", b"0")
    peers.log.retire(left)
    peers.log.private(stranger, b"x" * 200)
    peers.log.append(b"JOIN", b"1")
    peers.rest(fast)
    assert peers.log.behind(17) == [peers.fd(slow), peers.fd(left)]
    assert peers.log.behind(18) == []
    peers.rest(left)
    assert peers.log.behind(17) == [peers.fd(slow)]


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
    leave: Callable[[Log, Client], None], peers: Peers
) -> None:
    slow, fast = peers.join(), peers.join()
    peers.feed(fast, commands(200))
    peers.rest(fast)
    leave(peers.log, slow)
    assert peers.log.held <= MAX_LINE + 256


def test_nothing_is_kept_for_a_client_that_is_cut_in_the_middle_of_a_frame(peers: Peers) -> None:
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


def test_the_log_is_kept_for_a_client_that_has_left_until_it_has_all(peers: Peers) -> None:
    client = peers.join()
    peers.feed(client, commands(100))
    peers.log.retire(client)
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
