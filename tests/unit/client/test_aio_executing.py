"""The asyncio client executes commands: the answers, several jobs, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from rankserver.client import connect
from rankserver.client.events import (
    Answer,
    Execute,
    Finished,
    Outcome,
    RosterReceived,
    Started,
)
from rankserver.wire.exceptions import DisconnectedError
from tests.support.scripted import run, take
from tests.support.servers import ServerProcess


async def _coroutine(command: Execute) -> object:
    return _function(command)


def _function(command: Execute) -> object:
    returned: dict[str, object] = {
        "none": None,
        "text": "a\nb",
        "number": 5,
        "outcome": Outcome("timeout", {"ms": 7}),
        "status": Outcome("done"),
        "json": Outcome("ok", {"out": {1}}),
        "nan": Outcome("ok", {"ms": float("nan")}),
        "long": "é" * 60_000,
    }
    if command.text == "error":
        raise ValueError("no\nsuch thing")
    return returned[command.text]


@pytest.mark.parametrize("function", [_coroutine, _function])
def test_the_result_of_a_function_is_the_answer(
    shared: ServerProcess, function: Callable[[Execute], object]
) -> None:
    async def main() -> None:
        async with connect(shared.where) as top, connect(shared.where, name="low") as low:
            assert low.executes(function) is function

            async def answer(text: str) -> Answer:
                (answer,) = await top.ask(text)
                return answer._replace(seq=0)

            nothing = Answer(0, 1, "low", "ok")
            assert await answer("none") == nothing
            assert await answer("text") == nothing._replace(out="a\nb")
            assert await answer("number") == nothing._replace(out="5")
            assert await answer("outcome") == nothing._replace(status="timeout", ms=7)
            assert await answer("error") == nothing._replace(
                status="fail", reason="ValueError: no such thing"
            )
            long = await answer("long")
            assert (long.status, long.truncated, long.out) == ("ok", True, "é" * len(long.out))
            for text in ("status", "json", "nan"):
                bad = await answer(text)
                assert bad.status == "fail"
                assert bad.reason.startswith("bad outcome: ")
            # The client goes on.
            assert await answer("none") == nothing

    run(main())


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Unusual(BaseException):
    pass


RAISED = {"unprintable": UnprintableError, "unusual": Unusual, "generator": GeneratorExit}


async def _raising_coroutine(command: Execute) -> object:
    return _raising(command)


def _raising(command: Execute) -> object:
    raise RAISED[command.text]


@pytest.mark.parametrize(
    ("function", "of_generator"),
    [(_raising_coroutine, "GeneratorExit"), (_raising, "RuntimeError: GeneratorExit()")],
)
def test_an_exception_of_a_function_is_the_answer(
    shared: ServerProcess, function: Callable[[Execute], object], of_generator: str
) -> None:
    async def main() -> None:
        async with connect(shared.where) as top, connect(shared.where) as low:
            low.executes(function)
            reasons = [(await top.ask(text)).by_rank[1].reason for text in RAISED]
            assert reasons == [
                "UnprintableError: <unprintable UnprintableError>",
                "Unusual",
                of_generator,
            ]

    run(main())


class Hostile(str):
    """A status that can be neither hashed nor compared."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


def test_a_client_that_cannot_go_on_executing_leaves(server: ServerProcess) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with connect(server.where) as top, connect(server.where) as low:
            low.executes(lambda _command: Outcome(Hostile("ok")))
            events = aiter(low)
            assert [answer.status for answer in await top.ask("x")] == ["gone"]
            with pytest.raises(DisconnectedError, match="failed to execute: ZeroDivisionError"):
                await take(events, RosterReceived)

    run(main())


def test_executing_is_reported_to_iterators(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as top, connect(shared.where, name="low") as low:
            low.executes(_function)
            events = aiter(low)
            seq = (await top.ask("number")).seq
            assert seq is not None
            command = Execute(seq, 0, "number", True, 1, "low")
            assert [await anext(events) for _ in range(4)][1:] == [
                command,
                Started(command),
                Finished(command, Outcome("ok", {"out": "5"})),
            ]

    run(main())


def test_a_slow_executor_delays_only_the_commands_behind_it(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as top, connect(shared.where, name="low") as low:
            begun, go_on = asyncio.Event(), asyncio.Event()

            @low.executes
            async def wait(_command: Execute) -> None:
                begun.set()
                await go_on.wait()

            ask = top.ask("x")
            await begun.wait()
            assert len(await low.who()) == 2
            assert (await low.ask("y")).nobody
            assert await low.cmd("z") > 0
            assert not ask.is_done
            go_on.set()
            assert (await ask).ok

    run(main())


def test_several_jobs_are_executed_at_once(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as top, connect(shared.where, jobs=3) as low:
            begun, all_here = 0, asyncio.Event()

            @low.executes
            async def meet(_command: Execute) -> None:
                nonlocal begun
                begun += 1
                if begun == 3:
                    all_here.set()
                await all_here.wait()

            await asyncio.gather(*(top.ask(text) for text in "abc"))

    run(main())


class Slow:
    """An executor that cleans up slowly, and records its progress."""

    def __init__(self) -> None:
        self.begun, self.ending, self.may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.log: list[str] = []

    async def execute(self, _command: Execute) -> Outcome:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ending.set()
            await self.may_end.wait()
            self.log.append("ended")
        return Outcome("ok")

    async def close(self) -> None:
        self.log.append("closed")


async def turns() -> None:
    """Let all tasks do what they can do without waiting."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("is_lost", [False, True])
def test_executing_is_ended_before_closing_is(server: ServerProcess, *, is_lost: bool) -> None:
    async def main() -> None:
        executor = Slow()
        async with connect(server.where) as top, connect(server.where, executor=executor) as low:
            top.ask("x")
            await executor.begun.wait()
            if is_lost:
                server.kill()
                await (
                    executor.ending.wait()
                    # The client cleans up by itself, and ``close`` is called in the middle of this.
                )
            closing = [asyncio.create_task(low.close()) for _ in range(2)]
            await executor.ending.wait()
            await turns()
            # A caller of ``close`` may be cancelled.
            closing[0].cancel()
            await asyncio.wait(closing[:1])
            await turns()
            assert executor.log == []
            executor.may_end.set()
            await closing[1]
            assert executor.log == ["ended", "closed"]

    run(main())


def test_a_function_may_close_its_own_client_and_still_answers(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as top, connect(shared.where) as low:

            @low.executes
            async def leave(_command: Execute) -> str:
                await low.close()
                return "bye"

            assert [answer.out for answer in await top.ask("x")] == ["bye"]

    run(main())


def test_setting_an_executor_on_a_closed_client_starts_nothing(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as client:
            with shared.paused():
                closing = asyncio.create_task(client.close())
                # It is now waiting for the server.
                await turns()
                client.executes(_function)
            await closing
            client.executes(_function)

    run(main())
