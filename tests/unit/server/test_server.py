"""The loop, a turn at a time: what cannot be seen from outside. All else is in tests/functional."""

from __future__ import annotations

import json
import logging
import select
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from rankserver import logs, loop
from rankserver.channel import Channel, State
from rankserver.clist import Flushed
from rankserver.config import Config
from rankserver.loop import HANDSHAKES, LATE, LINES, READ_LEAST, TURN_BYTES, UNSENT
from rankserver.server import LOG_RENEWAL, Server
from tests.support.waiting import BOUND


@pytest.fixture(autouse=True)
def logger() -> Iterator[None]:
    """Leave the program's logger as it was."""
    logger = logging.getLogger("rankserver")
    before = logger.handlers, logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


def test_many_private_frames_for_one_client_do_not_all_wait_for_the_end_of_the_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(Server(Config(1, port=0))) as server:
        port = int(server.listen()[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), BOUND) as sock, sock.makefile("rb") as stream:
            sock.sendall(b"HELLO\n")
            while not server._log.clients:
                server._turn()
            assert stream.readline().startswith(b"INFO ")
            assert stream.readline().startswith(b"WELCOME ")
            sock.sendall(b"PING\n" * (UNSENT + 1))
            with monkeypatch.context() as patch:
                patch.setattr(server, "_flush_all", lambda: None)
                server._turn()
            assert sock.recv(UNSENT * 100) == b"PONG\n" * UNSENT
            server._flush_all()
            assert sock.recv(UNSENT * 100) == b"PONG\n"


