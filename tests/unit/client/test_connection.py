from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from rankserver.client import connect, reconnect
from rankserver.client import connection as connection_module
from rankserver.client.connection import Address, Connection, join, parse_address
from rankserver.client.events import ClientsChanged, Connected, Disconnected, Event, Lost, Refused
from rankserver.client.session import SessionState
from rankserver.wire.exceptions import (
    ConfigError,
    ConnectError,
    DisconnectedError,
    InsecureError,
    LocalProtocolError,
)
from tests.support.rawclient import RawClient
from tests.support.scripted import BANNER, fake, reset, run, welcome
from tests.support.servers import ServerProcess

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
def test_a_bad_address_is_named(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert str(caught.value) == f"address {text!r} is not HOST, HOST:PORT, [IPV6]:PORT or unix:PATH"


# --- joining ---


def test_every_kind_of_address_can_be_joined(anywhere: ServerProcess) -> None:
    async def main() -> None:
        connection = await join(parse_address(anywhere.where), name="web-1")
        assert connection.happened == [Connected("web-1", 0, 1, 1)]
        await connection.close()

    run(main())


def test_a_tcp_connection_does_not_wait_to_fill_packets(shared: ServerProcess) -> None:
    async def main() -> None:
        connection = await join(parse_address(shared.where))
        assert connection._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await connection.close()

    run(main())


def test_the_second_address_is_tried_when_the_first_refuses(
    shared: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (refusing, shared.address)]

    async def main() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: list(found))
        connection = await join(Address("two.example", shared.port))
        assert connection.session.log.rank == 0
        await connection.close()

    run(main())


