"""Operating the server: options, signals, exit codes, logs, resources."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rankserver import __version__, cli
from rankserver.farewell import CLOSE_TIMEOUT
from rankserver.wire.grammar import MAX_CLIENTS
from tests.support.paths import ROOT
from tests.support.rawclient import RawClient, fields_of
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

Connect = Callable[[ServerProcess], RawClient]
Join = Callable[..., list[RawClient]]
Serve = Callable[..., ServerProcess]

# More signals than the socket that wakes the loop has room for.
MANY_SIGNALS = 10_000


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a server that must end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "rankserver", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


def check_failure(result: subprocess.CompletedProcess[str], code: int, *named: str) -> None:
    """Check that the program failed with this code and one line that says what is wrong."""
    assert (result.returncode, result.stdout) == (code, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for part in named:
        assert part in result.stderr


# --- usage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["0"],
        ["-1"],
        ["eight"],
        ["1.5"],
        ["8", "9"],
        ["8", "--port", "65536"],
        ["8", "--port", "-1"],
        ["8", "--port", "http"],
        ["8", "--handshake-timeout", "0"],
        ["8", "--handshake-timeout", "nan"],
        ["8", "--heartbeat", "-1"],
        ["8", "--heartbeat", "inf"],
        ["8", "--heartbeat", "soon"],
        ["8", "--max-line", "10"],
        ["8", "--max-line", "64k"],
        ["8", "--max-backlog", "0"],
        ["8", "--max-backlog", "65536"],
        ["8", "--log-level", "loud"],
        ["8", "--log-format", "xml"],
        ["8", "--colour"],
        ["8", "--unix"],
    ],
    ids=" ".join,
)
def test_bad_usage_exits_2_with_one_line_that_says_what_is_bad(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        # Run in this process, because there are many cases.
        cli.main(arguments)
    output, errors = capsys.readouterr()
    assert (exit_.value.code, output, len(errors.splitlines())) == (2, "", 1)
    assert (arguments[1] if arguments[1:2] > ["--"] else "rankserver") in errors


def test_more_clients_than_a_rank_can_count_are_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["1000001"])
    assert f"argument N: '1000001' is not a whole number from 1 to {MAX_CLIENTS} (" in capsys.readouterr().err


def test_bad_usage_of_the_real_program_exits_2_with_one_line() -> None:
    check_failure(run("8", "--port", "http"), 2, "--port", "http")


def test_a_unix_socket_without_a_path_exits_2_with_one_line() -> None:
    check_failure(run("8", "--port", "0", "--unix", ""), 2, "--unix")


def test_help_names_every_option_and_version_the_version() -> None:
    result = run("--help")
    assert result.returncode == 0
    options = "host port unix handshake-timeout heartbeat max-line max-backlog insecure log-level log-format"
    for option in options.split():
        assert f"--{option}" in result.stdout
    assert run("--version").stdout == f"rankserver {__version__}\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_host_that_is_not_loopback_is_refused_without_insecure(host: str) -> None:
    check_failure(run("8", "--port", "0", "--host", host), 2, host, "--insecure")


def test_a_host_that_is_not_loopback_is_served_with_insecure(serve: Serve) -> None:
    server = serve(8, "--host", "0.0.0.0", "--insecure")
    assert server.host == "0.0.0.0"
    with RawClient(("127.0.0.1", server.port)) as client:
        assert client.hello()["rank"] == 0


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2"])
def test_every_loopback_host_is_served(serve: Serve, host: str) -> None:
    server = serve(8, "--host", host)
    with RawClient((host, server.port)) as client:
        client.hello()


def test_a_host_without_an_address_exits_with_one_line() -> None:
    result = run("8", "--port", "0", "--host", "no.such.host.invalid")
    check_failure(result, 2, "no.such.host.invalid")


# --- listening --------------------------------------------------------------------------------


def test_it_accepts_as_soon_as_it_says_where_it_listens(tmp_path: Path) -> None:
    # Starting the server checks both lines.
    with ServerProcess(8, "--host", "::1", unix=tmp_path / "socket") as server:
        assert server.host == "::1"
        for address in (("::1", server.port), str(tmp_path / "socket")):
            with RawClient(address) as client:
                client.hello()


def test_clients_of_tcp_and_of_the_unix_socket_share_the_ranks(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    server = serve(8, unix=tmp_path / "socket")
    local = connect(server)
    local.hello("local")
    with RawClient((server.host, server.port)) as remote:
        assert remote.hello("remote")["rank"] == 1
        remote.send(b"CMD x\n")
        assert local.lines(2) == [b"JOIN 2 1", b"CMD 3 1 x"]


def test_a_port_in_use_exits_1_with_one_line_that_names_it(server: ServerProcess, join: Join) -> None:
    check_failure(run("8", "--port", str(server.port)), 1, f"127.0.0.1:{server.port}")
    join(server, "unharmed")


def test_a_port_is_free_again_at_once_for_the_next_server(serve: Serve) -> None:
    first = serve(8)
    client = RawClient(first.address)
    client.hello()
    first.process.send_signal(signal.SIGTERM)
    # The server now closes first, so its side has to wait for stray segments.
    client.rest()
    client.close()
    assert first.wait() == 0
    second = subprocess.Popen(
        [sys.executable, "-m", "rankserver", "8", "--port", str(first.port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with second:
        assert second.stdout is not None
        assert second.stdout.readline() == b"listening on 127.0.0.1:%d\n" % first.port
        second.terminate()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_unix_socket_is_removed_at_exit(serve: Serve, tmp_path: Path, signum: int) -> None:
    server = serve(8, unix=tmp_path / "socket")
    assert (tmp_path / "socket").is_socket()
    assert server.stop(signum) == 0
    assert not (tmp_path / "socket").exists()


def test_a_stale_unix_socket_is_replaced(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    killed = serve(8, unix=tmp_path / "socket")
    killed.kill()
    assert (tmp_path / "socket").is_socket()
    connect(serve(8, unix=tmp_path / "socket")).hello()


def test_a_unix_socket_in_use_and_a_file_are_left_alone(serve: Serve, join: Join, tmp_path: Path) -> None:
    server = serve(8, unix=tmp_path / "socket")
    file = tmp_path / "file"
    file.write_text("precious")
    for path in (tmp_path / "socket", file):
        check_failure(run("8", "--port", "0", "--unix", str(path)), 1, str(path))
    assert file.read_text() == "precious"
    join(server, "a", "b")


def test_an_unusable_unix_path_exits_1_with_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "socket", tmp_path / ("long" * 40)):
        check_failure(run("8", "--port", "0", "--unix", str(path)), 1, str(path))


def test_it_works_from_any_directory(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    connect(serve(8, cwd=tmp_path)).hello()


# --- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_no_complaint(server: ServerProcess, join: Join, signum: int) -> None:
    clients = join(server, "a", "b", "c")
    server.process.send_signal(signum)
    for client in clients:
        assert client.rest() == [b"BYE shutdown the server is stopping"]
        client.close()
    assert server.wait() == 0
    assert "Traceback" not in server.log()


def test_a_signal_ends_it_though_a_client_never_reads_or_closes(server: ServerProcess, join: Join) -> None:
    _, silent = join(server, "sender", "silent")
    for _ in range(16):
        silent.send(b"CMD %s\n" % (b"x" * 60_000) * 40)
    assert server.stop() == 0


def test_a_slow_reader_gets_everything_before_the_server_stops(
    serve: Serve, join: Join, connect: Connect
) -> None:
    server = serve(2)
    (sender,) = join(server, "sender")
    slow = connect(server)
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    slow.hello("slow")
    count, bytes_per_second = 180, 2.5e6
    sender.send(b"".join(b"CMD %03d%s\n" % (number, b"x" * 60_000) for number in range(count)))
    while not sender.line().startswith(b"CMD %d " % (2 + count)):
        pass
    server.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    received = b""
    while data := slow.sock.recv(65_536):
        received += data
        ahead = started + len(received) / bytes_per_second - time.monotonic()
        select.select([], [], [], max(ahead, 0))
    assert server.wait() == 0
    assert len(received) / bytes_per_second > 1.2 * CLOSE_TIMEOUT, "longer than it may read nothing"
    lines = received.splitlines()
    commands = [line.split(b" ")[3][:3] for line in lines if line.startswith(b"CMD ")]
    assert commands == [b"%03d" % number for number in range(count)]
    assert lines[-1].startswith(b"BYE shutdown ")


def test_no_connection_is_accepted_while_it_stops(server: ServerProcess, join: Join) -> None:
    (lingering,) = join(server, "a")
    server.process.send_signal(signal.SIGTERM)
    lingering.expect(b"BYE shutdown ")
    with pytest.raises(ConnectionRefusedError):
        connect_again_and_again(server)


def connect_again_and_again(server: ServerProcess) -> None:
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        with RawClient(server.address) as late, contextlib.suppress(ConnectionResetError):
            assert not late.sock.recv(1)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once_with_130(server: ServerProcess, join: Join, signum: int) -> None:
    (lingering,) = join(server, "a")
    server.process.send_signal(signum)
    lingering.expect(b"BYE shutdown ")
    assert server.stop(signum) == 130


# A server that is sent thousands of signals and then SIGTERM during one turn, in which it handles a PING.
FLOODED = f"""
import os, signal
from rankserver import cli
from rankserver.server import Server

