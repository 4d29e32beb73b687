"""One run: the real server under one seed, with everything that may happen to it, and the invariants.

The loop calls ``select`` once a turn, and the world lives in there: first the invariants are checked on what
the turn has left, then clients act, then what is ready is told, with the clock moved on. A run has three
parts: faults and all; calm, in which everybody reads and nothing fails, until nothing moves; and the end.
"""

from __future__ import annotations

import contextlib
import logging
import random
import selectors
import socket
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

import rankserver.asks
import rankserver.channel
import rankserver.clist
import rankserver.door
import rankserver.listeners
import rankserver.loop
import rankserver.pace
import rankserver.server
from rankserver.channel import Channel, State
from rankserver.clist import Log
from rankserver.config import Config
from rankserver.server import Server
from rankserver.tokens import Holder, Tokens
from simulate.client import Manner, SimClient
from simulate.kernel import LISTENER, SIGNALS, Key, Signals, SimListener, SimSelector, ffi, lib
from simulate.truth import Truth, Violation

STEPS: Final = 300  # what clients do in the first part of a run
CALM_SECONDS: Final = 9.0  # longer than any timeout that lets somebody go
CALM_TURNS: Final = 3000
END_TURNS: Final = 500
WAIT_SLACK: Final = 1.1  # seconds that the server may not have noticed as lost
JUST_NOW: Final = 0.01  # seconds: readiness may be told a few turns late
TICK: Final = 1e-4  # seconds that a turn takes
PACES: Final = (0.001, 0.01, 0.03, 0.06, 0.5, 3.0)  # seconds in which nobody does anything
MANNERS: Final = (Manner.PROMPT,) * 9 + (Manner.SLOW,) * 3 + tuple(Manner)

_where: Final[Any] = ffi.new("char **")

# Bounds of the server, with values that make it come to them; 0 is its own.
MODULES: Final = (
    rankserver.asks,
    rankserver.door,
    rankserver.listeners,
    rankserver.loop,
    rankserver.pace,
    rankserver.server,
)
BOUNDS: Final = {
    "TURN_BYTES": (0, 300, 2000),
    "READ_LEAST": (0, 40, 400),
    "LINES": (0, 1, 12),
    "LINES_LEAST": (0, 1),
    "UNSENT": (0, 2, 3),
    "PRIVATE_BYTES": (0, 200, 2000),
    "ACCEPTS": (0, 1, 2),
    "LEAST_STRANGERS": (0, 2, 4),
    "MANY": (0, 2),
}


class Scenario(NamedTuple):
    """What a seed says about a run, before it begins."""

    config: Config
    tokens: Tokens | None
    classes: int
    most_clients: int
    block_bytes: int
    read_bytes: int
    io_faults: int
    memory_faults: int
    accept_faults: int
    stop_at: int
    max_asks: int
    hurry: float  # share of the waits in which nothing happens for a moment only


def _scenario(rng: random.Random, steps: int) -> Scenario:
    capacity = rng.choice((1, 2, 4, 6, 9, 14))
    classes = rng.choice((0, 0, 1, 3))
    max_line = rng.choice((256, 300, 700, 1500))
    config = Config(
        capacity,
        max_line=max_line,
        heartbeat=rng.choice((0, 2, 5, 30)),
        max_backlog=rng.choice((600, 3000, 20_000, 10**9)),
        slow_timeout=rng.choice((0.5, 5, 5)),
    )
    tokens = {_digest(f"token{number}"): Holder("x", number) for number in range(classes)}
    return Scenario(
        config,
        Tokens(tokens) if classes else None,
        classes,
        capacity + rng.choice((0, 1, 4)),
        max_line + rng.choice((256, 600, 4000)),
        rng.choice((50, 500, 4000)),
        rng.choice((0, 20, 100, 300)),
        rng.choice((0, 0, 5, 40)),
        rng.choice((0, 0, 100, 400)),
        rng.randrange(steps) if rng.random() < 0.1 else -1,
        rng.choice((3, 65_536)),
        rng.choice((0.5, 0.9, 0.99)),
    )


