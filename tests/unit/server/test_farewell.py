"""Farewells: what a departing connection is still sent, and when it is closed, by the test's clock."""

from __future__ import annotations

import socket

import pytest

from rankserver.channel import NO_MEMORY, ChannelState, Departure
from rankserver.clist import Cursor
from rankserver.farewell import CLOSE_TIMEOUT, MAX_CLOSE_TIMEOUT
from rankserver.wire import codes, protocol
from tests.support.memory import no_memory
from tests.support.turns import SteppedClient, SteppedServer

DEPARTURE = Departure(codes.SHUTDOWN, "it is a test")


def owe(stepped: SteppedServer, client: SteppedClient, size: int = 1_000_000) -> None:
    """Owe a client more than its socket holds."""
    frame = b"PONG %s\n" % (b"x" * 10_000)
    for _ in range(size // len(frame)):
        stepped.loop.sender.send(client.channel, frame)
    stepped.loop.sender.flush_all()
    assert client.channel.wants_write


def test_owed_frames_come_before_the_farewell_and_the_end() -> None:
    with SteppedServer() as stepped:
        client, other = stepped.join(), stepped.join()
        stepped.wait(1)
        client.received()
        other.send(b"CMD a\n")
        client.send(b"PING b\n")
        stepped.turn()
        stepped.server.depart(client.channel, DEPARTURE)
        stepped.turn()
        assert client.received() == b"CMD 3 1 a\nPONG b\nBYE shutdown it is a test\n"
        assert client.sock.recv(1) == b"", "the stream has ended"
        assert client.state() is ChannelState.CLOSING
        client.sock.close()
        stepped.turn()
        assert client.state() is ChannelState.CLOSED


@pytest.mark.parametrize("departure", [Departure("", "left"), NO_MEMORY], ids=repr)
def test_without_a_code_the_stream_just_ends(departure: Departure) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        client.received()
        stepped.server.depart(client.channel, departure)
        stepped.turn()
        assert client.sock.recv(1) == b""


@pytest.mark.parametrize(("where", "name"), [(Cursor, "private"), (protocol, "bye")], ids=["queue", "build"])
def test_without_memory_for_it_there_is_no_farewell(
    where: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        client.received()
        with monkeypatch.context() as patch:
            patch.setattr(where, name, no_memory)
            stepped.server.depart(client.channel, DEPARTURE)
            stepped.turn()
        assert client.sock.recv(1) == b""
        client.sock.close()
        stepped.until(lambda: not stepped.loop.channels)


def test_a_peer_that_does_not_close_is_given_up() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        stepped.server.depart(client.channel, DEPARTURE)
        stepped.turn()
        stepped.wait(CLOSE_TIMEOUT - 0.1)
        assert client.state() is ChannelState.CLOSING
        stepped.wait(0.2)
        assert client.state() is ChannelState.CLOSED
        assert not stepped.loop.channels


def test_a_peer_that_takes_nothing_is_given_up() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        owe(stepped, client)
        stepped.server.depart(client.channel, DEPARTURE)
        stepped.wait(CLOSE_TIMEOUT - 0.1)
        assert client.state() is ChannelState.CLOSING
        stepped.wait(0.3)
        assert client.state() is ChannelState.CLOSED


def test_a_peer_that_takes_some_gets_more_but_limited_time() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        owe(stepped, client, 10_000_000)
        stepped.server.depart(client.channel, DEPARTURE)
        stepped.turn()
        for _ in range(int(MAX_CLOSE_TIMEOUT) - 1):
            assert client.received(100_000)
            stepped.wait(1)
            assert client.state() is ChannelState.CLOSING
        assert client.received(100_000)
        stepped.wait(1.1)
        assert client.state() is ChannelState.CLOSED


def test_a_slow_peer_that_takes_all_gets_its_farewell() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        owe(stepped, client)
        stepped.server.depart(client.channel, DEPARTURE)
        stepped.turn()
        received = b""
        while not received.endswith(b"BYE shutdown it is a test\n"):
            received += client.received(300_000)
            stepped.wait(0.5)
        assert client.sock.recv(1) == b""


def test_nothing_is_kept_of_a_closed_channel() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        stepped.server.depart(client.channel, DEPARTURE)
        stepped.turn()
        client.sock.close()
        stepped.until(lambda: not stepped.loop.channels)
        farewells = stepped.server.farewells
        assert len(farewells._progress) == len(farewells._whole) == 0
        stepped.wait(MAX_CLOSE_TIMEOUT + 1)


def test_input_after_the_farewell_is_discarded() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        stepped.server.depart(client.channel, DEPARTURE)
        stepped.turn()
        client.received()
        client.send(b"CMD a\nPING\nWHO\n")
        stepped.turn()
        assert stepped.log.seq == 2
        client.sock.shutdown(socket.SHUT_WR)
        stepped.turn()
        assert client.state() is ChannelState.CLOSED
        assert client.received() == b""


# --- departing clients that others wait for ---------------------------------------------------


def test_a_too_slow_client_gets_the_begun_frame_and_a_bye() -> None:
    with SteppedServer(max_backlog=1000, slow_timeout=5) as stepped:
        slow, other = stepped.join(), stepped.join()
        while not stepped.loop.pace.is_holding:
            other.send(b"CMD %s\n" % (b"x" * 990) * 50)
            stepped.turn()
            other.received()
        stepped.wait(5.2)
        assert slow.state() is ChannelState.CLOSING
        assert stepped.log.count == 1
        received = b""
        while more := slow.received():
            received += more
            stepped.turn()
        *frames, bye = received.splitlines()
        assert bye == b"BYE slow read too slowly for 5 seconds"
        commands = [frame.split(b" ") for frame in frames if frame.startswith(b"CMD ")]
        assert all(text == b"x" * 990 for _, _, _, text in commands)
        last = int(commands[-1][1])
        assert last == 2 + len(commands)
        assert last < stepped.log.seq - 1, "it is sent no more than it had begun to get"


def test_a_departing_client_that_blocks_others_is_closed_in_time() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        stepped.server.depart(client.channel, DEPARTURE)
        stepped.server.on_slow(client.channel)
        assert client.state() is ChannelState.LEAVING, "its LEFT is to be logged first"
        stepped.turn()
        assert client.state() is ChannelState.CLOSING
        stepped.server.on_slow(client.channel)
        assert client.state() is ChannelState.CLOSED
        stepped.turn()
        assert not stepped.loop.channels
