"""What a row comes to: a figure, and what did not hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1024 * 1024

# The 99th percentile of the latency of clients that have no part in an abuse, in seconds: far more than the
# usual fraction of a millisecond, as clients and server share the machine.
MAX_P99 = 0.1


@dataclass
class Outcome:
    """What was measured, in words, each thing that had to hold and does not, and what took too long.

    Times depend on what else the machine does. The tests look at ``unmet`` alone; ``make reliability``, which
    has the machine for itself, at ``late`` as well.
    """

    figure: str = ""
    unmet: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def check(self, holds: bool, otherwise: str) -> None:
        """Note what is wrong, if it does not hold."""
        if not holds:
            self.unmet.append(otherwise)

    def check_time(self, holds: bool, otherwise: str) -> None:
        """Note what took too long, or was too slow, if it does not hold."""
        if not holds:
            self.late.append(otherwise)

    def check_latency(self, who: str, times: Sequence[float]) -> None:
        """Note if commands took too long, in seconds each."""
        self.check_time(percentile(times, 0.99) <= MAX_P99, f"{who} {latency(times)}")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of them lies."""
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
