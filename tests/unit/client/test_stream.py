from __future__ import annotations

import asyncio

import pytest

from rankserver.client.events import ClientsChanged
from rankserver.client.stream import EventStream
from rankserver.wire.exceptions import DisconnectedError
from tests.support.scripted import run

ONE, TWO, THREE = (ClientsChanged(number, number) for number in (1, 2, 3))


def test_events_come_in_order_whether_queued_or_awaited() -> None:
    async def main() -> None:
        events = EventStream()
        events.put([ONE])
        events.put([TWO])
        assert [await anext(events), await anext(events)] == [ONE, TWO]
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        assert not waiting.done()
        events.put([THREE])
        assert await waiting == THREE

    run(main())


def test_the_iteration_ends_after_the_queued_events() -> None:
    async def main() -> None:
        events = EventStream()
        events.put([ONE])
        events.end(None)
        assert [event async for event in events] == [ONE]
        assert [event async for event in events] == []
        assert await events.batch() == []

    run(main())


def test_an_iteration_that_is_over_can_begin_again() -> None:
    async def main() -> None:
        events = EventStream()
        events.end(DisconnectedError("", "x"))
        with pytest.raises(DisconnectedError, match="x"):
            await anext(events)
        events.begin()
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        assert not waiting.done()
        events.put([ONE])
        assert await waiting == ONE

    run(main())


def test_an_error_is_raised_after_the_queued_events_each_time() -> None:
    async def main() -> None:
        events = EventStream()
        events.put([ONE])
        events.end(DisconnectedError("slow", "too slow"))
        assert await events.batch() == [ONE]
        for _ in range(2):
            with pytest.raises(DisconnectedError, match="slow too slow"):
                await anext(events)
        with pytest.raises(DisconnectedError, match="slow too slow"):
            await events.batch()

    run(main())


@pytest.mark.parametrize("error", [None, DisconnectedError("", "x")])
def test_the_end_wakes_all_waiters(error: Exception | None) -> None:
    async def main() -> None:
        events = EventStream()
        waiting = [asyncio.ensure_future(anext(events, None)) for _ in range(3)]
        await asyncio.sleep(0)
        events.end(error)
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [type(error)] * 3

    run(main())


def test_a_batch_has_all_queued_events_and_waits_for_one() -> None:
    async def main() -> None:
        events = EventStream()
        waiting = asyncio.create_task(events.batch())
        await asyncio.sleep(0)
        events.put([ONE])
        events.put([TWO])
        assert await waiting == [ONE, TWO]
        events.put([THREE])
        assert await events.batch() == [THREE]

    run(main())


def test_cancelling_a_waiter_loses_nothing() -> None:
    async def main() -> None:
        events = EventStream()
        for event in (ONE, TWO, THREE):
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            events.put([event])
            # An event is there by now.
            waiting.cancel()
            await asyncio.wait({waiting})
            assert waiting.cancelled()
            assert await anext(events) == event

    run(main())