def test_a_refused_connection_is_reported_with_its_reason(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    async def main() -> None:
        for address, reason in (
            (f"127.0.0.1:{port}", "Connection refused"),
            (f"unix:{tmp_path}/none", "No such file or directory"),
            (f"unix:{tmp_path}/{'x' * 200}", "AF_UNIX path too long"),
            # Python's message, which varies.
            ("unix:/a\0b", ""),
            ("a\0b:1", ""),
            ("a..b:1", ""),
        ):
            with pytest.raises(ConnectError) as caught:
                await join(parse_address(address))
            assert str(caught.value).startswith(f"cannot connect to {address}: {reason}")

    run(main())


def test_connecting_to_a_silent_peer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT", 0.05)

    async def main() -> None:
        gone = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert (await reader.readline()).startswith(b"HELLO")
            assert await reader.read() == b""
            gone.set()
            writer.close()

        async with fake(script) as address:
            with pytest.raises(ConnectError, match=f"cannot connect to {address}: no answer within 0.05 s"):
                await join(parse_address(address))
            await gone.wait()

    run(main())


def test_a_bad_name_is_refused_without_connecting() -> None:
    async def main() -> None:
        with pytest.raises(LocalProtocolError, match="name 'a b' is not"):
            await join(parse_address("nowhere.invalid"), name="a b")

    run(main())


# --- the token ---


AUTH_BANNER = BANNER.replace(b'"auth":false', b'"auth":true')


@pytest.mark.parametrize(("banner", "needs_it"), [(AUTH_BANNER, True), (BANNER, False)])
def test_a_token_is_sent_to_a_server_that_needs_it(banner: bytes, needs_it: bool) -> None:
    async def main() -> None:
        said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(banner)
            said.set_result(await reader.readline())
            writer.write(welcome(0, 1))
            await reader.read()
            writer.close()

        async with fake(script) as address:
            connection = await join(parse_address(address), name="me", token="secret")  # noqa: S106 - a test's
            await connection.close()
        token = b',"token":"secret"' if needs_it else b""
        assert await said == b'HELLO {"proto":1,"name":"me"%s}\n' % token

    run(main())


class Elsewhere:
    """A server that counts the bytes that it gets, at an address that is taken for one on a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.received = b""
        self.asked_about: list[str] = []
        self.clients = 0
        monkeypatch.setattr(connection_module, "is_loopback_address", self._is_loopback)

    def _is_loopback(self, address: str) -> bool:
        self.asked_about.append(address)
        return False

    async def script(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        writer.write(AUTH_BANNER)
        self.received += await reader.read(1 << 16)
        if self.received:
            writer.write(welcome(0, 1))
            await reader.read()
        writer.close()


def test_a_token_is_not_sent_over_a_network_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        server = Elsewhere(monkeypatch)
        async with fake(server.script) as address:
            # The address that a name turns out to have counts, and not the name.
            where = parse_address(address.replace("127.0.0.1", "localhost"))
            with pytest.raises(InsecureError) as caught:
                await join(where, token="secret")  # noqa: S106 - of a test
        assert (server.received, server.asked_about) == (b"", ["127.0.0.1"])
        says = str(caught.value)
        assert says.startswith(f"cannot connect to {where}: the token would be sent to 127.0.0.1 without TLS")
        assert "--tls" in says
        assert "--insecure" in says
        assert "secret" not in says

    run(main())


def test_insecure_sends_the_token_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        server = Elsewhere(monkeypatch)
        async with fake(server.script) as address:
            connection = await join(parse_address(address), token="secret", insecure=True)  # noqa: S106
            await connection.close()
        assert b'"token":"secret"' in server.received

    run(main())


def test_without_a_token_the_network_is_nobodys_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        server = Elsewhere(monkeypatch)
        async with fake(server.script) as address:
            await (await join(parse_address(address))).close()
        assert server.received.startswith(b"HELLO ")

    run(main())


def test_a_token_that_may_not_be_sent_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        server = Elsewhere(monkeypatch)
        async with fake(server.script) as address:
            with pytest.raises(InsecureError):
                async with connect(address, token="secret", reconnect=True):  # noqa: S106 - of a test
                    pass
        assert server.clients == 1

    run(main())


def test_a_server_that_moves_to_a_network_gets_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "FIRST_DELAY", 0.01)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(AUTH_BANNER)
        if await reader.readline():
            Elsewhere(monkeypatch)
            writer.write(welcome(0, 1) + b"BYE shutdown now\n")
        writer.close()

    async def main() -> None:
        async with fake(script) as address, connect(address, token="x", reconnect=True) as client:  # noqa: S106
            with pytest.raises(DisconnectedError, match="the token would be sent to"):
                async for _ in client:
                    pass

    run(main())


# --- servers that end or prolong joining ---


@pytest.mark.parametrize("flood", [b"PING\n" * 1_000, b"\n" * 1_000])
def test_a_server_that_never_stops_sending_is_given_up(monkeypatch: pytest.MonkeyPatch, flood: bytes) -> None:
    monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT", 0.1)

    async def script(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(flood)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async def main() -> None:
        async with fake(script) as address:
            with pytest.raises(ConnectError, match=r"no answer within 0\.1 s"):
                await join(parse_address(address))

    run(main())


def test_a_full_server_is_reported(serve: Callable[..., ServerProcess]) -> None:
    async def main() -> None:
        where = parse_address(serve(1).where)
        connection = await join(where)
        with pytest.raises(DisconnectedError) as caught:
            await join(where)
        await connection.close()
        assert caught.value.code == "full"
        assert "1" in caught.value.text

    run(main())


# --- receiving ---


async def until_over(connection: Connection) -> list[Event]:
    """Return all events up to the end of the connection."""
    happened = list(connection.happened)
    while connection.session.state is not SessionState.OVER:
        happened += await connection.receive()
    return happened


def test_events_do_not_depend_on_how_the_bytes_arrive() -> None:
    data = BANNER + welcome(0, 1) + b"JOIN 1 1\nCMD 2 1 x\nBYE shutdown now\n"

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
        writer.close()

    async def main() -> None:
        async with fake(script) as address:
            connection = await join(parse_address(address))
            happened = await until_over(connection)
            await connection.close()
        assert happened == [
            Connected("me", 0, 1, 0),
            ClientsChanged(2, 1),
            Refused(2, 1, "x"),
            Disconnected("shutdown", "now"),
        ]

    run(main())


def test_what_arrived_before_a_reset_is_read_if_sending_fails() -> None:
    async def main() -> None:
        ready = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(BANNER + welcome(0, 1))
            await reader.readuntil(b"ASK go\n")
            writer.write(b"JOIN 1 1\nBYE slow too slow\n")
            await writer.drain()
            reset(writer)
            ready.set()

        async with fake(script) as address:
            connection = await join(parse_address(address))
            connection.session.ask("go")
            connection.wake()
            await ready.wait()
            # The kernel may take the first write, but the next ones fail.
            while not connection._writer.done():
                connection.session.cmd("x" * 1_000)
                connection.wake()
                await asyncio.sleep(0)
            happened = await until_over(connection)
            await connection.close()
        assert happened[1] == ClientsChanged(2, 1)
        assert happened[-1] == Disconnected("slow", "too slow")

    run(main())


@pytest.mark.parametrize("end", [lambda writer: writer.close(), reset])
def test_a_connection_that_ends_without_bye_is_lost(end: Callable[[asyncio.StreamWriter], None]) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER + welcome(0, 1) + b"JOIN 1")
        await reader.readuntil(b"CMD x\n")
        end(writer)

    async def main() -> None:
        async with fake(script) as address:
            connection = await join(parse_address(address))
            connection.session.cmd("x")
            connection.wake()
            _, *happened = await until_over(connection)
            await connection.close()
        assert happened == [Lost("x"), Disconnected("", "connection lost")]

    run(main())


def test_an_end_that_comes_with_the_welcome_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # This timeout is longer than the bound.
    monkeypatch.setattr(connection_module, "LEAVE_TIMEOUT", 60.0)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER + welcome(0, 1) + b"BYE slow too slow\n")
        await reader.read()
        writer.close()

    async def main() -> None:
        async with fake(script) as address:
            connection = await join(parse_address(address))
            assert (await until_over(connection))[-1] == Disconnected("slow", "too slow")
            await connection.close()

    run(main())


# --- sending and leaving ---


async def read_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Read up to the other side's BYE, close, and return what came."""
    data = bytearray()
    while not data.endswith(b"\nBYE\n") and (more := await reader.read(1 << 20)):
        data += more
    writer.close()
    return bytes(data)


def test_a_sender_waits_for_a_server_that_does_not_read() -> None:
    async def main() -> None:
        go_on = asyncio.Event()
        taken: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(BANNER + welcome(0, 1))
            await go_on.wait()
            taken.set_result(await read_all(reader, writer))

        async with fake(script) as address:
            connection = await join(parse_address(address))
            sending = asyncio.create_task(send_much(connection))
            await stuck(connection)
            assert connection.session.unsent < connection_module.MAX_UNSENT + 60_100
            assert not sending.done()
            go_on.set()
            await sending
            await connection.close()
        assert (await taken).count(b"\n") == 1 + 600 + 1  # HELLO, the commands, BYE

    run(main())


async def send_much(connection: Connection) -> None:
    # These are 36 MB, more than the kernel takes.
    for _ in range(600):
        connection.session.cmd("x" * 60_000)
        connection.wake()
        await connection.drain()


async def stuck(connection: Connection) -> None:
    """Wait until a sender waits for room; there is no event for this."""
    while connection.session.unsent <= connection_module.MAX_UNSENT or connection._room.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0)


