"""The asyncio client over several connections: reconnecting, giving up, and leading."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from rankserver.client import aio, connect, reconnect
from rankserver.client.aio import Client
from rankserver.client.connection import Connection, join
from rankserver.client.events import Answer, AskDone, Connected, Disconnected, Execute, Outcome, Retrying
from rankserver.client.stream import EventStream
from rankserver.wire.exceptions import ConnectError, DisconnectedError
from tests.support.rawclient import RawClient
from tests.support.scripted import BANNER, Script, fake, run, take, welcome
from tests.support.servers import ServerProcess


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the delay before the next try."""
    monkeypatch.setattr(reconnect, "FIRST_DELAY", 0.002)
    monkeypatch.setattr(reconnect, "MAX_DELAY", 0.02)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port that nobody listens on and that the system gives to nobody else."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def again(server: ServerProcess) -> ServerProcess:
    """Start a server on the port of one that has stopped."""
    return ServerProcess(8, "--port", str(server.port))


async def taken(events: EventStream, *kinds: type) -> list[object]:
    """Return the next events of these kinds, which must come in this order."""
    return [await take(events, kind) for kind in kinds]


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


# --- executing and leading ---


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
