"""Who waits for whom: the bookkeeping over a real log; the clock is a number that the test passes in."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from rankserver.channel import Channel, State
from rankserver.clist import Log
from rankserver.pace import PRIVATE_BYTES, Pace
from rankserver.timers import Timeout, Timers

MAX_BACKLOG = 1000
SLOW = 5.0


class Stage:
    """Channels that joined and are never sent anything, and the pace that they go at."""

    def __init__(self) -> None:
        self.log = Log(256, block_bytes=512)
        self.timers = Timers()
        self.slow_ones: list[Channel] = []
        self.slow: Timeout[Channel] = self.timers.timeout(SLOW, self.slow_ones.append)
        self.pace = Pace(self.log, MAX_BACKLOG, self.slow)
        self.channels: dict[int, Channel] = {}
        self.peers: list[socket.socket] = []

    def join(self) -> Channel:
        ours, theirs = socket.socketpair()
        self.peers.append(theirs)
        channel = Channel(ours, "", self.log)
        self.channels[channel.fd] = channel
        self.log.join(channel.client)
        channel.state = State.JOINED
        return channel

    def log_bytes(self, count: int) -> None:
        for _ in range(count // 100):
            self.log.append(b"CMD", b"x" * (100 - len(f"CMD {self.log.seq + 1} \n")))

    def catch_up(self, *channels: Channel) -> None:
        for channel in channels:
            self.log.flush(channel.client)

    def update(self, now: float = 0) -> list[Channel]:
        released = self.pace.update(self.channels, now)
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


def test_commands_wait_from_one_byte_over_the_limit_until_all_are_at_it(stage: Stage) -> None:
    slow, producer = stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG)
    assert stage.update() == []
    assert not stage.pace.is_holding
    stage.log_bytes(100)
    stage.catch_up(producer)
    assert stage.update() == []
    assert stage.pace.is_holding
    stage.pace.hold(producer, None)
    assert stage.update() == []
    stage.log.advance(slow.client, 100)
    assert stage.update() == [producer]
    assert not stage.pace.is_holding
    assert len(stage.pace) == 0


def test_the_log_hands_commands_over_while_they_wait_and_logs_them_again_after(stage: Stage) -> None:
    slow, producer = stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.catch_up(producer)
    stage.update()
    stage.log.take(producer.client, b"CMD one\nCMD two\n")
    assert producer.next_line() == b"CMD one"
    producer.hold()
    assert producer.next_line() is None
    assert not producer.wants_read
    stage.catch_up(slow)
    stage.update()
    seq = stage.log.seq
    producer.resume()
    assert producer.next_line() is None
    assert stage.log.seq == seq + 2
    assert producer.wants_read


def test_who_is_over_the_limit_for_too_long_is_named_and_nobody_else(stage: Stage) -> None:
    slow, other, fast = stage.join(), stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.catch_up(fast)
    stage.update(0)
    stage.catch_up(other)
    stage.update(SLOW - 1)
    assert stage.slow_ones == []
    stage.update(SLOW)
    assert stage.slow_ones == [slow]


def test_who_catches_up_in_between_has_all_the_time_again(stage: Stage) -> None:
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


def test_commands_go_on_when_the_slow_one_goes_though_nobody_had_to_wait(stage: Stage) -> None:
    slow, other = stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.catch_up(other)
    stage.update()
    assert stage.pace.is_holding
    stage.log.cut(slow.client)
    stage.pace.forget(slow)
    stage.update()
    assert not stage.pace.is_holding


def test_what_is_kept_for_one_who_has_left_lets_commands_wait_too(stage: Stage) -> None:
    left, other = stage.join(), stage.join()
    stage.log_bytes(100)
    stage.log.retire(left.client)
    stage.log_bytes(MAX_BACKLOG)
    stage.catch_up(other)
    stage.update()
    assert stage.pace.is_holding
    stage.catch_up(left)
    stage.update()
    assert not stage.pace.is_holding


def test_nobody_waits_for_a_connection_that_is_gone_for_writing(stage: Stage) -> None:
    gone, other = stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.catch_up(other)
    stage.log.mute(gone.client)
    stage.update()
    assert not stage.pace.is_holding
    assert len(stage.slow) == 0


def fill(stage: Stage, channel: Channel) -> None:
    stage.log.private(channel.client, b"x" * PRIVATE_BYTES + b"\n")
    stage.pace.fill(channel)


def drain(stage: Stage, channel: Channel) -> None:
    stage.log.advance(channel.client, stage.log.queued(channel.client))


def test_who_answers_waits_for_an_asker_that_is_full_and_for_no_other(stage: Stage) -> None:
    full, also, one, other = (stage.join() for _ in range(4))
    fill(stage, full)
    fill(stage, also)
    stage.pace.hold(one, full)
    stage.pace.hold(other, also)
    assert stage.update() == []
    assert not stage.pace.is_holding
    drain(stage, full)
    assert stage.update() == [one]
    assert not stage.pace.is_full(full)
    assert stage.pace.is_full(also)


def test_who_is_full_for_too_long_is_named_and_those_who_wait_go_on_without_it(stage: Stage) -> None:
    full, one = stage.join(), stage.join()
    fill(stage, full)
    stage.pace.hold(one, full)
    stage.pace.hold(full, full)
    assert stage.update(0) == []
    stage.update(SLOW)
    assert stage.slow_ones == [full]
    stage.pace.forget(full)
    assert stage.update(SLOW) == [one]
    assert len(stage.pace) == 0


def test_two_that_wait_for_each_other_both_run_out_of_time(stage: Stage) -> None:
    one, other = stage.join(), stage.join()
    for full, held in ((one, other), (other, one)):
        fill(stage, full)
        stage.pace.hold(held, full)
    stage.update(0)
    stage.update(SLOW)
    assert set(stage.slow_ones) == {one, other}


def test_those_who_wait_go_on_in_the_order_in_which_they_began_to(stage: Stage) -> None:
    slow, *producers = (stage.join() for _ in range(5))
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.catch_up(*producers)
    stage.update()
    for producer in producers:
        stage.pace.hold(producer, None)
    stage.pace.forget(producers[1])
    stage.catch_up(slow)
    assert stage.update() == [producers[0], producers[2], producers[3]]
