"""What a seed says about a run before it begins, and the server's surroundings that follow from it.

How the server is configured, how many come, how much fails, and bounds so small that it comes to them. What
then happens is drawn in ``run``, as it happens.
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
import rankserver.door
import rankserver.heartbeat
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
    rankserver.door,
    rankserver.heartbeat,
    rankserver.listeners,
    rankserver.loop,
    rankserver.membership,
    rankserver.pace,
    rankserver.sender,
    rankserver.server,
)
# Bounds of the server, with values so small that a run reaches them; 0 leaves the server's own.
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
}
# Share of the runs in which the order collects inputs, and a replica is fed with them.
COLLECTING: Final = 0.3


class Scenario(NamedTuple):
    """What a seed says about a run before it begins.

    Attributes:
        config, tokens: the settings of the server.
        classes: how many classes clients have; 0 if no tokens are needed.
        most_clients: how many clients are connected at a time.
        block_bytes, read_bytes: sizes for the core: of a block of the log, and of one read.
        io_faults, memory_faults, accept_faults: how many system calls, allocations and accepts in a thousand
            fail.
        stop_at: the step at which the server is told to stop; -1 for none.
        max_asks: how many asks the server remembers.
        hurry: the share of the waits in which nothing happens for a moment only.
        collects: the server has an order that collects inputs instead of the immediate one.
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
    """Draw what a run of so many steps is to be."""
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
    """Put the simulated core, small bounds by the seed, and no randomness of its own into the server."""
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

    put("ffi", ffi, rankserver.clist)
    put("lib", lib, rankserver.clist)
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
