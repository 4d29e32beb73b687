"""Doing the work of rank 0 for as long as we hold it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rankserver.client.functions import call
from rankserver.wire.exceptions import DisconnectedError


class Lead:
    """The functions that are called while we lead.

    Args:
        failed: called with the exception of a function that failed.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._functions: list[Callable[[int], object]] = []
        self._tasks: set[asyncio.Task[object]] = set()  # their calls that run
        self._ending: set[asyncio.Task[object]] = set()  # and those that run although we lead no more
        self._seq: int | None = None  # the frame that made us lead; None while we do not

    def add(self, function: Callable[[int], object]) -> None:
        """Call ``function(seq)`` whenever we begin to lead, and now if we do."""
        self._functions.append(function)
        if self._seq is not None:
            self._call(function, self._seq)

    def begin(self, seq: int) -> None:
        """Note that the log frame ``seq`` made us rank 0; again does no harm."""
        if self._seq is None:
            self._seq = seq
            for function in self._functions:
                self._call(function, seq)

    def end(self) -> None:
        """Note that we are not rank 0 any more: what can be cancelled is."""
        self._seq = None
        ending = self._tasks - {asyncio.current_task()}  # a leader may close the client itself
        self._tasks = set()
        self._ending |= ending
        for task in ending:
            task.cancel()

    async def close(self) -> None:
        """End what can be cancelled, and wait until that is so: two terms must not overlap."""
        self.end()
        if self._ending:
            await asyncio.wait(self._ending)

    def is_inside(self) -> bool:
        """Tell whether it is a function on its way to the end that asks: it must not wait for ``close``."""
        return asyncio.current_task() in self._ending

    def _call(self, function: Callable[[int], object], seq: int) -> None:
        task = asyncio.create_task(call(function, seq))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        is_leading = task in self._tasks
        self._tasks.discard(task)
        self._ending.discard(task)
        error = None if task.cancelled() else task.exception()
        is_news = is_leading or not isinstance(error, DisconnectedError)  # that is why it ends
        if error is not None and is_news:
            context = {"message": "a function of on_lead failed", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)
            if is_leading:  # what fails while it ends holds up nobody
                self._failed(error)
