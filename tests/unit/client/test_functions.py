from __future__ import annotations

import asyncio
import contextvars
import functools
import threading

import pytest

from rankserver.client.events import Execute, Outcome
from rankserver.client.functions import FunctionExecutor, call
from tests.support.scripted import run

COMMAND = Execute(7, 0, "uptime", True, 1, "me")


def test_a_coroutine_runs_in_the_loop_any_other_in_a_thread() -> None:
    async def here(number: int) -> tuple[int, threading.Thread]:
        return number, threading.current_thread()

    def there(number: int) -> tuple[int, threading.Thread]:
        # The end of the program does not wait for this thread.
        assert threading.current_thread().daemon
        return number, threading.current_thread()

    async def main() -> None:
        assert await call(here, 1) == (1, threading.current_thread())
        assert await call(functools.partial(here, 1)) == (1, threading.current_thread())
        assert await call(there, 2) != (2, threading.current_thread())

    run(main())


def test_an_awaitable_that_is_returned_is_awaited() -> None:
    class Later:
        async def __call__(self, number: int) -> int:
            return number

    async def main() -> None:
        assert await call(Later(), 5) == 5

    run(main())


def test_a_thread_sees_the_context_of_its_caller() -> None:
    who = contextvars.ContextVar("who", default="nobody")

    async def main() -> None:
        who.set("me")
        assert await call(who.get) == "me"

    run(main())


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError("x")])
def test_an_exception_in_a_thread_reaches_the_caller(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(type(error), match="x"):
            await call(fail)

    run(main())


@pytest.mark.parametrize("kind", [StopIteration, GeneratorExit, SystemExit, KeyboardInterrupt])
def test_exceptions_that_the_loop_uses_itself_become_errors(kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind("x")

    async def main() -> None:
        with pytest.raises(RuntimeError, match=kind.__name__):
            await call(fail)

    run(main())


def test_an_exit_that_cannot_be_printed_becomes_an_error() -> None:
    class Unprintable(SystemExit):
        def __repr__(self) -> str:
            raise GeneratorExit

    def fail() -> None:
        raise Unprintable

    async def main() -> None:
        with pytest.raises(RuntimeError, match="<unprintable Unprintable>"):
            await call(fail)

    run(main())


def test_many_threads_run_at_once() -> None:
    together = threading.Barrier(50)

    async def main() -> None:
        await asyncio.gather(*(call(together.wait, 10) for _ in range(50)))

    run(main())


def test_a_cancelled_caller_does_not_wait_for_its_thread() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait()
        ended.set()

    async def main() -> None:
        calling = asyncio.create_task(call(wait))
        await asyncio.to_thread(begun.wait)
        calling.cancel()
        await asyncio.wait({calling})
        assert calling.cancelled()
        go_on.set()
        await asyncio.to_thread(ended.wait)

    run(main())


class Speaking:
    def __str__(self) -> str:
        return "spoken"


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (None, Outcome("ok")),
        ("", Outcome("ok", {"out": ""})),
        ("text", Outcome("ok", {"out": "text"})),
        (0, Outcome("ok", {"out": "0"})),
        (Speaking(), Outcome("ok", {"out": "spoken"})),
        (Outcome("denied", {"reason": "no"}), Outcome("denied", {"reason": "no"})),
    ],
)
def test_what_a_function_returns_is_the_outcome(value: object, outcome: Outcome) -> None:
    got: list[Execute] = []

    def function(command: Execute) -> object:
        got.append(command)
        return value

    async def coroutine_function(command: Execute) -> object:
        return function(command)

    async def main() -> None:
        for each in (function, coroutine_function):
            executor = FunctionExecutor(each)
            assert await executor.execute(COMMAND) == outcome
            await executor.close()
        assert got == [COMMAND, COMMAND]

    run(main())
