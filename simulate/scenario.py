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

import rankserver.clist
import rankserver.core
import rankserver.credits
import rankserver.cursor
import rankserver.door
import rankserver.heartbeat
import rankserver.lateness
import rankserver.listeners
import rankserver.loop
import rankserver.membership
import rankserver.pace
import rankserver.sender
import rankserver.server
from rankserver.clist import Log
from rankserver.config import Config
from rankserver.tokens import Holder, Tokens
from simulate.kernel import ffi, lib

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
    "MAX_LINES": (1, 5, 12),
    "MIN_LINES": (1, 2),
    "MAX_UNSENT": (0, 2, 3),
    "MAX_PRIVATE_BYTES": (0, 200, 2000),
    "MAX_ACCEPTS": (0, 1, 2),
    "MIN_STRANGERS": (0, 2, 4),
    "MANY_CLIENTS": (0, 2),
    "MIN_STALE": (0, 1),
    "MIN_CREDIT": (0, 60, 600),
    "MAX_UNREAD_ANSWERS": (0, 200, 1000),
    "MIN_RATE": (0, 50, 1000),
    "MAX_SURPLUS": (0, 0.5),
}
# Share of the runs in which the order collects inputs, and a replica is fed them.
COLLECTING: Final = 0.3


class Scenario(NamedTuple):
    """What a seed decides before a run begins.

    Attributes:
        config, tokens: the settings of the server.
        classes: how many classes clients have; 0 if no tokens are needed.
        most_clients: the most clients that are connected at a time.
        block_bytes, read_bytes: bytes in a block of the log, and in one read.
        io_faults, memory_faults, accept_faults: how many system calls, allocations and accepts in a thousand
            fail.
        stop_at: the step at which the server is told to stop; -1 for none.
        max_asks: the most asks that are open at a time.
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
    stop_at: int
    max_asks: int
    hurry: float
    collects: bool


def draw(rng: random.Random, steps: int) -> Scenario:
    """Draw a scenario for a run of this many steps."""
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
    tokens = {hashlib.sha256(b"token%d" % number).digest(): Holder("x", number) for number in range(classes)}
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
        rng.random() < COLLECTING,
    )


@contextlib.contextmanager
def world(seed: int, steps: int) -> Iterator[None]:
    """Give the server the simulated core, small bounds, and randomness from the seed alone."""
    scenario = draw(random.Random(seed), steps)
    rng = random.Random(~seed)
    saved: list[tuple[Any, str, Any]] = []

    def put(name: str, value: Any, *modules: Any) -> None:
        having = [module for module in modules if hasattr(module, name)]
        if not having:
            raise LookupError(f"no module of the server has {name}: see simulate/scenario.py")
        for module in having:
            saved.append((module, name, getattr(module, name)))
            setattr(module, name, value)

    for module in (rankserver.core, rankserver.cursor, rankserver.clist):
        put("ffi", ffi, module)
        put("lib", lib, module)
    put("Log", lambda max_line: Log(max_line, scenario.block_bytes, scenario.read_bytes), rankserver.server)
    put("secrets", SimpleNamespace(token_urlsafe=lambda _: "s" * 22), rankserver.membership)
    for name, values in BOUNDS.items():
        value = rng.choice(values)
        if value:
            put(name, value, *MODULES)
    level = logging.getLogger("rankserver").level
    logging.getLogger("rankserver").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logging.getLogger("rankserver").setLevel(level)
        for module, name, value in reversed(saved):
            setattr(module, name, value)
