"""Executing the commands of higher ranks while connected, and sending the answers that their senders want."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rankserver.client.connection import Connection
from rankserver.client.events import Event, Execute, Finished, Outcome, Started
from rankserver.client.session import SessionState
from rankserver.client.worker import Executor, Worker
from rankserver.wire.exceptions import LocalProtocolError

# The maximum length, in characters, of the reason that replaces an outcome that cannot be sent. The lines of
# any server have room for it.
MAX_BAD_OUTCOME_CHARS: Final = 100
EXECUTES_NOTHING: Final = Outcome("denied", {"reason": "this client executes nothing"})


class Execution:
    """Executes commands with an executor that may be set at any time.

    Args:
        executor: executes them; without one, every ASK is answered ``denied``.
        jobs: the maximum number of commands executed at once.
        publish: called with events: ``Started`` and ``Finished``.
        failed: called with the exception if executing cannot go on.
    """

    def __init__(
        self,
        executor: Executor | None,
        jobs: int,
        publish: Callable[[Sequence[Event]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._executor = executor
        self._jobs = jobs
        self._publish = publish
        self._failed = failed
        self._connection: Connection | None = None
        self._worker: Worker | None = None

    def execute_with(self, executor: Executor) -> None:
        """Use ``executor`` from now on."""
        self._executor = executor
        if self._worker is not None:
            self._worker.executor = executor
        elif self._is_joined():
            self._start_worker(executor)

    def start(self, connection: Connection) -> None:
        """Execute the commands that arrive on ``connection``."""
        self._connection = connection
        if self._executor is not None:
            self._start_worker(self._executor)

    def add(self, command: Execute) -> None:
        """Queue a command for execution; without an executor, answer ``denied``."""
        if self._worker is not None:
            self._worker.add(command)
        else:
            self._answer(command, EXECUTES_NOTHING)

    async def stop(self) -> None:
        """Cancel what is being executed, wait until it has ended, and discard the commands that wait."""
        if self._worker is not None:
            await self._worker.close()
            self._worker = None
        self._connection = None

    async def close(self) -> None:
        """Close the executor."""
        if self._executor is not None:
            await self._executor.close()

    def is_inside(self) -> bool:
        """Tell whether the caller runs in the executor, and so must not wait for ``stop``."""
        return self._worker is not None and self._worker.is_inside()

    def _start_worker(self, executor: Executor) -> None:
        self._worker = Worker(executor, self._jobs, self._report, self._failed)

    def _is_joined(self) -> bool:
        return self._connection is not None and self._connection.session.state is SessionState.JOINED

    def _report(self, step: Started | Finished) -> None:
        if isinstance(step, Finished):
            self._answer(step.command, step.outcome)
        self._publish([step])

    def _answer(self, command: Execute, outcome: Outcome) -> None:
        """Send the outcome if the sender wants it and the connection still exists."""
        if not command.wants_answer or self._connection is None or not self._is_joined():
            return
        session = self._connection.session
        try:
            session.result(command.seq, outcome)
        except LocalProtocolError as error:
            reason = f"bad outcome: {error}"[:MAX_BAD_OUTCOME_CHARS]
            session.result(command.seq, Outcome("fail", {"reason": reason}))
        self._connection.wake()