def _digest(token: str) -> bytes:
    return rankserver.tokens._digest(token)


class _Quiet(Exception):  # noqa: N818 - it is no error
    """Nothing moves any more."""


class SimServer(Server):
    """The real server, which tells what it decides."""

    def __init__(self, run: Run, *arguments: Any, **options: Any) -> None:
        self.run_of = run
        super().__init__(*arguments, **options)

    def _dismiss(self, channel: Channel, code: str = "", text: str = "", *, reason: str = "") -> None:
        if not channel.is_going:
            self.run_of.is_let_go(channel, code, reason or text)
        super()._dismiss(channel, code, text, reason=reason)

    def _let_in(self, channels: Sequence[Channel]) -> None:
        joining = self.run_of.truth.joining
        before = self._log.seq
        joining.append([_client(channel) for channel in channels])
        super()._let_in(channels)
        if self._log.seq == before:
            joining.pop()  # there was no memory

    def _flush_ranked(self) -> None:
        self.run_of.capture()
        super()._flush_ranked()


def _client(channel: Channel) -> SimClient:
    return cast("SimClient", cast("Any", channel.sock).client)


class Result(NamedTuple):
    """What a run was."""

    seed: int
    trace: int  # hash of all that happened
    turns: int
    steps: int
    commands: int


