"""One run: the real server under one seed, and everything that happens to it.

The loop calls ``select`` once in each turn, and the simulation runs inside that call: it checks the
``invariants`` after the turn, lets clients act, advances the clock, and tells the loop what is ready. A run
has three parts: one with faults; then a calm, in which every client reads and nothing fails, until nothing
moves any more; and the stop. ``scenario`` has what is decided before a run begins.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

from rankserver.channel import NO_MEMORY, Channel, Departure
from rankserver.members import Member
from rankserver.order import Immediate, Order
from rankserver.server import Server
from simulate.client import Manner, SimClient, client_of
from simulate.invariants import Invariants
from simulate.kernel import LISTENER, SIGNALS, Key, Signals, SimListener, SimReserve, SimSelector, ffi, lib
from simulate.replica import Collecting, Replica, told
from simulate.scenario import draw, world
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
# The manners that those of clients are drawn from.
MANNERS: Final = (Manner.PROMPT,) * 9 + (Manner.SLOW,) * 3 + tuple(Manner)

_where: Final[Any] = ffi.new("char **")


class _Quiet(Exception):  # noqa: N818 - it is no error
    """Nothing moves any more."""


class SimServer(Server):
    """The real server, which reports its decisions to the run."""

    def __init__(self, run: Run, *arguments: Any, **options: Any) -> None:
        self.run_of = run
        super().__init__(*arguments, **options)

    def depart(self, channel: Channel, departure: Departure) -> None:
        """Disconnect a channel, after the run has checked whether the server may."""
        if not channel.is_going:
            self.run_of.is_let_go(channel, departure)
        super().depart(channel, departure)

    def joined(self, members: Sequence[Member], ranks: Sequence[int]) -> None:
        """Note which members have joined."""
        self.run_of.note_told("joined", members, ranks)
        super().joined(members, ranks)
        channels = [cast("Channel", member.channel) for member in members]
        self.run_of.truth.joining.append([client_of(channel) for channel in channels])

    def left(self, members: Sequence[Member]) -> None:
        """Note which members have left."""
        self.run_of.note_told("left", members)
        super().left(members)

    def tell(self, member: Member, frame: bytes) -> None:
        """Note a frame for one member alone."""
        self.run_of.note_told("private", [member], frame)
        super().tell(member, frame)


class Result(NamedTuple):
    """What happened in a run; ``trace`` is a hash of everything that happened."""

    seed: int
    trace: int
    turns: int
    steps: int
    commands: int


class Run:
    """One run of the server.

    Args:
        seed: decides what happens.
        steps: how many steps clients take in the first part.
        traced: keep what happens as text in ``lines``.

    Attributes:
        running: the time so far in which the process was not stopped, in seconds.
        calm_since: when the calm began; None before.
        is_over: the last part has begun, in which the server stops.
        live: the clients that may still do something.
    """

    def __init__(self, seed: int, steps: int, *, traced: bool = False) -> None:
        self.seed = seed
        self.steps = steps
        self.traced = traced
        self.lines: list[str] = []
        self.truth = Truth()
        self.rng = random.Random(seed)
        self.scenario = draw(self.rng, steps)
        self.now = 1000.0
        self.stopped = 0.0
        self.turns = 0
        self.done = 0
        self.calm_since: float | None = None
        self.is_over = False
        self.clients: list[SimClient] = []
        self.live: list[SimClient] = []
        lib.sim_begin(seed, traced)
        self.listener = SimListener(self.rng)
        self.selector = SimSelector(self._select)
        self.reserve = SimReserve(self.rng, self._on_low_memory)
        self.replica = Replica(self.scenario) if self.scenario.collects else None
        self.server = SimServer(
            self,
            self.scenario.config,
            self.scenario.tokens,
            selector=cast("selectors.BaseSelector", self.selector),
            clock=lambda: self.now,
            order=self._order,
        )
        lib.sim_watch(self.server.state.log._core.log)
        if self.replica is not None:
            self.replica.follow(self.server.state)
        self.wants_stop = False
        loop = self.server.loop
        loop.on_readable(cast("socket.socket", Signals()), self._stop)
        loop.acceptor._listeners = [cast("Any", self.listener)]
        loop.acceptor.resume()
        self.server.state.asks.limit = self.scenario.max_asks
        self.server._reception._reserve = cast("Any", self.reserve)
        self.invariants = Invariants(self)

    # --- a run --------------------------------------------------------------------------------

    def run(self) -> Result:
        """Run to the end.

        Raises:
            Violation: an invariant does not hold.
            Exception: the server has failed.
        """
        loop, scenario = self.server.loop, self.scenario
        # The tokens are left out, because their text contains an address.
        self.say(f"seed {self.seed}: {scenario._replace(tokens=None)}")
        lib.sim_faults(scenario.io_faults, scenario.memory_faults)
        self.listener.faults = scenario.accept_faults
        self.reserve.faults = scenario.memory_faults
        with contextlib.suppress(_Quiet):
            while self.done < self.steps and (loop.channels or not loop.is_stopping):
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
        return Result(self.seed, lib.sim_trace_hash(), self.turns, self.done, self.truth.commands)

    def _turn(self) -> None:
        self.turns += 1
        self.server.loop.turn()

    def _be_calm(self) -> None:
        self.say("calm")
        lib.sim_faults(0, 0)
        self.listener.faults = self.reserve.faults = 0
        self.calm_since = self.now
        for client in self.live:
            client.conn.room = max(client.conn.room, 1 << 16)

    def _turn_is_over(self) -> None:
        self.capture()
        self.invariants.check_turn()
        if self.replica is not None:
            self.replica.check_turn(self.turns)

    def _stop(self) -> None:
        """Stop the server from within a turn, as a signal does."""
        if self.wants_stop:
            self.say("stop")
            self.server.stop()

    # --- inside select ------------------------------------------------------------------------

    def _select(self, timeout: float | None) -> list[tuple[Key, int]]:
        self._turn_is_over()
        rng = self.rng
        begin = self.now
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            self._act()
        self._read_all()
        ready = self._ready()
        waited = 0.0
        limit = timeout if timeout is not None else 1e9
        while not ready:
            if self.calm_since is not None and not self.is_over and self.now > self.calm_since + CALM_SECONDS:
                raise _Quiet
            pause = rng.choice(PACES) if rng.random() > self.scenario.hurry else 0.001
            if self.calm_since is not None:
                pause = 0.5
            waited += pause
            if waited >= limit:
                self.now += limit - (waited - pause) + TICK
                return self._told(ready)
            self.now += pause
            self._act()
            self._read_all()
            ready = self._ready()
            if self.done >= self.steps and self.calm_since is None and timeout is None:
                self._be_calm()
        self.now += TICK
        if self.calm_since is None and rng.random() < 0.01:
            self._stop_process(timeout or 0, begin)
        return self._told(ready)

    def _stop_process(self, patience: float, begin: float) -> None:
        """Let time pass in which the process is stopped.

        All of the time since this select began counts as stopped, because the server cannot know for how much
        of it it would have waited.
        """
        seconds = patience + self.rng.choice((2.0, 40.0, 4000.0))
        self.say(f"the process is stopped for {seconds} seconds")
        self.now += seconds
        self.stopped += self.now - begin

    def _ready(self) -> list[tuple[Key, int]]:
        ready = []
        sim_ready = lib.sim_ready
        for fd, key in self.selector.keys.items():
            if fd == SIGNALS:
                events = selectors.EVENT_READ if self.wants_stop and not self.server.loop.is_stopping else 0
            elif fd == LISTENER:
                events = selectors.EVENT_READ if self.listener.waiting else 0
            else:
                events = sim_ready(fd) & key.events
            if events:
                ready.append((key, events))
        return ready

    def _told(self, ready: list[tuple[Key, int]]) -> list[tuple[Key, int]]:
        """Return what the loop is told: in any order, some of it later, and some of it without reason."""
        rng = self.rng
        if self.scenario.io_faults and self.calm_since is None:
            if len(ready) > 1 and rng.random() < 0.3:
                ready = ready[: rng.randrange(1, len(ready))]
            if self.selector.keys and rng.random() < 0.1:
                key = rng.choice(list(self.selector.keys.values()))
                if all(key is not other for other, _ in ready):
                    ready.append((key, key.events))
            rng.shuffle(ready)
        if self.traced:
            told = {key.fd: events for key, events in ready}
            self.say(f"turn {self.turns} at {self.now:.4f}: {told}")
        return ready

    # --- what clients do ----------------------------------------------------------------------

    @property
    def running(self) -> float:
        """The time in which the process was not stopped, in seconds."""
        return self.now - self.stopped

    def _read_all(self) -> None:
        """Let those clients read that read at once; in the calm, all."""
        calm = self.calm_since is not None
        for client in self.live:
            if calm:
                client.push(1 << 20, self.running)
            if calm or client.manner not in (Manner.SLOW, Manner.NEVER):
                client.read(1 << 16)
                if calm:
                    client.push(1 << 20, self.running)
                if client.has_left and client.has_ended and not client.conn.closed:
                    client.conn.fin = 1
        if calm or self.rng.random() < 0.1:
            self.live = [one for one in self.live if not (one.has_ended and one.conn.closed)]

    def _act(self) -> None:
        if self.calm_since is not None:
            return
        rng = self.rng
        self.done += 1
        if self.done == self.scenario.stop_at:
            self.wants_stop = True
        listening = not self.listener.is_closed
        if listening and (
            not self.live or (len(self.live) < self.scenario.most_clients and rng.random() < 0.15)
        ):
            self._connect()
            return
        if self.live:
            client = rng.choice(self.live)
            self._act_as(client)
            if client.manner is Manner.SLOW:
                client.read(rng.randrange(1, 400))
            client.push(rng.choice((1, 30, 500, 4000)), self.running)

    def _connect(self) -> None:
        rng = self.rng
        manner = rng.choice(MANNERS)
        number = len(self.clients) + 1
        rank_class = rng.randrange(self.scenario.classes) if self.scenario.classes else 0
        room = rng.choice((20, 200, 2000, 100_000))
        client = SimClient(number, manner, rank_class, self.truth, room)
        client.heard = self.running
        client.asks_are_forgotten = self.scenario.max_asks < 100
        self.clients.append(client)
        self.live.append(client)
        self.listener.waiting.append(client)
        if manner is Manner.STRANGE:
            client.say(rng.choice((b"CMD x", b"\xff", b"HELLO {", b"y" * 3000, b'HELLO {"name":"\\n"}')))
            client.commands.clear()
        elif manner is not Manner.SILENT:
            fields: dict[str, Any] = {"name": f"n{number}"} if rng.random() < 0.7 else {}
            if self.scenario.classes and rng.random() < 0.95:
                fields["token"] = f"token{rank_class}"
            client.hello(fields)
        client.push(rng.choice((1, 20, 500)), self.running)
        self.say(f"{client} connects, class {rank_class}, room {room}")

    def _act_as(self, client: SimClient) -> None:
        rng = self.rng
        conn = client.conn
        if conn.closed or conn.reset or client.has_ended:
            if not client.has_ended:
                client.read(1 << 16)
            client.close()
            return
        chance = rng.random()
        if chance < 0.03:
            self._part(client)
        elif client.has_left or client.manner in (Manner.SILENT, Manner.STRANGE):
            if client.manner is Manner.STRANGE and chance < 0.3:
                client.say(b"z" * rng.randrange(900))
        elif len(client.outbox) < 3000:
            self._compose(client)

    def _compose(self, client: SimClient) -> None:
        rng = self.rng
        chance = rng.random()
        if chance < 0.4:
            for _ in range(rng.choice((1, 1, 3, 20))):
                client.command(rng.choice((0, 3, 30, 200)), wants_answer=rng.random() < 0.25)
        elif chance < 0.6:
            for seq in client.open_asks[-rng.randrange(1, 6) :]:
                client.answer(seq, b' {"by":%d}' % client.number)
        elif chance < 0.65:
            early = range(max(client.first_seq - 5, 1), client.first_seq)  # asked before it came
            client.answer(rng.choice([*[*client.answered][-3:], *early, 10**6]), b"")
        elif chance < 0.75:
            client.who()
        elif chance < 0.85:
            client.ping(rng.choice((0, 20, 100)))
        elif chance < 0.88:
            client.garbage(rng)
        elif client.manner is Manner.ROGUE and chance < 0.92:
            client.say(rng.choice((b"HELLO", b"q" * 4000, b"")))

    def _part(self, client: SimClient) -> None:
        rng = self.rng
        how = rng.randrange(5)
        if how == 0 and not client.has_left:
            client.leave() if client.manner not in (Manner.STRANGE, Manner.SILENT) else None
        elif how == 1:
            client.close_side()
        elif how == 2:
            client.close()
        else:
            client.reset(lose_input=how == 3)
        self.say(f"{client} parts: {('BYE', 'half-close', 'close', 'reset, input lost', 'reset')[how]}")

    # --- what the server decides --------------------------------------------------------------

    def _order(self, apply: Callable[[Any], None]) -> Order:
        """Make the server's order."""
        return Immediate(apply) if self.replica is None else Collecting(self.replica)

    def capture(self) -> None:
        """Read what was logged."""
        if count := lib.sim_read_log(_where):
            self.truth.grow(ffi.buffer(_where[0], count)[:])

    def is_let_go(self, channel: Channel, departure: Departure) -> None:
        """Note why the server disconnects a client, and check whether it may."""
        client = client_of(channel)
        client.reason = departure.text
        client.code = departure.code
        self.say(f"{client} departs: {departure.reason}")
        is_starved = departure == NO_MEMORY
        if is_starved:
            client.code = "memory"
        if is_starved or client.manner in (Manner.SLOW, Manner.NEVER):
            client.may_be_cut = True
        self.invariants.check_departure(channel, departure)

    def _on_low_memory(self) -> None:
        """Note that all strangers are closed at once, in the middle of a BYE as well."""
        for channel in self.server._reception.door.everybody():
            client_of(channel).may_be_cut = True

    def note_told(self, what: str, members: Sequence[Member], details: Any = None) -> None:
        """Note what the state tells the server, if there is a replica to compare that with."""
        if self.replica is not None:
            self.replica.server_told.append(told(self.server.state.log, what, members, details))

    # --- the trace ----------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Add a line to the readable trace, after those of the kernel."""
        lib.sim_note(hash_of(text))
        if self.traced:
            self.lines += self.kernel_lines()
            self.lines.append(text)

    def kernel_lines(self) -> list[str]:
        """Return what the kernel has added to the trace since this was last called."""
        count = lib.sim_trace_text(_where)
        return bytes(ffi.buffer(_where[0], count)).decode().splitlines() if count else []

    def close(self) -> None:
        """Free the connections."""
        for client in self.clients:
            lib.sim_drop(client.conn)


def hash_of(text: str) -> int:
    """Return a number for a text, the same in each process."""
    return sum(text.encode()) + (len(text) << 16)


def simulate(seed: int, steps: int = STEPS) -> Result:
    """Run one seed.

    Raises:
        Violation: an invariant does not hold.
        Exception: the server has failed.
    """
    with world(seed, steps):
        run = Run(seed, steps)
        try:
            return run.run()
        finally:
            run.close()


def trace(seed: int, steps: int = STEPS) -> list[str]:
    """Run one seed, and return what happened, line by line, and how it ended."""
    with world(seed, steps):
        run = Run(seed, steps, traced=True)
        try:
            run.say(str(run.run()))
        except Exception as error:  # noqa: BLE001 - any exception is a finding
            run.say(f"{type(error).__name__}: {error}")
        finally:
            run.close()
        return run.lines
