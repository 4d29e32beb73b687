"""Heartbeats: when a PING is due, which clients count as dead, and the costs; the clock is a number."""

from __future__ import annotations

import itertools
import math
from typing import Final, cast

import pytest

from rankserver.channel import Blocker, Channel, ChannelState, Departure, Wait
from rankserver.heartbeat import MIN_STALE, Heartbeat
from rankserver.inputs import Newcomer
from rankserver.members import Member
from rankserver.timers import MAX_EXPIRIES, Timers
from rankserver.wire import codes, protocol
from tests.support.memory import no_memory
from tests.support.turns import SteppedServer

SECONDS: Final = 30.0


class Peer:
    """The attributes of a channel that heartbeats use."""

    def __init__(self, number: int) -> None:
        self.member = Member(Newcomer(number, "peer"))
        self.state = ChannelState.JOINED
        self.heard_at = 0.0
        self.pinged_at = 0
        self.taken = 0
        self.bytes_taken = 1000
        self.bytes_owed = 1000
        self.waits_for: Blocker = None


class Ward:
    """Heartbeats of peers; ``at`` moves the clock, and does what is due."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.timers = Timers()
        self.numbers = itertools.count(1)
        self.pinged: list[Peer] = []
        self.dead: list[Peer] = []
        self.heartbeat = Heartbeat(self.timers, seconds, self._send, self._depart)

    def join(self, now: float = 0) -> Peer:
        peer = Peer(next(self.numbers))
        self.heartbeat.start(cast("Channel", peer), now)
        return peer

    def leave(self, peer: Peer) -> None:
        peer.state = ChannelState.LEAVING
        self.heartbeat.stop()

    def at(self, now: float) -> tuple[int, int]:
        """Do what is due at ``now``; return how many peers were pinged and how many were found dead."""
        self.pinged.clear()
        self.dead.clear()
        self.timers.expire(now)
        return len(self.pinged), len(self.dead)

    @property
    def entries(self) -> int:
        return len(self.heartbeat._heap)

    def _send(self, channel: Channel, frame: bytes) -> None:
        assert frame == b"PING\n"
        self.pinged.append(cast("Peer", channel))

    def _depart(self, channel: Channel, departure: Departure) -> None:
        text = f"nothing heard for {2 * self.heartbeat.seconds:g} seconds"
        assert departure == Departure(codes.TIMEOUT, text)
        peer = cast("Peer", channel)
        self.dead.append(peer)
        self.leave(peer)


@pytest.fixture
def ward() -> Ward:
    return Ward()


# --- silence ----------------------------------------------------------------------------------


def test_a_ping_comes_after_a_heartbeat_and_death_after_two(ward: Ward) -> None:
    ward.join(now=100)
    assert ward.timers.nearest == 130
    assert ward.at(129.999) == (0, 0)
    assert ward.at(130) == (1, 0)
    assert ward.timers.nearest == 160
    assert ward.at(159.999) == (0, 0)
    assert ward.at(160) == (0, 1)
    assert len(ward.heartbeat) == 0
    assert ward.at(1e9) == (0, 0)


def test_input_postpones_the_ping(ward: Ward) -> None:
    peer = ward.join()
    for heard in range(10, 200, 20):
        peer.heard_at = heard
        assert ward.at(heard + 15) == (0, 0)
    assert ward.at(190 + SECONDS) == (1, 0)


@pytest.mark.parametrize("after", [1e-6, 1.0, SECONDS - 1e-6])
def test_input_after_the_ping_starts_a_new_silence(after: float, ward: Ward) -> None:
    peer = ward.join(now=1e6)
    assert ward.at(1e6 + SECONDS) == (1, 0)
    heard = peer.heard_at = 1e6 + SECONDS + after
    assert ward.at(1e6 + 2 * SECONDS) == (0, 0)
    assert ward.at(heard + SECONDS - 1e-6) == (0, 0)
    assert ward.at(heard + SECONDS) == (1, 0)
    assert ward.at(heard + 2 * SECONDS) == (0, 1)


def test_input_just_when_the_ping_is_due_is_in_time(ward: Ward) -> None:
    peer = ward.join()
    peer.heard_at = SECONDS
    assert ward.at(SECONDS) == (0, 0)
    assert ward.at(2 * SECONDS) == (1, 0)


def test_each_client_is_judged_separately(ward: Ward) -> None:
    silent, alive = ward.join(0), ward.join(1)
    assert ward.at(31) == (2, 0)
    alive.heard_at = 40
    assert ward.at(61) == (0, 1)
    assert ward.dead == [silent]


def test_without_a_heartbeat_nobody_is_watched() -> None:
    ward = Ward(0)
    peer = ward.join()
    assert ward.timers.nearest == math.inf
    assert ward.at(1e9) == (0, 0)
    ward.leave(peer)
    assert ward.entries == len(ward.heartbeat) == 0


def test_a_client_that_left_is_neither_pinged_nor_judged(ward: Ward) -> None:
    left, pinged = ward.join(), ward.join()
    ward.leave(left)
    assert ward.at(SECONDS) == (1, 0)
    ward.leave(pinged)
    assert ward.at(2 * SECONDS) == (0, 0)
    assert len(ward.heartbeat) == 0


# --- silence that proves nothing --------------------------------------------------------------


@pytest.mark.parametrize("blocker", [Wait.TURN, Wait.BACKLOG])
def test_a_client_whose_input_waits_is_not_judged(blocker: Wait, ward: Ward) -> None:
    peer = ward.join()
    assert ward.at(30) == (1, 0)
    peer.waits_for = blocker
    assert ward.at(60) == (0, 0)
    peer.waits_for = None
    assert ward.at(90) == (1, 0), "it has not heard a PING since it is listened to again"
    assert ward.at(120) == (0, 1)


def test_a_slow_reader_counts_as_alive_while_it_reads(ward: Ward) -> None:
    peer = ward.join()
    peer.bytes_owed = 5000
    assert ward.at(30) == (1, 0)
    for turn in range(3):
        peer.bytes_taken += 1
        assert ward.at(60 + 30 * turn) == (0, 0)
    assert ward.at(150) == (0, 1), "it took nothing for a heartbeat"


def test_a_client_that_read_its_ping_must_answer_it(ward: Ward) -> None:
    peer = ward.join()
    peer.bytes_owed = 5000
    assert ward.at(30) == (1, 0)
    peer.bytes_taken = 6000
    assert ward.at(60) == (0, 0), "it has just come to its PING"
    peer.bytes_taken = 7000
    assert ward.at(90) == (0, 1)


# --- what it costs ----------------------------------------------------------------------------


@pytest.mark.parametrize("members", [0, 1, 10, 1000])
def test_the_heap_is_bounded_by_the_members(members: int, ward: Ward) -> None:
    staying = [ward.join() for _ in range(members)]
    most = 0
    for _ in range(100_000):
        ward.leave(ward.join())
        most = max(most, ward.entries)
    assert most <= 2 * members + MIN_STALE + 2
    assert len(ward.heartbeat) == members
    assert sum(ward.at(SECONDS)[0] for _ in range(0, members, MAX_EXPIRIES)) == members
    dead: list[Peer] = []
    # The entries of those that left come up as well.
    for _ in range(0, 2 * members, MAX_EXPIRIES):
        ward.at(2 * SECONDS)
        dead += ward.dead
    assert [peer.member.id for peer in dead] == [peer.member.id for peer in staying]


def test_dead_clients_leave_nothing_behind(ward: Ward) -> None:
    for _ in range(10 * MIN_STALE):
        ward.join()
    ward.at(SECONDS)
    assert ward.at(2 * SECONDS) == (0, 10 * MIN_STALE)
    assert len(ward.heartbeat) == 0
    assert ward.entries <= MIN_STALE + 1


def test_input_costs_no_entry_and_no_deadline(ward: Ward) -> None:
    peer = ward.join()
    for heard in range(1, 20):
        peer.heard_at = heard
    assert ward.entries == 1
    assert ward.timers.nearest == SECONDS
    ward.at(SECONDS)
    assert ward.entries == 1
    assert ward.timers.nearest == 19 + SECONDS


# --- in a server ------------------------------------------------------------------------------


def test_a_server_pings_a_silent_client_and_then_drops_it() -> None:
    with SteppedServer(heartbeat=1) as stepped:
        client = stepped.join()
        client.received()
        stepped.wait(1.1)
        assert client.received() == b"PING\n"
        stepped.wait(0.5)
        client.send(b"PONG\n")
        stepped.wait(1)
        assert client.state() is ChannelState.JOINED
        stepped.wait(1.1)
        assert client.received().endswith(b"BYE timeout nothing heard for 2 seconds\n")


def test_a_slow_reader_of_private_frames_is_not_dead() -> None:
    with SteppedServer(heartbeat=1) as stepped:
        client = stepped.join()
        sender, frame = stepped.loop.sender, b"PONG %s\n" % (b"x" * 50_000)
        while not client.channel.wants_write:
            sender.send(client.channel, frame)
            sender.flush_all()
        for _ in range(10):
            sender.send(client.channel, frame)
        received = b""
        while b"\nPING\n" not in received:
            received = received[-10:] + client.received(65_536)
            stepped.wait(0.4)
            assert client.state() is ChannelState.JOINED
        stepped.wait(2.1)
        assert client.state() is not ChannelState.JOINED, "it reads all, and does not answer"


def test_nobody_is_dead_because_the_server_was_stopped() -> None:
    with SteppedServer(heartbeat=30) as stepped:
        client = stepped.join()
        client.received()
        for _ in range(5):
            stepped.selector.stopped = 1e6
            stepped.turn()
            assert client.received() == b""
        assert client.state() is ChannelState.JOINED


def test_a_crowd_that_falls_silent_is_dropped_in_several_turns(ward: Ward) -> None:
    for _ in range(MAX_EXPIRIES + 1):
        ward.join()
    assert [ward.at(SECONDS), ward.at(SECONDS)] == [(MAX_EXPIRIES, 0), (1, 0)]
    assert [ward.at(2 * SECONDS), ward.at(2 * SECONDS)] == [(0, MAX_EXPIRIES), (0, 1)]


def test_a_ping_takes_no_memory_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer(heartbeat=5) as stepped:
        client = stepped.join()
        stepped.wait(1)
        client.received()
        monkeypatch.setattr(protocol, "ping", no_memory)
        stepped.wait(5)
        assert client.received() == b"PING\n"
