"""The client's TLS, against the real server."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from rankserver.client import tls
from rankserver.client.tls import TlsStream
from rankserver.wire.exceptions import ConfigError
from tests.support.rawclient import READ_SIZE
from tests.support.servers import ServerProcess
from tests.support.tls_peer import Certificates
from tests.support.waiting import BOUND

Serve = Callable[..., ServerProcess]
T = TypeVar("T")


async def connect(
    server: ServerProcess, context: ssl.SSLContext, host: str = "127.0.0.1"
) -> tuple[TlsStream, socket.socket]:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    return TlsStream(sock, context, host), sock


def play(
    server: ServerProcess, context: ssl.SSLContext, scene: Callable[[TlsStream, socket.socket], Awaitable[T]]
) -> T:
    """Run ``scene`` on a connection after its handshake."""

    async def run() -> T:
        connection, sock = await connect(server, context)
        with sock:
            await connection.shake_hands()
            return await scene(connection, sock)

    return asyncio.run(asyncio.wait_for(run(), BOUND))


async def read_until(connection: TlsStream, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        data = await connection.receive(READ_SIZE)
        assert data, f"the connection has ended behind {received[-100:]!r}"
        received += data
    return received


@pytest.fixture
def server(serve: Serve, certificates: Certificates) -> ServerProcess:
    return serve(8, tls=certificates)


@pytest.fixture
def context(certificates: Certificates) -> ssl.SSLContext:
    return tls.context(str(certificates.ca))


def test_it_joins_commands_leaves_and_both_ends_are_announced(
    server: ServerProcess, context: ssl.SSLContext
) -> None:
    async def scene(connection: TlsStream, _: socket.socket) -> None:
        await connection.send_all(b"HELLO\nCMD x\n")
        await read_until(connection, b"CMD 2 0 x\n")
        await connection.send_all(b"BYE\n")
        await connection.shut_down()
        assert await connection.receive(READ_SIZE) == b""
        assert await connection.receive(READ_SIZE) == b""

    play(server, context, scene)


def test_much_is_sent_and_received_at_the_same_time(server: ServerProcess, context: ssl.SSLContext) -> None:
    lines = b"".join(b"CMD %d %s\n" % (number, b"x" * 1_000) for number in range(8_000))

    async def scene(connection: TlsStream, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        await connection.send_all(b"HELLO\n")
        received, _ = await asyncio.gather(
            read_until(connection, b"PONG\n"), connection.send_all(lines + b"PING\n")
        )
        logged = [line.split(b" ", 3)[3] for line in received.splitlines() if line.startswith(b"CMD ")]
        assert logged == [line.partition(b" ")[2] for line in lines.splitlines()]

    play(server, context, scene)


def test_cancelling_loses_nothing_in_either_direction(server: ServerProcess, context: ssl.SSLContext) -> None:
    async def scene(connection: TlsStream, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        await connection.send_all(b"HELLO\n")
        waiting = asyncio.create_task(connection.receive(1))
        await asyncio.sleep(0)
        waiting.cancel()
        received = b"".join(
            part for part in await asyncio.gather(waiting, return_exceptions=True) if isinstance(part, bytes)
        )
        sent = 0
        with server.paused():
            # Until the server's side is full.
            while True:
                sending = asyncio.create_task(connection.send_all(b"CMD %d %s\n" % (sent, b"x" * 10_000)))
                sent += 1
                done, _ = await asyncio.wait({sending}, timeout=0.05)
                if not done:
                    sending.cancel()
                    break
        await connection.send_all(b"PING\n")
        received += await read_until(connection, b"PONG\n")
        assert received.startswith(b"INFO ")
        assert received.count(b"\nCMD ") == sent

    play(server, context, scene)


def test_a_server_without_a_valid_certificate_is_rejected(
    server: ServerProcess, context: ssl.SSLContext, tmp_path: Path
) -> None:
    stranger = tls.context(str(Certificates(tmp_path).ca))
    for trusted, host, says in (
        (stranger, "127.0.0.1", "self-signed|local issuer"),
        (context, "other.example", "mismatch"),
    ):

        async def run(trusted: ssl.SSLContext = trusted, host: str = host) -> None:
            connection, sock = await connect(server, trusted, host)
            with sock:
                await connection.shake_hands()

        with pytest.raises(ssl.SSLError, match=f"(?i){says}") as error:
            asyncio.run(asyncio.wait_for(run(), BOUND))
        assert tls.reason(error.value).startswith("the server's certificate is not accepted: ")


def test_a_name_that_is_only_the_common_name_does_not_count(serve: Serve, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificates.name_as_of_old("localhost")
    server = serve(8, tls=certificates)

    async def shake(context: ssl.SSLContext) -> None:
        connection, sock = await connect(server, context, "localhost")
        with sock:
            await connection.shake_hands()

    with pytest.raises(ssl.SSLCertVerificationError) as error:
        asyncio.run(asyncio.wait_for(shake(tls.context(str(certificates.ca))), BOUND))
    says = tls.reason(error.value)
    assert says.startswith("the server's certificate is not accepted: Hostname mismatch")
    assert says.endswith("(its subjectAltName counts, and not its common name)")
    # Otherwise it is a good certificate, and Python's default would accept it.
    lenient = tls.context(str(certificates.ca))
    lenient.hostname_checks_common_name = True
    asyncio.run(asyncio.wait_for(shake(lenient), BOUND))


def test_messages_of_the_tls_layer_do_not_use_up_memory(
    server: ServerProcess, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "MAX_UNSENT_ANSWERS", 1_000)

    async def scene(connection: TlsStream, _: socket.socket) -> None:
        await connection.send_all(b"HELLO\n")
        connection._encrypted += b"x" * 1_001  # what the socket does not take
        with pytest.raises(ConnectionAbortedError, match="does not read our answers"):
            await connection.receive(READ_SIZE)

    play(server, context, scene)


def test_a_server_that_speaks_no_tls_is_an_error(serve: Serve, context: ssl.SSLContext) -> None:
    async def scene(_: TlsStream, __: socket.socket) -> None:
        raise AssertionError("it was spoken to")

    with pytest.raises(ssl.SSLError) as error:
        play(serve(1), context, scene)
    assert tls.reason(error.value) == "TLS: wrong version number"


def test_a_server_that_wants_a_certificate_gets_one(serve: Serve, certificates: Certificates) -> None:
    server = serve(2, "--tls-client-ca", str(certificates.ca), tls=certificates)

    async def scene(connection: TlsStream, _: socket.socket) -> bytes:
        await connection.send_all(b"HELLO\n")
        return await connection.receive(READ_SIZE)

    ours = tls.context(str(certificates.ca), str(certificates.cert), str(certificates.key))
    assert play(server, ours, scene).startswith(b"INFO ")
    with pytest.raises(OSError, match=r"(?i)certificate.required") as error:
        play(server, tls.context(str(certificates.ca)), scene)
    assert tls.reason(error.value) == "TLS: tlsv13 alert certificate required"


def test_an_unannounced_end_is_an_end(server: ServerProcess, context: ssl.SSLContext) -> None:
    async def scene(connection: TlsStream, _: socket.socket) -> None:
        await connection.send_all(b"HELLO\nPING\n")
        await read_until(connection, b"PONG\n")
        server.kill()
        assert await connection.receive(READ_SIZE) == b""

    play(server, context, scene)


def test_files_that_cannot_be_used_are_named(certificates: Certificates, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for arguments in (
        ("missing", None),
        (str(empty), None),
        (None, "missing"),
        (None, str(certificates.cert)),
    ):
        named = arguments[1] or arguments[0]
        with pytest.raises(ConfigError, match=f"cannot use .* {named}: ."):
            tls.context(*arguments)


def test_a_key_that_does_not_match_the_certificate_is_named(
    certificates: Certificates, tmp_path: Path
) -> None:
    for key in map(str, certificates.keys_of_others(tmp_path)):
        says = f"certificate {certificates.cert} with the key {key}: the key and .* do not belong together"
        with pytest.raises(ConfigError, match=says):
            tls.context(str(certificates.ca), str(certificates.cert), key)