class Run:
    """One run of the server, see the module."""

    def __init__(self, seed: int, steps: int, *, traced: bool = False) -> None:
        self.seed = seed
        self.steps = steps
        self.traced = traced
        self.lines: list[str] = []
        self.truth = Truth()
        self.rng = random.Random(seed)
        self.scenario = _scenario(self.rng, steps)
        self.now = 1000.0
        self.stopped = 0.0  # seconds of it in which the process was
        self.turns = 0
        self.done = 0
        self.calm_since: float | None = None
        self.is_over = False
        self.lazy_since: float | None = None  # JOINs wait for company
        self.held_at: int | None = None  # commands in the log, if they have to wait now
        self.behind_since: dict[SimClient, float] = {}  # others wait for these
        self.clients: list[SimClient] = []
        self.live: list[SimClient] = []
        lib.sim_begin(seed, traced)
        self.listener = SimListener(self.rng)
        self.selector = SimSelector(self._select)
        self.server = SimServer(
            self,
            self.scenario.config,
            self.scenario.tokens,
            selector=cast("selectors.BaseSelector", self.selector),
            clock=lambda: self.now,
        )
        self.wants_stop = False
        self.server.on_readable(cast("socket.socket", Signals()), self._stop)
        self.server._acceptor._listeners = [cast("Any", self.listener)]
        self.server._acceptor.resume()
        self.server._asks.limit = self.scenario.max_asks

    # --- a run --------------------------------------------------------------------------------

    def run(self) -> Result:
        """Run to the end.

        Raises:
            Violation: an invariant does not hold.
            Exception: the server has failed.
        """
        server, scenario = self.server, self.scenario
        self.say(f"seed {self.seed}: {scenario._replace(tokens=None)}")  # their text has an address
        lib.sim_faults(scenario.io_faults, scenario.memory_faults)
        self.listener.faults = scenario.accept_faults
        with contextlib.suppress(_Quiet):
            while self.done < self.steps and (server._channels or not server._stopping):
                self._turn()
        self._be_calm()
        if not server._stopping:
            with contextlib.suppress(_Quiet):
                for _ in range(CALM_TURNS):
                    self._turn()
                raise Violation(f"it does not come to rest in {CALM_TURNS} turns")
            self._check_rest()
            self.wants_stop = True
        self.is_over = True
        for _ in range(END_TURNS):
            if not server._channels and server._stopping:
                break
            self._turn()
        self._turn_is_over()
        self._check_end()
        return Result(self.seed, lib.sim_trace_hash(), self.turns, self.done, self.truth.commands)

    def _turn(self) -> None:
        self.turns += 1
        self.server._turn()

    def _be_calm(self) -> None:
        self.say("calm")
        lib.sim_faults(0, 0)
        self.listener.faults = 0
        self.calm_since = self.now
        for client in self.live:
            client.conn.room = max(client.conn.room, 1 << 16)

    def _stop(self) -> None:
        """Stop the server, in its turn, as a signal does."""
        if self.wants_stop:
            self.say("stop")
            self.server.stop()

    # --- what the loop waits in ---------------------------------------------------------------

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
                self.now += limit - (waited - pause)
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
        """Let time pass; the server cannot tell what of it, since this select began, it would have waited."""
        seconds = patience + self.rng.choice((2.0, 40.0, 4000.0))
        self.say(f"the process is stopped for {seconds} seconds")
        self.now += seconds
        self.stopped += self.now - begin

    def _ready(self) -> list[tuple[Key, int]]:
        ready = []
        sim_ready = lib.sim_ready
        for fd, key in self.selector.keys.items():
            if fd == SIGNALS:
                events = selectors.EVENT_READ if self.wants_stop and not self.server._stopping else 0
            elif fd == LISTENER:
                events = selectors.EVENT_READ if self.listener.waiting else 0
            else:
                events = sim_ready(fd) & key.events
            if events:
                ready.append((key, events))
        return ready

    def _told(self, ready: list[tuple[Key, int]]) -> list[tuple[Key, int]]:
        """Return what is told: in any order, some of it later, some for nothing."""
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
        """The time that the server has had."""
        return self.now - self.stopped

    def _read_all(self) -> None:
        """Let everybody read who does so at once."""
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

    def capture(self) -> None:
        """Read what was logged."""
        handle = self.server._log._log
        if count := lib.sim_read_log(handle, _where):
            self.truth.grow(ffi.buffer(_where[0], count)[:])

    def is_let_go(self, channel: Channel, code: str, why: str) -> None:
        """Judge why the server lets a connection go."""
        client = _client(channel)
        client.reason = why
        client.code = code
        self.say(f"{client} is let go: {code} {why}")
        if client.manner in (Manner.SLOW, Manner.NEVER):
            client.may_be_cut = True
        if not code:
            self._judge_end(client, why)
        elif code == "slow":
            if client.manner not in (Manner.SLOW, Manner.NEVER):
                raise Violation(f"{client} reads at once, and is let go: {why}")
        elif code in ("proto", "too-long"):
            if client.manner not in (Manner.STRANGE, Manner.ROGUE):
                raise Violation(f"{client} keeps to the protocol, and is let go: {code} {why}")
        elif code == "timeout" and channel.state is State.JOINED:
            silent = self.running - client.heard
            if JUST_NOW < silent < self.scenario.config.heartbeat:
                raise Violation(f"{client} was silent for {silent:g} seconds, and is let go: {why}")

    def _judge_end(self, client: SimClient, why: str) -> None:
        if why == rankserver.loop.NO_MEMORY:
            client.code = "memory"
            client.may_be_cut = True
            if not self.scenario.memory_faults or self.calm_since is not None:
                raise Violation(f"{client} is let go for want of memory, and there was enough")
        elif not (client.has_left or client.conn.reset):
            raise Violation(f"{client} is here, and is let go: {why}")

    # --- invariants ---------------------------------------------------------------------------

    def _turn_is_over(self) -> None:
        """Check what must hold between any two turns."""
        server, log, truth = self.server, self.server._log, self.truth
        self.capture()
        if wrong := lib.sim_misuse():
            raise Violation(ffi.string(wrong).decode())
        log.check()
        channels = server._channels
        members = [_client(channels[fd]) for fd in log.ranked_fds()]
        if members != list(truth.roster) or log.seq != len(truth.frames) - 1:
            raise Violation(f"the core ranks {members} at {log.seq}; by the log it is {truth.roster}")
        if len(members) > self.scenario.config.capacity:
            raise Violation(f"{len(members)} clients, more than the capacity")
        for key in self.selector.keys.values():
            if key.fileobj.fileno() != key.fd:
                raise Violation(f"descriptor {key.fd} is closed and registered")
        self._check_channels(channels, log)
        self._check_bounds(log)
        self._check_waiting()

    def _check_channels(self, channels: dict[int, Channel], log: Log) -> None:
        registered = self.selector.keys
        for fd, channel in channels.items():
            if channel.sock.fileno() != fd:
                raise Violation(f"{_client(channel)} is kept, and descriptor {fd} closed")
            if channel.interest != (registered[fd].events if fd in registered else 0):
                raise Violation(f"{_client(channel)} is registered for other than {channel.interest}")
            if channel.state is State.JOINED and not channel.paused and not channel.held:
                self._check_waits_for_input(channel)
            client = _client(channel)
            if not client.conn.reset and not channel.wants_write and channel.state is not State.JOINING:
                self._check_all_sent(channel, log)

    def _check_waits_for_input(self, channel: Channel) -> None:
        broken = self.server._broken
        if not channel.interest & selectors.EVENT_READ and not channel.ended and channel not in broken:
            raise Violation(f"nothing that {_client(channel)} sends is heard")

    def _check_all_sent(self, channel: Channel, log: Log) -> None:
        """Nothing waits for who would take it but JOINs, and those not long."""
        lazy = self.server._lazy_joins
        if log.lag(channel.client) and not lazy:
            raise Violation(f"{log.lag(channel.client)} bytes for {_client(channel)} wait for nothing")

    def _check_waiting(self) -> None:
        """Nobody waits for longer than the server says: for JOINs, and for who is slow."""
        server, now = self.server, self.running
        if not server._lazy_joins:
            self.lazy_since = None
        elif self.lazy_since is None:
            self.lazy_since = now
        elif now > self.lazy_since + rankserver.loop.JOIN_WAIT + WAIT_SLACK:
            raise Violation("a JOIN waits, and is not sent")
        held, self.held_at = self.held_at, self.truth.commands if server._pace.is_holding else None
        if self.held_at is None:
            self.behind_since.clear()
            return
        if held not in (None, self.held_at):
            raise Violation(f"{self.held_at - (held or 0)} commands are logged, while all wait")
        config = self.scenario.config
        behind = [_client(server._channels[fd]) for fd in server._log.behind(config.max_backlog)]
        self.behind_since = {client: self.behind_since.get(client, now) for client in behind}
        for client, since in self.behind_since.items():
            if now > since + config.slow_timeout + rankserver.loop.LINGER + WAIT_SLACK:
                raise Violation(f"all wait for {client}, since {now - since:g} seconds")

    def _check_timers(self) -> None:
        """No timeout is left of who is gone."""
        for timeout in self.server._timers._timeouts:
            for item in timeout:
                if isinstance(item, Channel) and self.server._channels.get(item.fd) is not item:
                    raise Violation(f"a timeout of {_client(item)} goes on, which is gone")

    def _check_bounds(self, log: Log) -> None:
        most = self.scenario.config.max_backlog + 3 * self.scenario.block_bytes + self._growth()
        if log.held > most:
            raise Violation(f"{log.held} bytes of the log are held, more than {most}")

    def _growth(self) -> int:
        """Return what one turn may log: each byte that is read or was set aside, several times."""
        many = self.scenario.config.capacity
        one = min(self.scenario.read_bytes, 4000) + 2 * self.scenario.config.max_line
        return 5 * many * one + 4000

    def _check_rest(self) -> None:
        """Check what holds when faults are over and nothing moves: all is sent, and nothing is lost."""
        seq = len(self.truth.frames) - 1
        if self.listener.waiting:
            raise Violation(f"{len(self.listener.waiting)} connections are not accepted")
        for client in self.truth.roster:
            if client.seq != seq or client.partial:
                raise Violation(f"{client} is at {client.seq} of {seq}, with {client.partial!r}")
            if client.outbox or client.conn.received != client.fed:
                raise Violation(f"{client} was not heard: {client.fed - client.conn.received} bytes")
            if client.expected and not client.is_lax:
                raise Violation(f"{client} did not get {client.expected[0]}")
        for client in self.clients:
            self._check_client(client)
        self._check_timers()

    def _check_client(self, client: SimClient) -> None:
        is_here = client.reason is None
        if client.conn.mark_tick and (is_here or not client.code):
            lost = [command for command in client.commands if command.end <= client.fed]
            if lost and client.left_seq + (client in self.truth.roster):
                raise Violation(f"{client} ({client.reason}) sent {lost[0]}, and it is not in the log")
        for seq, answers in client.asked.items():
            if client in self.truth.roster and self.scenario.max_asks > 100:
                self._check_answers(client, seq, answers)

    def _check_answers(self, client: SimClient, seq: int, answers: dict[int, bool]) -> None:
        for number, came in answers.items():
            other = self.clients[number - 1]
            end = other.answered.get(seq)
            if end is not None and end <= other.fed and not came and (other.reason is None or not other.code):
                raise Violation(f"{client} did not get the answer of {other} to {seq}")

    def _check_end(self) -> None:
        server = self.server
        if server._channels:
            raise Violation(f"{len(server._channels)} connections are left in the end")
        for client in self.clients:
            if not client.has_ended and client.conn.closed:
                client.read(1 << 22)
                client.read(1)
        for client in self.clients:
            was_told = client.bye == "shutdown" or client.may_be_cut or self.scenario.memory_faults
            if client.code == "shutdown" and not was_told:
                raise Violation(f"{client} was not told that the server stops")
            if not (client.conn.closed or client in self.listener.waiting):
                raise Violation(f"the connection of {client} is open in the end")
        registered = [fd for fd in self.selector.keys if fd not in (LISTENER, SIGNALS)]
        if registered:
            raise Violation(f"{registered} are registered in the end")
        server.close()
        if not self.listener.is_closed:
            raise Violation("it still listens")
        if lib.sim_live():
            raise Violation(f"{lib.sim_live()} allocations are left in the end")

    # --- the trace ----------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Add a line to the readable trace, behind what the kernel has to say."""
        lib.sim_note(hash_of(text))
        if self.traced:
            self.lines += self.kernel_lines()
            self.lines.append(text)

    def kernel_lines(self) -> list[str]:
        """Return what the kernel has put into the trace since the last time."""
        count = lib.sim_trace_text(_where)
        return bytes(ffi.buffer(_where[0], count)).decode().splitlines() if count else []

    def close(self) -> None:
        """Free the connections."""
        for client in self.clients:
            lib.sim_drop(client.conn)


