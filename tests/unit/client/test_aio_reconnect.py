"""The asyncio client over several connections: reconnecting, and giving up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from rankserver.client import aio, connect, reconnect
from rankserver.client.aio import Client
from rankserver.client.connection import Connection, join
from rankserver.client.events import Answer, AskDone, Connected, Disconnected, Execute, Retrying
from rankserver.wire.exceptions import ConnectError, DisconnectedError
from tests.support.rawclient import RawClient
from tests.support.scripted import BANNER, Script, fake, run, take, taken, welcome
from tests.support.servers import ServerProcess, again

pytestmark = pytest.mark.usefixtures("retries_soon")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port that nobody listens on and that the system gives to nobody else."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


# --- reconnecting ---


@pytest.mark.parametrize("end", [ServerProcess.kill, ServerProcess.stop])
def test_a_client_comes_back_at_the_tail_and_works_as_before(
    server: ServerProcess, end: Callable[[ServerProcess], object]
) -> None:
    async def main() -> None:
        async with connect(server.where, name="me", reconnect=True) as client:
            client.executes(lambda command: command.text)
            events = aiter(client)
            await asyncio.to_thread(end, server)
            assert await take(events, Disconnected) == Disconnected(
                *(
                    ("", "connection lost")
                    if end is ServerProcess.kill
                    else ("shutdown", "the server is stopping")
                )
            )
            reasons = [""]
            while reasons[-1] != f"cannot connect to {server.where}: Connection refused":
                retrying = await take(events, Retrying)
                assert isinstance(retrying, Retrying)
                reasons.append(retrying.text)
            # Nothing has been tried yet.
            assert reasons[1] == ""
            with pytest.raises(DisconnectedError, match=r"connection lost|shutdown"):
                _ = client.rank
            with again(server), RawClient((server.host, server.port)) as other:
                joined = other.hello("other")
                back = await take(events, Connected)
                assert isinstance(back, Connected)
                assert (back.name, back.clients, client.is_connected) == ("me", client.clients, True)
                # It may also have joined before the other one.
                if joined["rank"] == 0:
                    assert (back.rank, back.clients) == (1, 2)
                    other.expect(b"JOIN ")
                    other.send(b"ASK hi\n")
                    await take(events, Execute)
                    other.expect(b"ASK ")
                    assert (await asyncio.to_thread(other.line)).endswith(b'me ok {"out":"hi"}')
                assert await client.cmd("x") > 0
                await client.close()

    run(main())


def test_open_asks_are_gone_for_readers_and_fail_for_waiters(server: ServerProcess) -> None:
    async def main() -> None:
        async with connect(server.where, reconnect=True) as top, connect(server.where) as low:
            low.executes(wait_forever)
            events = aiter(top)
            ask = top.ask("x", timeout=60)
            seq = await ask.logged()
            server.kill()
            gone = await take(events, Answer)
            done = await take(events, AskDone)
            assert isinstance(gone, Answer)
            assert gone == Answer(seq, 1, gone.name, "gone", reason="the connection was lost")
            assert isinstance(done, AskDone)
            assert done.counts.gone == 1
            with pytest.raises(DisconnectedError, match="connection lost"):
                await ask
            assert list(ask) == [gone]
            with again(server):
                await take(events, Connected)
                assert (await top.ask("y")).is_done
                await top.close()

    run(main())


async def wait_forever(_command: object) -> None:
    await asyncio.Event().wait()


def test_the_first_connection_is_tried_again_too(closed_port: int) -> None:
    async def main() -> None:
        client = connect(f"127.0.0.1:{closed_port}", reconnect=True)
        events = aiter(client)
        entering = asyncio.ensure_future(client.__aenter__())
        await taken(events, Retrying, Retrying)
        # Cancelling it leaves nothing behind.
        entering.cancel()
        await asyncio.wait({entering})
        assert entering.cancelled()
        assert [event async for event in events if not isinstance(event, Retrying)] == []

    run(main())


def test_without_reconnect_the_first_failure_is_the_last(closed_port: int) -> None:
    async def main() -> None:
        client = connect(f"127.0.0.1:{closed_port}")
        events = aiter(client)
        with pytest.raises(ConnectError, match="Connection refused"):
            await client.__aenter__()
        assert [event async for event in events] == []

    run(main())


@pytest.mark.parametrize("where", ["entering", "pausing", "joining"])
def test_closing_ends_reconnecting(closed_port: int, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(reconnect, "FIRST_DELAY", 60.0 if where == "pausing" else 0.002)

    async def main() -> None:
        silent = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            silent.set()
            await reader.read()
            writer.close()

        async with fake(script) as address:
            where_to = address if where == "joining" else f"127.0.0.1:{closed_port}"
            client = connect(where_to, reconnect=True)
            events = aiter(client)
            entering = asyncio.ensure_future(client.__aenter__())
            await (silent.wait() if where == "joining" else take(events, Retrying))
            await client.close()
            with pytest.raises(DisconnectedError, match="the client is closed"):
                await entering

    run(main())


def test_a_connection_that_comes_after_closing_is_closed(
    shared: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stubborn(*arguments: object, **options: object) -> Connection:
        joining = asyncio.ensure_future(join(*arguments, **options))  # type: ignore[arg-type]
        # ``wait_for`` before Python 3.12 does the same.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(joining)
        return await joining

    async def main() -> None:
        monkeypatch.setattr(aio, "join", stubborn)
        client = connect(shared.where)
        client.on_lead(lambda _: pytest.fail("it is closed"))
        entering = asyncio.ensure_future(client.__aenter__())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(DisconnectedError, match="the client is closed"):
            await entering

    run(main())


# --- what the server says at the end ---


def goodbye(*lines: bytes) -> tuple[Script, list[int]]:
    """Return a script that sends one of ``lines`` to each client, and a list that counts the clients."""
    count = [0]

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(lines[min(count[0], len(lines) - 1)])
        count[0] += 1
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    return script, count


async def until_lost(client: Client) -> None:
    async with client:
        async for _ in client:
            pass


@pytest.mark.parametrize("code", ["auth", "proto"])
@pytest.mark.parametrize("before", [b"", welcome(0, 1)])
def test_a_failure_that_would_only_recur_is_final(code: str, before: bytes) -> None:
    script, count = goodbye(BANNER + before + f"BYE {code} no\n".encode())

    async def main() -> None:
        async with fake(script) as address:
            with pytest.raises(DisconnectedError, match=f"{code} no"):
                await until_lost(connect(address, reconnect=True))
            assert count == [1]

    run(main())


def test_a_full_server_is_tried_until_there_is_room() -> None:
    full = BANNER + b"BYE full all 8 places are taken\n"
    script, count = goodbye(full, full, BANNER + welcome(7, 8))

    async def main() -> None:
        async with fake(script) as address:
            client = connect(address, reconnect=True)
            events = aiter(client)
            async with client:
                assert client.rank == 7
                retrying = [await anext(events), await anext(events)]
                reasons = [event.text for event in retrying if isinstance(event, Retrying)]
                assert reasons == ["full all 8 places are taken"] * 2
                assert count == [3]
                # The script does not close the connection itself.
                client._runner._fail(DisconnectedError("", "enough"))
                assert client._runner._connection is not None
                client._runner._connection._has_ended = True

    run(main())


def test_retry_delays_grow_up_to_a_bound_and_differ(closed_port: int) -> None:
    async def main() -> None:
        client = connect(f"127.0.0.1:{closed_port}", reconnect=True)
        events = aiter(client)
        entering = asyncio.ensure_future(client.__aenter__())
        pauses = [
            event.delay for event in await taken(events, *[Retrying] * 12) if isinstance(event, Retrying)
        ]
        bounds = [min(0.002 * 2**tries, 0.02) for tries in range(12)]
        assert all(bound / 2 <= pause <= bound for pause, bound in zip(pauses, bounds, strict=True))
        assert len(set(pauses[4:])) > 1
        await client.close()
        await asyncio.wait({entering})
        assert isinstance(entering.exception(), DisconnectedError)

    run(main())


def test_each_try_is_delayed_even_if_the_server_accepts() -> None:
    script, _ = goodbye(BANNER + welcome(0, 1) + b"BYE slow too slow\n")

    async def main() -> None:
        async with fake(script) as address:
            client = connect(address, reconnect=True)
            events = aiter(client)
            async with client:
                kinds = [type(await anext(events)) for _ in range(9)]
            assert kinds == [Connected, Disconnected, Retrying] * 3

    run(main())
