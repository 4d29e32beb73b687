"""Membership: which clients join and leave together, in which order, and what happens without memory."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import pytest

from rankserver.channel import NO_MEMORY, ChannelState, Departure
from rankserver.members import NOBODY
from rankserver.membership import MAX_RANK_BYTES, MIN_JOIN_WAIT, RETRY_WAIT
from rankserver.wire import codes, grammar, protocol
from tests.support.memory import no_memory
from tests.support.turns import SteppedClient, SteppedServer, hello, tokens_by_class


def connect_all(stepped: SteppedServer, count: int, greeting: bytes = b"HELLO\n") -> list[SteppedClient]:
    """Let ``count`` clients send HELLO, and take the turn that handles them."""
    clients = [stepped.connect() for _ in range(count)]
    for client in clients:
        client.send(greeting)
    stepped.turn()
    return clients


def welcome(received: bytes) -> dict[str, Any]:
    (line,) = (line for line in received.splitlines() if line.startswith(b"WELCOME "))
    fields: dict[str, Any] = json.loads(line.removeprefix(b"WELCOME "))
    return fields


def logged(stepped: SteppedServer, client: SteppedClient, verb: bytes) -> list[tuple[int, list[int]]]:
    """Return the seq and the ranks of each frame with this verb that a client has received so far."""
    stepped.wait(2 * MIN_JOIN_WAIT)
    lines = client.received().splitlines()
    assert all(len(line) < stepped.server.config.max_line for line in lines)
    words = [line.decode().split(" ") for line in lines if line.startswith(verb + b" ")]
    return [(int(seq), list(chain.from_iterable(grammar.parse_ranks(ranks)))) for _, seq, ranks in words]


# --- joins ------------------------------------------------------------------------------------


def test_all_joins_of_a_turn_share_a_frame() -> None:
    with SteppedServer() as stepped:
        first = stepped.join()
        first.received()
        clients = connect_all(stepped, 3)
        assert logged(stepped, first, b"JOIN") == [(2, [1, 2, 3])]
        for rank, client in enumerate(clients, start=1):
            fields = welcome(client.received())
            assert (fields["rank"], fields["clients"], fields["seq"]) == (rank, 4, 2)
            assert fields["name"] == f"c{rank + 1}"


def test_joins_of_a_turn_are_ranked_by_class_and_then_order() -> None:
    with SteppedServer(tokens=tokens_by_class(0, 1, 2)) as stepped:
        first = stepped.join(hello(1))
        first.received()
        clients = []
        for rank_class in (2, 0, 1, 2, 0):
            clients.append(stepped.connect())
            clients[-1].send(hello(rank_class))
        stepped.turn()
        assert [stepped.state.roster.rank(client.channel.member) for client in clients] == [4, 0, 3, 5, 1]
        assert logged(stepped, first, b"JOIN") == [(2, [0, 1, 3, 4, 5])]
        assert [welcome(client.received())["rank"] for client in clients] == [4, 0, 3, 5, 1]


def test_lines_behind_the_hello_count_after_the_join() -> None:
    with SteppedServer() as stepped:
        first = stepped.join()
        first.received()
        connect_all(stepped, 2, b"HELLO\nCMD a\n")
        assert first.received() == b"JOIN 2 1-2\nCMD 3 1 a\nCMD 4 2 a\n"


def test_a_join_waits_for_others_but_not_for_long() -> None:
    with SteppedServer() as stepped:
        first, second = stepped.join(), stepped.join()
        stepped.wait(1)
        first.received()
        stepped.join()
        assert first.received() == b""
        stepped.wait(MIN_JOIN_WAIT + 0.01, MIN_JOIN_WAIT / 5)
        assert first.received() == b"JOIN 3 2\n"
        stepped.join()
        second.send(b"CMD a\n")
        stepped.turn()
        assert first.received() == b"JOIN 4 3\nCMD 5 1 a\n", "anything else is sent at once"


def test_a_client_that_departs_before_its_join_never_joins() -> None:
    with SteppedServer() as stepped:
        client = stepped.connect()
        client.send(b"HELLO\n")
        stepped.loop.reader.read(client.channel, 100)
        assert client.state() is ChannelState.JOINING
        stepped.server.depart(client.channel, Departure(codes.SHUTDOWN, "it is a test"))
        stepped.turn()
        assert stepped.log.seq == stepped.log.count == 0
        assert client.received().endswith(b"}\nBYE shutdown it is a test\n")


# --- places -----------------------------------------------------------------------------------


def test_no_more_clients_join_than_there_are_places() -> None:
    with SteppedServer(3) as stepped:
        stepped.join()
        clients = connect_all(stepped, 4)
        joined = [client for client in clients if client.state() is ChannelState.JOINED]
        assert joined == clients[:2], "those who came first"
        for client in clients[2:]:
            assert client.received().endswith(b"BYE full all 3 places are taken\n")
        assert stepped.log.count == 3


def test_a_place_is_free_in_the_turn_in_which_it_is_left() -> None:
    with SteppedServer(1) as stepped:
        first, second = stepped.join(), stepped.connect()
        first.send(b"BYE\n")
        second.send(b"HELLO\n")
        stepped.turn()
        assert second.state() is ChannelState.JOINED
        assert welcome(second.received())["seq"] == 3
        assert stepped.log.count == 1


# --- batches ----------------------------------------------------------------------------------


def test_a_frame_has_only_ranks_that_fit_into_a_line() -> None:
    with SteppedServer(128, max_line=256) as stepped:
        most = 256 // MAX_RANK_BYTES
        first = stepped.join()
        first.received()
        clients = connect_all(stepped, 2 * most + 5)
        joins = logged(stepped, first, b"JOIN")
        assert [len(ranks) for _, ranks in joins] == [most, most, 5]
        assert [rank for _, ranks in joins for rank in ranks] == list(range(1, 2 * most + 6))
        for client in clients[::2]:
            client.send(b"BYE\n")
        stepped.turn()
        leaves = logged(stepped, first, b"LEFT")
        assert [len(ranks) for _, ranks in leaves] == [most, 3]
        assert leaves[0][1] == sorted(range(2 * most + 5, 0, -2)[:most])
        assert leaves[1][1] == [1, 3, 5], "the lowest went first, so that nobody is numbered anew"
        assert [member.name for member in stepped.state.roster] == [
            "c1",
            *(f"c{number}" for number in range(3, 2 * most + 6, 2)),
        ]


def test_ranks_up_to_a_million_fit_into_a_batch() -> None:
    ranks = [grammar.MAX_CLIENTS - 2 * number for number in range(256 // MAX_RANK_BYTES, 0, -1)]
    assert len(protocol.rank_lists(ranks, 256)) == 1


def test_a_member_that_left_and_its_channel_keep_nothing() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        member = client.channel.member
        client.send(b"BYE\n")
        stepped.until(lambda: stepped.log.count == 0)
        assert member.channel is None
        assert client.channel.member is NOBODY


def test_all_leaves_of_a_turn_share_a_frame_in_rank_order() -> None:
    with SteppedServer() as stepped:
        clients = [stepped.join() for _ in range(4)]
        clients[1].received()
        for number in (3, 0, 2):
            clients[number].send(b"BYE\n")
        stepped.turn()
        assert logged(stepped, clients[1], b"LEFT") == [(5, [0, 2, 3])]


# --- without memory ---------------------------------------------------------------------------


def test_without_memory_for_a_join_all_its_clients_depart(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        first = stepped.join()
        stepped.wait(1)
        first.received()
        with monkeypatch.context() as patch:
            patch.setattr(stepped.log, "append", no_memory)
            clients = connect_all(stepped, 3)
        assert stepped.log.seq == stepped.log.count == 1
        for client in clients:
            assert client.state() is ChannelState.CLOSING
            assert client.received().count(b"\n") == 1, "the INFO"
            assert client.sock.recv(1) == b""
        assert first.received() == b""
        assert welcome(stepped.join().received())["name"] == "c5", "numbers are never used again"


def test_without_memory_for_its_welcome_a_newcomer_departs(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        first = stepped.join()
        first.received()
        with monkeypatch.context() as patch:
            patch.setattr(protocol, "welcome", no_memory)
            clients = connect_all(stepped, 2)
        assert logged(stepped, first, b"LEFT") == [(3, [1, 2])]
        for client in clients:
            assert client.channel.departure == NO_MEMORY
            assert client.sock.recv(1) == b"", "its output is cut"
        assert welcome(stepped.join().received())["rank"] == 1


def test_a_leave_without_memory_is_retried_and_keeps_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        leaving, other = stepped.join(), stepped.join()
        stepped.wait(1)
        other.received()
        tries = []

        def reserve(size: int) -> None:
            tries.append(size)
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(stepped.log, "reserve", reserve)
            leaving.send(b"BYE\n")
            stepped.turn(5)
            assert len(tries) == 1, "not in each turn"
            assert leaving.state() is ChannelState.LEAVING
            other.send(b"CMD a\n")
            stepped.turn()
            assert other.received() == b"CMD 3 1 a\n", "ranks are what they were"
            stepped.wait(RETRY_WAIT + 0.01, RETRY_WAIT / 5)
            assert len(tries) == 2
        stepped.wait(RETRY_WAIT + 0.01, RETRY_WAIT / 5)
        assert other.received() == b"LEFT 4 0\n"
        assert leaving.state() is ChannelState.CLOSING
        other.send(b"CMD b\n")
        stepped.turn()
        assert other.received() == b"CMD 5 0 b\n"


def test_while_a_leave_waits_for_memory_others_join(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        leaving = stepped.join()
        with monkeypatch.context() as patch:
            patch.setattr(stepped.log, "reserve", no_memory)
            leaving.send(b"BYE\n")
            stepped.turn()
            assert welcome(stepped.join().received())["rank"] == 1
        stepped.wait(0.2, RETRY_WAIT / 5)
        assert [member.name for member in stepped.state.roster] == ["c2"]
