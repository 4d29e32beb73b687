"""Calling Python functions, coroutine functions or not, and executing commands by calling them."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from rankserver.client.events import Execute, Outcome

# Exceptions that a future cannot pass on, or that would end the loop.
LOOP_EXCEPTIONS: Final = (StopIteration, GeneratorExit, SystemExit, KeyboardInterrupt)

T = TypeVar("T")


async def call(function: Callable[..., object], *arguments: object) -> object:
    """Return the result of ``function(*arguments)``: await a coroutine function, run any other in a thread.

    Cancelling this cancels a coroutine. A thread cannot be cancelled and goes on; the program does not wait
    for it when it ends.
    """
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    value = await in_thread(lambda: function(*arguments), name=getattr(function, "__name__", repr(function)))
    return await value if inspect.isawaitable(value) else value


async def in_thread(function: Callable[[], T], *, name: str) -> T:
    """Return the result of ``function()``, called in a new thread with this name.

    asyncio's own executor would not do: it has few threads, so long-running functions would hold up all
    others, and both ``asyncio.run`` and the program wait for its threads before they end.
    """
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(function))
        except LOOP_EXCEPTIONS as error:
            future.set_exception(RuntimeError(described(repr, error)))
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            future.set_exception(error)

    future.set_running_or_notify_cancel()  # from now on, cancelling only ends the waiting
    threading.Thread(target=run, name=f"client: {name}", daemon=True).start()
    return await asyncio.wrap_future(future)


def described(how: Callable[[object], str], value: object) -> str:
    """Return ``how(value)``, where ``how`` is ``str`` or ``repr``; the value may make it raise anything."""
    try:
        return how(value)
    except BaseException:  # noqa: BLE001 - the caller needs some text
        return f"<unprintable {type(value).__name__}>"


class FunctionExecutor:
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
        """Do nothing: nothing is kept between two commands."""
