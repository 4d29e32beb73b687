from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from client import aio
from client.aio import Address, Client, connect, parse_address
from client.events import AskDone, ClientsChanged, Connected, Disconnected, Event, Execute, Sent
from rankserver import frames, protocol
from rankserver.exceptions import ConfigError, ConnectError, DisconnectedError, LocalProtocolError
from tests.support import BOUND, RawClient, Server

BANNER = protocol.info(frames.Info(1, "fake", 65_536, auth=False, capacity=8))
WELCOME = protocol.welcome(frames.Welcome(0, 1, 0, "me", "s", 30))
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, within the bound."""
    asyncio.run(asyncio.wait_for(work, BOUND))


@contextlib.asynccontextmanager
async def fake(script: Script) -> AsyncIterator[str]:
    """Serve ``script`` to whoever connects, and give the address."""
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    async with server:
        yield "{}:{}".format(*server.sockets[0].getsockname())


async def take(client: Client, kind: type[Event]) -> Event:
    """Return the next event of ``kind``."""
    async for event in client:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"the connection ended before a {kind}")


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


# --- addresses ---


@pytest.mark.parametrize(
    ("text", "address", "written"),
    [
        ("web.example:80", Address("web.example", 80), "web.example:80"),
        ("10.0.0.1", Address("10.0.0.1", 5050), "10.0.0.1:5050"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("[::1]", Address("::1", 5050), "[::1]:5050"),
        ("::1", Address("::1", 5050), "[::1]:5050"),
        ("fe80::1%eth0", Address("fe80::1%eth0", 5050), "[fe80::1%eth0]:5050"),
        ("unix:/run/a:b", Address("/run/a:b", None), "unix:/run/a:b"),
    ],
)
def test_addresses_are_understood(text: str, address: Address, written: str) -> None:
    assert parse_address(text) == address
    assert str(address) == written


@pytest.mark.parametrize(
    "text", ["", ":80", "a:", "a:b", "a:0", "a:65536", "[::1", "[]:80", "unix:", "[a]b:1"]
)
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert str(caught.value) == f"address {text!r} is not HOST, HOST:PORT, [IPV6]:PORT or unix:PATH"


# --- joining ---


def test_joining_gives_the_place_and_then_the_events(server: Server) -> None:
    async def main() -> None:
        async with connect(server.where, name="web-1") as client:
            assert (client.name, client.rank, client.clients, client.max_line) == ("web-1", 0, 1, 65_536)
            assert str(client.address) == server.where
            assert await anext(client) == Connected("web-1", 0, 1)
            with RawClient(server.address) as other:
                other.hello()
                assert await anext(client) == ClientsChanged(2)

    run(main())


def test_every_kind_of_address_can_be_joined(anywhere: Server) -> None:
    async def main() -> None:
        async with connect(anywhere.where) as client:
            assert str(client.address) == anywhere.where
            assert client.name.startswith("c")

    run(main())


def test_a_tcp_connection_does_not_wait_to_fill_packets(server: Server) -> None:
    async def main() -> None:
        async with connect(server.where) as client:
            assert client._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(main())


def test_the_second_address_of_a_host_is_tried_when_the_first_refuses(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (refusing, server.address)]

    async def main() -> None:
        async def both(*_args: object, **_options: object) -> list[object]:
            return list(found)

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
        async with connect(f"two.example:{server.port}") as client:
            assert client.rank == 0

    run(main())


def test_a_refused_connection_is_told_with_its_reason(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    async def main() -> None:
        for address, reason in (
            (f"127.0.0.1:{port}", "Connection refused"),
            (f"unix:{tmp_path}/none", "No such file or directory"),
            ("a..b:1", ""),  # Python's words, which vary
        ):
            with pytest.raises(ConnectError) as caught:
                async with connect(address):
                    pass
            assert str(caught.value).startswith(f"cannot connect to {address}: {reason}")

    run(main())


def test_a_silent_peer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "CONNECT_TIMEOUT", 0.05)
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readline()).startswith(b"HELLO")
        assert await reader.read() == b""
        gone.set()
        writer.close()

    async def main() -> None:
        async with fake(script) as address:
            with pytest.raises(ConnectError, match=f"cannot connect to {address}: no answer within 0.05 s"):
                async with connect(address):
                    pass
            await gone.wait()

    run(main())


def test_a_name_that_is_not_allowed_is_refused_without_connecting() -> None:
    async def main() -> None:
        with pytest.raises(LocalProtocolError, match="name 'a b' is not"):
            async with connect("nowhere.invalid", name="a b"):
                pass

    run(main())


def test_a_full_server_is_told(serve: Callable[..., Server]) -> None:
    async def main() -> None:
        server = serve(1)
        async with connect(server.where):
            with pytest.raises(DisconnectedError) as caught:
                async with connect(server.where):
                    pass
        assert caught.value.code == "full"
        assert "1" in caught.value.text

    run(main())


# --- events ---


def test_events_do_not_depend_on_how_the_bytes_arrive() -> None:
    data = BANNER + WELCOME + b"JOIN 1 1\nCMD 2 1 x\nBYE shutdown now\n"

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
        writer.close()

    async def main() -> None:
        async with fake(script) as address, connect(address) as client:
            kinds = [type(event).__name__ async for event in client]
        assert kinds == ["Connected", "ClientsChanged", "Refused", "Disconnected"]

    run(main())


def test_what_arrived_before_a_reset_is_not_lost_although_sending_fails() -> None:
    ready = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER + WELCOME)
        await reader.readuntil(b"ASK go\n")
        writer.write(b"JOIN 1 1\nBYE slow too slow\n")
        await writer.drain()
        reset(writer)
        ready.set()

    async def main() -> None:
        async with fake(script) as address, connect(address) as client:
            await client.ask("go")
            await ready.wait()
            with contextlib.suppress(DisconnectedError):
                for _ in range(100):  # the first may be taken by the kernel, the next ones fail
                    await client.cmd("x" * 1_000)
                    await asyncio.sleep(0)
            assert [event async for event in client] == [
                Connected("me", 0, 1),
                ClientsChanged(2),
                Disconnected("slow", "too slow"),
            ]
            with pytest.raises(DisconnectedError, match="the connection is over"):
                await client.ask("x")

    run(main())


def test_a_connection_that_ends_without_bye_is_lost() -> None:
    async def script(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER + WELCOME + b"JOIN 1")
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with fake(script) as address, connect(address) as client:
            assert [event async for event in client][1:] == [Disconnected("", "connection lost")]

    run(main())


def test_cancelling_a_wait_for_an_event_loses_none(server: Server) -> None:
    async def main() -> None:
        async with connect(server.where) as client:
            await take(client, Connected)
            for count in range(20):
                waiting = asyncio.create_task(take(client, Sent))
                await client.cmd(str(count))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])
                if waiting.cancelled():
                    sent = await take(client, Sent)
                else:
                    sent = waiting.result()
                assert isinstance(sent, Sent)
                assert sent.text == str(count)

    run(main())


def test_a_flood_of_events_leaves_others_their_turn(server: Server) -> None:
    async def main() -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        with RawClient(server.address) as top:
            top.hello()
            async with connect(server.where) as client:
                top.send(b"CMD x\n" * 30_000)
                await asyncio.to_thread(top.lines, 30_001)  # half a megabyte is in the socket
                other = asyncio.create_task(others())
                while await take(client, Execute) != Execute(30_002, 0, "x", False, 1, client.name):
                    pass
                assert turns > 3
                other.cancel()

    run(main())


def test_ping_is_answered_while_somebody_iterates(serve: Callable[..., Server]) -> None:
    async def main() -> None:
        async with connect(serve(2, "--heartbeat", "0.1").where) as client:
            with contextlib.suppress(
                asyncio.TimeoutError
            ):  # five heartbeats: two without an answer are the end
                await asyncio.wait_for(take(client, Disconnected), 0.5)
                pytest.fail("the server did not hear us")

    run(main())


# --- commands ---


def test_an_ask_goes_around(server: Server) -> None:
    async def main() -> None:
        async with connect(server.where) as top, connect(server.where) as low:
            await top.ask("uptime")
            execute = await take(low, Execute)
            assert execute == Execute(3, 0, "uptime", True, 1, low.name)
            await low.result(3, "ok", {"out": "fine"})
            done = await take(top, AskDone)
            assert done == AskDone(3, "uptime", 1, 1, 0, 0, 0, 0, 0)

    run(main())


def test_the_second_client_sees_a_command_without_answer(server: Server) -> None:
    async def main() -> None:
        async with connect(server.where) as top, connect(server.where) as low:
            await top.cmd("df")
            assert await take(low, Execute) == Execute(3, 0, "df", False, 1, low.name)

    run(main())


def test_a_sender_waits_for_a_server_that_does_not_read() -> None:
    go_on = asyncio.Event()
    taken = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        writer.write(BANNER + WELCOME)
        await go_on.wait()
        while data := await reader.read(1 << 20):
            taken += data.count(b"\n")
            if data.endswith(b"BYE\n"):
                writer.close()

    async def send(client: Client) -> None:
        for _ in range(600):  # 36 MB: more than the kernel takes
            await client.cmd("x" * 60_000)

    async def main() -> None:
        async with fake(script) as address, connect(address) as client:
            sending = asyncio.create_task(send(client))
            # Until the sender waits for room, which nothing announces.
            while client._session.unsent <= aio.HIGH_WATER or client._room.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert client._session.unsent < aio.HIGH_WATER + 60_100
            assert not sending.done()
            go_on.set()
            await sending
        assert taken == 1 + 600 + 1  # HELLO, the commands, BYE

    run(main())


# --- leaving ---


def test_all_that_was_sent_before_leaving_counts(server: Server) -> None:
    async def main() -> None:
        with RawClient(server.address) as other:
            other.hello()
            async with connect(server.where) as client:
                for count in range(5_000):
                    await client.cmd(f"{count}")
            other.expect(b"JOIN 2 1")
            assert [line.split(b" ")[3] for line in other.lines(5_000)] == [b"%d" % i for i in range(5_000)]
            other.expect(b"LEFT 5003 1")

    run(main())


def test_all_counts_even_if_the_server_is_slow_and_much_was_received_and_not_read(server: Server) -> None:
    async def main() -> None:
        with RawClient(server.address) as other:
            other.hello()
            async with connect(server.where) as client:
                other.send(b"CMD theirs\n" * 10_000)
                await asyncio.to_thread(other.lines, 10_001)
                with server.paused():
                    await client.cmd("last")
                    closing = asyncio.create_task(client.close())
                    await asyncio.wait([client._writer])  # all is sent
                    assert not closing.done()  # or the 10,000 frames in the socket would make it a reset
                await closing
            other.expect(b"CMD 10003 1 last")
            other.expect(b"LEFT 10004 1")

    run(main())


def test_a_server_that_does_not_close_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "LEAVE_TIMEOUT", 0.05)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER + WELCOME)
        await reader.read()
        writer.close()

    async def main() -> None:
        async with fake(script) as address, connect(address) as client:
            await client.ask("x")
        assert [event async for event in client] == [Connected("me", 0, 1)]

    run(main())


def test_closing_again_does_no_harm(server: Server) -> None:
    async def main() -> None:
        async with connect(server.where) as client:
            await client.close()
            await client.close()
            with pytest.raises(DisconnectedError):
                await client.cmd("x")

    run(main())
