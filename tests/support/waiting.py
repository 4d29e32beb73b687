"""The longest time that tests wait for something, and waiting for a coroutine or a line within that time."""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from collections.abc import Coroutine
from typing import IO, Any, Final, TypeVar

T = TypeVar("T")

# Seconds until a test gives up waiting. A passing test never waits this long, but on a machine with ten times
# more work than it can do, a program may take ten seconds to start. Tests under Valgrind multiply it.
BOUND: Final = 30.0 * float(os.environ.get("TEST_SLOWNESS", "1"))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine, within the bound."""
    return asyncio.run(asyncio.wait_for(work, BOUND))


def read_line(stream: IO[bytes], bound: float = BOUND) -> bytes:
    """Return the next line of an unbuffered pipe with its LF, or what came before the end or ``bound``."""
    deadline = time.monotonic() + bound
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not line.endswith(b"\n") and selector.select(max(0.0, deadline - time.monotonic())):
            byte = stream.read(1)
            if not byte:
                break
            line += byte
    return line