def test_who_says_bye_while_what_it_left_behind_is_drained_is_closed_once(tmp_path: Path) -> None:
    with closing(Server(Config(2, port=0, unix=str(tmp_path / "socket")))) as server:
        server.listen()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "socket"))
            sock.sendall(b"HELLO\n")
            while not server._log.clients:
                server._turn()
            server._turn_bytes = READ_LEAST
            command = b"CMD %s\n" % (b"x" * (READ_LEAST // 4 - 5))
            # One turn finds out that it is gone, and the next reads twice: the second time the BYE.
            sock.sendall(b"PING\n" + command * 9 + b"BYE\n" + command * 9)
        while server._channels:
            server._turn()
        server._turn()
        assert server._log.seq == 11  # JOIN, nine commands, LEFT


# --- bounds of a turn -------------------------------------------------------------------------


class Waiting(selectors.DefaultSelector):
    """A selector that waits for no time, and a clock beside it that the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.stopped = 0.0  # seconds for which the next select lasts though nothing comes

    def clock(self) -> float:
        return self.now

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        del timeout
        self.now += self.stopped
        self.stopped = 0.0
        return super().select(0)


class Talk:
    """A server that takes its turns when it is told to, and clients of it."""

    def __init__(self, **options: Any) -> None:
        self.selector = Waiting()
        config = Config(16, port=0, **options)
        self.server = Server(config, selector=self.selector, clock=self.selector.clock)
        self.port = int(self.server.listen()[0].rpartition(":")[2])
        self.clients: list[socket.socket] = []

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.server.close()
        for client in self.clients:
            client.close()

    def connect(self) -> Channel:
        self.clients.append(socket.create_connection(("127.0.0.1", self.port), BOUND))
        before = set(self.server._channels)
        while not (added := set(self.server._channels) - before):
            self.server._turn()
        return self.server._channels[added.pop()]

    def join(self) -> Channel:
        channel = self.connect()
        self.clients[-1].sendall(b"HELLO\n")
        while channel.state is not State.JOINED:
            self.server._turn()
        return channel


def test_a_turn_reads_a_bounded_number_of_bytes_and_little_while_commands_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Talk() as talk:
        channels = [talk.join(), talk.join()]
        asked: list[int] = []
        receive = Channel.receive

        def note(channel: Channel, most: int) -> int:
            asked.append(most)
            return receive(channel, most)

        monkeypatch.setattr(Channel, "receive", note)
        for wanted, holding in ((TURN_BYTES // 2, False), (READ_LEAST, True)):
            monkeypatch.setattr(talk.server._pace, "is_holding", holding)
            for client, channel in zip(talk.clients, channels, strict=True):
                client.sendall(b"\n")
                assert select.select([channel.sock], [], [], BOUND)[0]
            asked.clear()
            talk.server._turn()
            assert asked == [wanted] * len(channels)


def test_a_turn_handles_a_bounded_number_of_lines_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Talk() as talk:
        channel = talk.join()
        talk.clients[0].sendall(b"PONG\n" * (LINES + 1))
        handled = 0
        handle = talk.server._handle_line

        def count(channel: Channel, line: bytes) -> None:
            nonlocal handled
            handled += 1
            handle(channel, line)

        monkeypatch.setattr(talk.server, "_handle_line", count)
        while not handled:
            talk.server._turn()
        assert handled == LINES
        assert channel.paused
        talk.server._turn()
        assert handled == LINES + 1


def test_a_turn_handles_no_more_lines_of_many_channels_and_who_has_to_wait_comes_first_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "LINES", 10)
    with Talk() as talk:
        channels = [talk.join() for _ in range(4)]
        for client, channel in zip(talk.clients, channels, strict=True):
            client.sendall(b"PONG\n" * 6 + b"CMD behind\n")
            assert select.select([channel.sock], [], [], BOUND)[0]
        handled: list[Channel] = []
        monkeypatch.setattr(talk.server, "_handle_line", lambda channel, _: handled.append(channel))
        turns = []
        while len(handled) < 24:
            before = len(handled)
            talk.server._turn()
            turns.append(handled[before:])
        assert [len(turn) for turn in turns] == [10, 10, 4]
        waiting = [channel for channel in channels if channel not in turns[0]]
        assert waiting
        assert set(waiting) <= set(turns[1])
        assert talk.server._log.seq == 8, "four JOINs, and then the commands"


def test_a_turn_tells_few_who_is_there_if_that_is_much_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LINES", 10)
    monkeypatch.setattr("rankserver.server.WHO_SHARE", 1)
    with Talk() as talk:
        channels = [talk.join() for _ in range(8)]
        for client, channel in zip(talk.clients, channels, strict=True):
            client.sendall(b"WHO\n")
            assert select.select([channel.sock], [], [], BOUND)[0]
        for waiting in (7, 2, 0):  # the first costs ten lines, each other two
            talk.server._turn()
            assert sum(channel.paused for channel in channels) == waiting
        talk.join()
        talk.clients[0].sendall(b"WHO\n")
        assert select.select([channels[0].sock], [], [], BOUND)[0]
        assert select.select([talk.clients[0]], [], [], BOUND)[0]
        talk.clients[0].recv(65_536)
        talk.server._turn()
        assert b'{"total":9,' in talk.clients[0].recv(65_536)


def test_few_tls_handshakes_go_on_in_a_turn_and_all_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with Talk() as talk:
        channels = [talk.connect() for _ in range(10)]
        for client, channel in zip(talk.clients, channels, strict=True):
            client.sendall(b"x")
            assert select.select([channel.sock], [], [], BOUND)[0]
            monkeypatch.setattr(channel, "tls", object())
        served: list[Channel] = []
        monkeypatch.setattr(talk.server, "_read", lambda channel, _: served.append(channel))
        for turn in range(1, 6):
            talk.server._turn()
            assert len(served) == turn * HANDSHAKES
        assert set(served[:12]) == set(served[8:]) == set(channels)
        monkeypatch.undo()


# --- time in which the server did not run -----------------------------------------------------


def test_time_in_which_the_server_was_stopped_counts_for_no_timeout() -> None:
    with Talk(handshake_timeout=5) as talk:
        channel = talk.connect()
        for _ in range(3):
            talk.selector.stopped = 1e6
            talk.server._turn()
            assert channel.state is State.HANDSHAKE
        talk.selector.now += LATE
        talk.server._turn()
        assert channel.state is State.HANDSHAKE
        talk.selector.stopped = 5 - LATE
        talk.server._turn()
        assert channel.state is not State.HANDSHAKE


def test_a_stop_shorter_than_that_counts_for_none_where_the_heartbeat_is_short() -> None:
    with Talk(handshake_timeout=0.5, heartbeat=0.2) as talk:
        channel = talk.connect()
        for _ in range(3):
            talk.selector.stopped = 0.6 * LATE
            talk.server._turn()
            assert channel.state is State.HANDSHAKE


def test_who_reads_on_slowly_what_is_for_it_alone_is_not_taken_for_dead() -> None:
    with Talk(heartbeat=1) as talk:
        channel = talk.join()
        # With more, the peer's system says only now and then that it has taken some.
        talk.clients[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        while not channel.wants_write:
            talk.server._send(channel, b"PONG %s\n" % (b"x" * 50_000))
            talk.server._flush_all()
        for _ in range(10):
            talk.server._send(channel, b"PONG %s\n" % (b"x" * 50_000))
        received = b""
        while b"\nPING\n" not in received:
            received = received[-10:] + talk.clients[-1].recv(65_536)
            talk.selector.now += 0.4
            talk.server._turn()
            assert channel.state is State.JOINED
        while channel.state is State.JOINED:  # it reads all, and does not answer
            talk.selector.now += 0.4
            talk.server._turn()


def test_a_turn_that_takes_long_counts_for_a_little_so_that_time_goes_on() -> None:
    with Talk(handshake_timeout=5) as talk:
        channel = talk.connect()
        for _ in range(4):
            talk.selector.now += 1e6  # between two selects
            talk.server._turn()
            assert channel.state is State.HANDSHAKE
        talk.selector.now += 1e6
        talk.server._turn()
        assert channel.state is not State.HANDSHAKE


def test_a_clock_that_goes_back_harms_nobody() -> None:
    with Talk(handshake_timeout=5) as talk:
        channel = talk.connect()
        talk.selector.now -= 100
        talk.server._turn()
        assert channel.state is State.HANDSHAKE


# --- memory -----------------------------------------------------------------------------------


def test_who_goes_waits_no_more_and_lets_nobody_wait() -> None:
    with Talk() as talk:
        channel, other = talk.join(), talk.join()
        pace = talk.server._pace
        pace.fill(channel)
        pace.hold(channel, other)
        pace.hold(other, channel)
        assert len(pace) == 2
        talk.server._dismiss(channel, reason="it is a test")
        assert len(pace) == 1
        assert not pace.is_full(channel)
        assert pace.update(talk.server._channels, 0) == [other]


def test_a_turn_that_lets_somebody_go_on_is_followed_by_one_that_sees_whom_that_has_freed() -> None:
    with Talk() as talk:
        channel = talk.join()
        talk.server._pace.hold(channel, None)
        talk.server._turn()
        assert len(talk.server._pace) == 0
        assert talk.server._patience() == 0
        talk.server._turn()
        assert talk.server._patience() != 0


def state_of(channel: Channel) -> State:
    """Return where it is in its life, which a type checker takes to stay as it was."""
    return channel.state


def test_who_has_left_and_lets_others_wait_for_what_it_is_owed_is_closed_when_its_time_is_up() -> None:
    with Talk() as talk:
        channel = talk.join()
        talk.server._dismiss(channel, reason="it is a test")
        talk.server._on_slow(channel)
        assert state_of(channel) is State.LEAVING, "its LEFT is to be logged first"
        talk.server._turn()
        assert state_of(channel) is State.CLOSING
        talk.server._on_slow(channel)
        assert state_of(channel) is State.CLOSED
        assert talk.server._patience() == 0
        talk.server._turn()
        assert not talk.server._channels


def test_who_waits_when_there_is_no_memory_for_it_to_go_on_is_gone_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Talk(max_backlog=1000) as talk:
        slow, waits = talk.join(), talk.join()
        log = talk.server._log
        with monkeypatch.context() as patch:
            patch.setattr(Channel, "flush", lambda _: Flushed.DONE)
            patch.setattr(log, "flush_all", lambda: ([], []))
            talk.clients[1].sendall(b"CMD %s\n" % (b"x" * 2000))
            while not talk.server._pace.is_holding:
                talk.server._turn()
            talk.clients[1].sendall(b"ASK something\n")
            while not waits.held:
                talk.server._turn()
        with monkeypatch.context() as patch:
            patch.setattr(log, "append", no_memory)
            talk.server._flush_ranked()
            talk.server._go_on()
        assert waits.state is State.LEAVING
        talk.server._turn()
        assert slow.state is State.JOINED
        assert log.clients == 1


def no_memory(*_: object) -> int:
    raise MemoryError


# --- the report -------------------------------------------------------------------------------


def test_the_report_says_how_much_of_everything_there_is_and_who_is_here(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Talk() as talk:
        talk.join()
        channel = talk.join()
        talk.connect()
        talk.clients[0].sendall(b"CMD one\nASK two\n")
        while talk.server._log.seq < 4:
            talk.server._turn()
        talk.clients[2].sendall(b"NONSENSE\n")
        while not talk.server._refused:
            talk.server._turn()
        logs.configure("info", "json")
        capfd.readouterr()
        talk.server.report()
        report, first, second = (json.loads(line) for line in capfd.readouterr().err.splitlines())
        for key, value in {
            "event": "report",
            "clients": 2,
            "strangers": 1,
            "accepted": 3,
            "joined": 2,
            "refused": 1,
            "refused_proto": 1,
            "dropped": 0,
            "seq": 4,
            "commands": 2,
            "asks": 1,
            "held": 0,
            "holding": False,
        }.items():
            assert report[key] == value, key
        assert [first["rank"], second["rank"]] == [0, 1]
        assert (second["event"], second["name"], second["peer"]) == ("client", "c2", channel.peer)
        assert (second["class"], "rank_class" in second) == (0, False)


class NoSocket:
    """What a channel needs of a socket that is never used."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number

    def close(self) -> None:
        pass


def test_a_report_of_ten_thousand_clients_holds_nobody_up(capfd: pytest.CaptureFixture[str]) -> None:
    with closing(Server(Config(10_000, port=0))) as server:
        for number in range(10_000):
            channel = Channel(
                cast("socket.socket", NoSocket(10_000 + number)), f"192.0.2.1:{number}", server._log
            )
            channel.name = f"c{number}"
            server._channels[channel.fd] = channel
            server._log.join(channel.client)
        logs.configure("info", "text")
        started = time.process_time()
        server.report()
        assert time.process_time() - started < 0.3
        assert capfd.readouterr().err.count("\n") == 10_001


# --- the log ----------------------------------------------------------------------------------


def test_joins_and_leaves_are_logged_so_often_a_second_and_then_counted(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "text")
    with Talk() as talk:
        for _ in range(logs.MAX_MEMBER_LINES // 2 + 5):
            join_and_leave(talk)
        assert capfd.readouterr().err.count("\n") == logs.MAX_MEMBER_LINES
        talk.selector.now += LOG_RENEWAL
        talk.server._turn()
        assert capfd.readouterr().err.endswith(" WARNING left out events=10\n")
        join_and_leave(talk)
        assert capfd.readouterr().err.count("\n") == 2


def join_and_leave(talk: Talk) -> None:
    talk.join()
    with talk.clients.pop() as client:
        client.sendall(b"BYE\n")
        while talk.server._log.clients:
            talk.server._turn()
    while talk.server._channels:
        talk.server._turn()


def test_that_it_was_not_running_is_logged_so_often_and_what_was_left_out_is_said_at_the_end(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "text")
    with Talk() as talk:
        talk.connect()
        for _ in range(logs.MAX_MEMBER_LINES + 3):
            talk.selector.stopped = 1e6
            talk.server._turn()
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == logs.MAX_MEMBER_LINES
        assert "was not running" in lines[-1]
    assert capfd.readouterr().err.endswith(" WARNING left out events=3\n")


def test_strangers_leave_room_in_the_log_for_members(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "text")
    with Talk() as talk:
        for _ in range(logs.MAX_STRANGER_LINES + 1):
            talk.connect()
            talk.clients.pop().close()
            while talk.server._channels:
                talk.server._turn()
        capfd.readouterr()
        talk.join()
        assert " joined " in capfd.readouterr().err