def on_ping(self, channel, frame):
    for _ in range({MANY_SIGNALS}):
        os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)

Server._on_ping = on_ping
raise SystemExit(cli.main())
"""


def test_thousands_of_signals_in_one_turn_hide_no_sigterm(serve: Serve, join: Join) -> None:
    server = serve(8, program=("-c", FLOODED))
    (member,) = join(server, "a")
    member.send(b"PING\n")
    assert member.rest() == [b"BYE shutdown the server is stopping"]
    member.close()
    assert server.wait() == 0
    assert 1 <= sum(" report " in line for line in server.log().splitlines()) < MANY_SIGNALS


# --- what it logs -----------------------------------------------------------------------------


def test_each_json_log_line_has_time_level_and_event(serve: Serve, connect: Connect) -> None:
    server = serve(1, "--log-format", "json", "--log-level", "debug")
    client = connect(server)
    client.hello("web-1")
    for hello in (b"HELLO\n", b'HELLO {"name":"\\"\\u001b[2J"}\n', b"\xff\x00\n"):
        other = connect(server)
        other.send(hello)
        other.expect(b"INFO ")
        other.expect(b"BYE ")
    server.process.send_signal(signal.SIGINT)
    assert client.expect(b"BYE shutdown ")
    events = [json.loads(line) for line in server.log().splitlines()]
    assert {"joined", "left", "connected", "stopping"} <= {event["event"] for event in events}
    assert all(event.keys() >= {"time", "level", "event"} for event in events)
    (joined,) = (event for event in events if event["event"] == "joined")
    assert (joined["name"], joined["rank"], joined["level"]) == ("web-1", 0, "info")


def test_the_text_log_names_who_joined_and_left_and_why(server: ServerProcess, join: Join) -> None:
    first, second = join(server, "web-1", "web-2")
    second.send(b"HELLO\n")
    second.expect(b"BYE ")
    first.send(b"BYE\n")
    first.rest()
    lines = server.log().splitlines()
    assert [line.split()[2] for line in lines] == ["joined", "joined", "left", "left"]
    assert "name=web-2" in lines[2]
    assert "second HELLO" in lines[2]
    assert "name=web-1" in lines[3]


def test_the_log_level_hides_what_is_below_it(serve: Serve, connect: Connect) -> None:
    server = serve(8, "--log-level", "error")
    client = connect(server)
    client.hello()
    client.close()
    server.stop()
    assert server.log() == ""


def test_no_client_can_write_control_characters_to_the_log(serve: Serve, connect: Connect) -> None:
    server = serve(8, "--log-level", "debug")
    names = (
        b'HELLO {"name":"\\u001b[2J\\nforged"}\n',
        b"\x1b[2J\n",
        b"HELLO \xc2\x9b2J\n",
        b"\xe2\x80\xae\n",
    )
    for hello in names:
        client = connect(server)
        client.send(hello)
        client.expect(b"INFO ")
        assert client.expect(b"BYE proto ").isascii()
    server.process.send_signal(signal.SIGTERM)
    assert all(line.isprintable() and line.isascii() for line in server.log().splitlines())


# --- resources --------------------------------------------------------------------------------


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Ping the server, which takes a turn each time, until ``condition()`` is true."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, what


def test_without_descriptors_it_waits_and_does_not_spin(
    server: ServerProcess, join: Join, connect: Connect
) -> None:
    (member,) = join(server, "a")
    limit = server.descriptors() + 5
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    clients = [connect(server) for _ in range(20)]
    for client in clients[:5]:
        client.expect(b"INFO ")
    wait_until(lambda: "cannot accept" in server.log() or not member.settle(), "the limit is not reached")
    server.wait_until_idle(0.3)
    assert not select.select([clients[5].sock], [], [], 0)[0]
    for client in clients[:5]:
        client.close()
    clients[5].expect(b"INFO ")
    assert clients[5].hello()["rank"] == 1
    assert member.expect(b"JOIN ").endswith(b" 1")
    assert "cannot accept" in server.log()


def test_it_warns_of_too_few_descriptors_for_its_capacity() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ServerProcess(1_000_000) as server:
        assert f"limit={hard}" in server.log()


@pytest.mark.parametrize("greeting", [b"", b"HEL", b"HELLO\n", b"HELLO\nCMD x\n", b"NONSENSE\n"])
def test_1_000_connections_leave_no_descriptor_and_no_rank_taken(
    server: ServerProcess, join: Join, greeting: bytes
) -> None:
    (witness,) = join(server, "w")
    before = server.descriptors()
    for n in range(1_000):
        client = RawClient(server.address)
        client.send(greeting)
        (RawClient.close, RawClient.abort)[n % 2](client)
    wait_until(lambda: witness.roster() == ["w"] and server.descriptors() == before, "something is left")
    assert "Traceback" not in server.log()
    join_again(server)


def join_again(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        ranks = [stack.enter_context(RawClient(server.address)).hello()["rank"] for _ in range(7)]
    assert ranks == list(range(1, 8))


def test_an_idle_server_never_wakes_up(server: ServerProcess, join: Join) -> None:
    clients = join(server, *"abcdefgh")
    for client in clients:
        client.settle()
    server.wait_until_idle(1.0)


def test_an_http_client_gets_an_explanation_and_harms_nobody(
    server: ServerProcess, join: Join, connect: Connect
) -> None:
    (member,) = join(server, "a")
    browser = connect(server)
    browser.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n")
    assert fields_of(browser.expect(b"INFO "))["proto"] == 1
    browser.expect(b"BYE proto ")
    browser.eof()
    assert member.settle() == []


def test_random_bytes_from_many_connections_harm_nobody(server: ServerProcess, join: Join) -> None:
    sender, other = join(server, "a", "b")
    seed = int.from_bytes(os.urandom(4), "big")
    noise = random.Random(seed)
    for n in range(200):
        with RawClient(server.address) as client, contextlib.suppress(OSError):
            client.send(b"HELLO\n" * (n % 2) + noise.randbytes(noise.randrange(2_000)))
    sender.send(b"CMD still here\n")
    while not other.line().endswith(b" 0 still here"):
        pass
    wait_until(lambda: other.roster() == ["a", "b"], f"somebody stays, seed {seed}")
