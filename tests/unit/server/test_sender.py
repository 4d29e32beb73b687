"""The sender: when it sends, what it does with blocked and broken sockets, and how many calls it makes."""

from __future__ import annotations

import selectors
from collections.abc import Callable

import pytest

from rankserver import tls
from rankserver.channel import NO_MEMORY, ChannelState, Departure
from rankserver.clist import Cursor, Flushed
from rankserver.sender import MAX_UNSENT
from tests.support.memory import no_memory
from tests.support.tls_peer import Certificates
from tests.support.turns import SteppedClient, SteppedServer, SteppedTlsClient


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[tuple[object, ...]]:
    """Return a list to which the arguments of each call of a method are appended from now on."""
    calls: list[tuple[object, ...]] = []
    method: Callable[..., object] = getattr(owner, name)

    def note(*arguments: object) -> object:
        calls.append(arguments)
        return method(*arguments)

    monkeypatch.setattr(owner, name, note)
    return calls


def block(stepped: SteppedServer, client: SteppedClient) -> None:
    """Queue more for a client than its socket holds."""
    while not client.channel.wants_write:
        stepped.loop.sender.send(client.channel, b"PONG %s\n" % (b"x" * 50_000))
        stepped.loop.sender.flush_all()


# --- private frames ---------------------------------------------------------------------------


def test_private_frames_of_a_turn_are_sent_with_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        client.received()
        flushes = count_calls(monkeypatch, Cursor, "flush")
        client.send(b"PING a\nPING b\nPING c\n")
        stepped.turn()
        assert client.received() == b"PONG a\nPONG b\nPONG c\n"
        assert len(flushes) == 1


def test_many_private_frames_do_not_wait_for_the_end_of_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        client.received()
        client.send(b"PING\n" * (MAX_UNSENT + 1))
        with monkeypatch.context() as patch:
            patch.setattr(stepped.loop.sender, "flush_all", lambda: None)
            stepped.turn()
        assert client.received() == b"PONG\n" * MAX_UNSENT
        stepped.loop.sender.flush_all()
        assert client.received() == b"PONG\n"


def test_a_departing_client_is_sent_no_more_frames() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        client.received()
        stepped.server.depart(client.channel, Departure("", "it is a test"))
        stepped.loop.sender.send(client.channel, b"PONG\n")
        stepped.turn()
        assert client.received() == b""


def test_without_memory_for_a_frame_no_later_one_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        client.received()
        with monkeypatch.context() as patch:
            patch.setattr(Cursor, "private", no_memory)
            stepped.loop.sender.send(client.channel, b"PONG 1\n")
        stepped.loop.sender.send(client.channel, b"PONG 2\n")
        assert client.channel.departure == NO_MEMORY
        stepped.turn()
        assert client.received() == b"", "there would be a hole before it"


# --- the log ----------------------------------------------------------------------------------


def test_the_log_is_sent_to_all_with_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        clients = [stepped.join() for _ in range(5)]
        stepped.wait(1)
        for client in clients:
            client.received()
        flush_all = count_calls(monkeypatch, stepped.log, "flush_all")
        flushes = count_calls(monkeypatch, Cursor, "flush")
        clients[0].send(b"CMD a\nCMD b\n")
        stepped.turn()
        assert (len(flush_all), len(flushes)) == (1, 0)
        assert {client.received() for client in clients} == {b"CMD 6 0 a\nCMD 7 0 b\n"}


def test_a_turn_without_news_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        stepped.wait(1)
        flush_all = count_calls(monkeypatch, stepped.log, "flush_all")
        flushes = count_calls(monkeypatch, Cursor, "flush")
        client.send(b"PONG\n")
        stepped.turn(3)
        assert flush_all == flushes == []


# --- sockets that are full --------------------------------------------------------------------


def test_a_full_socket_is_left_alone_until_it_takes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        block(stepped, client)
        assert client.channel.interest & selectors.EVENT_WRITE
        flushes = count_calls(monkeypatch, Cursor, "flush")
        stepped.loop.sender.send(client.channel, b"PONG last\n")
        stepped.turn(3)
        assert flushes == []
        received = b""
        while not received.endswith(b"PONG last\n"):
            received += client.received()
            stepped.turn()
        assert not client.channel.interest & selectors.EVENT_WRITE


def test_a_registration_changes_only_where_the_wait_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        modified = count_calls(monkeypatch, stepped.selector, "modify")
        for _ in range(3):
            client.send(b"PING\nCMD a\nWHO\n")
            stepped.turn()
        assert modified == []
        client.received()
        block(stepped, client)
        stepped.loop.sender.watch(client.channel)
        assert len(modified) == 1


# --- connections that are gone for writing ----------------------------------------------------


def test_a_broken_channel_that_is_closed_is_not_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        with monkeypatch.context() as patch:
            patch.setattr(Cursor, "flush", lambda _: Flushed.BROKEN)
            stepped.loop.sender.flush(client.channel)
        assert list(stepped.loop.sender.broken) == [client.channel]
        stepped.server.depart(client.channel, Departure("", "it is a test"))
        stepped.server.settle()
        stepped.loop.sender.finish(client.channel)
        stepped.turn(2)
        assert not stepped.loop.channels
        assert not stepped.loop.sender.broken
        assert not stepped.loop.reader.draining


def test_nobody_waits_for_a_broken_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer(max_backlog=1000) as stepped:
        client, other = stepped.join(), stepped.join()
        with monkeypatch.context() as patch:
            patch.setattr(Cursor, "flush", lambda _: Flushed.BROKEN)
            stepped.loop.sender.flush(client.channel)
        other.send(b"CMD %s\n" % (b"x" * 5000))
        stepped.turn()
        assert not stepped.loop.pace.is_holding
        assert client.state() is not ChannelState.JOINED


def test_a_channel_is_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.connect()
        discarded = count_calls(monkeypatch, Cursor, "discard")
        stepped.server.depart(client.channel, Departure("", "it is a test"))
        stepped.loop.sender.finish(client.channel)
        stepped.loop.sender.finish(client.channel)
        cursor: Cursor = client.channel.cursor
        stepped.turn(2)
        assert discarded == [(cursor,)]


# --- TLS --------------------------------------------------------------------------------------


def test_a_tls_member_is_sent_the_log_as_all_others(certificates: Certificates) -> None:
    with SteppedServer() as stepped:
        context = tls.context(str(certificates.cert), str(certificates.key), None)
        stepped.server.reload(None, context)
        member = SteppedTlsClient(stepped, certificates.client)
        member.sock.sendall(b"HELLO\nCMD a\n")
        stepped.turn()
        other = stepped.join()
        stepped.wait(1)
        assert member.received().splitlines()[-2:] == [b"CMD 2 0 a", b"JOIN 3 1"]
        other.send(b"ASK b\n")
        stepped.turn()
        assert member.received() == b"ASK 4 1 b\n"
        member.sock.sendall(b"RES 4 ok\n")
        stepped.turn()
        assert other.received().endswith(b"ASK 4 1 b\nRES 4 0 c1 ok\n")
        member.sock.plain.sendall(member.sock.encrypted(b"CMD last\n") + member.sock.goodbye())
        stepped.until(lambda: len(stepped.loop.channels) == 1)
        assert other.received() == b"CMD 5 0 last\nLEFT 6 0\n"
