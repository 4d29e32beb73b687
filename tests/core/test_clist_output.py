"""The C core through its typed face: what it sends by itself, and what others send for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from rankserver.clist import BLOCK_BYTES, PEEK_SPANS, Flushed
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
    lag = peers.log.lag(client)
    assert peers.log.flush(client) is Flushed.BLOCKED
    assert peers.log.is_blocked(client)
    got = peers.read(client)
    assert got
    assert peers.log.lag(client) == lag - len(got)
    got += peers.rest(client)
    assert not peers.log.is_blocked(client)
    assert got == logged_commands(200)


def test_one_flush_sends_a_bounded_amount(peers: Peers) -> None:
    client = peers.join()
    expected = b""
    for number in range(1, 201):  # a private frame between any two: nothing that is one piece of memory
        peers.log.private(client, b"PONG %d\n" % number)
        peers.log.append(b"JOIN", b"0")
        expected += b"PONG %d\nJOIN %d 0\n" % (number, number)
    assert peers.log.flush(client) is Flushed.BLOCKED
    assert peers.log.is_blocked(client)
    some = peers.read(client)
    assert 0 < len(some) < len(expected)
    assert some + peers.rest(client) == expected


def test_a_connection_that_is_gone_is_broken(peers: Peers) -> None:
    client = peers.join()
    peers.hang_up(client)
    assert peers.log.flush(client) is Flushed.DONE  # there was nothing to send
    peers.log.append(b"JOIN", b"1")
    assert peers.log.flush(client) is Flushed.BROKEN
    peers.log.check()


def test_flushing_all_names_who_is_blocked_and_who_is_gone_once(peers: Peers) -> None:
    fine, slow, gone = peers.join(), peers.join(), peers.join()
    peers.shrink(slow)
    peers.hang_up(gone)
    peers.feed(fine, commands(100))
    assert peers.log.flush_all() == ([peers.fd(slow)], [peers.fd(gone)])
    assert [peers.log.is_blocked(client) for client in (fine, slow, gone)] == [False, True, True]
    assert peers.log.lag(fine) == 0
    assert peers.read(fine) == logged_commands(100)
    peers.log.append(b"JOIN", b"3")
    assert peers.log.flush_all() == ([], [])
    assert peers.read(fine) == b"JOIN 101 3\n"


def test_what_is_logged_is_unflushed_until_all_were_flushed(peers: Peers) -> None:
    client, slow = peers.join(), peers.join()
    peers.shrink(slow)
    assert peers.log.unflushed == 0
    peers.log.append(b"JOIN", b"0")
    peers.feed(client, commands(100))
    peers.log.private(client, b"PONG\n")
    assert peers.log.unflushed == 101
    peers.log.flush(client)
    assert peers.log.unflushed == 101
    peers.log.flush_all()
    assert peers.log.unflushed == 0
    peers.log.append(b"LEFT", b"0")
    assert peers.log.unflushed == 1


def test_flushing_all_leaves_out_those_without_a_rank(peers: Peers) -> None:
    early, late = peers.open(), peers.join()
    peers.log.append(b"JOIN", b"0")
    peers.leave(late)
    peers.log.private(early, b"INFO\n")
    assert peers.log.flush_all() == ([], [])
    assert [peers.read(client) for client in (early, late)] == [b"", b""]


def test_flushing_all_leaves_out_those_whom_the_caller_sends_to(peers: Peers) -> None:
    client = peers.open(external=True)
    peers.enter(client)
    peers.log.append(b"JOIN", b"0")
    assert peers.log.flush_all() == ([], [])
    assert peers.read(client) == b""
    assert b"".join(peers.log.peek(client)) == b"JOIN 1 0\n"
    peers.log.advance(client, 9)
    assert peers.log.lag(client) == 0


def test_what_is_queued_is_the_private_part_of_what_waits(peers: Peers) -> None:
    client = peers.join()
    peers.log.append(b"JOIN", b"0")
    peers.log.private(client, b"PONG\n")
    assert (peers.log.queued(client), peers.log.lag(client), peers.log.sent(client)) == (5, 14, 0)
    peers.log.flush(client)
    assert (peers.log.queued(client), peers.log.sent(client)) == (0, 14)


def test_what_is_in_flight_is_sent_and_not_read(peers: Peers) -> None:
    client = peers.join()
    peers.log.append(b"JOIN", b"0")
    assert peers.log.in_flight(client) == 0
    peers.log.flush(client)
    assert peers.log.in_flight(client) >= 9  # the system counts what it needs itself, too
    assert peers.read(client) == b"JOIN 1 0\n"
    assert peers.log.in_flight(client) == 0


def test_flushing_all_sends_all_of_a_log_of_many_pieces(peers: Peers) -> None:
    client = peers.join()
    peers.ours[client].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, READ_SIZE)
    for number in range(100):  # a private frame between any two: far more spans than one call takes
        peers.log.private(client, b"PONG %d\n" % number)
        peers.log.append(b"JOIN", b"0")
    assert peers.log.flush_all() == ([], [])
    expected = b"".join(b"PONG %d\nJOIN %d 0\n" % (number, number + 1) for number in range(100))
    assert peers.read(client) == expected


def test_flushing_all_has_room_to_name_everybody(peers: Peers) -> None:
    clients = [peers.join() for _ in range(150)]
    for client in clients:
        peers.hang_up(client)
    peers.log.append(b"JOIN", b"0")
    assert peers.log.flush_all() == ([], [peers.fd(client) for client in clients])


# --- peek and advance -------------------------------------------------------------------------


def test_peek_shows_what_a_flush_would_send_and_sends_nothing(peers: Peers) -> None:
    client = peers.join()
    peers.log.private(client, b"WELCOME\n")
    peers.log.append(b"JOIN", b"1")
    peers.log.private(client, b"PONG\n")
    peers.log.private(client, b"PING\n")
    stream = b"WELCOME\nJOIN 1 1\nPONG\nPING\n"
    for _ in range(2):
        spans = [bytes(span) for span in peers.log.peek(client)]
        assert b"".join(spans) == stream
        assert spans[:2] == [b"WELCOME\n", b"JOIN 1 1\n"], "what is private is not in the log"
    assert peers.read(client) == b""
    peers.log.advance(client, 10)
    assert b"".join(peers.log.peek(client)) == stream[10:]
    peers.log.advance(client, 8)
    assert b"".join(peers.log.peek(client)) == stream[18:]
    peers.log.advance(client, 9)
    assert peers.log.peek(client) == []
    assert peers.log.lag(client) == 0


def test_peek_is_bounded_in_spans(peers: Peers) -> None:
    client = peers.join()
    for _ in range(PEEK_SPANS):
        peers.log.private(client, b"PONG\n")
        peers.log.append(b"JOIN", b"0")
    assert len(peers.log.peek(client)) == PEEK_SPANS


def test_peek_is_bounded_in_bytes_of_the_log() -> None:
    with Peers(65_536, BLOCK_BYTES, 4 * BLOCK_BYTES) as peers:
        client = peers.join()
        peers.feed(client, commands(4 * BLOCK_BYTES // 206, 200))
        assert peers.log.lag(client) > 3 * BLOCK_BYTES
        assert sum(map(len, peers.log.peek(client))) == BLOCK_BYTES


def test_peek_goes_on_over_the_edges_of_blocks(peers: Peers) -> None:
    client = peers.join()
    peers.feed(client, commands(30))
    got = b""
    while spans := peers.log.peek(client):
        got += b"".join(spans)[:77]
        peers.log.advance(client, min(77, sum(map(len, spans))))
        peers.log.check()
    assert got == logged_commands(30)


def test_an_empty_private_frame_is_refused(peers: Peers) -> None:
    client = peers.join()
    with pytest.raises(ValueError, match="not a call for this"):
        peers.log.private(client, b"")
    assert peers.log.flush_all() == ([], [])
