"""The asyncio client executes and leads over several connections."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from rankserver.client import connect
from rankserver.client.events import Connected, Disconnected, Execute, Outcome
from rankserver.wire.exceptions import DisconnectedError
from tests.support.scripted import run, take, taken
from tests.support.servers import ServerProcess, again

pytestmark = pytest.mark.usefixtures("retries_soon")


def test_running_commands_end_before_the_client_reconnects(server: ServerProcess) -> None:
    async def main() -> None:
        begun, ending, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        answers: list[str] = []

        async def execute(command: Execute) -> str:
            if command.text != "slow":
                return command.text
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ending.set()
                await may_end.wait()
            answers.append("swallowed")
            return "late"

        async with connect(server.where) as top, connect(server.where, reconnect=True) as low:
            low.executes(execute)
            events = aiter(low)
            top.ask("slow")
            await begun.wait()
            server.kill()
            await ending.wait()
            with again(server):
                assert not low.is_connected
                async with connect(server.where) as new:
                    may_end.set()
                    await taken(events, Disconnected, Connected)
                    assert answers == ["swallowed"]
                    assert [answer.out for answer in await new.ask("x")] == ["x"]
                    await low.close()

    run(main())


class Leader:
    """A function for ``on_lead`` whose calls can be awaited."""

    def __init__(self) -> None:
        self.terms: list[int] = []
        self.ended = 0
        self._changed = asyncio.Event()

    async def lead(self, seq: int) -> None:
        self.terms.append(seq)
        self._changed.set()
        try:
            await asyncio.Event().wait()
        finally:
            # Closing waits for this.
            for _ in range(100):
                await asyncio.sleep(0)
            self.ended += 1
            self._changed.set()

    async def until(self, terms: int, ended: int) -> None:
        """Wait until there have been this many terms, and ``ended`` of them are over."""
        while (len(self.terms), self.ended) != (terms, ended):
            self._changed.clear()
            await self._changed.wait()


def test_the_successor_leads_at_once_with_a_higher_number(shared: ServerProcess) -> None:
    async def main() -> None:
        leaders = [Leader() for _ in range(3)]
        clients = [connect(shared.where) for _ in leaders]
        for client, leader in zip(clients, leaders, strict=True):
            client.on_lead(leader.lead)
            await client.__aenter__()
        for number, leader in enumerate(leaders):
            await leader.until(1, 0)
            assert all(not later.terms for later in leaders[number + 1 :])
            late = Leader()
            # It is called at once.
            clients[number].on_lead(late.lead)
            await late.until(1, 0)
            assert late.terms == leader.terms
            await clients[number].close()
            assert (leader.ended, late.ended) == (1, 1)
        seqs = [seq for leader in leaders for seq in leader.terms]
        assert seqs == sorted(set(seqs))

    run(main())


def test_each_connection_has_a_term_of_its_own(server: ServerProcess) -> None:
    async def main() -> None:
        leader = Leader()
        async with connect(server.where, reconnect=True) as client:
            client.on_lead(leader.lead)
            await leader.until(1, 0)
            server.kill()
            await leader.until(1, 1)
            with again(server):
                await leader.until(2, 1)
                await client.close()
            assert leader.ended == 2

    run(main())


def test_a_leader_that_fails_leaves_and_the_next_takes_over(shared: ServerProcess) -> None:
    async def main() -> None:
        told: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        heir = Leader()
        async with connect(shared.where, reconnect=True) as first, connect(shared.where) as second:
            second.on_lead(heir.lead)

            @first.on_lead
            async def fail(_seq: int) -> None:
                await first.cmd("x")
                raise ValueError("no")

            with pytest.raises(DisconnectedError, match=r"a function of on_lead failed: ValueError\('no'\)"):
                async for _ in first:
                    pass
            await heir.until(1, 0)
            assert not first.is_connected
            with pytest.raises(DisconnectedError, match="on_lead failed"):
                _ = first.rank
        assert [type(error) for error in told] == [ValueError]

    run(main())


def test_a_leader_that_fails_with_the_connection_comes_back(server: ServerProcess) -> None:
    async def main() -> None:
        told: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with connect(server.where, reconnect=True) as client:
            events = aiter(client)
            begun = asyncio.Event()

            @client.on_lead
            async def work(_seq: int) -> None:
                begun.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    # This fails.
                    await client.cmd("over")

            await begun.wait()
            await take(events, Connected)
            server.kill()
            with again(server):
                await take(events, Connected)
                await client.close()
        assert told == []

    run(main())


def test_a_plain_leader_sees_the_end_of_its_term_by_the_rank(shared: ServerProcess) -> None:
    async def main() -> None:
        begun, ended = threading.Event(), threading.Event()
        async with connect(shared.where) as client:

            @client.on_lead
            def work(_seq: int) -> None:
                begun.set()
                with contextlib.suppress(DisconnectedError):
                    while client.rank == 0:
                        pass
                ended.set()

            await asyncio.to_thread(begun.wait)
        await asyncio.to_thread(ended.wait)

    run(main())


@pytest.mark.parametrize("is_last_act", [False, True])
def test_a_leader_may_close_its_own_client(shared: ServerProcess, *, is_last_act: bool) -> None:
    async def main() -> None:
        begun = asyncio.Event()
        async with connect(shared.where) as client:

            @client.on_lead
            async def work(_seq: int) -> None:
                begun.set()
                try:
                    if is_last_act:
                        await asyncio.Event().wait()
                finally:
                    await client.close()

            await begun.wait()
            if is_last_act:
                await client.close()
            assert [event async for event in client if not isinstance(event, Connected)] == []

    run(main())


def test_an_executor_is_closed_once_after_many_connections(server: ServerProcess) -> None:
    class Counted:
        closed = 0

        async def execute(self, _command: Execute) -> Outcome:
            return Outcome("ok")

        async def close(self) -> None:
            self.closed += 1

    async def main() -> None:
        executor = Counted()
        async with connect(server.where, reconnect=True, executor=executor) as client:
            events = aiter(client)
            server.kill()
            with again(server):
                await taken(events, Disconnected, Connected)
                assert executor.closed == 0
                await client.close()
        assert executor.closed == 1

    run(main())
