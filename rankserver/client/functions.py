"""Executing a command by calling a Python function, and calling functions of whichever kind."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from rankserver.client.events import Execute, Outcome

LOOPS_OWN: Final = (StopIteration, GeneratorExit, SystemExit, KeyboardInterrupt)  # no future passes them on

T = TypeVar("T")


async def call(function: Callable[..., object], *arguments: object) -> object:
    """Return ``function(*arguments)``; a coroutine function is awaited, any other runs in a thread.

    To cancel it cancels a coroutine. A thread goes on: nothing can end it but the end of the program, which
    does not wait for it.
    """
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    value = await in_thread(lambda: function(*arguments), name=getattr(function, "__name__", repr(function)))
    return await value if inspect.isawaitable(value) else value


async def in_thread(function: Callable[[], T], *, name: str) -> T:
    """Return ``function()``, called in a new thread of this name.

    asyncio's own executor would not do: it has few threads, which functions that run long would keep from
    all others, and the end of ``asyncio.run`` and of the program waits for them.
    """
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(function))
        except LOOPS_OWN as error:
            future.set_exception(RuntimeError(described(repr, error)))
        except BaseException as error:  # noqa: BLE001 - whoever awaits it is told
            future.set_exception(error)

    future.set_running_or_notify_cancel()  # from here on, to cancel is to wait no longer
    threading.Thread(target=run, name=f"client: {name}", daemon=True).start()
    return await asyncio.wrap_future(future)


def described(how: Callable[[object], str], value: object) -> str:
    """Return ``how(value)``, its ``str`` or ``repr``; it is others' code, which may raise anything itself."""
    try:
        return how(value)
    except BaseException:  # noqa: BLE001 - whoever waits for the value is to be told nevertheless
        return f"<unprintable {type(value).__name__}>"


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
