from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from client.events import Execute
from client.executors import Finished, Outcome, Simulated, Started, Worker
from tests.support import BOUND

FIRST = Execute(1, 0, "a", True, 1, "me")
SECOND = Execute(2, 0, "b", False, 1, "me")


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, within the bound."""
    asyncio.run(asyncio.wait_for(work, BOUND))


class Gate:
    """Executes a command when it is told to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go_on = asyncio.Semaphore(0)

    async def execute(self, command: Execute) -> Outcome:
        self.begun.append(command.text)
        await self.go_on.acquire()
        return Outcome("fail", {"code": len(self.begun)})

    async def close(self) -> None:
        pass


def test_simulating_succeeds_after_the_delay() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        assert await Simulated(0.05).execute(FIRST) == Outcome("ok")
        assert loop.time() - begin >= 0.05

    run(main())


def test_commands_are_executed_one_after_another_in_order_while_more_are_added() -> None:
    async def main() -> None:
        gate = Gate()
        worker = Worker(gate)
        steps: asyncio.Queue[Started | Finished] = asyncio.Queue()
        working = asyncio.create_task(worker.run(steps.put))
        worker.add(FIRST)
        assert await steps.get() == Started(FIRST)
        worker.add(SECOND)
        await asyncio.sleep(0)
        assert gate.begun == ["a"]
        assert steps.empty()
        gate.go_on.release()
        assert await steps.get() == Finished(FIRST, Outcome("fail", {"code": 1}))
        assert await steps.get() == Started(SECOND)
        gate.go_on.release()
        assert await steps.get() == Finished(SECOND, Outcome("fail", {"code": 2}))
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working

    run(main())
