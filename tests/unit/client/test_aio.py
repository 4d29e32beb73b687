"""The asyncio client on a single connection, without what it executes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rankserver.client import connect
from rankserver.client.aio import Client
from rankserver.client.connection import Address
from rankserver.client.events import (
    ClientsChanged,
    Connected,
    Event,
    Execute,
    RosterReceived,
    Sent,
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
