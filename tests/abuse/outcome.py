"""The outcome of a row: a figure, and the requirements that did not hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1024 * 1024

# The most seconds for the p99 latency of clients that take no part in the abuse. It is far above the usual
# fraction of a millisecond, because clients and server share the machine.
MAX_P99 = 0.1


@dataclass
class RowOutcome:
    """The measured figures in words, the requirements that do not hold, and the times that are too long.

    Times depend on the load of the machine. The tests check ``unmet`` only; ``make reliability``, which has
    the machine to itself, checks ``late``, too.
    """

    figure: str = ""
    unmet: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def check(self, holds: bool, otherwise: str) -> None:
        """Record what is wrong unless ``holds``."""
        if not holds:
            self.unmet.append(otherwise)

    def check_time(self, holds: bool, otherwise: str) -> None:
        """Record what took too long, or was too slow, unless ``holds``."""
        if not holds:
            self.late.append(otherwise)

    def check_latency(self, who: str, times: Sequence[float]) -> None:
        """Record it if commands took too long; ``times`` are in seconds."""
        self.check_time(percentile(times, 0.99) <= MAX_P99, f"{who} {latency(times)}")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def milliseconds(seconds: float) -> str:
    """Return a time as text."""
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def mebibytes(size: float) -> str:
    """Return a size as text."""
    return f"{size / MIB:.1f} MiB"


def latency(values: Sequence[float]) -> str:
    """Return the median and p99 of times, as text."""
    return f"p50 {milliseconds(median(values))}, p99 {milliseconds(percentile(values, 0.99))}"
