"""A program that uses the whole API, in both flavours: it runs, and ``mypy --strict`` knows all types.

``misused`` never runs: it has errors, each beside the code that mypy must report for it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from rankserver.client import (
    Answer,
    Ask,
    Client,
    ConfigError,
    ConnectError,
    Counts,
    DisconnectedError,
    Event,
    Execute,
    Executor,
    LocalProtocolError,
    Outcome,
    RankserverError,
    RosterEntry,
    connect,
    sync,
    visible,
)
from rankserver.client.events import Connected, Sent

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:
    T = TypeVar("T")

    def assert_type(value: T, _kind: Any) -> T:
        return value


class Upper:
    """An executor: it needs no base class."""

    async def execute(self, command: Execute) -> Outcome:
        return Outcome("ok", {"out": command.text.upper()})

    async def close(self) -> None:
        pass


async def with_asyncio(address: str) -> None:
    executor: Executor = Upper()
    boss = connect(address, name="boss", reconnect=True)
    async with boss as same, connect(address, name="web", executor=executor, jobs=2) as web:
        assert_type(same, Client)
        assert_type(boss.rank, int)
        assert_type(boss.clients, int)
        assert_type(boss.seq, int)
        assert_type(boss.max_line, int)
        assert_type(boss.capacity, int)
        assert_type(boss.name, str)
        assert_type(str(boss.address), str)
        assert_type(boss.is_connected, bool)
        assert_type(await boss.who(), tuple[RosterEntry, ...])
        assert_type(await boss.cmd("hello"), int)
        asked = boss.ask("shout", timeout=10)
        assert_type(asked, Ask)
        assert_type(await asked.logged(), int)
        async for answer in asked:
            assert_type(answer, Answer)
        assert_type(await asked, Ask)
        check(asked, list(asked))
        await boss.drain()

        @web.executes
        def run(command: Execute) -> str:
            return command.text

        @web.executes
        async def run_later(command: Execute) -> Outcome:
            return Outcome("fail", {"code": len(command.text)})

        assert_type(run(Execute(1, 0, "x", True, 1, "web")), str)
        assert_type(await run_later(Execute(1, 0, "x", True, 1, "web")), Outcome)
        assert (await boss.ask("four")).by_rank[1].code == 4
        web.execute_with(Upper())

        await lead_and_listen(boss)
        await boss.close()


async def lead_and_listen(boss: Client) -> None:
    led: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @boss.on_lead
    async def lead(seq: int) -> None:
        led.set_result(seq)

    assert_type(await led, int)
    assert_type(lead.__name__, str)
    events = aiter(boss)
    assert_type(await boss.cmd("event"), int)
    async for event in events:
        assert_type(event, Event)
        if isinstance(event, Sent):
            assert_type(event.seq, int)
            break


def without(address: str) -> None:
    boss = sync.connect(address, name="boss", reconnect=True)
    with boss as same, sync.connect(address, name="web", executor=Upper(), jobs=2) as web:
        assert_type(same, sync.SyncClient)
        assert_type(boss.rank, int)
        assert_type(boss.clients, int)
        assert_type(boss.seq, int)
        assert_type(boss.max_line, int)
        assert_type(boss.capacity, int)
        assert_type(boss.name, str)
        assert_type(str(boss.address), str)
        assert_type(boss.is_connected, bool)
        assert_type(boss.who(), tuple[RosterEntry, ...])
        assert_type(boss.cmd("hello"), int)
        asked = boss.ask("shout", timeout=10)
        assert_type(asked, sync.SyncAsk)
        assert_type(asked.logged(), int)
        for answer in asked:
            assert_type(answer, Answer)
        check(asked, list(asked))
        boss.drain()

        @web.executes
        def run(command: Execute) -> Outcome:
            return Outcome("fail", {"code": len(command.text)})

        assert_type(run(Execute(1, 0, "x", True, 1, "web")), Outcome)
        assert boss.ask("four").by_rank[1].code == 4
        web.execute_with(Upper())

        # Created before it leads, so that its commands as a leader are among the events.
        events = iter(boss)

        @boss.on_lead
        def lead(seq: int) -> None:
            boss.cmd(f"led since {seq}")

        assert_type(lead.__name__, str)
        for event in events:
            assert_type(event, Event)
            if isinstance(event, Connected):
                assert_type(event.rank, int)
            if isinstance(event, Sent):
                break
        boss.close()


def check(asked: Ask | sync.SyncAsk, answers: list[Answer]) -> None:
    assert_type(asked.seq, int | None)
    assert_type(asked.text, str)
    assert_type(asked.is_done, bool)
    assert_type(asked.has_failed, bool)
    assert_type(asked.by_rank, dict[int, Answer])
    assert_type(asked.by_name, dict[str, list[Answer]])
    assert_type(asked.counts, Counts)
    assert_type(asked.ok, bool)
    assert_type(asked.nobody, bool)
    assert_type(len(asked), int)
    assert answers == [Answer(answers[0].seq, 1, "web", "ok", out="SHOUT")]
    assert_type(answers[0].status, str)
    assert_type(answers[0].code, int | None)
    assert_type(answers[0].ms, int | None)
    assert_type(answers[0].truncated, bool)
    assert_type(answers[0].reason, str)
    assert_type(visible(answers[0].out), str)


def errors(address: str) -> None:
    try:
        sync.connect("")
    except ConfigError as error:
        known: RankserverError = error
        assert_type(known, RankserverError)
    with sync.connect(address) as client:
        try:
            client.ask("")
        except LocalProtocolError as error:
            assert_type(error.code, str)
    try:
        client.cmd("x")
    except (DisconnectedError, ConnectError) as error:
        assert_type(error, DisconnectedError | ConnectError)


if TYPE_CHECKING:

    async def misused(client: Client, blocking: sync.SyncClient) -> None:
        connect("x", nmae="y")  # type: ignore[call-arg]
        connect("x", executor=print)  # type: ignore[arg-type]
        connect("x", jobs="2")  # type: ignore[arg-type]
        with client:  # type: ignore[attr-defined]
            pass
        async with blocking:  # type: ignore[attr-defined]
            pass
        for _ in client:  # type: ignore[attr-defined]
            pass
        async for _ in blocking:  # type: ignore[attr-defined]
            pass
        client.cmd("forgotten")  # type: ignore[unused-coroutine]
        await blocking.cmd("x")  # type: ignore[misc]
        await blocking.ask("x")  # type: ignore[misc]
        client.ask(b"x")  # type: ignore[arg-type]
        client.ask("x", 10)  # type: ignore[call-arg]
        (await client.ask("x")).by_rank["web"]  # type: ignore[index]
        client.rank = 0  # type: ignore[misc]
        blocking.rank = 0  # type: ignore[misc]

        @client.executes  # type: ignore[type-var]
        def no_command() -> None:
            pass

        @blocking.executes  # type: ignore[type-var]
        def text(_command: str) -> None:
            pass

        @client.on_lead  # type: ignore[type-var]
        async def no_number() -> None:
            pass

        @blocking.on_lead  # type: ignore[type-var]
        def a_name(_name: str) -> None:
            pass


if __name__ == "__main__":
    asyncio.run(with_asyncio(sys.argv[1]))
    without(sys.argv[1])
    errors(sys.argv[1])
