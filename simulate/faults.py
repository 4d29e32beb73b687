"""Allocations in Python that fail at random, where the server says what happens then.

The simulated kernel does the same for allocations in C. Elsewhere, Python may lack memory as well, and no
program can go on from there: a reserve is to make sure that it never comes to that.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from simulate.kernel import Trace

P = ParamSpec("P")
T = TypeVar("T")

# The functions that build frames while members are served. INFO and PING are built when the server starts.
BUILDERS: Final = ("err", "pong", "answer", "roster", "dropped", "welcome")

# How many times as often as an allocation for a newcomer the reserve is intact: without it, all newcomers go.
CHECKS_PER_ALLOCATION: Final = 10


class Shortage:
    """Decides which allocations fail.

    Args:
        rng: decides it.
        trace: is told of each.
        newcomers: how many in a thousand fail of those for connections that have not joined.
        handlers: how many in a thousand fail while lines of members are handled.

    Attributes:
        is_over: none fails any more.
        is_spared: none fails for now.
    """

    def __init__(self, rng: random.Random, trace: Trace, newcomers: int, handlers: int) -> None:
        self.is_over = False
        self.is_spared = False
        self._rng = rng
        self._trace = trace
        self._newcomers = newcomers
        self._handlers = handlers

    def has_reserve(self) -> bool:
        """Tell whether there is memory for newcomers."""
        return not self._fails(self._newcomers // CHECKS_PER_ALLOCATION, "the reserve")

    def make(self, what: str, make: Callable[P, T]) -> Callable[P, T]:
        """Return ``make``, which makes something for a newcomer, as one that fails at times."""
        return self._failing(self._newcomers, what, make)

    def handle(self, what: str, handle: Callable[P, T]) -> Callable[P, T]:
        """Return ``handle``, a step of handling a line, as one that fails at times."""
        return self._failing(self._handlers, what, handle)

    def _failing(self, per_mille: int, what: str, call: Callable[P, T]) -> Callable[P, T]:
        def wrapped(*arguments: P.args, **options: P.kwargs) -> T:
            if self._fails(per_mille, what):
                raise MemoryError
            return call(*arguments, **options)

        return wrapped

    def _fails(self, per_mille: int, what: str) -> bool:
        if not per_mille or self.is_over or self.is_spared or self._rng.random() * 1000 >= per_mille:
            return False
        self._trace.say(f"no memory for {what}")
        return True
