"""Run bursts and paced phases of a server, with the generator that is connected to it.

``load.py``, ``paired.py`` and ``rounds.py`` decide how much is sent, and evaluate the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Event, Program

# The bytes in a full TCP segment on the loopback; 65,536 would need a second, tiny segment.
SEGMENT: Final = 65_483

# The sizes of a chunk, in bytes, among which the ceiling's is chosen.
CHUNKS: Final = (
    *(kib * 1024 for kib in (64, 128, 256, 512, 1024)),
    *(segments * SEGMENT for segments in (2, 4, 16)),
)

# Bursts with each chunk size, to find the fastest.
TRIALS: Final = 3


@dataclass(frozen=True)
class CommandBurst:
    """The costs of one burst, until the last receiver had the last byte; all times are in seconds."""

    commands: int
    streams: int
    seconds: float
    stream_bytes: int
    generator_cpu: float
    sender_cpu: float
    # Commands received on all streams, including those of senders.
    deliveries: int
    # The peak of the sender's memory during the burst, in bytes.
    peak_memory: int
    # Whether all streams were identical.
    same_order: bool

    @property
    def rate(self) -> float:
        """Commands per second."""
        return self.commands / self.seconds


class BurstSource:
    """A program that sends, and the generator connected to it."""

    def __init__(self, generator: Program, ceiling: Program | None = None) -> None:
        """Combine ``generator`` with its sender; without ``ceiling`` the sender needs no preparation."""
        self.chunk = CHUNKS[0]
        self._generator = generator
        self._ceiling = ceiling

    def burst(self, commands: int, verb: str = "burst") -> CommandBurst:
        """Run one burst; with ``drain`` as the ``verb`` it is counted but not verified."""
        self._prepare(commands)
        event = self._generator.ask(f"{verb} {commands}")
        del event["event"]
        return CommandBurst(**event)

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
    ceiling: BurstSource, commands: int, trials: int = TRIALS, done: Callable[[], object] | None = None
) -> None:
    """Let the ceiling send in chunks of the size that is fastest here; a slower one would be no ceiling.

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
