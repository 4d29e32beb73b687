from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rankserver.client import worker as worker_module
from rankserver.client.events import Execute, Finished, Outcome, Started
from rankserver.client.worker import MAX_REASON_CHARS, Worker
from tests.support.scripted import run

DONE = Outcome("ok")


def command(seq: int) -> Execute:
    return Execute(seq, 0, f"command {seq}", True, 1, "me")


class Scripted:
    """An executor that calls a function, and counts its commands."""

    def __init__(self, function: Callable[[Execute], Awaitable[Outcome]]) -> None:
        self._function = function
        self.running = 0
        self.most = 0

    async def execute(self, command: Execute) -> Outcome:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self._function(command)
        finally:
            self.running -= 1

    async def close(self) -> None:
        """Do nothing."""


class Log:
    """The reports of a worker."""

    def __init__(self) -> None:
        self.steps: list[Started | Finished] = []
        self._new = asyncio.Event()

    def __call__(self, step: Started | Finished) -> None:
        self.steps.append(step)
        self._new.set()

    async def until(self, count: int) -> list[Started | Finished]:
        """Wait until there are ``count`` reports, and return them."""
        while len(self.steps) < count:
            self._new.clear()
            await self._new.wait()
        return self.steps


class Selective(Scripted):
    """An executor that rejects the second command."""

    def rejects(self, command: Execute) -> Outcome | None:
        return Outcome("denied") if command.seq == 2 else None


def unexpected(error: BaseException) -> None:
    pytest.fail(f"the worker failed: {error!r}")


async def at_once(_command: Execute) -> Outcome:
    return DONE


async def never(_command: Execute) -> Outcome:
    await asyncio.Event().wait()
    return DONE


def test_commands_are_executed_one_after_the_other_in_order() -> None:
    async def main() -> None:
        log, executor = Log(), Scripted(at_once)
        worker = Worker(executor, 1, log, unexpected)
        for seq in range(10):
            worker.add(command(seq))
        steps = await log.until(20)
        assert steps == [
            step for seq in range(10) for step in (Started(command(seq)), Finished(command(seq), DONE))
        ]
        assert executor.most == 1
        await worker.close()

    run(main())


def test_a_rejected_command_is_not_started_and_keeps_its_place() -> None:
    async def main() -> None:
        log, executor = Log(), Selective(at_once)
        worker = Worker(executor, 1, log, unexpected)
        for seq in range(1, 4):
            worker.add(command(seq))
        assert await log.until(5) == [
            Started(command(1)),
            Finished(command(1), DONE),
            Finished(command(2), Outcome("denied")),
            Started(command(3)),
            Finished(command(3), DONE),
        ]
        await worker.close()

    run(main())


def test_up_to_jobs_commands_run_at_once_started_in_order() -> None:
    async def main() -> None:
        log, executor = Log(), Scripted(never)
        worker = Worker(executor, 3, log, unexpected)
        for seq in range(5):
            worker.add(command(seq))
        assert await log.until(3) == [Started(command(seq)) for seq in range(3)]
        await asyncio.sleep(0)
        assert (len(log.steps), executor.running) == (3, 3)
        await worker.close()
        assert executor.running == 0

    run(main())


async def _raise(error: BaseException) -> Outcome:
    raise error


async def _not_an_outcome(_command: Execute) -> Outcome:
    return "ok"  # type: ignore[return-value]


class Unprintable(BaseException):
    """An object that is not an Outcome and whose ``str`` raises."""

    def __str__(self) -> str:
        raise GeneratorExit

    __repr__ = __str__


async def _unprintable_outcome(_command: Execute) -> Outcome:
    return Unprintable()  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda _: _raise(ValueError("no such thing")), "ValueError: no such thing"),
        (lambda _: _raise(KeyError()), "KeyError"),
        (lambda _: _raise(OSError("one\ntwo\r\nthree")), "OSError: one two three"),
        (lambda _: _raise(ValueError("x" * 5_000)), f"ValueError: {'x' * 5_000}"[:MAX_REASON_CHARS]),
        (lambda _: _raise(asyncio.CancelledError()), "CancelledError"),
        (lambda _: _raise(GeneratorExit("x")), "GeneratorExit: x"),
        (lambda _: _raise(Unprintable()), "Unprintable: <unprintable Unprintable>"),
        (_not_an_outcome, "TypeError: the executor returned 'ok', which is not an Outcome"),
        (
            _unprintable_outcome,
            "TypeError: the executor returned <unprintable Unprintable>, which is not an Outcome",
        ),
    ],
)
def test_a_failure_is_an_outcome_and_the_next_command_runs(
    function: Callable[[Execute], Awaitable[Outcome]], reason: str
) -> None:
    async def main() -> None:
        log = Log()
        worker = Worker(Scripted(function), 1, log, unexpected)
        worker.add(command(1))
        worker.add(command(2))
        steps = await log.until(4)
        assert steps[1] == Finished(command(1), Outcome("fail", {"reason": reason}))
        assert steps[2] == Started(command(2))
        await worker.close()

    run(main())


