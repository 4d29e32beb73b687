"""The queue of commands in front of an executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from rankserver.client.events import Execute, Finished, Outcome, Started
from rankserver.client.functions import described

# The most ``jobs``: each job is a task, and may start a process or a thread.
MAX_JOBS: Final = 1_000
# The maximum length, in characters, of an exception's text that is sent as the reason of a failure: an answer
# must fit in a line.
MAX_REASON_CHARS: Final = 1_000
# The most bytes that queued commands take. That is about a quarter of a million of the usual length, which
# would wait for hours or days. A client that floods another with commands must not use up its memory.
MAX_QUEUED_BYTES: Final = 64 * 1024 * 1024
# The bytes that a queued command takes besides its text, roughly.
COMMAND_BYTES: Final = 256
# The answer to a command that finds the queue full.
TOO_MANY: Final = Outcome("denied", {"reason": "too many commands are waiting here"})


class Executor(Protocol):
    """Executes commands."""

    async def execute(self, command: Execute) -> Outcome:
        """Execute ``command`` and return its outcome. When cancelled, leave nothing running."""

    async def close(self) -> None:
        """Release what is kept between two commands. May be called again."""


@runtime_checkable
class SelectiveExecutor(Executor, Protocol):
    """An executor that can tell beforehand that it will not execute a command."""

    def rejects(self, command: Execute) -> Outcome | None:
        """Return the outcome of a command that must not be started, such as ``denied``; None to start it."""


class Worker:
    """Executes queued commands, starting them in the order of the log.

    Receiving never waits for executing: a command that finds the queue full is denied.

    Attributes:
        executor: executes the commands. It may be replaced at any time; the next command uses the new one.

    Args:
        executor: see above.
        jobs: the maximum number of commands executed at once.
        report: called when a command is started and when it is finished.
        failed: called with the exception if executing ends other than by ``close``: nobody should go on
            waiting for queued commands.
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
        self._queued_bytes = 0
        self._tasks = [asyncio.create_task(self._work()) for _ in range(jobs)]
        for task in self._tasks:
            task.add_done_callback(self._done)

    def add(self, command: Execute) -> None:
        """Queue ``command`` behind those that wait already, or deny it if there is no room for it."""
        if self._queued_bytes >= MAX_QUEUED_BYTES:
            self._report(Finished(command, TOO_MANY))
            return
        self._queue.put_nowait(command)
        self._queued_bytes += len(command.text) + COMMAND_BYTES

    async def close(self) -> None:
        """Cancel what is being executed, wait until it has ended, and discard the queue.

        Further calls, also after the first was cancelled, only wait: they must not disturb the clean-up.
        """
        if not self._is_closing:
            self._is_closing = True
            for task in self._tasks:
                task.cancel()
        await asyncio.wait(self._tasks)

    def is_inside(self) -> bool:
        """Tell whether the caller runs in the executor, and so must not wait for ``close``."""
        return asyncio.current_task() in self._tasks

    async def _work(self) -> None:
        while not self._is_closing:  # an executor may have swallowed the cancellation
            command = await self._queue.get()
            self._queued_bytes -= len(command.text) + COMMAND_BYTES
            self._report(Finished(command, await self._execute(command)))

    async def _execute(self, command: Execute) -> Outcome:
        """Return the outcome of ``command``, whatever the executor does."""
        try:
            outcome: object = self._rejects(command)
            if outcome is None:
                self._report(Started(command))
                outcome = await self.executor.execute(command)
        except asyncio.CancelledError as error:
            if self._is_closing:
                raise
            return _failure(error)  # something that the executor awaited was cancelled
        except (KeyboardInterrupt, SystemExit):  # from a coroutine: they end the loop, and the program
            raise
        except BaseException as error:  # noqa: BLE001 - the sender is told
            return _failure(error)
        if isinstance(outcome, Outcome):
            return outcome
        text = f"the executor returned {described(repr, outcome)}, which is not an Outcome"
        return _failure(TypeError(text))

    def _rejects(self, command: Execute) -> Outcome | None:
        return self.executor.rejects(command) if isinstance(self.executor, SelectiveExecutor) else None

    def _done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
            context = {"message": "executing commands failed", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)
            self._failed(error)


def _failure(error: BaseException) -> Outcome:
    text = " ".join(f"{type(error).__name__}: {described(str, error)}".splitlines())
    return Outcome("fail", {"reason": text[:MAX_REASON_CHARS].rstrip(": ")})
