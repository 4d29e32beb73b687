"""The client without asyncio executes commands and leads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from rankserver.client import (
    Counts,
    DisconnectedError,
    Execute,
)
from rankserver.client.events import Started
from rankserver.client.functions import FunctionExecutor
from rankserver.client.sync import connect
from tests.support.blocking import HELLO, Later, fake, take
from tests.support.paths import ROOT
from tests.support.rawclient import RawClient
from tests.support.scripted import BANNER, welcome
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_what_a_function_returns_is_the_answer(server: ServerProcess) -> None:
    with connect(server.where) as top, connect(server.where, name="low") as low:

        @low.executes
        def run(command: Execute) -> str | None:
            if command.text == "fail":
                raise ValueError("no")
            return None if command.text == "quiet" else f"{command.text} by {command.own_name}"

        assert run.__name__ == "run"
        assert [top.ask(text).by_rank[1][3:6] for text in ("quiet", "loud")] == [
            ("ok", None, ""),
            ("ok", None, "loud by low"),
        ]
        assert top.ask("fail").by_name["low"][0].reason == "ValueError: no"


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt])
def test_no_exception_of_a_function_leaves_the_asker_waiting(
    server: ServerProcess, error: type[BaseException]
) -> None:
    with connect(server.where) as top, connect(server.where) as low:

        @low.executes
        def run(_command: Execute) -> None:
            raise error

        for _ in range(2):
            assert top.ask("x").by_rank[1][3:] == (
                "fail",
                None,
                "",
                None,
                False,
                f"RuntimeError: {error()!r}",
            )


def test_functions_that_are_there_before_joining_miss_nothing() -> None:
    with fake(BANNER + welcome(1, 2) + b"ASK 1 0 go\nLEFT 2 0\n") as (address, line):
        c = connect(address)
        led: Future[int] = Future()
        c.executes(lambda command: command.text)
        c.on_lead(led.set_result)
        with c:
            assert [line(), line()] == [HELLO, b'RES 1 ok {"out":"go"}\n']
            assert led.result(BOUND) == 2


def test_a_command_from_before_there_is_a_function_is_denied() -> None:
    with fake(BANNER + welcome(1, 2) + b"ASK 1 0 go\n") as (address, line), connect(address) as c:
        c.executes(lambda command: command.text)
        assert line() == HELLO
        assert line().startswith(b"RES 1 denied ")


def test_an_executor_runs_in_the_thread_of_the_client(server: ServerProcess) -> None:
    class Named(FunctionExecutor):
        async def execute(self, command: Execute) -> Any:
            return (await super().execute(command))._replace(detail={"out": threading.current_thread().name})

    with connect(server.where) as top, connect(server.where, executor=Named(print)) as low:
        assert top.ask("x").by_rank[1].out == f"client of {server.where}"
        low.execute_with(FunctionExecutor(lambda _command: "other"))
        assert top.ask("x").by_rank[1].out == "other"


def test_a_function_may_use_the_client_that_calls_it(server: ServerProcess) -> None:
    with connect(server.where) as top, connect(server.where) as low, connect(server.where) as lowest:
        lowest.executes(lambda command: f"{command.text} below")

        @low.executes
        def run(command: Execute) -> str:
            assert low.who()[1].rank == low.rank == 1
            return low.ask(command.text).by_rank[2].out

        assert top.ask("go").by_rank[1].out == "go below"


def test_functions_that_run_long_do_not_keep_others_waiting(server: ServerProcess) -> None:
    together = threading.Barrier(50)
    with connect(server.where) as top, connect(server.where, jobs=50) as low:
        low.executes(lambda _command: together.wait(BOUND))
        asks = [top.ask("x") for _ in range(50)]
        assert all(asked.ok for asked in asks)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_leader_works_for_as_long_as_it_leads(server: ServerProcess) -> None:
    ended: Future[Exception] = Future()
    with RawClient(server.address) as top, RawClient(server.address) as low:
        top.hello()
        with connect(server.where) as c:
            low.hello()

            @c.on_lead
            def lead(seq: int) -> None:
                try:
                    while c.rank == 0:
                        c.cmd(f"led since {seq}")
                except DisconnectedError as error:
                    ended.set_result(error)

            top.send(b"BYE\n")
            assert low.lines(3) == [b"LEFT 4 0", b"CMD 5 0 led since 4", b"CMD 6 0 led since 4"]
        assert str(ended.result(BOUND)) == "the client is closed"


def test_a_leader_that_fails_leaves(server: ServerProcess, caplog: pytest.LogCaptureFixture) -> None:
    with connect(server.where) as c:
        events = iter(c)

        @c.on_lead
        def lead(_seq: int) -> None:
            raise ValueError("no")

        with pytest.raises(DisconnectedError, match="a function of on_lead failed: ValueError"):
            list(events)
        assert "on_lead" in caplog.text


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_closing_does_not_wait_for_a_function_that_runs_long(server: ServerProcess) -> None:
    go_on = threading.Event()
    with connect(server.where) as top, connect(server.where) as low:
        top.on_lead(lambda _seq: go_on.wait(BOUND))
        low.executes(lambda _command: go_on.wait(BOUND))
        events = iter(low)
        top.cmd("x")
        take(events, Started)
    assert not go_on.is_set()
    go_on.set()


@pytest.mark.parametrize("flavour", ["sync", "asyncio"])
def test_a_program_does_not_wait_for_a_leader_at_its_end(server: ServerProcess, flavour: str) -> None:
    program = """
