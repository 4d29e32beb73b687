"""Which clients wait for which: the bookkeeping over a real log; the clock is a number."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from rankserver.channel import Channel, ChannelState, Wait
from rankserver.clist import Cursor, Log
from rankserver.pace import MAX_PRIVATE_BYTES, Pace
from rankserver.timers import Timeout, Timers

MAX_BACKLOG = 1000
SLOW = 5.0


class Stage:
    """Joined channels that are never sent anything, and their pace."""

    def __init__(self) -> None:
        self.log = Log(256, block_bytes=512)
        self.timers = Timers()
        self.slow_ones: list[Channel] = []
        self.slow: Timeout[Channel] = self.timers.timeout(SLOW, self.slow_ones.append)
        self.channels: dict[int, Channel] = {}
        self.pace = Pace(self.log, self.channels, MAX_BACKLOG, self.slow)
        self.peers: list[socket.socket] = []

    def join(self) -> Channel:
        ours, theirs = socket.socketpair()
        self.peers.append(theirs)
        channel = Channel(ours, "", self.log)
        self.channels[ours.fileno()] = channel
        self.log.join(ours.fileno())
        channel.cursor.attach(ours.fileno())
        channel.state = ChannelState.JOINED
        return channel

    def log_bytes(self, count: int) -> None:
        for _ in range(count // 100):
            self.log.append(b"CMD", b"x" * (100 - len(f"CMD {self.log.seq + 1} \n")))

    def catch_up(self, *channels: Channel) -> None:
        for channel in channels:
            channel.cursor.flush()

    def update(self, now: float = 0) -> list[Channel]:
        released = self.pace.update(now)
        self.timers.expire(now)
        return released

    def close(self) -> None:
        self.log.close()
        for sock in self.peers + [channel.sock for channel in self.channels.values()]:
            sock.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


def test_commands_wait_until_no_backlog_is_over_the_limit(stage: Stage) -> None:
    slow, producer = stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG)
    assert stage.update() == []
    assert not stage.pace.is_holding
    stage.log_bytes(100)
    stage.catch_up(producer)
    assert stage.update() == []
    assert stage.pace.is_holding
    stage.pace.wait(producer, Wait.BACKLOG)
    assert stage.update() == []
    slow.cursor.advance(100)
    assert stage.update() == [producer]
    assert not stage.pace.is_holding
    assert not stage.pace.waiting


def test_only_a_client_behind_for_too_long_is_named(stage: Stage) -> None:
    slow, other, fast = stage.join(), stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.catch_up(fast)
    stage.update(0)
    stage.catch_up(other)
    stage.update(SLOW - 1)
    assert stage.slow_ones == []
    stage.update(SLOW)
    assert stage.slow_ones == [slow]


def test_a_client_that_catches_up_has_the_full_time_again(stage: Stage) -> None:
    slow = stage.join()
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.update(0)
    stage.catch_up(slow)
    stage.update(SLOW - 1)
    assert len(stage.slow) == 0
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.update(SLOW)
    assert stage.slow_ones == []
    stage.update(2 * SLOW)
    assert stage.slow_ones == [slow]


def test_commands_go_on_when_the_slow_one_goes(stage: Stage) -> None:
    slow, other = stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.catch_up(other)
    stage.update()
    assert stage.pace.is_holding
    slow.cursor.cut()
    stage.pace.forget(slow)
    stage.update()
    assert not stage.pace.is_holding


def test_commands_also_wait_for_a_client_that_has_left(stage: Stage) -> None:
    left, other = stage.join(), stage.join()
    stage.log_bytes(100)
    left.cursor.detach()
    stage.log_bytes(MAX_BACKLOG)
    stage.catch_up(other)
    stage.update()
    assert stage.pace.is_holding
    stage.catch_up(left)
    stage.update()
    assert not stage.pace.is_holding


def test_nobody_waits_for_a_connection_gone_for_writing(stage: Stage) -> None:
    gone, other = stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.catch_up(other)
    gone.cursor.mute()
    stage.update()
    assert not stage.pace.is_holding
    assert len(stage.slow) == 0


def congest(stage: Stage, channel: Channel) -> None:
    channel.cursor.private(b"x" * MAX_PRIVATE_BYTES + b"\n")
    stage.pace.mark_congested(channel)


def drain(channel: Channel) -> None:
    channel.cursor.advance(channel.cursor.queued())


def test_an_answer_waits_for_its_congested_asker_alone(stage: Stage) -> None:
    congested, also, one, other = (stage.join() for _ in range(4))
    congest(stage, congested)
    congest(stage, also)
    stage.pace.wait(one, congested)
    stage.pace.wait(other, also)
    assert stage.update() == []
    assert not stage.pace.is_holding
    drain(congested)
    assert stage.update() == [one]
    assert not stage.pace.is_congested(congested)
    assert stage.pace.is_congested(also)


def test_waiters_resume_when_the_congested_one_is_dropped(stage: Stage) -> None:
    congested, one = stage.join(), stage.join()
    congest(stage, congested)
    stage.pace.wait(one, congested)
    stage.pace.wait(congested, congested)
    assert stage.update(0) == []
    stage.update(SLOW)
    assert stage.slow_ones == [congested]
    stage.pace.forget(congested)
    assert stage.update(SLOW) == [one]
    assert not stage.pace.waiting


def test_two_clients_waiting_for_each_other_both_time_out(stage: Stage) -> None:
    one, other = stage.join(), stage.join()
    for congested, held in ((one, other), (other, one)):
        congest(stage, congested)
        stage.pace.wait(held, congested)
    stage.update(0)
    stage.update(SLOW)
    assert set(stage.slow_ones) == {one, other}


def test_waiters_resume_in_the_order_in_which_they_began(stage: Stage) -> None:
    slow, *producers = (stage.join() for _ in range(5))
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.catch_up(*producers)
    stage.update()
    for producer in producers:
        stage.pace.wait(producer, Wait.BACKLOG)
    stage.pace.forget(producers[1])
    stage.catch_up(slow)
    assert stage.update() == [producers[0], producers[2], producers[3]]


def test_waiting_is_stored_once_in_the_channel(stage: Stage) -> None:
    slow, one, other = stage.join(), stage.join(), stage.join()
    congest(stage, slow)
    stage.pace.wait(one, slow)
    stage.pace.wait(other, Wait.BACKLOG)
    assert (one.waits_for, other.waits_for, slow.waits_for) == (slow, Wait.BACKLOG, None)
    assert not one.wants_read
    assert stage.update() == [other], "nobody is behind in the log"
    stage.pace.forget(one)
    assert one.waits_for is other.waits_for is None
    assert one.wants_read
    assert not stage.pace.waiting


def test_a_departing_client_neither_waits_nor_is_waited_for(stage: Stage) -> None:
    one, other = stage.join(), stage.join()
    congest(stage, one)
    stage.pace.wait(one, other)
    stage.pace.wait(other, one)
    stage.update(0)
    stage.pace.forget(one)
    assert list(stage.pace.waiting) == [other]
    assert not stage.pace.is_congested(one)
    assert len(stage.slow) == 0
    assert stage.update() == [other]


def test_no_client_is_examined_while_none_is_behind(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.join()
    stage.log_bytes(MAX_BACKLOG)

    def fail(*_: object) -> list[int]:
        raise AssertionError("a walk over the clients")

    monkeypatch.setattr(stage.log, "behind", fail)
    monkeypatch.setattr(Cursor, "queued", fail)
    assert stage.update() == []
