"""The loop, turn by turn: bounds of a turn, the order of its steps, and which time counts."""

from __future__ import annotations

import socket
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from rankserver import loop, tls
from rankserver.channel import Channel, ChannelState, Wait
from rankserver.clist import MAX_READ_BYTES, Cursor, Flushed
from rankserver.loop import (
    MANY_CLIENTS,
    MAX_COST,
    MAX_LATENESS,
    MAX_TURN_BYTES,
    MIN_READ_BYTES,
)
from rankserver.tls import TlsTransport
from tests.support.memory import no_memory
from tests.support.tls_peer import Certificates
from tests.support.turns import SteppedClient, SteppedServer

# --- bounds of a turn -------------------------------------------------------------------------


def test_a_turn_reads_bounded_bytes_and_few_while_commands_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        clients = [stepped.join(), stepped.join()]
        asked: list[int] = []
        read = Cursor.read

        def note(cursor: Cursor, size: int) -> int:
            asked.append(size)
            return read(cursor, size)

        monkeypatch.setattr(Cursor, "read", note)
        for wanted, is_holding in ((MAX_TURN_BYTES // 2, False), (MIN_READ_BYTES, True)):
            stepped.loop.pace.is_under_pressure = stepped.loop.pace.is_holding = is_holding
            for client in clients:
                client.send(b"\n")
            asked.clear()
            stepped.turn()
            assert asked == [wanted] * len(clients)


def test_a_turn_reads_twice_as_much_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankserver.loop.MANY_CLIENTS", 2)
    assert MANY_CLIENTS > 2
    with SteppedServer() as stepped:
        budgets = []
        for _ in range(3):
            client = stepped.join()
            budgets.append(stepped.loop.reader.budget)
        client.send(b"BYE\n")
        stepped.clients[1].send(b"BYE\n")
        stepped.turn()
        assert budgets == [MAX_TURN_BYTES, MAX_READ_BYTES, MAX_READ_BYTES]
        assert stepped.loop.reader.budget == MAX_TURN_BYTES


def test_a_turn_handles_bounded_lines_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        client.send(b"PONG\n" * (MAX_COST + 1))
        handled = lines_handled(stepped, monkeypatch)
        stepped.turn()
        assert len(handled) == MAX_COST
        assert client.channel.waits_for is Wait.TURN
        stepped.turn()
        assert len(handled) == MAX_COST + 1
        assert client.channel.waits_for is None


def lines_handled(stepped: SteppedServer, monkeypatch: pytest.MonkeyPatch) -> list[Channel]:
    """Return a list to which the channel of each handled line is appended from now on."""
    handled: list[Channel] = []
    monkeypatch.setattr(stepped.server, "on_line", lambda channel, _: handled.append(channel))
    return handled


def test_clients_that_had_to_stop_go_first_in_the_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_COST", 10)
    with SteppedServer() as stepped:
        clients = [stepped.join() for _ in range(4)]
        for client in clients:
            client.send(b"PONG\n" * 6 + b"CMD behind\n")
        handled = lines_handled(stepped, monkeypatch)
        turns = []
        while len(handled) < 24:
            before = len(handled)
            stepped.turn()
            turns.append(handled[before:])
        assert [len(turn) for turn in turns] == [10, 10, 4]
        waiting = {client.channel for client in clients} - set(turns[0])
        assert waiting
        assert waiting <= set(turns[1])
        assert stepped.log.seq == 8, "four JOINs, and then the commands"


def test_a_roster_costs_as_much_as_its_length_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_COST", 10)
    monkeypatch.setattr("rankserver.membership.MEMBERS_PER_UNIT", 1)
    with SteppedServer() as stepped:
        clients = [stepped.join() for _ in range(8)]
        for client in clients:
            client.send(b"WHO\n")
        # The first costs ten lines, and each other one two lines.
        for waiting in (7, 2, 0):
            stepped.turn()
            assert sum(client.channel.waits_for is Wait.TURN for client in clients) == waiting
        stepped.join()
        clients[0].received()
        clients[0].send(b"WHO\n")
        stepped.turn()
        assert b'{"total":9,' in clients[0].received()


@pytest.mark.parametrize(
    ("state", "is_tls"),
    [
        *product([ChannelState.HANDSHAKE, ChannelState.PENALIZED], [False, True]),
        (ChannelState.CLOSING, True),
    ],
)
def test_a_turn_reads_few_strangers_and_all_progress(
    state: ChannelState, is_tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_HANDSHAKES" if is_tls else "MAX_STRANGER_READS", 3)
    with SteppedServer() as stepped:
        clients = [stepped.connect() for _ in range(10)]
        stepped.turn()
        for client in clients:
            client.send(b"x")
        served: list[Channel] = []
        with monkeypatch.context() as patch:
            for client in clients:
                transport = SimpleNamespace(is_handshaking=True) if is_tls else None
                patch.setattr(client.channel, "tls", transport)
                patch.setattr(client.channel, "state", state)
            patch.setattr(stepped.loop.reader, "read", lambda channel, _: served.append(channel))
            for turn in range(1, 6):
                stepped.turn()
                assert len(served) == turn * 3
        channels = {client.channel for client in clients}
        assert set(served[:12]) == channels


def test_a_crowd_from_one_address_delays_no_handshake_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_STRANGER_READS", 3)
    with SteppedServer() as stepped:
        clients = [stepped.connect() for _ in range(10)]
        stepped.turn()
        served: list[Channel] = []
        for client in clients:
            client.channel.peer = "192.0.2.1:1000"
            client.send(b"x")
        clients[-1].channel.peer = "192.0.2.2:1000"
        with monkeypatch.context() as patch:
            patch.setattr(stepped.loop.reader, "read", lambda channel, _: served.append(channel))
            stepped.turn()
            stepped.turn()
        assert clients[-1].channel in served[:2]
        assert clients[-1].channel in served[3:5]


# --- connections that break -------------------------------------------------------------------


def test_a_client_that_says_bye_while_drained_is_closed_once() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        stepped.loop.reader.budget = MIN_READ_BYTES
        command = b"CMD %s\n" % (b"x" * (MIN_READ_BYTES // 4 - 5))
        # One turn notices that it is gone, and the next one reads twice; the second read brings the BYE.
        client.send(b"PING\n" + command * 9 + b"BYE\n" + command * 9)
        client.sock.close()
        stepped.until(lambda: not stepped.loop.channels)
        stepped.turn()
        # A JOIN, nine commands, and a LEFT.
        assert stepped.log.seq == 11


def test_lines_sent_before_the_connection_broke_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        monkeypatch.setattr(stepped.loop.reader, "budget", MIN_READ_BYTES)
        client.send(b"CMD %s\n" % (b"x" * 1000) * 20)
        with monkeypatch.context() as patch:
            patch.setattr(Cursor, "flush", lambda _: Flushed.BROKEN)
            stepped.loop.sender.flush(client.channel)
        assert list(stepped.loop.sender.broken) == [client.channel]
        stepped.until(lambda: not stepped.loop.channels)
        # A JOIN, twenty commands, and a LEFT.
        assert stepped.log.seq == 22


def test_a_handshake_that_broke_does_not_go_on(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SteppedServer() as stepped:
        context = tls.context(str(certificates.cert), str(certificates.key), None)
        stepped.server.reload(None, context)
        client = stepped.connect("127.0.0.1:4711")
        client.send(b"x")
        monkeypatch.setattr(TlsTransport, "flush", lambda _: Flushed.BROKEN)
        monkeypatch.setattr(TlsTransport, "receive", no_memory)
        stepped.loop.sender.flush(client.channel)
        stepped.loop.reader.drain()
        assert client.channel.is_going
        stepped.until(lambda: not stepped.loop.channels)


def test_nothing_is_closed_in_the_middle_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client, other = stepped.join(), stepped.join()
        client.sock.close()
        other.send(b"PING\n")
        flush_all = stepped.loop.sender.flush_all
        open_then = []

        def note() -> None:
            flush_all()
            open_then.append(client.channel.sock.fileno() >= 0)

        monkeypatch.setattr(stepped.loop.sender, "flush_all", note)
        stepped.until(lambda: client.state() is ChannelState.CLOSED)
        assert all(open_then)
        assert client.channel.sock.fileno() == -1


# --- time in which the server did not run -----------------------------------------------------


def is_shaking_hands(client: SteppedClient) -> bool:
    return client.state() is ChannelState.HANDSHAKE


def test_time_in_which_the_server_was_stopped_does_not_count() -> None:
    with SteppedServer(handshake_timeout=5) as stepped:
        client = stepped.connect()
        stepped.turn()
        for _ in range(3):
            stepped.selector.stopped = 1e6
            stepped.turn()
            assert is_shaking_hands(client)
        stepped.selector.now += MAX_LATENESS
        stepped.turn()
        assert is_shaking_hands(client)
        stepped.selector.stopped = 5 - MAX_LATENESS
        stepped.turn()
        assert not is_shaking_hands(client)


def test_with_a_short_heartbeat_shorter_stops_do_not_count() -> None:
    with SteppedServer(handshake_timeout=0.5, heartbeat=0.2) as stepped:
        client = stepped.connect()
        stepped.turn()
        for _ in range(3):
            stepped.selector.stopped = 0.6 * MAX_LATENESS
            stepped.turn()
            assert is_shaking_hands(client)


def test_a_long_turn_counts_for_little_time() -> None:
    with SteppedServer(handshake_timeout=5) as stepped:
        client = stepped.connect()
        stepped.turn()
        for _ in range(4):
            # The time passes between two selects.
            stepped.selector.now += 1e6
            stepped.turn()
            assert is_shaking_hands(client)
        stepped.selector.now += 1e6
        stepped.turn()
        assert not is_shaking_hands(client)


def test_a_clock_that_goes_back_harms_nobody() -> None:
    with SteppedServer(handshake_timeout=5) as stepped:
        client = stepped.connect()
        stepped.selector.now -= 100
        stepped.turn()
        assert is_shaking_hands(client)


def test_a_select_lasts_until_the_next_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer(heartbeat=0, handshake_timeout=5) as stepped:
        client = stepped.connect()
        waited = patience(stepped, monkeypatch)
        stepped.wait(2)
        stepped.turn()
        assert waited[-1] == pytest.approx(3), "its HELLO must have come by then"
        client.send(b"HELLO\n")
        stepped.wait(4)
        stepped.turn()
        assert client.state() is ChannelState.JOINED
        assert waited[-1] is None


def patience(stepped: SteppedServer, monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Return a list to which the seconds that each turn would wait are appended from now on."""
    waited: list[float | None] = []
    select = stepped.selector.select

    def note(timeout: float | None = None) -> object:
        waited.append(timeout)
        return select(timeout)

    monkeypatch.setattr(stepped.selector, "select", note)
    return waited


# --- waits ------------------------------------------------------------------------------------


def test_a_turn_that_resumes_a_client_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        waited = patience(stepped, monkeypatch)
        stepped.loop.pace.wait(client.channel, Wait.BACKLOG)
        stepped.turn(3)
        assert not stepped.loop.pace.waiting
        assert waited[1] == 0, "it sees whom that has freed"
        assert waited[0] != 0
        assert waited[2] != 0


def test_commands_wait_for_a_client_behind_and_then_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer(max_backlog=1000) as stepped:
        slow, waits = stepped.join(), stepped.join()
        with monkeypatch.context() as patch:
            make_commands_wait(stepped, waits, patch)
            waits.send(b"CMD one\nCMD two\nASK three\n")
            stepped.turn(2)
            assert waits.channel.waits_for is Wait.BACKLOG
            assert stepped.log.seq == 3
        stepped.loop.sender.flush(slow.channel)
        stepped.loop.sender.flush(waits.channel)
        stepped.turn(2)
        assert stepped.log.seq == 6
        frames = slow.received().splitlines()[-3:]
        assert frames == [b"CMD 4 1 one", b"CMD 5 1 two", b"ASK 6 1 three"]


def make_commands_wait(stepped: SteppedServer, sender: SteppedClient, patch: pytest.MonkeyPatch) -> None:
    """Let a client send more than may wait for others, while the server sends nothing."""
    patch.setattr(Cursor, "flush", lambda _: Flushed.DONE)
    patch.setattr(stepped.log, "flush_all", lambda: ([], []))
    sender.send(b"CMD %s\n" % (b"x" * 2000))
    stepped.until(lambda: stepped.loop.pace.is_holding)


def test_without_memory_for_waiting_input_only_its_client_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer(max_backlog=1000) as stepped:
        slow, waits = stepped.join(), stepped.join()
        with monkeypatch.context() as patch:
            make_commands_wait(stepped, waits, patch)
            waits.send(b"ASK something\n")
            stepped.until(lambda: waits.channel.waits_for)
        stepped.log.flush_all()
        with monkeypatch.context() as patch:
            patch.setattr(stepped.log, "append", no_memory)
            stepped.turn()
        assert waits.state() is ChannelState.LEAVING
        stepped.turn()
        assert slow.state() is ChannelState.JOINED
        assert stepped.log.count == 1


# --- accepting --------------------------------------------------------------------------------


def test_data_sent_with_the_connection_is_read_in_the_same_turn(tmp_path: Path) -> None:
    with SteppedServer(unix=str(tmp_path / "socket"), port=0) as stepped:
        stepped.server.listen()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "socket"))
            sock.sendall(b"HELLO\nCMD a\n")
            stepped.turn()
            (channel,) = stepped.loop.channels.values()
            assert channel.state is ChannelState.JOINED
            assert stepped.log.seq == 2


def test_a_loop_that_stops_accepts_nobody_and_returns() -> None:
    with SteppedServer() as stepped:
        client = stepped.join()
        stepped.server.stop()
        stepped.turn()
        assert client.received().endswith(b"BYE shutdown the server is stopping\n")
        client.sock.close()
        stepped.server.run()
        assert not stepped.loop.channels