class Moody(Scripted):
    """An executor whose ``rejects`` fails."""

    def rejects(self, _command: Execute) -> Outcome | None:
        raise Unprintable


def test_a_failure_to_reject_is_an_outcome_and_execution_goes_on() -> None:
    async def main() -> None:
        log = Log()
        worker = Worker(Moody(at_once), 1, log, unexpected)
        worker.add(command(1))
        worker.add(command(2))
        failed = Outcome("fail", {"reason": "Unprintable: <unprintable Unprintable>"})
        assert await log.until(2) == [Finished(command(1), failed), Finished(command(2), failed)]
        await worker.close()

    run(main())


@pytest.mark.parametrize("error", [ZeroDivisionError(), GeneratorExit()])
def test_a_worker_that_cannot_go_on_reports_it(error: BaseException) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[BaseException] = loop.create_future()
        printed: list[object] = []
        loop.set_exception_handler(lambda _, context: printed.append(context["exception"]))

        def report(_step: Started | Finished) -> None:
            raise error

        worker = Worker(Scripted(at_once), 1, report, heard.set_result)
        worker.add(command(1))
        assert await heard is error
        assert printed == [error]
        await worker.close()

    run(main())


def test_another_executor_takes_the_next_command() -> None:
    async def main() -> None:
        log = Log()
        worker = Worker(Scripted(at_once), 1, log, unexpected)
        worker.add(command(1))
        await log.until(2)
        worker.executor = Scripted(never)
        worker.add(command(2))
        assert await log.until(3) == [Started(command(1)), Finished(command(1), DONE), Started(command(2))]
        await worker.close()

    run(main())


def test_commands_that_find_the_queue_full_are_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "MAX_QUEUED_BYTES", 3 * worker_module.COMMAND_BYTES)

    async def main() -> None:
        go_on = asyncio.Event()

        async def wait(_command: Execute) -> Outcome:
            await go_on.wait()
            return DONE

        log = Log()
        worker = Worker(Scripted(wait), 1, log, unexpected)
        worker.add(command(1))
        await log.until(1)
        for seq in range(2, 7):
            worker.add(command(seq))
        denied = [Finished(command(seq), worker_module.TOO_MANY) for seq in (5, 6)]
        assert log.steps == [Started(command(1)), *denied]
        go_on.set()
        steps = await log.until(10)
        assert [step.command.seq for step in steps if isinstance(step, Finished)] == [5, 6, 1, 2, 3, 4]
        worker.add(command(7))  # there is room again
        assert (await log.until(12))[-1] == Finished(command(7), DONE)
        await worker.close()

    run(main())


def test_closing_waits_for_clean_up_and_forgets_the_queue() -> None:
    async def main() -> None:
        cleaned = False

        async def clean_up(_command: Execute) -> Outcome:
            nonlocal cleaned
            try:
                await asyncio.Event().wait()
            finally:
                for _ in range(5):
                    await asyncio.sleep(0)
                cleaned = True
            return DONE

        log = Log()
        worker = Worker(Scripted(clean_up), 1, log, unexpected)
        worker.add(command(1))
        worker.add(command(2))
        await log.until(1)
        first = asyncio.create_task(worker.close())
        await asyncio.sleep(0)
        # A caller that waits for it may be cancelled.
        first.cancel()
        await asyncio.wait({first})
        assert not cleaned
        # This call waits, and does not cancel the clean-up.
        await worker.close()
        assert cleaned
        assert log.steps == [Started(command(1))]

    run(main())


def test_an_executor_that_ignores_cancellation_does_not_block() -> None:
    async def swallow(_command: Execute) -> Outcome:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return Outcome("timeout")
        return DONE

    async def main() -> None:
        log = Log()
        worker = Worker(Scripted(swallow), 1, log, unexpected)
        worker.add(command(1))
        worker.add(command(2))
        await log.until(1)
        await worker.close()
        assert log.steps == [Started(command(1)), Finished(command(1), Outcome("timeout"))]

    run(main())


def test_a_worker_knows_whether_its_executor_calls_it() -> None:
    async def main() -> None:
        log = Log()

        async def ask(_command: Execute) -> Outcome:
            return Outcome("ok" if worker.is_inside() else "fail")

        worker = Worker(Scripted(ask), 1, log, unexpected)
        worker.add(command(1))
        assert (await log.until(2))[1] == Finished(command(1), DONE)
        assert not worker.is_inside()
        await worker.close()

    run(main())
