"""Summarize latencies that a benchmark has measured itself, in milliseconds."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def summary(times: Sequence[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the maximum."""
    ascending = sorted(times)
    p99 = ascending[int(len(ascending) * 0.99)]
    return {"p50_ms": median(ascending), "p99_ms": p99, "max_ms": ascending[-1]}


def text(found: dict[str, float]) -> str:
    """Return a summary in words."""
    return f"p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms, max {found['max_ms']:.2f} ms"
