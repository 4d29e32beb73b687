"""Floods, turn by turn: who waits for a client that does not keep up, for how long, and what is kept.

The clock is set by the test, and what is counted are turns, bytes and lines. Each scenario runs over plain
and TLS connections, and with an order that collects commands. Every step checks that memory is bounded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from rankserver import tls
from rankserver.credits import MAX_UNREAD_ANSWERS
from rankserver.lateness import FORGIVENESS_PERIOD, MAX_SURPLUS, MIN_RATE
from rankserver.server import Server
from tests.support.flooding import STEP, CollectingOrder, FloodPeer, FloodScene
from tests.support.tls_peer import Certificates
from tests.support.turns import SteppedServer

KIB: Final = 1024
BACKLOG: Final = 4096 * KIB
SLOW: Final = 5.0


@pytest.fixture(params=["plain", "tls", "collecting"])
def scene(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[FloodScene]:
    make: Callable[..., Server] = Server
    context = certificates.client if request.param == "tls" else None
    if request.param == "collecting":
        make = functools.partial(Server, order=CollectingOrder)
    with SteppedServer(make=make, max_backlog=BACKLOG, slow_timeout=SLOW, heartbeat=0) as stepped:
        if context:
            files = str(certificates.cert), str(certificates.key)
            stepped.server.reload(None, tls.context(*files, None))
        yield FloodScene(stepped, BACKLOG, context)


def flood(peer: FloodPeer, size: int = 200) -> None:
    """Keep more commands of ``size`` bytes ready than the server reads in a step."""
    while peer.unsent < 128 * KIB:
        peer.send(b"CMD %s\n" % (b"x" * (size - 5)) * (64 * KIB // size + 1))


# --- the log ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [6, 200, 60_000])
@pytest.mark.parametrize(
    ("period", "lump"), [(1, 4 * KIB), (2, 100 * KIB), (10, 400 * KIB), (25, 30 * KIB), (40, 2048 * KIB)]
)
def test_a_flooder_that_reads_in_lumps_delays_no_other(
    scene: FloodScene, period: int, lump: int, size: int
) -> None:
    boss, second, flooder = scene.join(3)
    waits = 0
    for number in range(100):
        if not flooder.is_gone:
            flood(flooder, size)
        if number % period == 0:
            scene.let_read(flooder, lump)
        scene.step(boss, second)
        waits += flooder.channel in scene.pace.waiting
    assert waits, "the flooder never had to wait"


def test_a_link_above_the_floor_stays_and_slows_the_flooder(scene: FloodScene) -> None:
    slow, quiet, flooder = scene.join(3)
    rate = int(1.25 * MIN_RATE)
    steps = 600
    for number in range(steps):
        flood(flooder)
        scene.let_read(flooder, BACKLOG)
        # Bursts, as a window of TCP that opens in steps.
        if number % 10 == 0:
            scene.let_read(slow, int(rate * STEP * 10))
        scene.step(quiet)
        assert not slow.is_gone
    assert scene.pace.is_under_pressure
    assert scene.logged <= BACKLOG + 1.1 * rate * STEP * steps, "the flooder was not slowed down"
    assert scene.logged >= 0.9 * rate * STEP * steps, "the flooder was stopped"


def test_a_client_that_takes_nothing_goes_after_the_timeout(scene: FloodScene) -> None:
    stuck, quiet, flooder = scene.join(3)
    begin = None
    while not stuck.is_gone:
        flood(flooder)
        scene.let_read(flooder, BACKLOG)
        scene.step(quiet)
        if begin is None and flooder.channel in scene.pace.waiting:
            begin = scene.seconds
    assert begin is not None
    assert scene.seconds - begin == pytest.approx(SLOW, abs=1.5 * STEP)
    assert stuck.channel.departure is not None
    assert stuck.channel.departure.code == "slow"


@pytest.mark.parametrize("period", [MAX_SURPLUS + 2.2, MAX_SURPLUS + 2.5])
def test_falling_below_the_line_for_moments_helps_no_client(scene: FloodScene, period: float) -> None:
    lumps, quiet, flooder = scene.join(3)
    waits = freed = 0
    while not lumps.is_gone:
        flood(flooder)
        scene.let_read(flooder, BACKLOG)
        if round(scene.seconds / STEP) % round(period / STEP) == 0:
            scene.let_read(lumps, 2 * BACKLOG)
            freed += waits > 0
        scene.step(quiet)
        waits += flooder.channel in scene.pace.waiting
        assert scene.seconds < 2 * FORGIVENESS_PERIOD
    assert freed
    # Each lump pays for some time, and the rest adds up.
    assert waits * STEP <= freed * MAX_SURPLUS + 2 * SLOW


def test_only_time_that_others_wait_makes_late(scene: FloodScene) -> None:
    idle, sender = scene.join(2)
    scene.step()
    for _ in range(200):
        sender.send(b"CMD %s\n" % (b"x" * 30_000) if scene.logged < 0.6 * BACKLOG else b"")
        scene.let_read(sender, BACKLOG)
        scene.step()
    assert scene.pace.is_under_pressure
    assert not idle.is_gone, "it is far behind, and nobody waits for that"


def test_reconnecting_gives_a_flooder_no_new_credit(scene: FloodScene) -> None:
    _stuck, quiet, flooder = scene.join(3)
    while not scene.pace.is_under_pressure:
        flood(flooder)
        scene.let_read(flooder, BACKLOG)
        scene.step(quiet)
    for _ in range(12):
        (newcomer,) = scene.join()
        newcomer.send(b"CMD %s\n" % (b"x" * 1000) * 200 + b"BYE\n")
        scene.step(quiet)
    assert not scene.pace.is_holding


@pytest.mark.parametrize("flooders", [1, 5])
def test_many_flooders_share_what_the_others_read(scene: FloodScene, flooders: int) -> None:
    slow, quiet, *floods = scene.join(2 + flooders)
    for _ in range(100):
        for one in floods:
            flood(one)
            scene.let_read(one, BACKLOG)
        scene.let_read(slow, int(2 * MIN_RATE * STEP))
        scene.step(quiet)
    assert all(one.channel.waits_for is not None or one.unsent for one in floods)
    assert not slow.is_gone


# --- answers ----------------------------------------------------------------------------------


class Answering:
    """Members above an asker, each of which refuses its asks at once, as clients do."""

    def __init__(self, answerers: list[FloodPeer]) -> None:
        self.answerers = answerers

    def answer(self, detail: bytes = b"") -> None:
        for peer in self.answerers:
            peer.read()
            *lines, rest = bytes(peer.received).split(b"\n")
            peer.received[:] = rest
            asks = [line.split(b" ", 2)[1] for line in lines if line.startswith(b"ASK ")]
            peer.send(b"".join(b"RES %s refused%s\n" % (seq, detail) for seq in asks))


@pytest.mark.parametrize(("period", "lump"), [(1, 0), (1, KIB), (5, 40 * KIB), (30, 300 * KIB)])
def test_an_asker_that_reads_late_delays_no_command(scene: FloodScene, period: int, lump: int) -> None:
    boss, second, third, asker = scene.join(4)
    answering = Answering([boss, second, third])
    congested = 0
    for number in range(150):
        if not asker.is_gone and asker.channel.waits_for is None:
            asker.send(b"ASK x\n" * 30)
        if number % period == 0:
            scene.let_read(asker, lump)
        answering.answer(b' {"reason":"%s"}' % (b"x" * 300))
        scene.step(*answering.answerers)
        congested += scene.pace.is_congested(asker.channel)
    assert congested


def test_large_answers_wait_for_an_asker_that_reads_late(scene: FloodScene) -> None:
    other, answerer, asker = scene.join(3)
    asker.send(b"ASK x\n" * 100)
    answering = Answering([answerer])
    scene.step()
    answering.answer(b' {"out":"%s"}' % (b"x" * 50_000))
    for _ in range(40):
        scene.step(other)
    assert answerer.channel.waits_for is asker.channel
    queued = asker.channel.cursor.queued()
    assert queued <= 1024 * KIB + MAX_UNREAD_ANSWERS + 64 * KIB
    while answerer.channel.waits_for is not None or answerer.unsent:
        asker.read()
        scene.step(other)
    scene.let_read(asker, BACKLOG)
    assert not asker.is_gone
    assert asker.received.count(b"RES ") == 100
