"""The C core through its typed wrapper: bytes that it sends by itself, and bytes that callers send for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from rankserver.clist import BLOCK_BYTES, MAX_PEEK_SPANS, Flushed
from tests.support.clist_peers import READ_SIZE, Peers, commands, logged_commands


@pytest.fixture
def peers() -> Iterator[Peers]:
    with Peers() as peers:
        yield peers


# --- out to the sockets -----------------------------------------------------------------------


def test_a_full_socket_blocks_and_goes_on_where_it_stopped(peers: Peers) -> None:
    client = peers.join()
    peers.shrink(client)
    peers.feed(client, commands(200))
    lag = client.lag()
    assert client.flush() is Flushed.BLOCKED
    assert client.is_blocked()
    got = peers.read(client)
    assert got
    assert client.lag() == lag - len(got)
    got += peers.rest(client)
    assert not client.is_blocked()
    assert got == logged_commands(200)


def test_one_flush_sends_a_bounded_amount(peers: Peers) -> None:
    client = peers.join()
    expected = b""
    # There is a private frame between any two log frames, so no two are in one piece of memory.
    for number in range(1, 201):
        client.private(b"PONG %d\n" % number)
        peers.log.append(b"JOIN", b"0")
        expected += b"PONG %d\nJOIN %d 0\n" % (number, number)
    assert client.flush() is Flushed.BLOCKED
    assert client.is_blocked()
    some = peers.read(client)
    assert 0 < len(some) < len(expected)
    assert some + peers.rest(client) == expected


def test_a_connection_that_is_gone_is_broken(peers: Peers) -> None:
    client = peers.join()
    peers.hang_up(client)
    # There is nothing to send, so nothing fails.
    assert client.flush() is Flushed.DONE
    peers.log.append(b"JOIN", b"1")
    assert client.flush() is Flushed.BROKEN
    peers.log.check()


def test_flush_all_names_each_blocked_or_lost_client_once(peers: Peers) -> None:
    fine, slow, gone = peers.join(), peers.join(), peers.join()
    peers.shrink(slow)
    peers.hang_up(gone)
    peers.feed(fine, commands(100))
    assert peers.log.flush_all() == ([peers.fd(slow)], [peers.fd(gone)])
    assert [client.is_blocked() for client in (fine, slow, gone)] == [False, True, True]
    assert fine.lag() == 0
    assert peers.read(fine) == logged_commands(100)
    peers.log.append(b"JOIN", b"3")
    assert peers.log.flush_all() == ([], [])
    assert peers.read(fine) == b"JOIN 101 3\n"


def test_logged_frames_are_unflushed_until_flush_all(peers: Peers) -> None:
    client, slow = peers.join(), peers.join()
    peers.shrink(slow)
    assert peers.log.unflushed == 0
    peers.log.append(b"JOIN", b"0")
    peers.feed(client, commands(100))
    client.private(b"PONG\n")
    assert peers.log.unflushed == 101
    client.flush()
    assert peers.log.unflushed == 101
    peers.log.flush_all()
    assert peers.log.unflushed == 0
    peers.log.append(b"LEFT", b"0")
    assert peers.log.unflushed == 1


def test_flush_all_skips_cursors_without_a_rank(peers: Peers) -> None:
    early, late = peers.open(), peers.join()
    peers.log.append(b"JOIN", b"0")
    peers.leave(late)
    early.private(b"INFO\n")
    assert peers.log.flush_all() == ([], [])
    assert [peers.read(client) for client in (early, late)] == [b"", b""]


def test_flush_all_skips_cursors_that_the_caller_sends_to(peers: Peers) -> None:
    client = peers.open(external=True)
    peers.enter(client)
    peers.log.append(b"JOIN", b"0")
    assert peers.log.flush_all() == ([], [])
    assert peers.read(client) == b""
    assert b"".join(client.peek()) == b"JOIN 1 0\n"
    client.advance(9)
    assert client.lag() == 0


def test_queued_counts_only_private_frames_that_wait(peers: Peers) -> None:
    client = peers.join()
    peers.log.append(b"JOIN", b"0")
    client.private(b"PONG\n")
    assert (client.queued(), client.lag(), client.sent()) == (5, 14, 0)
    client.flush()
    assert (client.queued(), client.sent()) == (0, 14)


def test_in_flight_bytes_are_sent_but_not_read(peers: Peers) -> None:
    client = peers.join()
    peers.log.append(b"JOIN", b"0")
    assert client.in_flight() == 0
    client.flush()
    # The system also counts its own overhead.
    assert client.in_flight() >= 9
    assert peers.read(client) == b"JOIN 1 0\n"
    assert client.in_flight() == 0


def test_flush_all_sends_a_log_of_many_pieces_completely(peers: Peers) -> None:
    client = peers.join()
    peers.ours[client].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, READ_SIZE)
    # There is a private frame between any two log frames: far more spans than one call takes.
    for number in range(100):
        client.private(b"PONG %d\n" % number)
        peers.log.append(b"JOIN", b"0")
    assert peers.log.flush_all() == ([], [])
    expected = b"".join(b"PONG %d\nJOIN %d 0\n" % (number, number + 1) for number in range(100))
    assert peers.read(client) == expected


def test_flush_all_has_room_to_name_everybody(peers: Peers) -> None:
    clients = [peers.join() for _ in range(150)]
    for client in clients:
        peers.hang_up(client)
    peers.log.append(b"JOIN", b"0")
    assert peers.log.flush_all() == ([], [peers.fd(client) for client in clients])


# --- peek and advance -------------------------------------------------------------------------


def test_peek_shows_what_a_flush_would_send_and_sends_nothing(peers: Peers) -> None:
    client = peers.join()
    client.private(b"WELCOME\n")
    peers.log.append(b"JOIN", b"1")
    client.private(b"PONG\n")
    client.private(b"PING\n")
    stream = b"WELCOME\nJOIN 1 1\nPONG\nPING\n"
    for _ in range(2):
        spans = [bytes(span) for span in client.peek()]
        assert b"".join(spans) == stream
        assert spans[:2] == [b"WELCOME\n", b"JOIN 1 1\n"], "what is private is not in the log"
    assert peers.read(client) == b""
    client.advance(10)
    assert b"".join(client.peek()) == stream[10:]
    client.advance(8)
    assert b"".join(client.peek()) == stream[18:]
    client.advance(9)
    assert client.peek() == []
    assert client.lag() == 0


def test_peek_is_bounded_in_spans(peers: Peers) -> None:
    client = peers.join()
    for _ in range(MAX_PEEK_SPANS):
        client.private(b"PONG\n")
        peers.log.append(b"JOIN", b"0")
    assert len(client.peek()) == MAX_PEEK_SPANS


def test_peek_is_bounded_in_bytes_of_the_log() -> None:
    with Peers(65_536, BLOCK_BYTES, 4 * BLOCK_BYTES) as peers:
        client = peers.join()
        peers.feed(client, commands(4 * BLOCK_BYTES // 206, 200))
        assert client.lag() > 3 * BLOCK_BYTES
        assert sum(map(len, client.peek())) == BLOCK_BYTES


def test_peek_goes_on_over_the_edges_of_blocks(peers: Peers) -> None:
    client = peers.join()
    peers.feed(client, commands(30))
    got = b""
    while spans := client.peek():
        got += b"".join(spans)[:77]
        client.advance(min(77, sum(map(len, spans))))
        peers.log.check()
    assert got == logged_commands(30)


def test_an_empty_private_frame_is_refused(peers: Peers) -> None:
    client = peers.join()
    with pytest.raises(ValueError, match="does not allow the call"):
        client.private(b"")
    assert peers.log.flush_all() == ([], [])
