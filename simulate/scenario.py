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

import rankserver.asks
import rankserver.clist
import rankserver.door
import rankserver.listeners
import rankserver.loop
import rankserver.pace
import rankserver.server
from rankserver.clist import Log
from rankserver.config import Config
from rankserver.tokens import Holder, Tokens
from simulate.kernel import ffi, lib

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
    "LINES": (1, 5, 12),
    "LINES_LEAST": (1, 2),
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
    )


@contextlib.contextmanager
def world(seed: int, steps: int) -> Iterator[None]:
    """Put the simulated core, small bounds by the seed, and no randomness of its own into the server."""
    scenario = draw(random.Random(seed), steps)
    rng = random.Random(~seed)
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
