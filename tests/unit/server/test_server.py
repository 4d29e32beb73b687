"""The server in the test's thread: effects of lines and deadlines that tests/functional cannot see."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from rankserver.asks import ASKS_PER_LINE
from rankserver.channel import NO_MEMORY, Channel, ChannelState, Departure, Wait
from rankserver.clist import Cursor
from rankserver.door import MIN_STRANGERS
from rankserver.inputs import Joined, Newcomer
from rankserver.loop import ACCEPT_PAUSE, MAX_UNCHECKED_READS
from rankserver.pace import MAX_PRIVATE_BYTES
from rankserver.reception import TOKEN_PENALTY
from rankserver.wire import codes, protocol
from tests.support.memory import no_memory
from tests.support.turns import READ_SIZE, SteppedClient, SteppedServer, hello, tokens_by_class

DEPARTURE = Departure("", "it is a test")


def last_line(client: SteppedClient) -> bytes:
    return client.received().splitlines()[-1]


# --- strangers --------------------------------------------------------------------------------


def test_a_wrong_token_is_answered_after_a_while() -> None:
    with SteppedServer(tokens=tokens_by_class(0)) as stepped:
        client, other = stepped.connect(), stepped.connect()
        client.send(hello(1) + b"CMD a\n")
        stepped.turn()
        assert client.state() is ChannelState.PENALIZED
        client.received()
        other.send(hello(0))
        stepped.wait(TOKEN_PENALTY - 0.1)
        assert client.received() == b""
        assert other.state() is ChannelState.JOINED, "nobody else waits"
        stepped.wait(0.2)
        assert client.received() == b"BYE auth the token is not accepted\n"
        assert stepped.log.seq == 1


def test_a_client_may_close_before_its_delayed_refusal() -> None:
    with SteppedServer(tokens=tokens_by_class(0)) as stepped:
        client = stepped.connect()
        client.send(hello(1))
        stepped.turn()
        client.sock.close()
        stepped.turn(2)
        assert not stepped.loop.channels
        stepped.wait(TOKEN_PENALTY + 0.1)


def test_after_a_reload_the_new_tokens_count() -> None:
    with SteppedServer(tokens=tokens_by_class(0)) as stepped:
        member = stepped.join(hello(0))
        stepped.server.reload(tokens_by_class(1), None)
        assert member.state() is ChannelState.JOINED
        assert stepped.join(hello(1)).channel.member.rank_class == 1
        client = stepped.connect()
        client.send(hello(0))
        stepped.turn()
        assert client.state() is ChannelState.PENALIZED


def test_a_stranger_has_bounded_time_however_much_it_sends() -> None:
    with SteppedServer(handshake_timeout=5) as stepped:
        client = stepped.connect()
        for _ in range(49):
            client.send(b"\n")
            stepped.wait(0.1)
        assert client.state() is ChannelState.HANDSHAKE
        stepped.wait(0.2)
        assert last_line(client) == b"BYE timeout no HELLO within 5 seconds"


def test_the_oldest_silent_stranger_goes_when_there_are_too_many() -> None:
    with SteppedServer(1) as stepped:
        strangers = [stepped.connect() for _ in range(MIN_STRANGERS)]
        stepped.turn()
        assert len(stepped.loop.channels) == MIN_STRANGERS
        strangers[0].send(b"H")
        stepped.turn()
        stepped.connect()
        stepped.turn()
        assert last_line(strangers[1]) == b"BYE timeout too many connections are waiting to join"
        assert strangers[1].state() is ChannelState.CLOSED
        assert strangers[0].state() is ChannelState.HANDSHAKE
        assert len(stepped.loop.channels) == MIN_STRANGERS


def test_what_has_arrived_before_the_accept_counts_as_begun() -> None:
    with SteppedServer(1) as stepped:
        stepped.turn()
        hasty = stepped.connect(sent=b"HELL")
        for _ in range(MIN_STRANGERS):
            stepped.connect()
        stepped.turn()
        assert hasty.state() is ChannelState.HANDSHAKE
        assert len(stepped.loop.channels) == MIN_STRANGERS


def test_one_connection_too_many_from_an_address_is_refused() -> None:
    with SteppedServer(max_per_address=2) as stepped:
        clients = [stepped.connect(f"192.0.2.1:{port}") for port in range(3)]
        other = stepped.connect("192.0.2.2:1")
        stepped.turn()
        assert last_line(clients[2]) == b"BYE full the limit is 2 connections from one address"
        assert {client.state() for client in (*clients[:2], other)} == {ChannelState.HANDSHAKE}


def test_without_memory_for_a_connection_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        member = stepped.join()
        with monkeypatch.context() as patch:
            patch.setattr(stepped.log, "open", no_memory)
            with pytest.raises(KeyError):
                # There is no such channel.
                stepped.connect()
        stepped.turn()
        assert len(stepped.loop.channels) == 1
        assert member.state() is ChannelState.JOINED


def low_memory(monkeypatch: pytest.MonkeyPatch, stepped: SteppedServer) -> None:
    """Let the reserve be used up."""
    monkeypatch.setattr(stepped.server._reception._reserve, "is_intact", lambda _: False)


def test_when_memory_is_low_newcomers_are_refused_for_a_while(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with SteppedServer() as stepped, ExitStack() as stack:
        member = stepped.join()
        path = str(tmp_path / "socket")
        stepped.loop.acceptor.listen("127.0.0.1", 0, path, 0)
        newcomers = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(5)]
        for newcomer in newcomers:
            newcomer.setblocking(False)
            newcomer.connect(path)
        with monkeypatch.context() as patch:
            low_memory(patch, stepped)
            stepped.turn(3)
        assert newcomers[0].recv(READ_SIZE) == b""
        assert len(stepped.loop.channels) == 1
        member.send(b"PING\n")
        stepped.turn()
        assert last_line(member) == b"PONG"
        stepped.wait(2 * ACCEPT_PAUSE)
        assert len(stepped.loop.channels) == 5
        assert all(newcomer.recv(READ_SIZE).startswith(b"INFO ") for newcomer in newcomers[1:])


@pytest.mark.parametrize("event", ["a stranger sends", "a member sends"])
def test_when_memory_is_low_all_strangers_are_closed(monkeypatch: pytest.MonkeyPatch, event: str) -> None:
    with SteppedServer(tokens=tokens_by_class(1)) as stepped:
        member = stepped.join(hello(1))
        strangers = [stepped.connect() for _ in range(2 * MAX_UNCHECKED_READS)]
        strangers[0].send(hello(2))
        strangers[1].send(b"nonsense\n")
        stepped.turn()
        for sender in strangers[2:] if event == "a stranger sends" else [member]:
            sender.send(b"PONG\n")
        low_memory(monkeypatch, stepped)
        stepped.turn()
        assert {stranger.state() for stranger in strangers} == {ChannelState.CLOSED}
        assert member.state() is ChannelState.JOINED
        assert stepped.server._reception.door.strangers == 0
        assert len(stepped.loop.channels) == 1


def test_a_client_that_departs_for_lack_of_memory_gets_the_reserve() -> None:
    with SteppedServer() as stepped:
        member, reserve = stepped.join(), stepped.server._reception._reserve
        assert reserve._block is not None
        stepped.server.depart(member.channel, NO_MEMORY)
        assert reserve._block is None


# --- departures -------------------------------------------------------------------------------


def test_the_first_departure_counts() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        stepped.server.depart(client.channel, Departure(codes.PROTO, "first"))
        stepped.server.depart(client.channel, Departure(codes.SLOW, "second", is_cut=True))
        stepped.server.on_end(client.channel, "connection lost")
        stepped.turn()
        assert last_line(client) == b"BYE proto first"
        assert stepped.log.seq == 2


def test_a_departing_client_waits_no_more_and_blocks_nobody() -> None:
    with SteppedServer() as stepped:
        channel, other = stepped.join().channel, stepped.join().channel
        pace = stepped.loop.pace
        pace.mark_congested(channel)
        pace.wait(channel, other)
        pace.wait(other, channel)
        stepped.server.depart(channel, DEPARTURE)
        assert list(pace.waiting) == [other]
        assert not pace.is_congested(channel)
        assert pace.update(0) == [other]


def test_a_client_without_memory_for_its_frame_departs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client, other = stepped.join(), stepped.join()
        client.send(b"PING\nCMD a\n")
        with monkeypatch.context() as patch:
            patch.setattr(Cursor, "private", no_memory)
            stepped.turn()
        assert client.channel.departure == NO_MEMORY
        assert other.state() is ChannelState.JOINED
        assert (stepped.log.count, stepped.log.seq) == (1, 3), "what followed does not count"


@pytest.mark.parametrize("line", [b"ASK a", b"CMD a"])
def test_a_client_without_memory_for_its_command_departs_alone(
    line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SteppedServer() as stepped:
        client, other = stepped.join(), stepped.join()
        client.send(line + b"\n")
        with monkeypatch.context() as patch:
            patch.setattr(stepped.log, "append", no_memory)
            patch.setattr(Cursor, "next_line", no_memory)
            stepped.loop.reader.read(client.channel, 100)
        stepped.turn()
        assert client.channel.departure == NO_MEMORY
        assert other.state() is ChannelState.JOINED
        assert stepped.log.count == 1


def test_a_stop_is_told_to_all_once() -> None:
    with SteppedServer() as stepped:
        member, stranger = stepped.join(), stepped.connect()
        stepped.server.stop()
        stepped.server.stop()
        stepped.turn()
        for client in (member, stranger):
            received = client.received()
            assert received.endswith(b"BYE shutdown the server is stopping\n")
            assert received.count(b"BYE") == 1


def test_a_server_may_be_closed_twice() -> None:
    stepped = SteppedServer()
    client = stepped.join()
    stepped.close()
    stepped.close()
    assert client.channel.sock.fileno() == -1
    assert not stepped.loop.channels


# --- frames -----------------------------------------------------------------------------------


def test_a_second_hello_ends_the_connection() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        client.send(b"HELLO\nCMD a\n")
        stepped.turn()
        assert last_line(client) == b"BYE proto a second HELLO"
        assert stepped.log.seq == 2


@pytest.mark.parametrize("line", [b"CMD a", b"WHO", b"PONG", b"BYE", b"nonsense", b"\xff"])
def test_anything_but_a_hello_ends_a_handshake(line: bytes) -> None:
    with SteppedServer() as stepped:
        client = stepped.connect()
        client.send(line + b"\n")
        stepped.turn()
        assert last_line(client).startswith(b"BYE proto ")
        assert client.state() is ChannelState.CLOSING


def test_a_bad_line_of_a_member_is_an_error_and_no_more() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        client.received()
        client.send(b"nonsense\nPING a\n")
        stepped.turn()
        error, pong = client.received().splitlines()
        assert error.startswith(b"ERR bad-frame ")
        assert pong == b"PONG a"


def test_a_roster_is_made_anew_only_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        made = []
        roster = protocol.roster

        def note(*arguments: object) -> object:
            made.append(arguments)
            return roster(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(protocol, "roster", note)
        for count in (1, 1, 1):
            client.send(b"WHO\nCMD a\nASK b\n")
            stepped.turn()
            assert len(made) == count
        stepped.join()
        client.send(b"WHO\n")
        stepped.turn()
        assert len(made) == 2
        assert b'"total":2' in last_line(client)


def test_an_answer_to_a_congested_asker_does_not_wait() -> None:
    with SteppedServer() as stepped:
        asker, one = stepped.join(), stepped.join()
        asker.send(b"ASK a\n")
        stepped.turn()
        congest(stepped, asker.channel)
        one.send(b"RES 3 ok\nCMD behind\n")
        stepped.turn(2)
        assert one.channel.waits_for is None
        assert stepped.log.seq == 4
        assert stepped.state.asks.asker(3) is None, "it was proposed"


def test_an_answer_waits_behind_many_that_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankserver.credits.MAX_UNREAD_ANSWERS", 10)
    with SteppedServer() as stepped:
        asker, one = stepped.join(), stepped.join()
        asker.send(b"ASK a\n")
        stepped.turn()
        congest(stepped, asker.channel)
        one.send(b"RES 3 ok\n")
        stepped.turn(2)
        assert one.channel.waits_for is asker.channel
        assert stepped.state.asks.asker(3) is not None, "it was not proposed"
        received = b""
        while one.channel.waits_for is not None:
            received += asker.received()
            stepped.turn()
        while more := asker.received():
            received += more
            stepped.turn()
        assert received.endswith(b"RES 3 1 c2 ok\n")


def test_clearing_those_that_left_from_asks_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        asker, other, _ = (stepped.join() for _ in range(3))
        asker.send(b"ASK a\n" * 3 * ASKS_PER_LINE)
        stepped.turn()
        charged: list[int] = []
        monkeypatch.setattr(stepped.loop.reader, "charge", charged.append)
        asker.send(b"ASK b\n")
        stepped.turn()
        assert sum(charged) == 0
        other.send(b"BYE\n")
        stepped.turn()
        asker.send(b"ASK c\nASK d\n")
        stepped.turn()
        assert sum(charged) == 3


def congest(stepped: SteppedServer, channel: Channel) -> None:
    """Queue more for a channel than its socket and the server's bound hold."""
    for _ in range(16):
        stepped.loop.sender.send(channel, b"PONG %s\n" % (b"x" * (MAX_PRIVATE_BYTES // 8)))


def test_a_congested_client_waits_for_itself() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        congest(stepped, client.channel)
        client.send(b"PING a\nCMD b\n")
        stepped.turn(2)
        assert client.channel.waits_for is client.channel
        assert stepped.log.seq == 1
        while client.received():
            stepped.turn()
        stepped.turn()
        assert stepped.log.seq == 2
        assert client.channel.waits_for is None


def test_commands_wait_before_they_are_proposed() -> None:
    with SteppedServer() as stepped:
        channel = stepped.join().channel
        stepped.loop.pace.is_under_pressure = stepped.loop.pace.is_holding = True
        for line in (b"CMD a", b"ASK a"):
            assert stepped.server.on_line(channel, line) is Wait.BACKLOG
        for line in (b"PING", b"RES 9 ok", b"WHO", b"PONG"):
            assert stepped.server.on_line(channel, line) is None
        assert stepped.log.seq == 1
        stepped.loop.pace.is_under_pressure = stepped.loop.pace.is_holding = False


def test_a_member_without_a_channel_is_sent_nothing() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        stepped.state.apply(Joined((Newcomer(99, "elsewhere"),)))
        member = stepped.state.roster.by_id[99]
        stepped.server.tell(member, b"PONG\n")
        stepped.server.report()
        client.received()
        client.send(b"WHO\n")
        stepped.turn()
        assert b'"name":"elsewhere"' in last_line(client)
