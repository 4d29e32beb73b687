"""What executing a command means, and the queue in front of it.

An executor is anything with ``execute``; ``Worker`` gives it one command after another, in log order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, NoReturn, Protocol

from client.events import Execute


class Outcome(NamedTuple):
    """What became of a command: one of ``protocol.STATUSES``, and fields for whoever asked."""

    status: str
    detail: Mapping[str, object] | None = None


class Executor(Protocol):
    """Something that can execute a command."""

    async def execute(self, text: str) -> Outcome:
        """Execute ``text`` and return what became of it."""


class Simulated:
    """Executes nothing, successfully.

    Args:
        delay: seconds that it takes.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay

    async def execute(self, _text: str) -> Outcome:
        """Let the time pass that executing takes."""
        await asyncio.sleep(self._delay)
        return Outcome("ok")


class Started(NamedTuple):
    """The worker begins with this command."""

    command: Execute


class Finished(NamedTuple):
    """The worker is done with this command."""

    command: Execute
    outcome: Outcome


class Worker:
    """Executes commands one after another while new ones are added.

    The queue has no bound: to receive is never to wait for executing, and a waiting command is small.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._queue: asyncio.Queue[Execute] = asyncio.Queue()

    def add(self, command: Execute) -> None:
        """Put ``command`` behind those that wait."""
        self._queue.put_nowait(command)

    async def run(self, report: Callable[[Started | Finished], Awaitable[None]]) -> NoReturn:
        """Execute what is added, until cancelled, and ``report`` each step when it is made."""
        while True:
            command = await self._queue.get()
            await report(Started(command))
            await report(Finished(command, await self._executor.execute(command.text)))
