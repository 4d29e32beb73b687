"""Shared by teacher.py and pupil.py: wait for a person without holding up anything else."""

from __future__ import annotations

import asyncio
import os

STDIN = 0
# The length of the longest line that a terminal delivers, in bytes.
MAX_LINE = 4096


async def line() -> str:
    """Return the next line that is typed. Cancelling loses nothing.

    Raises:
        EOFError: the input has ended.
    """
    loop = asyncio.get_running_loop()
    typed = asyncio.Event()
    loop.add_reader(STDIN, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(STDIN)
    text = os.read(STDIN, MAX_LINE).decode(errors="replace")
    if not text:
        raise EOFError("the end of the input")
    return text.strip()
