"""Calling the functions of ``on_lead`` while we are rank 0."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rankserver.client.functions import call
from rankserver.wire.exceptions import DisconnectedError


class Leadership:
    """The functions that are called while we lead.

    A call that is cancelled because we stop leading may go on for a while, so it moves from ``_leading`` to
    ``_ending`` until it has ended.

    Args:
        failed: called with the exception of a function that failed while we led.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._functions: list[Callable[[int], object]] = []
        self._leading: set[asyncio.Task[object]] = set()
        self._ending: set[asyncio.Task[object]] = set()
        # The number of the frame that made us lead; None while we do not lead.
        self._seq: int | None = None

    def add(self, function: Callable[[int], object]) -> None:
        """Call ``function(seq)`` whenever we begin to lead, and at once if we lead now."""
        self._functions.append(function)
        if self._seq is not None:
            self._call(function, self._seq)

    def begin(self, seq: int) -> None:
        """Note that the log frame ``seq`` made us rank 0; does nothing if we led already."""
        if self._seq is None:
            self._seq = seq
            for function in self._functions:
                self._call(function, seq)

    def end(self) -> None:
        """Note that we are no longer rank 0, and cancel the calls that can be cancelled."""
        self._seq = None
        ending = self._leading - {asyncio.current_task()}  # a leading function may close the client itself
        self._leading = set()
        self._ending |= ending
        for task in ending:
            task.cancel()

    async def close(self) -> None:
        """Cancel the calls and wait for their end: two terms must not overlap."""
        self.end()
        if self._ending:
            await asyncio.wait(self._ending)

    def is_inside(self) -> bool:
        """Tell whether the caller runs in a call that is ending, and so must not wait for ``close``."""
        return asyncio.current_task() in self._ending

    def _call(self, function: Callable[[int], object], seq: int) -> None:
        task = asyncio.create_task(call(function, seq))
        self._leading.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        is_leading = task in self._leading
        self._leading.discard(task)
        self._ending.discard(task)
        error = None if task.cancelled() else task.exception()
        # If we no longer lead, the function may have failed because the connection has ended.
        is_expected = not is_leading and isinstance(error, DisconnectedError)
        if error is not None and not is_expected:
            context = {"message": "a function of on_lead failed", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)
            if is_leading:  # a failure while ending holds up nobody
                self._failed(error)
