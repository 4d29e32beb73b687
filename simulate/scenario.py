"""What a seed decides before a run begins: settings, numbers of clients and of faults, and small bounds.

Everything else is drawn in ``run``, as it happens.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import rankserver.channel
import rankserver.clist
import rankserver.core
import rankserver.credits
import rankserver.door
import rankserver.heartbeat
import rankserver.lateness
import rankserver.listeners
import rankserver.loop
import rankserver.membership
import rankserver.pace
import rankserver.reception
import rankserver.sender
import rankserver.server
import rankserver.tls
import rankserver.wire.protocol
from rankserver.channel import Channel
from rankserver.clist import Log
from rankserver.config import Config
from rankserver.tokens import Holder, Tokens
from simulate.costs import Meter
from simulate.faults import BUILDERS, Shortage
from simulate.kernel import Clock, Trace, ffi, lib
from simulate.parts import sender_class, transport_class

MODULES: Final = (
    rankserver.credits,
    rankserver.door,
    rankserver.heartbeat,
    rankserver.lateness,
    rankserver.listeners,
    rankserver.loop,
    rankserver.membership,
    rankserver.pace,
    rankserver.sender,
    rankserver.server,
)
# Bounds of the server, with values that are small enough for a run to reach them; 0 keeps the server's own.
BOUNDS: Final = {
    "MAX_TURN_BYTES": (0, 300, 2000),
    "MIN_READ_BYTES": (0, 40, 400),
    "MAX_COST": (1, 5, 12),
    "MIN_COST": (1, 2),
    "BYTES_PER_UNIT": (0, 5, 50),
    "MAX_DEPARTURES": (0, 1, 2),
    "MAX_STRANGER_READS": (0, 1, 2),
    "MAX_HANDSHAKES": (0, 1, 2),
    "MAX_UNSENT": (0, 2, 3),
    "MAX_PRIVATE_BYTES": (0, 200, 2000),
    "MAX_ACCEPTS": (0, 1, 2),
    "MIN_STRANGERS": (0, 2, 4),
    "MANY_CLIENTS": (0, 2),
    "MIN_STALE": (0, 1),
    "MIN_CREDIT": (0, 60, 600),
    "MAX_NEWCOMER_CREDIT": (0, 40, 400),
    "MAX_UNREAD_ANSWERS": (0, 200, 1000),
    "MIN_RATE": (0, 300, 3000),
    "MAX_SURPLUS": (0, 0.5),
}
# The most bytes that TLS receives in one call: few, so that many seeds reach them.
MAX_TLS_RECEIVE_BYTES: Final = 8192
# The most bytes that one read of the core returns with TLS: what was received, with a record that was begun.
TLS_READ_BYTES: Final = 40_000
# Share of the runs in which the order collects inputs, and a replica is fed them.
COLLECTING: Final = 0.3
# Shares of the runs in which TCP connections use TLS, and in which clients also use a Unix socket.
TLS_SHARE: Final = 0.2
UNIX_SHARE: Final = 0.3


class Scenario(NamedTuple):
    """What a seed decides before a run begins.

    Attributes:
        config, tokens: the settings of the server.
        classes: how many classes clients have; 0 if no tokens are needed.
        most_clients: the most clients that are connected at a time.
        block_bytes, read_bytes: bytes in a block of the log, and in one read.
        io_faults, memory_faults, accept_faults: how many system calls, allocations in C and accepts in a
            thousand fail.
        newcomer_faults, handler_faults: how many allocations in Python in a thousand fail, for connections
            that have not joined and for lines.
        has_tls: TCP connections use TLS.
        has_unix: clients can also connect to a Unix socket.
        stop_at: the step at which the server is told to stop; -1 for none.
        max_asks, max_orphans: the most open asks of one client, and the most asks of those that have left.
        hurry: the share of the waits between steps of clients that last only a millisecond.
        collects: the server has a collecting order instead of the immediate one.
    """

    config: Config
    tokens: Tokens | None
    classes: int
    most_clients: int
    block_bytes: int
    read_bytes: int
    io_faults: int
    memory_faults: int
    accept_faults: int
    newcomer_faults: int
    handler_faults: int
    has_tls: bool
    has_unix: bool
    stop_at: int
    max_asks: int
    max_orphans: int
    hurry: float
    collects: bool


def draw(rng: random.Random, steps: int) -> Scenario:
    """Draw a scenario for a run of this many steps."""
    capacity = rng.choice((1, 2, 4, 6, 9, 14))
    classes = rng.choice((0, 0, 1, 3))
    max_line = rng.choice((256, 300, 700, 1500))
    has_tls = rng.random() < TLS_SHARE
    config = Config(
        capacity,
        max_line=max_line,
        heartbeat=rng.choice((0, 2, 5, 30)),
        max_backlog=rng.choice((600, 3000, 20_000, 10**9)),
        # Turns with handshakes take so long that a client with little room gets hardly anything in 0.5 s.
        slow_timeout=5 if has_tls else rng.choice((0.5, 5, 5)),
    )
    tokens = {hashlib.sha256(b"token%d" % number).digest(): Holder("x", number) for number in range(classes)}
    return Scenario(
        config,
        Tokens(tokens) if classes else None,
        classes,
        most_clients=capacity + rng.choice((0, 1, 4, 20)),
        block_bytes=max_line + rng.choice((256, 600, 4000)),
        read_bytes=TLS_READ_BYTES if has_tls else rng.choice((50, 500, 4000)),
        io_faults=rng.choice((0, 20, 100, 300)),
        memory_faults=rng.choice((0, 0, 5, 40)),
        accept_faults=rng.choice((0, 0, 100, 400)),
        newcomer_faults=rng.choice((0, 0, 100, 400)),
        handler_faults=rng.choice((0, 0, 0, 3, 20)),
        has_tls=has_tls,
        has_unix=rng.random() < UNIX_SHARE,
        stop_at=rng.randrange(steps) if rng.random() < 0.1 else -1,
        max_asks=rng.choice((1, 3, 1_024)),
        max_orphans=rng.choice((2, 65_536)),
        hurry=rng.choice((0.5, 0.9, 0.99)),
        collects=rng.random() < COLLECTING,
    )


class World:
    """What surrounds the server of one run.

    Attributes:
        rng: decides what happens.
        scenario: what was decided before.
        clock, trace: the time, and what has happened.
        meter: lets the clock advance with the server's work.
        shortage: lets allocations in Python fail.
    """

    def __init__(self, seed: int, steps: int, *, is_traced: bool) -> None:
        self.rng = random.Random(seed)
        self.scenario = draw(self.rng, steps)
        self.trace = Trace(seed, is_kept=is_traced)
        self.clock = Clock()
        self.meter = Meter(self.clock, self.scenario.config.max_line)
        self.shortage = Shortage(
            random.Random(f"{seed} memory"),
            self.trace,
            self.scenario.newcomer_faults,
            self.scenario.handler_faults,
        )


@contextlib.contextmanager
def world(seed: int, steps: int, *, is_traced: bool = False) -> Iterator[World]:
    """Give the server the simulated core, small bounds, and randomness from the seed alone."""
    made = World(seed, steps, is_traced=is_traced)
    level = logging.getLogger("rankserver").level
    logging.getLogger("rankserver").setLevel(logging.CRITICAL)
    saved: list[tuple[Any, str, Any]] = []
    try:
        for module, name, value in _replacements(made, random.Random(~seed)):
            saved.append((module, name, getattr(module, name)))
            setattr(module, name, value)
        yield made
    finally:
        logging.getLogger("rankserver").setLevel(level)
        for module, name, value in reversed(saved):
            setattr(module, name, value)


def _replacements(made: World, rng: random.Random) -> Iterator[tuple[Any, str, Any]]:
    """Yield what is to be replaced: a module, a name in it, and its new value."""
    scenario, meter, shortage = made.scenario, made.meter, made.shortage
    for module in (rankserver.core, rankserver.clist):
        yield module, "ffi", ffi
        yield module, "lib", lib

    def log(max_line: int) -> Log:
        return Log(max_line, scenario.block_bytes, scenario.read_bytes)

    yield rankserver.server, "Log", log
    yield rankserver.membership, "secrets", SimpleNamespace(token_urlsafe=lambda _: "s" * 22)
    yield rankserver.loop, "Sender", sender_class(meter)
    yield rankserver.tls, "MAX_RECEIVE_BYTES", MAX_TLS_RECEIVE_BYTES
    yield rankserver.channel, "TlsTransport", transport_class(meter, shortage)
    yield rankserver.reception, "Channel", shortage.make("a connection", Channel)
    for name in BUILDERS:
        build = getattr(rankserver.wire.protocol, name)
        yield rankserver.wire.protocol, name, shortage.handle(name.upper(), build)
    for name, values in BOUNDS.items():
        if value := rng.choice(values):
            yield from ((module, name, value) for module in _having(name))


def _having(name: str) -> list[Any]:
    having = [module for module in MODULES if hasattr(module, name)]
    if not having:
        raise LookupError(f"no module of the server has {name}: see simulate/scenario.py")
    return having
