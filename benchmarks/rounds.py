"""Measure one point of the grid: all peers stay connected, and take turns in bursts and paced phases.

``plan.py`` decides what to measure, and ``measurements.py`` evaluates it.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

import plan
from harness import BenchmarkError, Generator
from measurements import CEILING, OURS
from membership import memory
from peers import PeerLoad
from sources import BurstSource, CommandBurst, choose_chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from harness import Event, Places, ServerProgram
    from peers import PeerServer
    from plan import Point, Timing
    from typing_extensions import Self


class StepObserver(Protocol):
    """Told of each step as it begins and ends; ``ProgressBar`` in ``grid.py`` shows them."""

    def say(self, what: str) -> None:
        """Report the step that begins."""

    def passed(self, seconds: float) -> None:
        """Report that a step that was planned to take this many seconds is over."""


class Contender:
    """A peer at one point: its server, the generator connected to it, and their measurements."""

    def __init__(self, peer: PeerServer, point: Point, places: Places, timing: Timing) -> None:
        """Describe the peer's part of the point; ``start`` starts its server."""
        self.peer = peer
        self.record: dict[str, Any] = {"commands": 0, "bursts": [], "lost": None}
        self._point = point
        self._places = places
        self._timing = timing
        # The number of bursts in a round, of which the median counts.
        self._repeats = 1
        self._bursts: list[CommandBurst] = []
        self._source: BurstSource | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def attempt(self, step: Callable[[], object]) -> None:
        """Run a step unless an earlier one has failed; a peer that fails is out, and is marked as lost.

        Raises:
            BenchmarkError: if the ceiling fails.
        """
        if self.record["lost"]:
            return
        try:
            step()
        except BenchmarkError as error:
            # If the ceiling fails, the fault is with the machine or the generator.
            if self.peer.key == CEILING:
                raise BenchmarkError(f"{self.peer.name}, {self._point}: {error}") from error
            self.record["lost"] = str(error)
            self._stack.close()

    @property
    def load(self) -> PeerLoad:
        """The load for which the server is started."""
        count, size = self._point.receivers, self._point.size
        if not self._point.everyone:
            return PeerLoad(count, 1, size)
        return PeerLoad(count if self.peer.every_pairs else 0, count, size)

    def start(self) -> None:
        """Start the server and join all connections."""
        server = self._stack.enter_context(self.peer.start(self.load, self._places.sender))
        before = memory(server.pid)
        generator = self._stack.enter_context(self._generator(server))
        self.record["join_seconds"] = generator.ready["join_seconds"]
        self.record["idle_memory"] = memory(server.pid) - before
        self._source = BurstSource(generator, server if self.peer.key == CEILING else None)

    def _generator(self, server: ServerProgram) -> Generator:
        return Generator(
            server.address,
            proto=self.peer.every if self._point.everyone else self.peer.one,
            receivers=self.load.receivers,
            senders=self.load.senders,
            size=self.load.size,
            pid=server.pid,
            places=self._places,
            sending=server.sending,
        )

    @property
    def source(self) -> BurstSource:
        """The source of bursts, once the peer is started."""
        if self._source is None:
            raise BenchmarkError(f"{self.peer.name} is not started")
        return self._source

    def calibrate(self) -> None:
        """Warm up, determine the number of commands in a burst, and choose the ceiling's chunk size."""
        if self._point.everyone:
            self._calibrate_crowd()
        else:
            most = plan.max_commands(self._point, self._timing)
            self.record["commands"] = plan.calibrate(self._seconds, most, self._timing.burst)
        if self.peer.key == CEILING:
            choose_chunk(self.source, self.record["commands"], self._timing.trials)
            self.record["chunk"] = self.source.chunk

    def _calibrate_crowd(self) -> None:
        clients = self._point.receivers
        # One command from each client, twice: the first run warms up.
        one = min(self._seconds(clients) for _ in range(2))
        commands = plan.crowd_commands(clients, one, self._timing)
        self.record["commands"] = commands
        self._repeats = plan.crowd_repeats(one * commands / clients, self._timing)

    def _seconds(self, commands: int) -> float:
        return self.source.burst(commands).seconds

    def burst(self) -> None:
        """Run the burst of this round, and record it."""
        bursts = [self.source.burst(self.record["commands"]) for _ in range(self._repeats)]
        middle = sorted(bursts, key=lambda burst: burst.seconds)[self._repeats // 2]
        self._bursts.append(middle)
        self.record["bursts"].append(self._raw(middle))

    def _raw(self, burst: CommandBurst) -> Event:
        """Return a burst as the result stores it; a single sender's own stream is not a delivery."""
        raw = asdict(burst)
        if not self._point.everyone:
            raw["deliveries"] = burst.commands * self._point.receivers
        return raw

    def idle(self) -> None:
        """Measure the latency while the server sleeps between two commands."""
        receivers = self._point.receivers
        rate, seconds = plan.idle_rate(receivers, self._saturated), plan.idle_seconds(receivers, self._timing)
        self._pace(self.record, "idle", rate, seconds)

    def half(self) -> None:
        """Measure the latency at half of this peer's throughput."""
        self._pace(self.record, "half", self.half_rate, self._timing.half)

    def half_of(self, other: Contender) -> None:
        """Measure this peer's latency at half of another's throughput, unless that peer is out."""
        if not other.record["lost"]:
            against = self.record.setdefault("against", {})
            self._pace(against, other.peer.key, other.half_rate, self._timing.half)

    def keep_pairs(self, other: Contender) -> None:
        """Forget this peer's measurements of rounds in which the other one failed later."""
        against, half = self.record.get("against", {}), other.record.get("half")
        if half is None:
            against.pop(other.peer.key, None)
        elif other.peer.key in against:
            del against[other.peer.key]["rounds"][len(half["rounds"]) :]

    @property
    def half_rate(self) -> int:
        """Half of the commands/s that this peer reached in its bursts."""
        return plan.half_rate(self._saturated)

    @property
    def _saturated(self) -> float:
        return median(burst.rate for burst in self._bursts)

    def _pace(self, into: dict[str, Any], load: str, rate: int, seconds: float) -> None:
        paced = self.source.pace(plan.paced_commands(rate, seconds, self._point.size), rate)
        into.setdefault(load, {"rate": rate, "rounds": []})["rounds"].append(paced)


def run_point(
    point: Point, peers: Sequence[PeerServer], places: Places, timing: Timing, progress: StepObserver
) -> Event:
    """Measure a point with all peers that can handle its connections; return its part of the result.

    Raises:
        BenchmarkError: if the ceiling fails. Other peers that fail, and this server, are marked as lost.
    """
    with ExitStack() as stack:
        all_ = [stack.enter_context(Contender(peer, point, places, timing)) for peer in peers]
        contenders = [one for one in all_ if one.load.connections <= one.peer.most]
        _prepare(contenders, point, timing, progress)
        for number in range(timing.rounds):
            for contender in plan.order(contenders, number):
                _step(contender, contender.burst, "bursts", plan.burst_seconds(point, timing), progress)
        if point.latency:
            _latencies(contenders, point, timing, progress)
        sources = {contender.peer.key: contender.record for contender in contenders}
    return {
        "senders": point.senders,
        "receivers": point.receivers,
        "size": point.size,
        "sources": sources,
    }


def _prepare(contenders: Sequence[Contender], point: Point, timing: Timing, progress: StepObserver) -> None:
    for contender in contenders:
        _step(contender, contender.start, "joining", plan.start_seconds(point), progress)
    for contender in contenders:
        seconds = plan.warming_seconds(point, timing, ceiling=contender.peer.key == CEILING)
        _step(contender, contender.calibrate, "warming up", seconds, progress)


def _latencies(contenders: Sequence[Contender], point: Point, timing: Timing, progress: StepObserver) -> None:
    ours = next((one for one in contenders if one.peer.key == OURS and point.same_rate), None)
    seconds = plan.idle_seconds(point.receivers, timing)
    for number in range(timing.rounds):
        for contender in plan.order(contenders, number):
            _step(contender, contender.idle, "latency when idle", seconds, progress)
            # The ceiling has no half load.
            if contender.peer.key != CEILING:
                _half(contender, ours, number, timing, progress)


def _half(
    contender: Contender, ours: Contender | None, number: int, timing: Timing, progress: StepObserver
) -> None:
    """Measure a peer's latency at half load, and ours at the same rate right after or before."""
    steps = [(contender, contender.half)]
    if ours and ours is not contender:
        steps.append((ours, partial(ours.half_of, contender)))
    for who, step in steps[::-1] if number % 2 else steps:
        _step(who, step, f"latency at half load of {contender.peer.name}", timing.half, progress)
    if ours:
        ours.keep_pairs(contender)


def _step(
    contender: Contender, step: Callable[[], object], what: str, seconds: float, progress: StepObserver
) -> None:
    progress.say(f"{what}, {contender.peer.name}")
    contender.attempt(step)
    progress.passed(seconds)