def hash_of(text: str) -> int:
    """Return a number for a text, the same in each process."""
    return sum(text.encode()) + (len(text) << 16)


@contextlib.contextmanager
def world(scenario_of: int, steps: int = STEPS) -> Iterator[None]:
    """Put the simulated core, small bounds by the seed, and no randomness of its own into the server."""
    rng = random.Random(scenario_of)
    scenario = _scenario(rng, steps)
    rng = random.Random(~scenario_of)
    saved: list[tuple[Any, str, Any]] = []

    def put(name: str, value: Any, *modules: Any) -> None:
        for module in modules:
            saved.append((module, name, getattr(module, name)))
            setattr(module, name, value)

    put("ffi", ffi, rankserver.clist)
    put("lib", lib, rankserver.clist)
    put("Log", lambda max_line: Log(max_line, scenario.block_bytes, scenario.read_bytes), rankserver.loop)
    put("secrets", SimpleNamespace(token_urlsafe=lambda _: "s" * 22), rankserver.server)
    for name, values in {**BOUNDS, "BLOCK_BYTES": (scenario.block_bytes,)}.items():
        value = rng.choice(values)
        if value:
            put(name, value, *(module for module in MODULES if hasattr(module, name)))
    level = logging.getLogger("rankserver").level
    logging.getLogger("rankserver").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logging.getLogger("rankserver").setLevel(level)
        for module, name, value in reversed(saved):
            setattr(module, name, value)


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
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            run.say(f"{type(error).__name__}: {error}")
        finally:
            run.close()
        return run.lines
