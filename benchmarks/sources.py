"""A program that sends in a benchmark, and the generator that is connected to it: bursts and paced phases.

``load.py``, ``paired.py`` and ``compare.py`` drive it, and decide how much is sent and what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Event, Program

# The bytes in a full TCP segment on the loopback; 65,536 would end in a second, tiny one.
SEGMENT: Final = 65_483

CHUNKS: Final = (  # bytes that the ceiling may send at once
    *(kib * 1024 for kib in (64, 128, 256, 512, 1024)),
    *(segments * SEGMENT for segments in (2, 4, 16)),
)

# Bursts with each chunk, to find the fastest.
TRIALS: Final = 3


@dataclass(frozen=True)
class Burst:
    """What one burst took, until the last receiver had the last byte; all times in seconds."""

    commands: int
    streams: int
    seconds: float
    stream_bytes: int
    generator_cpu: float
    sender_cpu: float
    deliveries: int  # commands that all streams together heard, those of senders included
    peak_memory: int  # bytes of the sender while it ran
    same_order: bool  # all streams were the same bytes

    @property
    def rate(self) -> float:
        """Commands per second."""
        return self.commands / self.seconds


class Source:
    """A program that sends, and the generator that is connected to it."""

    def __init__(self, generator: Program, ceiling: Program | None = None) -> None:
        """Take both; without ``ceiling`` the sender needs no preparation."""
        self.chunk = CHUNKS[0]
        self._generator = generator
        self._ceiling = ceiling

    def burst(self, commands: int, verb: str = "burst") -> Burst:
        """Run one burst; ``verb`` is ``drain`` for one that is counted but not verified."""
        self._prepare(commands)
        event = self._generator.ask(f"{verb} {commands}")
        del event["event"]
        return Burst(**event)

    def pace(self, commands: int, rate: int) -> Event:
        """Run a paced phase and return its latencies in microseconds."""
        self._prepare(commands)
        event = self._generator.ask(f"pace {commands} {rate}")
        del event["event"]
        return event

    def _prepare(self, commands: int) -> None:
        if self._ceiling:
            self._ceiling.ask(f"prepare {commands} {self.chunk}")


def choose_chunk(
    ceiling: Source, commands: int, trials: int = TRIALS, done: Callable[[], object] | None = None
) -> None:
    """Let the ceiling send in chunks of the size that is the fastest here: a slow one would be no ceiling.

    ``done`` is called after each of the ``trials * len(CHUNKS)`` bursts.
    """
    rates: dict[int, list[float]] = {chunk: [] for chunk in CHUNKS}
    ceiling.burst(commands)
    for _ in range(trials):
        for ceiling.chunk in CHUNKS:
            rates[ceiling.chunk].append(ceiling.burst(commands).rate)
            if done:
                done()
    ceiling.chunk = max(CHUNKS, key=lambda chunk: median(rates[chunk]))
