"""Which clients wait for which: the bookkeeping over a real log; the clock is a number."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from rankserver.channel import Channel, ChannelState, Wait
from rankserver.clist import Cursor, Log
from rankserver.credits import MAX_UNREAD_ANSWERS
from rankserver.lateness import LateClients
from rankserver.pace import MAX_EXCESS, MAX_PRIVATE_BYTES, Pace
from rankserver.timers import Timers

MAX_BACKLOG = 1000
# What a member may log under pressure, if there are at least three.
CREDIT = 100
SLOW = 5.0


class Stage:
    """Joined channels that are never sent anything, and their pace."""

    def __init__(self) -> None:
        self.log = Log(256, block_bytes=512)
        self.timers = Timers()
        self.slow_ones: list[Channel] = []
        self.late = LateClients(self.timers, SLOW, self.slow_ones.append)
        self.channels: dict[int, Channel] = {}
        self.pace = Pace(self.log, self.channels, MAX_BACKLOG, self.late)
        self.peers: list[socket.socket] = []

    def join(self) -> Channel:
        ours, theirs = socket.socketpair()
        self.peers.append(theirs)
        channel = Channel(ours, "", self.log)
        self.channels[ours.fileno()] = channel
        self.log.join(ours.fileno())
        channel.cursor.attach(ours.fileno())
        channel.state = ChannelState.JOINED
        self.pace.admit(channel)
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
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr("rankserver.credits.MIN_CREDIT", CREDIT)
    stage = Stage()
    yield stage
    stage.close()


# --- pressure ---------------------------------------------------------------------------------


def test_there_is_pressure_while_a_client_is_half_behind(stage: Stage) -> None:
    slow = stage.join()
    stage.log_bytes(MAX_BACKLOG // 2)
    stage.update()
    assert not stage.pace.is_under_pressure
    stage.log_bytes(100)
    stage.update()
    assert stage.pace.is_under_pressure
    assert not stage.pace.is_holding
    slow.cursor.advance(100)
    stage.update()
    assert not stage.pace.is_under_pressure


def test_under_pressure_only_those_without_credit_wait(stage: Stage) -> None:
    slow, flooder, *quiet = (stage.join() for _ in range(5))
    stage.log_bytes(MAX_BACKLOG // 2 + 100)
    stage.catch_up(flooder, *quiet)
    stage.update()
    stage.pace.charge(flooder, CREDIT - 1)
    assert stage.pace.may_log(flooder)
    stage.pace.charge(flooder, 1)
    assert not stage.pace.may_log(flooder)
    assert all(stage.pace.may_log(one) for one in quiet)
    stage.pace.wait(flooder, Wait.BACKLOG)
    assert stage.update() == []
    stage.catch_up(slow)
    assert stage.update() == [flooder]
    assert stage.pace.may_log(flooder)


def test_each_pressure_begins_with_full_credit(stage: Stage) -> None:
    slow, flooder = stage.join(), stage.join()
    for _ in range(3):
        stage.log_bytes(MAX_BACKLOG // 2 + 100)
        stage.update()
        assert stage.pace.credit(flooder) == MAX_BACKLOG // 8
        stage.pace.charge(flooder, MAX_BACKLOG)
        stage.catch_up(slow, flooder)
        stage.update()
        assert not stage.pace.is_under_pressure


def test_credit_is_not_renewed_while_the_pressure_lasts(stage: Stage) -> None:
    stage.join()
    flooder = stage.join()
    stage.log_bytes(MAX_BACKLOG // 2 + 100)
    stage.update()
    stage.pace.charge(flooder, MAX_BACKLOG)
    stage.log_bytes(100)
    stage.update()
    assert not stage.pace.may_log(flooder)


def test_newcomers_under_pressure_get_no_credit_of_their_own(stage: Stage) -> None:
    slow = stage.join()
    stage.log_bytes(MAX_BACKLOG // 2 + 100)
    stage.update()
    for _ in range(3):
        newcomer = stage.join()
        stage.pace.charge(newcomer, MAX_BACKLOG)
        stage.pace.forget(newcomer)
    assert not stage.pace.may_log(stage.join())
    assert stage.pace.may_log(slow)


def test_all_commands_wait_for_a_client_over_the_limit(stage: Stage) -> None:
    slow, producer = stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG)
    assert stage.update() == []
    assert not stage.pace.is_holding
    stage.log_bytes(100)
    stage.catch_up(producer)
    assert stage.update() == []
    assert stage.pace.is_holding
    assert not stage.pace.may_log(producer)
    stage.pace.wait(producer, Wait.BACKLOG)
    assert stage.update() == []
    slow.cursor.advance(100)
    assert stage.update() == [producer], "it has credit left"
    assert not stage.pace.is_holding


# --- who is late ------------------------------------------------------------------------------


def hold_up(stage: Stage) -> tuple[Channel, Channel]:
    """Return a client that is behind, and one without credit that waits for it."""
    slow, flooder = stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG // 2 + 100)
    stage.catch_up(flooder)
    stage.update()
    stage.pace.charge(flooder, MAX_BACKLOG)
    stage.pace.wait(flooder, Wait.BACKLOG)
    stage.update()
    return slow, flooder


def test_only_a_client_that_others_wait_for_is_late(stage: Stage) -> None:
    stage.join()
    stage.log_bytes(MAX_BACKLOG // 2 + 100)
    stage.update(0)
    stage.update(1000)
    assert stage.pace.is_under_pressure
    assert stage.slow_ones == []


def test_a_client_that_others_wait_for_too_long_is_named(stage: Stage) -> None:
    slow, _ = hold_up(stage)
    stage.update(SLOW - 0.1)
    assert stage.slow_ones == []
    stage.update(SLOW)
    assert stage.slow_ones == [slow]


def test_a_client_that_caught_up_for_a_moment_is_still_late(stage: Stage) -> None:
    slow, flooder = hold_up(stage)
    stage.update(SLOW - 1)
    slow.cursor.advance(200)
    assert stage.update(SLOW - 1) == [flooder]
    assert len(stage.late) == 0
    stage.log_bytes(200)
    stage.update(SLOW - 0.9)
    stage.pace.charge(flooder, MAX_BACKLOG)
    stage.pace.wait(flooder, Wait.BACKLOG)
    stage.update(SLOW - 0.9)
    stage.update(SLOW)
    assert stage.slow_ones == []
    stage.update(SLOW + 0.2)
    assert stage.slow_ones == [slow]


def test_a_held_client_waits_only_for_those_over_the_limit(stage: Stage) -> None:
    slow, behind, held = stage.join(), stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.catch_up(held)
    behind.cursor.advance(200)
    stage.update()
    stage.pace.wait(held, Wait.BACKLOG)
    stage.update()
    assert stage.pace.is_holding
    assert slow in stage.late
    assert behind not in stage.late
    stage.pace.charge(held, MAX_BACKLOG)
    stage.update()
    assert behind in stage.late, "without credit, it waits for the end of the pressure"


def test_a_client_far_over_the_limit_is_late_anyway(stage: Stage) -> None:
    far = stage.join()
    stage.log_bytes(MAX_EXCESS * MAX_BACKLOG)
    stage.update(0)
    assert len(stage.late) == 0
    stage.log_bytes(100)
    stage.update(0)
    stage.update(SLOW)
    assert stage.slow_ones == [far]


def test_commands_go_on_when_the_slow_one_goes(stage: Stage) -> None:
    slow, flooder = hold_up(stage)
    slow.cursor.cut()
    stage.pace.forget(slow)
    assert stage.update() == [flooder]
    assert not stage.pace.is_under_pressure


def test_commands_also_wait_for_a_client_that_has_left(stage: Stage) -> None:
    left, other = stage.join(), stage.join()
    stage.log_bytes(100)
    left.cursor.detach()
    stage.log_bytes(MAX_BACKLOG)
    stage.catch_up(other)
    stage.update()
    assert stage.pace.is_under_pressure
    stage.catch_up(left)
    stage.update()
    assert not stage.pace.is_under_pressure


def test_a_departure_makes_no_client_less_late(stage: Stage) -> None:
    slow, _ = hold_up(stage)
    stage.update(SLOW - 1)
    stage.pace.forget(slow)
    slow.cursor.detach()
    stage.update(SLOW - 1)
    stage.update(SLOW)
    assert stage.slow_ones == [slow]
    stage.pace.close(slow)
    assert slow not in stage.late


def test_nobody_waits_for_a_connection_gone_for_writing(stage: Stage) -> None:
    gone, other = stage.join(), stage.join()
    stage.log_bytes(MAX_BACKLOG + 100)
    stage.catch_up(other)
    gone.cursor.mute()
    stage.update()
    assert not stage.pace.is_under_pressure
    assert len(stage.late) == 0


# --- private frames ---------------------------------------------------------------------------


def congest(stage: Stage, channel: Channel) -> None:
    channel.cursor.private(b"x" * MAX_PRIVATE_BYTES + b"\n")
    stage.pace.mark_congested(channel)


def drain(channel: Channel) -> None:
    channel.cursor.advance(channel.cursor.queued())


def test_a_congested_client_waits_for_itself(stage: Stage) -> None:
    congested, also, other = (stage.join() for _ in range(3))
    congest(stage, congested)
    congest(stage, also)
    stage.pace.wait(congested, congested)
    stage.pace.wait(also, also)
    assert stage.update() == []
    assert not stage.pace.is_under_pressure
    drain(congested)
    assert stage.update() == [congested]
    assert not stage.pace.is_congested(congested)
    assert stage.pace.is_congested(also)
    assert not stage.pace.is_congested(other)


def test_a_congested_client_is_late_though_nobody_waits(stage: Stage) -> None:
    congested = stage.join()
    congest(stage, congested)
    stage.update(0)
    stage.update(SLOW)
    assert stage.slow_ones == [congested]


def fill(stage: Stage, answerer: Channel, *askers: Channel) -> None:
    """Let a client answer congested askers until its next answer must wait."""
    size = min(MAX_UNREAD_ANSWERS, MAX_BACKLOG // stage.log.count) // len(askers)
    for asker in askers:
        congest(stage, asker)
        assert stage.pace.may_answer(answerer, asker, size)
    assert not stage.pace.may_answer(answerer, askers[0], size)


def test_an_answerer_goes_on_when_one_asker_has_read(stage: Stage) -> None:
    answerer, one, other = (stage.join() for _ in range(3))
    fill(stage, answerer, one, other)
    stage.pace.wait(answerer, one)
    assert stage.update() == []
    drain(other)
    assert stage.update() == [answerer], "less of its answers is queued"
    stage.pace.wait(answerer, one)
    assert stage.update() == []


@pytest.mark.parametrize("departs", [True, False])
def test_an_answerer_goes_on_when_its_asker_has_read_or_goes(stage: Stage, *, departs: bool) -> None:
    answerer, asker = stage.join(), stage.join()
    fill(stage, answerer, asker)
    stage.pace.wait(answerer, asker)
    assert stage.update() == []
    if departs:
        stage.pace.forget(asker)
    else:
        drain(asker)
    assert stage.update() == [answerer]
    assert stage.pace.may_answer(answerer, asker, 1)


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
    assert stage.slow_ones == [one, other]


# --- waiting ----------------------------------------------------------------------------------


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
    assert len(stage.late) == 0
    assert stage.update() == [other]


def test_no_client_is_examined_while_there_is_no_pressure(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.join()
    stage.log_bytes(MAX_BACKLOG // 2)

    def fail(*_: object) -> list[int]:
        raise AssertionError("a walk over the clients")

    monkeypatch.setattr(stage.log, "behind", fail)
    monkeypatch.setattr(Cursor, "queued", fail)
    monkeypatch.setattr(Cursor, "in_flight", fail)
    assert stage.update() == []
