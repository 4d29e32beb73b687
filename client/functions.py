"""Executing a command by calling a Python function, and calling functions of whichever kind."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

from client.events import Execute, Outcome


async def call(function: Callable[..., object], *arguments: object) -> object:
    """Return ``function(*arguments)``; a coroutine function is awaited, any other runs in a thread.

    To cancel it cancels a coroutine. A thread goes on: nothing can end it.
    """
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    value = await asyncio.to_thread(function, *arguments)
    return await value if inspect.isawaitable(value) else value


class Function:
    """An executor that calls ``function(command)``."""

    def __init__(self, function: Callable[[Execute], object]) -> None:
        self._function = function

    async def execute(self, command: Execute) -> Outcome:
        """Return what the function returns: an ``Outcome``, or the output as text, or None for no output."""
        value = await call(self._function, command)
        if isinstance(value, Outcome):
            return value
        return Outcome("ok", None if value is None else {"out": str(value)})

    async def close(self) -> None:
        """Nothing is kept between two commands."""
