"""A frontend whose user is the test, and a console that runs beside the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial

from client.console import Console, ConsoleOptions
from client.executors import SimulatedExecutor
from client.exits import Exit
from client.frontend import Status
from client.words import Line, render_text
from rankserver.client.aio import connect
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import run

SCRIPT = ConsoleOptions()
PERSON = ConsoleOptions(is_interactive=True)


class Puppet:
    """A frontend whose user is the test."""

    def __init__(self) -> None:
        self.typed: asyncio.Queue[bytes] = asyncio.Queue()
        self.shown: asyncio.Queue[str] = asyncio.Queue()
        self.complaints: asyncio.Queue[str] = asyncio.Queue()
        self.statuses: asyncio.Queue[Status] = asyncio.Queue()
        self.is_there = False
        self.max_line = 0
        # The number of calls of ``show``.
        self.calls = 0

    async def __aenter__(self) -> Puppet:
        self.is_there = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.is_there = False

    def show(self, lines: Sequence[Line]) -> None:
        self.calls += 1
        for line in lines:
            self.shown.put_nowait(line.text)

    def complain(self, text: str) -> None:
        self.complaints.put_nowait(text)

    def refresh(self, status: Status) -> None:
        self.statuses.put_nowait(status)

    def interrupt_writes(self, seconds: float) -> None:
        raise NotImplementedError

    def give_up(self) -> None:
        raise AssertionError("nobody told it to")

    async def lines(self, max_line: int) -> AsyncGenerator[bytes, None]:
        self.max_line = max_line
        while (line := await self.typed.get()) != b"EOF":
            yield line

    def type(self, *lines: bytes) -> None:
        for line in lines:
            self.typed.put_nowait(line)

    async def sees(self, *lines: str) -> None:
        for line in lines:
            assert await self.shown.get() == line

    async def status(self, condition: Callable[[Status], bool]) -> Status:
        while not condition(status := await self.statuses.get()):
            pass
        return status

    def rest(self) -> list[str]:
        return [self.shown.get_nowait() for _ in range(self.shown.qsize())]


Running = asyncio.Task[Exit]
Test = Callable[[Puppet, Running], Awaitable[None]]


def converse(server: ServerProcess, test: Test, options: ConsoleOptions = SCRIPT) -> None:
    """Run ``test`` beside a console that has reported that it is connected."""

    async def main() -> None:
        puppet = Puppet()
        client = connect(server.where, name="me", executor=SimulatedExecutor(0))
        running = asyncio.create_task(
            Console(client, puppet, partial(render_text, address=server.where), options).run()
        )
        assert (await puppet.shown.get()).startswith(f"connected to {server.where} as me: rank ")
        await test(puppet, running)
        await asyncio.gather(running, return_exceptions=True)
        assert not puppet.is_there

    run(main())


async def join(server: ServerProcess, name: str = "other") -> RawClient:
    other = RawClient(server.address)
    await asyncio.to_thread(other.hello, name)
    return other