def test_a_sender_waiting_for_room_fails_if_there_will_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "LEAVE_TIMEOUT", 0.05)

    async def main() -> None:
        closed = asyncio.Event()

        async def script(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(BANNER + welcome(0, 1))
            await closed.wait()
            writer.close()

        async with fake(script) as address:
            connection = await join(parse_address(address))
            # The writer takes the first 36 MB, more than the kernel takes, and is blocked.
            for _ in range(2):
                for _ in range(600):
                    connection.session.cmd("x" * 60_000)
                connection.wake()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            draining = asyncio.create_task(connection.drain())
            await stuck(connection)
            await connection.close()
            await draining
            closed.set()

    run(main())


def test_all_that_was_sent_before_leaving_counts(shared: ServerProcess) -> None:
    async def main() -> None:
        with RawClient(shared.address) as other:
            other.hello()
            connection = await join(parse_address(shared.where))
            for count in range(5_000):
                connection.session.cmd(f"{count}")
            await connection.close()
            other.expect(b"JOIN ")
            assert [line.split(b" ")[3] for line in other.lines(5_000)] == [b"%d" % i for i in range(5_000)]
            other.expect(b"LEFT ")

    run(main())


async def with_unread_input(other: RawClient, server: ServerProcess) -> Connection:
    """Return a connection that has not read the commands that ``other`` has sent it."""
    other.hello()
    connection = await join(parse_address(server.where))
    other.send(b"CMD theirs\n" * 10_000)
    await asyncio.to_thread(other.lines, 10_001)
    return connection


def test_all_counts_even_if_the_session_left_first(shared: ServerProcess) -> None:
    async def main() -> None:
        with RawClient(shared.address) as other:
            connection = await with_unread_input(other, shared)
            connection.session.cmd("last")
            connection.session.leave()
            await connection.close()
            other.expect(b"CMD ")
            other.expect(b"LEFT ")

    run(main())


def test_everything_counts_with_a_slow_server_and_unread_input(shared: ServerProcess) -> None:
    async def main() -> None:
        with RawClient(shared.address) as other:
            connection = await with_unread_input(other, shared)
            with shared.paused():
                connection.session.cmd("last")
                closing = asyncio.create_task(connection.close())
                # Everything is sent now.
                await asyncio.wait([connection._writer])
                # Otherwise the 10,000 unread frames would cause a reset.
                assert not closing.done()
            await closing
            assert other.line().endswith(b" 1 last")
            other.expect(b"LEFT ")

    run(main())


def test_a_server_that_does_not_close_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "LEAVE_TIMEOUT", 0.05)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER + welcome(0, 1))
        await reader.read()
        writer.close()

    async def main() -> None:
        async with fake(script) as address:
            connection = await join(parse_address(address))
            await connection.close()
            await connection.close()
            assert connection._sock.fileno() == -1

    run(main())


def test_a_server_that_falls_silent_is_given_up(serve: Callable[..., ServerProcess]) -> None:
    async def main() -> None:
        server = serve(1, "--heartbeat", "0.2")
        connection = await join(parse_address(server.where))
        with server.paused():
            assert await connection.receive() == [Disconnected("", "nothing heard for 0.4 seconds")]
        await connection.close()

    run(main())


def test_a_silent_server_that_answers_pings_is_kept() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER + welcome(0, 1, heartbeat=0.05))
        for _ in range(5):
            while await reader.readline() != b"PING\n":
                pass
            writer.write(b"PONG\n")
        writer.write(b"BYE slow enough\n")
        writer.close()

    async def main() -> None:
        async with fake(script) as address:
            connection = await join(parse_address(address))
            happened: list[Event] = []
            while not happened:
                happened = await connection.receive()
            assert happened == [Disconnected("slow", "enough")]
            await connection.close()

    run(main())
