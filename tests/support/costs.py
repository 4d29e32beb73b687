"""What a call costs, counted so that it is the same on any machine, however busy."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """The cost of a call.

    Attributes:
        steps: how many lines of Python were run.
        memory: the most bytes that were allocated at a time.
    """

    steps: int
    memory: int


def cost_of(call: Callable[[], object]) -> Cost:
    """Call ``call``, and return what it costs."""
    steps = 0

    def trace(_frame: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
        nonlocal steps
        steps += event == "line"
        return trace

    before = sys.gettrace()
    tracemalloc.start()
    sys.settrace(trace)
    try:
        call()
        return Cost(steps, tracemalloc.get_traced_memory()[1])
    finally:
        sys.settrace(before)
        tracemalloc.stop()
