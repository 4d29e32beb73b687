"""The asyncio client on a single connection; ``test_aio_reconnect`` is about several."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rankserver.client import connect
from rankserver.client.aio import Client
from rankserver.client.connection import Address
from rankserver.client.events import (
    Answer,
    ClientsChanged,
    Connected,
    Event,
    Execute,
    Finished,
    Outcome,
    RosterReceived,
    Sent,
    Started,
)
from rankserver.wire import frames, protocol
from rankserver.wire.exceptions import ConfigError, ConnectError, DisconnectedError, LocalProtocolError
from tests.support.rawclient import RawClient
from tests.support.scripted import BANNER, fake, run, take, welcome
from tests.support.servers import ServerProcess

# --- what it is ---


def test_joining_gives_the_place(server: ServerProcess) -> None:
    async def main() -> None:
        async with connect(server.where, name="web-1") as client:
            assert (client.name, client.rank, client.clients, client.seq) == ("web-1", 0, 1, 1)
            assert (client.max_line, client.is_connected, str(client.address)) == (65_536, True, server.where)
            async with connect(server.where) as other:
                await take(client, ClientsChanged)
                assert (client.clients, client.seq) == (2, 2)
                assert (other.rank, other.clients, other.name[0]) == (1, 2, "c")

    run(main())


def test_without_an_address_the_environment_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKSERVER", "unix:/run/ranks")
    assert connect().address == Address("/run/ranks", None)
    monkeypatch.delenv("RANKSERVER")
    assert connect().address == Address("127.0.0.1", 5050)


def test_arguments_that_cannot_work_are_refused_at_once() -> None:
    for jobs in (0, 1_001):
        with pytest.raises(ConfigError, match=f"jobs must be from 1 to 1000, not {jobs}"):
            connect("x", jobs=jobs)
    connect("x", jobs=1_000)
    with pytest.raises(ConfigError, match="address 'x:y' is not"):
        connect("x:y")


PROPERTIES = ("name", "rank", "clients", "seq", "max_line", "capacity")


async def all_raise(client: Client, words: str) -> None:
    """Check that everything that needs a connection raises."""
    assert not client.is_connected
    for name in PROPERTIES:
        with pytest.raises(DisconnectedError, match=words):
            getattr(client, name)
    with pytest.raises(DisconnectedError, match=words):
        client.ask("x")
    for call in (client.cmd("x"), client.who()):
        with pytest.raises(DisconnectedError, match=words):
            await call
    await client.drain()


def test_calls_that_need_a_connection_raise_without_one(server: ServerProcess) -> None:
    async def main() -> None:
        client = connect(server.where)
        await all_raise(client, "the client has not connected yet")
        async with client:
            server.kill()
            with pytest.raises(DisconnectedError):
                await take(client, RosterReceived)
            await all_raise(client, "connection lost")
        await all_raise(client, "connection lost")
        client = connect(server.where)
        with pytest.raises(ConnectError):
            await client.__aenter__()
        await all_raise(client, "the client is closed")

    run(main())


def test_each_error_is_a_new_one() -> None:
    client = connect("x")
    errors = []
    for _ in range(2):
        with pytest.raises(DisconnectedError) as caught:
            _ = client.rank
        errors.append(caught.value)
    # A shared exception would collect the tracebacks of all calls.
    assert errors[0] is not errors[1]


# --- commanding ---


def test_a_command_returns_its_number_in_the_log(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as top, connect(shared.where) as low:
            seen = aiter(low)
            seqs = await asyncio.gather(*(top.cmd(str(number)) for number in range(500)))
            assert seqs == list(range(seqs[0], seqs[0] + 500))
            executed = [await take(seen, Execute) for _ in seqs]
            assert [(event.seq, event.text) for event in executed if isinstance(event, Execute)] == [
                (seq, str(number)) for number, seq in enumerate(seqs)
            ]
            with pytest.raises(LocalProtocolError):
                await top.cmd("a\nb")

    run(main())


def test_a_cancelled_command_disturbs_no_other(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as client:
            calls: list[asyncio.Task[Any]] = [asyncio.create_task(client.cmd(text)) for text in "abc"]
            calls += [asyncio.create_task(client.who()) for _ in range(2)]
            await asyncio.sleep(0)
            calls[1].cancel()
            calls[3].cancel()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(ends[0], int)
            # The cancelled command was sent nevertheless.
            assert ends[2] == ends[0] + 2
            assert ends[4] == (frames.RosterEntry(0, client.name),)

    run(main())


def test_the_roster_has_all_by_rank_and_is_also_an_event(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where, name="a") as first, connect(shared.where, name="b") as second:
            events = aiter(first)
            members = (frames.RosterEntry(0, "a"), frames.RosterEntry(1, "b"))
            assert await first.who() == await second.who() == members
            assert await take(events, RosterReceived) == RosterReceived(members)

    run(main())


def test_an_unrequested_roster_does_no_harm() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER + welcome(0, 1) + b"".join(protocol.roster([frames.RosterEntry(0, "me")], 1_000)))
        await reader.readuntil(b"CMD x\n")
        writer.write(b"CMD 1 0 x\n")
        await reader.readuntil(b"BYE\n")
        writer.close()

    async def main() -> None:
        async with fake(script) as address, connect(address) as client:
            assert await client.cmd("x") == 1

    run(main())


# --- events ---


def test_iterating_begins_with_the_present_and_misses_nothing(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where, name="me") as client:
            early, seq = aiter(client), client.seq
            assert await anext(early) == Connected("me", 0, 1, seq)
            async with connect(shared.where):
                await client.cmd("a")
                late = aiter(client)
                assert await anext(late) == Connected("me", 0, 2, seq + 2)
            await client.cmd("b")
            followed = [Sent(seq + 2, "a", wants_answer=False, targets=1), ClientsChanged(1, seq + 3)]
            assert [await anext(early) for _ in range(3)] == [ClientsChanged(2, seq + 1), *followed]
            assert await anext(late) == followed[1]
            await client.close()
            rest: list[Event] = [Sent(seq + 4, "b", wants_answer=False, targets=0)]
            assert [event async for event in early] == [event async for event in late] == rest
            assert [event async for event in client] == []

    run(main())


def test_iterating_may_begin_before_joining(shared: ServerProcess) -> None:
    async def main() -> None:
        client = connect(shared.where, name="me")
        events = aiter(client)
        async with client:
            assert await anext(events) == Connected("me", 0, 1, client.seq)

    run(main())


def test_reading_events_before_joining_raises_and_loses_nothing(shared: ServerProcess) -> None:
    async def main() -> None:
        client = connect(shared.where, name="me")
        events = aiter(client)
        for stream in (events, aiter(client)):
            with pytest.raises(DisconnectedError, match="the client has not connected yet"):
                await anext(stream)
        async with client:
            assert await anext(events) == Connected("me", 0, 1, client.seq)

    run(main())


def test_reading_events_may_begin_together_with_joining(shared: ServerProcess) -> None:
    async def main() -> None:
        client = connect(shared.where)
        reading = asyncio.create_task(take(client, Connected))
        joining = asyncio.create_task(client.__aenter__())
        await reading
        await joining
        await client.close()

    run(main())


def test_iterating_raises_at_a_lost_connection_after_the_rest() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER + welcome(0, 1) + b"JOIN 1 1\nBYE slow too slow\n")
        await reader.read()
        writer.close()

    async def main() -> None:
        async with fake(script) as address:
            client = connect(address)
            events = aiter(client)
            async with client:
                assert await anext(events) == Connected("me", 0, 1, 0)
                assert await anext(events) == ClientsChanged(2, 1)
                for stream in (events, client):
                    with pytest.raises(DisconnectedError) as caught:
                        await anext(aiter(stream))
                    assert caught.value.code == "slow"

    run(main())


def test_abandoned_streams_are_forgotten(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as client:
            for _ in range(100):
                aiter(client)
            await client.cmd("x")
            assert not client._runner._streams

    run(main())


def test_a_flood_of_events_does_not_starve_other_tasks(shared: ServerProcess) -> None:
    async def main() -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        with RawClient(shared.address) as top:
            top.hello()
            async with connect(shared.where) as client:
                last = client.seq + 30_000
                events = aiter(client)
                top.send(b"CMD x\n" * 30_000)
                # Half a megabyte is on its way, while the loop stands still.
                top.lines(30_001)
                other = asyncio.create_task(others())
                async for event in events:
                    if isinstance(event, Execute) and event.seq == last:
                        break
                assert turns > 3
                other.cancel()

    run(main())


def test_pings_are_answered_whatever_the_program_waits_for() -> None:
    async def main() -> None:
        is_answered = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(BANNER + welcome(0, 1) + b"PING x\n")
            while await reader.readline() != b"PONG x\n":
                pass
            is_answered.set()
            await reader.read()
            writer.close()

        async with fake(script) as address, connect(address) as client:
            waiting = asyncio.create_task(take(client, RosterReceived))
            await is_answered.wait()
            assert not waiting.done()
            waiting.cancel()

    run(main())


# --- being commanded ---


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


# --- leaving ---


def test_closing_ends_all_waits(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as client:
            with shared.paused():
                waiting = [
                    asyncio.ensure_future(each) for each in (client.cmd("x"), client.who(), client.ask("y"))
                ]
                iterating = asyncio.create_task(take(aiter(client), RosterReceived))
                await asyncio.sleep(0)
                closing = asyncio.create_task(client.close())
                ends = await asyncio.gather(*waiting, return_exceptions=True)
                assert [str(end) for end in ends] == ["the client is closed"] * 3
                with pytest.raises(AssertionError, match="the events ended"):
                    await iterating
                assert not client.is_connected
                assert not closing.done()
            await closing

    run(main())


def test_closing_twice_or_at_once_waits_for_the_same_end(shared: ServerProcess) -> None:
    async def main() -> None:
        async with connect(shared.where) as client:
            assert client._runner._connection is not None
            sock = client._runner._connection._sock
            with shared.paused():
                closing = [asyncio.create_task(client.close()) for _ in range(3)]
                await asyncio.wait([client._runner._connection._writer])
                await asyncio.sleep(0)
                assert not any(each.done() for each in closing)
            await asyncio.wait(closing, return_when=asyncio.FIRST_COMPLETED)
            assert sock.fileno() == -1
            await asyncio.gather(*closing)
            await client.close()

    run(main())


async def fail_inside(server: ServerProcess) -> None:
    async with connect(server.where) as client:
        await client.cmd("x")
        raise ZeroDivisionError


def test_an_error_of_the_program_passes_through_and_it_leaves(shared: ServerProcess) -> None:
    async def main() -> None:
        with RawClient(shared.address) as other:
            other.hello()
            with pytest.raises(ZeroDivisionError):
                await fail_inside(shared)
            other.lines(2)
            other.expect(b"LEFT ")

    run(main())


def test_a_client_joins_only_once(shared: ServerProcess) -> None:
    async def main() -> None:
        client = connect(shared.where)
        async with client:
            with pytest.raises(RuntimeError, match="joins only once"):
                await client.__aenter__()
            assert await client.who() == (frames.RosterEntry(0, client.name),)
        with pytest.raises(DisconnectedError, match="the client is closed"):
            await client.__aenter__()
        early = connect(shared.where)
        await early.close()
        with pytest.raises(DisconnectedError, match="the client is closed"):
            await early.__aenter__()

    run(main())


def test_of_two_concurrent_joins_only_the_first_succeeds(shared: ServerProcess) -> None:
    async def main() -> None:
        client = connect(shared.where)
        first, second = await asyncio.gather(client.__aenter__(), client.__aenter__(), return_exceptions=True)
        assert first is client
        assert isinstance(second, RuntimeError)
        assert await client.who() == (frames.RosterEntry(0, client.name),)
        await client.close()

    run(main())


def test_a_client_that_lost_its_connection_cannot_join_again(server: ServerProcess) -> None:
    async def main() -> None:
        async with connect(server.where) as client:
            server.kill()
            with pytest.raises(DisconnectedError):
                await take(client, RosterReceived)
            with pytest.raises(RuntimeError, match="joins only once"):
                await client.__aenter__()

    run(main())
