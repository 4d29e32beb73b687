"""TLS: which clients are admitted, and that no misuse of it by a peer disturbs others.

The modules in ``conftest.CONFORMANCE`` run the protocol's tests over TLS.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rankserver.door import MIN_STRANGERS
from tests.support.rawclient import READ_SIZE, RawClient
from tests.support.servers import ServerProcess
from tests.support.tls_peer import Certificates, SlowHandshake, TlsAddress, old_version
from tests.support.waiting import BOUND

Connect = Callable[[ServerProcess], RawClient]
Join = Callable[..., list[RawClient]]
Serve = Callable[..., ServerProcess]


@pytest.fixture
def server(serve: Serve, certificates: Certificates) -> ServerProcess:
    return serve(300, "--log-level", "debug", tls=certificates)


@contextlib.contextmanager
def plain(server: ServerProcess) -> Iterator[socket.socket]:
    """Connect without TLS."""
    with socket.create_connection((server.host, server.port), BOUND) as sock:
        yield sock


def rest(sock: socket.socket) -> bytes:
    """Return everything up to the end, which may be a reset."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := sock.recv(READ_SIZE):
            data += more
    return data


# --- admission --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(server: ServerProcess, version: ssl.TLSVersion) -> None:
    with RawClient(TlsAddress(server.host, server.port, old_version(version))) as client:
        assert client.sock.tls.version() == version.name.replace("v1_", "v1.")
        client.hello("a")
        client.send(b"CMD x\nBYE\n")
        assert client.rest() == [b"CMD 2 0 x"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused_at_once(
    server: ServerProcess, version: ssl.TLSVersion, join: Join
) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context = old_version(version)
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        RawClient(TlsAddress(server.host, server.port, context))
    join(server, "a")


def test_with_a_client_authority_a_certificate_is_required(
    serve: Serve, certificates: Certificates, tmp_path: Path
) -> None:
    server = serve(2, "--tls-client-ca", str(certificates.ca), "--log-level", "debug", tls=certificates)
    stranger = Certificates(tmp_path).context(identity="stranger")
    stranger.load_verify_locations(certificates.ca)
    for context in (certificates.client, stranger):
        # With TLS 1.3, our handshake is over before the server has seen our certificate.
        with (
            pytest.raises((ssl.SSLError, ConnectionResetError)),
            RawClient(TlsAddress(server.host, server.port, context)) as client,
        ):
            client.hello()
    known = certificates.context(identity="known.example")
    with RawClient(TlsAddress(server.host, server.port, known)) as client:
        assert client.hello()["rank"] == 0
    assert "peer did not return a certificate" in server.log()
    assert "the certificate is not accepted: " in server.log()


@pytest.mark.parametrize(
    "sent", [b"HELLO\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70_000]
)
def test_a_client_without_tls_is_disconnected_at_once(server: ServerProcess, join: Join, sent: bytes) -> None:
    (member,) = join(server, "a")
    with plain(server) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(sent)
        assert len(rest(sock)) < 100
    assert member.settle() == []


def test_tls_to_a_plain_server_fails_at_once(
    serve: Serve, certificates: Certificates, connect: Connect
) -> None:
    server = serve(2)
    with pytest.raises(ssl.SSLError):
        RawClient(TlsAddress(server.host, server.port, certificates.client))
    assert connect(server).hello()["rank"] == 0


# --- the handshake ----------------------------------------------------------------------------


def test_a_handshake_byte_by_byte_succeeds_and_delays_nobody(
    server: ServerProcess, join: Join, certificates: Certificates
) -> None:
    (member,) = join(server, "a")
    with plain(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        slow = SlowHandshake(sock, certificates.client)
        for part in (slow.hello, None):
            data = slow.finish(b"HELLO\nCMD x\n") if part is None else part
            for number in range(len(data)):
                sock.sendall(data[number : number + 1])
                if number % 50 == 0:
                    assert member.settle() == []
        assert member.expect(b"JOIN ").endswith(b" 1")
        assert member.expect(b"CMD ").endswith(b" 1 x")


@pytest.mark.parametrize("after", [0, 1, 100, "the answer"])
def test_a_stalled_handshake_times_out(
    serve: Serve, certificates: Certificates, join: Join, after: int | str
) -> None:
    timeout = 1.0
    server = serve(2, "--handshake-timeout", str(timeout), tls=certificates)
    (member,) = join(server, "a")
    begin = time.monotonic()
    with plain(server) as sock:
        slow = SlowHandshake(sock, certificates.client)
        if isinstance(after, int):
            sock.sendall(slow.hello[:after])
        else:
            sock.sendall(slow.hello)
            sock.sendall(slow.finish()[:-1])
        assert member.settle() == []
        rest(sock)
        assert time.monotonic() - begin >= timeout
        assert member.settle() == []


def test_data_sent_with_the_end_of_the_handshake_is_served(
    server: ServerProcess, certificates: Certificates
) -> None:
    with plain(server) as sock:
        slow = SlowHandshake(sock, certificates.client)
        sock.sendall(slow.hello)
        sock.sendall(slow.finish(b"HELLO\nCMD x\n"))
        received = b""
        while b"CMD 2 0 x\n" not in received:
            received += slow.tls.recv(READ_SIZE)


def test_a_flood_that_only_connects_pushes_out_no_handshake(
    serve: Serve, certificates: Certificates, join: Join
) -> None:
    server = serve(30, tls=certificates)
    (member,) = join(server, "a")
    with contextlib.ExitStack() as stack:

        def flood() -> None:
            for number in range(3 * MIN_STRANGERS):
                stack.enter_context(plain(server))
                if number % 10 == 0:
                    member.settle()

        handshakes = [
            SlowHandshake(stack.enter_context(plain(server)), certificates.client) for _ in range(20)
        ]
        for slow in handshakes:
            slow.sock.sendall(slow.hello)
        flood()
        ends = [slow.finish(b"HELLO\n") for slow in handshakes]
        for slow, end in zip(handshakes, ends, strict=True):
            slow.sock.sendall(end[:100])
        flood()
        for slow, end in zip(handshakes, ends, strict=True):
            slow.sock.sendall(end[100:])
            received = b""
            while b"WELCOME " not in received:
                received += slow.tls.recv(READ_SIZE)
    assert "too many connections" in server.log()


# --- records ----------------------------------------------------------------------------------


def test_data_in_the_tls_layer_is_served_without_more_input(server: ServerProcess, join: Join) -> None:
    member, other = join(server, "a", "b")
    texts = [b"CMD %d\n" % number for number in range(5_000)]
    records = b"".join(map(member.sock.encrypted, texts[:100])) + member.sock.encrypted(b"".join(texts[100:]))
    member.sock.plain.sendall(records)
    assert other.lines(5_000)[-1].endswith(b" 4999")


def test_records_may_come_in_any_pieces(server: ServerProcess, join: Join) -> None:
    member, other = join(server, "a", "b")
    records = member.sock.encrypted(b"CMD one\nCMD t") + member.sock.encrypted(
        b"wo\n" + b"CMD three\n" * 3_000
    )
    for start in range(60):
        member.sock.plain.sendall(records[start : start + 1])
    member.sock.plain.sendall(records[60:20_000])
    # Complete records do not wait for the next one.
    before = other.lines(1_001)
    member.sock.plain.sendall(records[20_000:])
    assert [line.split()[3] for line in before + other.lines(3_002 - len(before))] == [
        b"one",
        b"two",
        *[b"three"] * 3_000,
    ]


def test_lines_before_a_bad_record_count(server: ServerProcess, join: Join) -> None:
    member, other = join(server, "a", "b")
    member.sock.plain.sendall(member.sock.encrypted(b"CMD x\n") + b"this is no record at all\n")
    assert other.lines(2) == [b"CMD 3 0 x", b"LEFT 4 0"]


def test_a_record_changed_on_the_way_ends_the_connection(server: ServerProcess, join: Join) -> None:
    member, other = join(server, "a", "b")
    record = bytearray(member.sock.encrypted(b"CMD x\n"))
    record[-1] ^= 1
    member.sock.plain.sendall(record)
    assert other.line() == b"LEFT 3 0"
    other.send(b"PING\n")
    assert other.line() == b"PONG"


def test_the_client_cannot_renegotiate(server: ServerProcess, join: Join, certificates: Certificates) -> None:
    (member,) = join(server, "a")
    with subprocess.Popen(
        [
            shutil.which("openssl") or "",
            "s_client",
            "-connect",
            f"{server.host}:{server.port}",
            "-tls1_2",
            "-CAfile",
            certificates.ca,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as client:
        assert client.stdin is not None
        client.stdin.write(b"HELLO\n")
        client.stdin.flush()
        member.expect(b"JOIN ")
        # This is its command for renegotiation.
        client.stdin.write(b"R\n")
        client.stdin.flush()
        _, errors = client.communicate(timeout=BOUND)
    assert b"no renegotiation" in errors
    member.expect(b"LEFT ")


# --- the end ----------------------------------------------------------------------------------


def test_the_servers_end_is_announced_to_a_client_that_insists(
    server: ServerProcess, certificates: Certificates
) -> None:
    with (
        plain(server) as sock,
        certificates.client.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as tls,
        tls.makefile("rb") as stream,
    ):
        tls.sendall(b"HELLO\nBYE\n")
        lines = [stream.readline() for _ in range(3)]
        assert [line.partition(b" ")[0] for line in lines] == [b"INFO", b"WELCOME", b""]
        tls.unwrap()


def test_the_clients_end_is_answered(server: ServerProcess, join: Join, certificates: Certificates) -> None:
    (member,) = join(server, "a")
    with plain(server) as sock:
        tls = certificates.client.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)
        tls.sendall(b"HELLO\nCMD x\n")
        member.lines(2)
        received = b""
        while b"CMD 3 1 x\n" not in received:
            received += tls.recv(READ_SIZE)
        tls.unwrap()
        # The socket is still open.
        assert member.line() == b"LEFT 4 1"


def test_data_sent_together_with_the_clients_end_counts(server: ServerProcess, join: Join) -> None:
    (member,) = join(server, "a")
    hasty = RawClient(server.address)
    # More lines than one turn handles.
    lines = b"HELLO\n" + b"WHO\n" * 3_000 + b"CMD x\n"
    hasty.sock.plain.sendall(hasty.sock.encrypted(lines) + hasty.sock.goodbye())
    # Its socket is still open.
    assert member.lines(3) == [b"JOIN 2 1", b"CMD 3 1 x", b"LEFT 4 1"]
    assert sum(line.startswith(b"ROSTER ") for line in hasty.rest()) == 3_000
    hasty.close()


def test_everybody_gets_the_goodbye_when_the_server_stops(server: ServerProcess, join: Join) -> None:
    clients = join(server, *"abcdefgh")
    clients[0].send(b"CMD last\n")
    for client in clients:
        assert client.line().endswith(b" 0 last")
    server.process.terminate()
    for client in clients:
        assert client.rest() == [b"BYE shutdown the server is stopping"]
        client.close()
    assert server.wait() == 0


# --- load -------------------------------------------------------------------------------------


def test_large_bursts_reach_a_slow_reader_while_others_go_on(server: ServerProcess, connect: Connect) -> None:
    slow, sender, fast = (connect(server) for _ in range(3))
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    for number, client in enumerate((slow, sender, fast)):
        client.hello()
        for other in (slow, sender, fast)[:number]:
            other.expect(b"JOIN ")
    texts = [b"%d %s" % (number, b"x" * (number * 37 % 5_000)) for number in range(4_000)]
    for start in range(0, len(texts), 400):
        sender.send(b"".join(b"CMD %s\n" % text for text in texts[start : start + 400]))
        assert [line.split(b" ", 3)[3] for line in sender.lines(400)] == texts[start : start + 400]
    assert [line.split(b" ", 3)[3] for line in fast.lines(4_000)] == texts
    assert [line.split(b" ", 3)[3] for line in slow.lines(4_000)] == texts
    slow.send(b"BYE\n")
    assert slow.rest() == []


def test_many_clients_all_get_the_same_log(server: ServerProcess, connect: Connect) -> None:
    clients = [connect(server) for _ in range(200)]
    for client in clients:
        client.send(b"HELLO\n")
    for client in clients:
        # After this, all have joined.
        client.settle()
    assert len(clients[0].roster()) == 200
    for client in clients:
        # After this, all know of all.
        client.settle()
    for client in clients[:20]:
        client.send(b"".join(b"CMD %d\n" % number for number in range(50)))
    received = [client.lines(1_000) for client in clients]
    assert all(lines == received[0] for lines in received)
