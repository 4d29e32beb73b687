"""The queue of commands in front of an executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from rankserver.client.events import Execute, Finished, Outcome, Started
from rankserver.client.functions import described

MOST_JOBS: Final = 1_000  # each is a task that waits, and may become a process or a thread
LONGEST_REASON: Final = 1_000  # characters of an exception's text; the answer has to fit in a line


class Executor(Protocol):
    """Something that can execute a command."""

    async def execute(self, command: Execute) -> Outcome:
        """Execute ``command`` and return what became of it. When cancelled, leave nothing running."""

    async def close(self) -> None:
        """Give back what it keeps between two commands. Again does no harm."""


@runtime_checkable
class Choosy(Executor, Protocol):
    """An executor that knows of some commands beforehand that it executes nothing for them."""

    def rejects(self, command: Execute) -> Outcome | None:
        """Return the outcome of a command that is not to be begun, such as ``denied``, else None."""


class Worker:
    """Executes commands, begun in the order of the log, while new ones are added.

    The queue has no bound: to receive is never to wait for executing, and a waiting command is small.

    Args:
        executor: what executes them; it may be changed at any time, for the next command.
        jobs: how many commands are executed at once.
        report: called with each step when it is made.
        failed: called with what ended us, other than ``close``, so that nobody waits for what is queued.
    """

    def __init__(
        self,
        executor: Executor,
        jobs: int,
        report: Callable[[Started | Finished], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.executor = executor
        self._report = report
        self._failed = failed
        self._is_closing = False
        self._queue: asyncio.Queue[Execute] = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._work()) for _ in range(jobs)]
        for task in self._tasks:
            task.add_done_callback(self._done)

    def add(self, command: Execute) -> None:
        """Put ``command`` behind those that wait."""
        self._queue.put_nowait(command)

    async def close(self) -> None:
        """End what is being executed, and wait until that is so. What waits is forgotten.

        Again, or after it was cancelled, it waits only: what cleans up is not to be disturbed.
        """
        if not self._is_closing:
            self._is_closing = True
            for task in self._tasks:
                task.cancel()
        await asyncio.wait(self._tasks)

    def is_inside(self) -> bool:
        """Tell whether it is the executor that asks: it must not wait for ``close``."""
        return asyncio.current_task() in self._tasks

    async def _work(self) -> None:
        while not self._is_closing:  # an executor may have swallowed the cancellation
            command = await self._queue.get()
            self._report(Finished(command, await self._execute(command)))

    async def _execute(self, command: Execute) -> Outcome:
        """Return what became of ``command``, whatever the executor does to us."""
        try:
            outcome: object = self._rejects(command)
            if outcome is None:
                self._report(Started(command))
                outcome = await self.executor.execute(command)
        except asyncio.CancelledError as error:
            if self._is_closing:
                raise
            return _failure(error)  # that of something that the executor waited for
        except (KeyboardInterrupt, SystemExit):  # of a coroutine: they end the loop, and the program
            raise
        except BaseException as error:  # noqa: BLE001 - whoever asked is told
            return _failure(error)
        if isinstance(outcome, Outcome):
            return outcome
        text = f"the executor returned {described(repr, outcome)}, which is no Outcome"
        return _failure(TypeError(text))

    def _rejects(self, command: Execute) -> Outcome | None:
        return self.executor.rejects(command) if isinstance(self.executor, Choosy) else None

    def _done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
            context = {"message": "executing commands failed", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)
            self._failed(error)


def _failure(error: BaseException) -> Outcome:
    text = " ".join(f"{type(error).__name__}: {described(str, error)}".splitlines())
    return Outcome("fail", {"reason": text[:LONGEST_REASON].rstrip(": ")})
