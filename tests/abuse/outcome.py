"""What a row comes to: a figure, and what did not hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1024 * 1024


@dataclass
class Outcome:
    """What was measured, in words, and each thing that had to hold and does not."""

    figure: str = ""
    unmet: list[str] = field(default_factory=list)

    def check(self, holds: bool, otherwise: str) -> None:
        """Note what is wrong, if it does not hold."""
        if not holds:
            self.unmet.append(otherwise)


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
