"""One run: the real server under one seed, and everything that happens to it.

The loop calls ``select`` once in each turn, and the simulation runs inside that call: it checks the
``invariants`` after the turn, lets clients act, advances the clock, and tells the loop what is ready. A run
has three parts: one with faults; then a calm, in which every client reads and nothing fails, until nothing
moves any more; and the stop. ``scenario`` has what is decided before a run begins, and ``crowd`` what clients
do.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

from rankserver.channel import NO_MEMORY, Channel, Departure
from rankserver.members import Member
from rankserver.order import Immediate, Order
from simulate.certificate import server_context
from simulate.client import LATE, client_of
from simulate.crowd import Crowd
from simulate.invariants import Invariants
from simulate.kernel import SIGNALS, Key, Signals, SimListener, SimSelector, lib, read_log
from simulate.parts import SimReserve, SimServer
from simulate.replica import Collecting, Replica, told
from simulate.scenario import World, world
from simulate.truth import Truth, Violation

# Steps that clients take in the first part of a run.
STEPS: Final = 300
# Seconds of calm until a run has come to rest: longer than any timeout that disconnects a client.
CALM_SECONDS: Final = 9.0
# The most turns until the server comes to rest after faults, and until it has stopped.
MAX_CALM_TURNS: Final = 3000
MAX_END_TURNS: Final = 500
# Seconds that a turn takes.
TICK: Final = 1e-4
# Seconds between two steps of clients, from which one is drawn.
PACES: Final = (0.001, 0.01, 0.03, 0.06, 0.5, 3.0)


class _Quiet(Exception):  # noqa: N818 - it is no error
    """Nothing moves any more."""


class RunResult(NamedTuple):
    """What happened in a run; ``trace`` is a hash of everything that happened."""

    seed: int
    trace: int
    turns: int
    steps: int
    commands: int


class Run:
    """One run of the server.

    Args:
        world: what surrounds the server.
        seed: decides what happens.
        steps: how many steps clients take in the first part.

    Attributes:
        turns: how many turns of the loop there were.
        calm_since: when the calm began; None before.
        is_over: the last part has begun, in which the server stops.
        wants_stop: the server is told to stop.
    """

    def __init__(self, world: World, seed: int, steps: int) -> None:
        self.world = world
        self.seed = seed
        self.steps = steps
        self.trace, self.clock, self.scenario = world.trace, world.clock, world.scenario
        self.rng = world.rng
        self.truth = Truth()
        self.turns = 0
        self.calm_since: float | None = None
        self.is_over = False
        self.wants_stop = False
        self.crowd = Crowd(world, self.truth)
        self.selector = SimSelector(self._select)
        self.reserve = SimReserve(world.shortage, self._on_low_memory)
        self.replica = Replica(self.scenario) if self.scenario.collects else None
        self.server = SimServer(
            self,
            self.scenario.config,
            self.scenario.tokens,
            server_context() if self.scenario.has_tls else None,
            selector=cast("selectors.BaseSelector", self.selector),
            clock=lambda: self.clock.now,
            order=self._order,
        )
        lib.sim_watch(self.server.state.log._core.log)
        if self.replica is not None:
            self.replica.follow(self.server.state)
        loop = self.server.loop
        loop.on_readable(cast("socket.socket", Signals()), self._stop)
        loop.acceptor._listeners = cast("Any", self.crowd.listeners)
        loop.acceptor.resume()
        self.server.state.asks.limit = self.scenario.max_asks
        self.server.state.asks.orphan_limit = self.scenario.max_orphans
        self.server._reception._reserve = cast("Any", self.reserve)
        self.invariants = Invariants(self)

    # --- a run --------------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Run to the end.

        Raises:
            Violation: an invariant does not hold.
            Exception: the server has failed.
        """
        loop, scenario = self.server.loop, self.scenario
        # The tokens are left out, because their text contains an address.
        self.trace.say(f"seed {self.seed}: {scenario._replace(tokens=None)}")
        lib.sim_faults(scenario.io_faults, scenario.memory_faults)
        for listener in self.crowd.listeners:
            listener.faults = scenario.accept_faults
        with contextlib.suppress(_Quiet):
            while self.crowd.steps < self.steps and (loop.channels or not loop.is_stopping):
                self._turn()
        self._be_calm()
        if not loop.is_stopping:
            with contextlib.suppress(_Quiet):
                for _ in range(MAX_CALM_TURNS):
                    self._turn()
                raise Violation(f"it does not come to rest in {MAX_CALM_TURNS} turns")
            self.invariants.check_rest()
            self.wants_stop = True
        self.is_over = True
        for _ in range(MAX_END_TURNS):
            if not loop.channels and loop.is_stopping:
                break
            self._turn()
        self._turn_is_over()
        if self.replica is not None:
            self.replica.check_whole()
            self.replica.close()
        self.invariants.check_end()
        return RunResult(self.seed, lib.sim_trace_hash(), self.turns, self.crowd.steps, self.truth.commands)

    def _turn(self) -> None:
        self.turns += 1
        self.server.loop.turn()

    def _be_calm(self) -> None:
        self.trace.say("calm")
        lib.sim_faults(0, 0)
        self.world.shortage.is_over = True
        for listener in self.crowd.listeners:
            listener.faults = 0
        self.calm_since = self.clock.now
        self.crowd.make_room()

    def _turn_is_over(self) -> None:
        self.capture()
        self.invariants.check_turn()
        if self.replica is not None:
            self.replica.check_turn(self.turns)

    def _stop(self) -> None:
        """Stop the server from within a turn, as a signal does."""
        if self.wants_stop:
            self.trace.say("stop")
            self.server.stop()

    # --- inside select ------------------------------------------------------------------------

    def _select(self, timeout: float | None) -> list[tuple[Key, int]]:
        self._turn_is_over()
        rng, clock = self.rng, self.clock
        begin = clock.now
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            self._act()
        ready = self._ready()
        waited = 0.0
        limit = timeout if timeout is not None else 1e9
        while not ready:
            if (
                self.calm_since is not None
                and not self.is_over
                and clock.now > self.calm_since + CALM_SECONDS
            ):
                raise _Quiet
            pause = rng.choice(PACES) if rng.random() > self.scenario.hurry else 0.001
            if self.calm_since is not None:
                pause = 0.5
            waited += pause
            if waited >= limit:
                clock.wait(limit - (waited - pause) + TICK)
                return self._told(self._ready())
            clock.wait(pause)
            self._act()
            ready = self._ready()
            if self.crowd.steps >= self.steps and self.calm_since is None and timeout is None:
                self._be_calm()
        clock.wait(TICK)
        if self.calm_since is None and rng.random() < 0.01:
            self._stop_process(timeout or 0, begin)
        return self._told(ready)

    def _is_quiet(self) -> bool:
        """Whether the calm has lasted until nothing moves any more."""
        if self.calm_since is None or self.is_over:
            return False
        return self.clock.now > self.calm_since + CALM_SECONDS

    def _stop_process(self, patience: float, begin: float) -> None:
        """Let time pass in which the process is stopped.

        All of the time since this select began counts as stopped, because the server cannot know for how much
        of it it would have waited.
        """
        seconds = patience + self.rng.choice((2.0, 40.0, 4000.0))
        self.trace.say(f"the process is stopped for {seconds} seconds")
        self.clock.wait(seconds)
        self.clock.stopped += self.clock.now - begin

    def _act(self) -> None:
        """Let a client take its next step, unless it is calm."""
        if self.calm_since is None:
            self.crowd.step()
            self.wants_stop |= self.crowd.steps == self.scenario.stop_at

    def _ready(self) -> list[tuple[Key, int]]:
        """Let clients read, and return what is ready then."""
        self.crowd.read(everything=self.calm_since is not None)
        ready = []
        sim_ready = lib.sim_ready
        for fd, key in self.selector.keys.items():
            if fd == SIGNALS:
                events = selectors.EVENT_READ if self.wants_stop and not self.server.loop.is_stopping else 0
            elif isinstance(key.fileobj, SimListener):
                events = selectors.EVENT_READ if key.fileobj.waiting else 0
            else:
                events = sim_ready(fd) & key.events
            if events:
                ready.append((key, events))
        return ready

    def _told(self, ready: list[tuple[Key, int]]) -> list[tuple[Key, int]]:
        """Return what the loop is told: in any order, some of it later, and some of it without reason."""
        rng = self.rng
        self.world.meter.begin_turn(len(self.server.loop.channels))
        if self.scenario.io_faults and self.calm_since is None:
            if len(ready) > 1 and rng.random() < 0.3:
                ready = ready[: rng.randrange(1, len(ready))]
            if self.selector.keys and rng.random() < 0.1:
                key = rng.choice(list(self.selector.keys.values()))
                if all(key is not other for other, _ in ready):
                    ready.append((key, key.events))
            rng.shuffle(ready)
        if self.trace.is_kept:
            told = {key.fd: events for key, events in ready}
            self.trace.say(f"turn {self.turns} at {self.clock.now:.4f}: {told}")
        return ready

    # --- what the server decides --------------------------------------------------------------

    def _order(self, apply: Callable[[Any], None]) -> Order:
        """Make the server's order."""
        shortage = self.world.shortage
        if self.replica is None:
            return Immediate(shortage.handle("an input", apply))
        return Collecting(self.replica, shortage)

    def capture(self) -> None:
        """Read what was logged."""
        if data := read_log():
            self.truth.grow(data)

    def is_let_go(self, channel: Channel, departure: Departure) -> None:
        """Note why the server disconnects a client, and check whether it may."""
        client = client_of(channel)
        client.reason = departure.text
        client.code = departure.code
        self.trace.say(f"{client} departs: {departure.reason}")
        is_starved = departure == NO_MEMORY
        if is_starved:
            client.code = "memory"
        if is_starved or client.manner in LATE:
            client.link.may_be_cut = True
        self.invariants.check_departure(channel, departure)

    def _on_low_memory(self) -> None:
        """Note that all strangers are closed at once, in the middle of a BYE as well."""
        for channel in self.server._reception.door.everybody():
            client_of(channel).link.may_be_cut = True

    def note_told(self, what: str, members: Sequence[Member], details: Any = None) -> None:
        """Note what the state tells the server, if there is a replica to compare that with."""
        if self.replica is not None:
            self.replica.server_told.append(told(self.server.state.log, what, members, details))

    def close(self) -> None:
        """Free the connections."""
        for client in self.crowd.clients:
            lib.sim_drop(client.link.conn)


def simulate(seed: int, steps: int = STEPS) -> RunResult:
    """Run one seed.

    Raises:
        Violation: an invariant does not hold.
        Exception: the server has failed.
    """
    with world(seed, steps) as surroundings:
        run = Run(surroundings, seed, steps)
        try:
            return run.run()
        finally:
            run.close()


def trace(seed: int, steps: int = STEPS) -> list[str]:
    """Run one seed, and return what happened, line by line, and how it ended."""
    with world(seed, steps, is_traced=True) as surroundings:
        run = Run(surroundings, seed, steps)
        try:
            run.trace.say(str(run.run()))
        except Exception as error:  # noqa: BLE001 - any exception is a finding
            run.trace.say(f"{type(error).__name__}: {error}")
        finally:
            run.close()
        return run.trace.lines
