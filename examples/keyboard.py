"""What teacher.py and pupil.py share: to wait for a person without keeping anything else waiting."""

from __future__ import annotations

import asyncio
import os

STDIN = 0
LONGEST = 4096  # bytes; a terminal gives no longer line


async def line() -> str:
    """Return the next line that is typed. Cancelling is safe.

    Raises:
        EOFError: there will be none.
    """
    loop = asyncio.get_running_loop()
    typed = asyncio.Event()
    loop.add_reader(STDIN, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(STDIN)
    text = os.read(STDIN, LONGEST).decode(errors="replace")
    if not text:
        raise EOFError("the end of the input")
    return text.strip()
