from __future__ import annotations

import asyncio
import threading

import pytest

from rankserver.client.leadership import Leadership
from rankserver.wire.exceptions import DisconnectedError
from tests.support.scripted import run


class Leader:
    """A function for ``on_lead`` that records when it is called and cancelled."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self.begun = asyncio.Event()

    async def __call__(self, seq: int) -> None:
        self.log.append(("begin", seq))
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.log.append(("end", seq))


def fail_test(error: BaseException) -> None:
    pytest.fail(f"failed: {error!r}")


def test_a_function_runs_while_we_lead_and_is_then_cancelled() -> None:
    async def main() -> None:
        lead, leader = Leadership(fail_test), Leader()
        lead.add(leader.__call__)
        await asyncio.sleep(0)
        assert leader.log == []
        for seq in (5, 9):
            lead.begin(seq)
            # This is not a new term.
            lead.begin(seq + 1)
            await leader.begun.wait()
            leader.begun.clear()
            await lead.close()
        assert leader.log == [("begin", 5), ("end", 5), ("begin", 9), ("end", 9)]

    run(main())


def test_a_function_that_comes_while_we_lead_is_called_at_once() -> None:
    async def main() -> None:
        lead, leader = Leadership(fail_test), Leader()
        lead.begin(5)
        lead.add(leader.__call__)
        await leader.begun.wait()
        assert leader.log == [("begin", 5)]
        await lead.close()
        lead.add(leader.__call__)
        await asyncio.sleep(0)
        assert leader.log == [("begin", 5), ("end", 5)]

    run(main())


def test_a_plain_function_runs_in_a_thread_without_being_awaited() -> None:
    async def main() -> None:
        lead = Leadership(fail_test)
        begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

        def work(seq: int) -> None:
            assert seq == 5
            begun.set()
            go_on.wait()
            ended.set()

        lead.add(work)
        lead.begin(5)
        await asyncio.to_thread(begun.wait)
        await lead.close()
        assert not ended.is_set()
        go_on.set()
        await asyncio.to_thread(ended.wait)

    run(main())


def collect(loop: asyncio.AbstractEventLoop) -> list[BaseException]:
    """Return a list that grows by what the loop's exception handler is told."""
    told: list[BaseException] = []
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    return told


def test_a_failure_while_leading_is_reported() -> None:
    async def main() -> None:
        told = collect(asyncio.get_running_loop())
        failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        lead = Leadership(failed.set_result)

        async def fail(_seq: int) -> None:
            raise ValueError("x")

        lead.add(fail)
        lead.begin(5)
        error = await failed
        assert isinstance(error, ValueError)
        assert told == [error]
        await lead.close()

    run(main())


def test_a_failure_while_ending_is_reported_to_the_loop_only() -> None:
    async def main() -> None:
        told = collect(asyncio.get_running_loop())
        lead = Leadership(fail_test)

        async def fail(_seq: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("x")

        lead.add(fail)
        lead.begin(5)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await lead.close()
        assert [type(error) for error in told] == [ValueError]

    run(main())


def test_a_function_that_ends_by_itself_is_no_failure() -> None:
    async def main() -> None:
        lead = Leadership(fail_test)
        done = asyncio.Event()

        async def finish(_seq: int) -> None:
            done.set()

        lead.add(finish)
        lead.begin(5)
        await done.wait()
        await lead.close()

    run(main())


def test_a_function_may_end_the_term_itself_and_goes_on() -> None:
    async def main() -> None:
        lead = Leadership(fail_test)
        done = asyncio.Event()

        async def abdicate(_seq: int) -> None:
            await lead.close()
            await asyncio.sleep(0)
            done.set()

        lead.add(abdicate)
        lead.begin(5)
        await done.wait()

    run(main())


def test_losing_the_connection_is_no_failure_of_a_leader() -> None:
    async def main() -> None:
        told = collect(asyncio.get_running_loop())
        lead = Leadership(fail_test)

        async def work(_seq: int) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise DisconnectedError("", "connection lost") from None

        lead.add(work)
        lead.begin(5)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await lead.close()
        assert told == []

    run(main())