import threading
from rankserver.client.sync import connect
with connect() as c:
    led = threading.Event()
    c.on_lead(lambda seq: (led.set(), threading.Event().wait()))
    led.wait()
"""
    if flavour == "asyncio":
        program = """
import asyncio, threading
from rankserver.client import connect
async def main():
    async with connect() as c:
        led = threading.Event()
        c.on_lead(lambda seq: (led.set(), threading.Event().wait()))
        await asyncio.to_thread(led.wait)
asyncio.run(main())
"""
    environment = {**os.environ, "RANKSERVER": server.where}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, timeout=BOUND, check=True)


def test_a_function_may_close_the_client(server: ServerProcess) -> None:
    with connect(server.where) as top, connect(server.where) as low:
        low.executes(lambda _command: low.close())
        assert top.ask("x").counts == Counts(gone=1)
        assert not low.is_connected


def test_a_coroutine_is_awaited_but_cannot_use_the_client(server: ServerProcess) -> None:
    with connect(server.where) as top, connect(server.where) as low:

        @low.executes
        async def run(command: Execute) -> str:
            if command.text == "use":
                low.who()
            if command.text == "close":
                low.close()
            return "done"

        assert top.ask("x").by_rank[1].out == "done"
        for text in ("use", "close"):
            assert top.ask(text).by_rank[1].reason.startswith("RuntimeError: a coroutine function cannot use")
        assert low.is_connected


def test_tasks_of_a_coroutine_function_end_with_the_client(server: ServerProcess) -> None:
    ended = []

    async def begun() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with connect(server.where) as top, connect(server.where) as low:

        @low.executes
        async def run(_command: Execute) -> None:
            tasks.append(asyncio.create_task(begun()))
            await asyncio.sleep(0)

        tasks: list[asyncio.Task[None]] = []
        assert top.ask("x").ok
    assert ended == [True]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_coroutine_that_exits_ends_the_client_and_all_waits(server: ServerProcess, later: Later) -> None:
    with connect(server.where) as top, connect(server.where) as low:

        @low.executes
        async def run(_command: Execute) -> None:
            sys.exit(3)

        reading = later(list, low)
        waiting = later(lambda: low.ask("x").counts)
        assert top.ask("x").counts.gone == 1
        reading.result(BOUND)
        waiting.exception(BOUND)
        with pytest.raises(DisconnectedError):
            low.cmd("x")
