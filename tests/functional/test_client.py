"""The client program with the real server: what it prints, its exit codes, and how it ends."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.program import BANNER, WELCOME, ClientProgram, run
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Return a function that serves a script to the first client, and returns the address."""
    with contextlib.ExitStack() as stack:

        def start(script: Callable[[socket.socket], None]) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(BOUND)
                    script(connection)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            stack.callback(thread.join, BOUND)
            return "{}:{}".format(*listener.getsockname())

        yield start


# --- a day in the life ---


def test_the_exact_output_of_three_clients(server: ServerProcess) -> None:
    top = ClientProgram(server.where, "--name", "top", "--delay", "0")
    with top, RawClient(server.address) as low:
        assert top.line() == f"connected to {server.where} as top: rank 0 of 1"
        with ClientProgram(server.where, "--name", "web-1", "--delay", "0") as middle:
            assert middle.line() == f"connected to {server.where} as web-1: rank 1 of 2"
            low.hello("low")
            middle.type("uptime")
            assert middle.line() == "sent #4: uptime"
            assert top.line() == "cannot execute #4 from lower-ranked rank 1: uptime"
            low.expect(b"ASK 4 1 uptime")
            low.send(b"RES 4 ok\n")
            assert middle.lines(3) == [
                "#4 rank 0 top: refused",
                "#4 rank 2 low: executed",
                "#4: executed by 1 of 1, refused by 1",
            ]
            top.type("df -h")
            assert top.line() == "sent #5: df -h"
            assert middle.line() == "executing #5 from rank 0: df -h"
            assert middle.line() == "executed #5: df -h"
            assert top.line() == "#5 rank 1 web-1: executed (simulated)"
            low.send(b'RES 5 fail {"code":1,"out":"df: not found\\n"}\n')
            assert top.lines(3) == [
                "#5 rank 2 low | df: not found",
                "#5 rank 2 low: failed with exit code 1",
                "#5: executed by 1 of 2, failed by 1",
            ]
            low.send(b"ASK reboot\n")
            assert middle.line() == "cannot execute #6 from lower-ranked rank 2: reboot"
            assert top.line() == "cannot execute #6 from lower-ranked rank 2: reboot"
            top.type("exit")
            assert top.end() == (6, [], "")
            assert middle.line() == "rank is now 0 of 2"
            server.process.send_signal(signal.SIGTERM)
            assert middle.line() == "disconnected: shutdown the server is stopping"
            assert middle.end() == (4, [], "")


def test_executing_holds_up_neither_receiving_nor_typing(server: ServerProcess) -> None:
    with RawClient(server.address) as top, ClientProgram(server.where, "--delay", "1000") as program:
        top.hello()
        assert program.line().startswith("connected to")
        top.send(b"CMD a\nCMD b\n")
        assert program.line() == "executing #3 from rank 0: a"
        program.type("mine")
        assert program.line() == "sent #5: mine"
        top.send(b"BYE\n")
        assert program.lines(3) == [
            "rank is now 0 of 1",
            "#5 rank 0 c1: gone",
            "#5: executed by 0 of 0, gone 1",
        ]
        program.type("exit")
        assert program.end() == (5, [], "")


def test_commands_are_executed_one_after_another_in_order(server: ServerProcess) -> None:
    with RawClient(server.address) as top, ClientProgram(server.where, "--delay", "0.01") as program:
        top.hello()
        assert program.line().startswith("connected to")
        top.send(b"".join(b"ASK %d\n" % count for count in range(20)))
        for count in range(20):
            assert program.line() == f"executing #{count + 3} from rank 0: {count}"
            assert program.line() == f"executed #{count + 3}: {count}"
        answers = [line for line in top.lines(41) if line.startswith(b"RES")]
        assert answers == [b'RES %d 1 c2 ok {"reason":"simulated"}' % (count + 3) for count in range(20)]


# --- where and under what name ---


def test_the_server_names_a_client_that_brings_no_name(server: ServerProcess) -> None:
    assert run(server.where) == (0, [f"connected to {server.where} as c1: rank 0 of 1"], "")


def test_every_kind_of_address_works(anywhere: ServerProcess) -> None:
    code, (line,), err = run(anywhere.where)
    assert (code, err) == (0, "")
    assert line.startswith(f"connected to {anywhere.where} as ")


def test_the_command_line_overrides_the_environment(server: ServerProcess, closed: str) -> None:
    assert run(env=os.environ | {"RANKSERVER": server.where})[0] == 0
    assert run(server.where, env=os.environ | {"RANKSERVER": closed})[0] == 0


# --- the input ---


def test_all_line_ends_work_and_the_last_line_needs_none(
    server: ServerProcess,
) -> None:
    code, lines, err = run(server.where, stdin=b"a\r\n\n \t \n  b\nc")
    assert (code, err) == (5, "")
    assert lines[1:] == [
        "sent #2: a",
        "#2: executed by 0 of 0",
        "sent #3:   b",
        "#3: executed by 0 of 0",
        "sent #4: c",
        "#4: executed by 0 of 0",
    ]


def test_unsendable_input_is_refused_and_the_rest_goes_on(server: ServerProcess) -> None:
    stdin = b"\n".join([b"df\x1b[2J", b"\xff", b"x" * 65_536, b"y" * 100_000, "grüße\tan alle".encode()])
    code, lines, err = run(server.where, stdin=stdin)
    assert (code, lines[1:]) == (6, ["sent #2: grüße\tan alle", "#2: executed by 0 of 0"])
    assert err.splitlines() == [
        r"cannot send 'df\x1b[2J': control character U+001B at position 2; only TAB is allowed",
        "cannot send '\ufffd': the byte at offset 0 is not valid UTF-8",
        f"cannot send '{'x' * 64}'...: the line is 65541 bytes long; the limit is 65536",
        f"cannot send '{'y' * 64}'...: the line is longer than the server takes",
    ]


MEASURED = """
import pathlib, sys
from client.cli import main
code = main(sys.argv[1:])
status = pathlib.Path("/proc/self/status").read_text().splitlines()
sys.stderr.write(next(line for line in status if line.startswith("VmHWM:")))  # the most memory ever used
sys.exit(code)
"""


def test_100_000_commands_from_a_file_need_little_memory(server: ServerProcess, tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.write_bytes(b"".join(b"%d\n" % count for count in range(100_000)))
    with commands.open("rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, server.where],
            cwd=ROOT,
            stdin=stdin,
            capture_output=True,
            timeout=3 * BOUND,
            check=False,
        )
    assert done.returncode == 5
    lines = done.stdout.splitlines()
    assert lines[-1] == b"#100001: executed by 0 of 0"
    assert len(lines) == 200_001
    # In kB; an idle client has 20,000.
    assert int(done.stderr.split()[1]) < 60_000


@pytest.mark.parametrize("redirect", ["<&-", "</dev/null"])
def test_without_input_it_leaves(server: ServerProcess, redirect: str) -> None:
    command = ["sh", "-c", f'"$0" -m client {server.where} {redirect}', sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=BOUND, check=True)
    assert done.stdout.startswith(b"connected to")
    assert done.stderr == b""


def test_text_that_the_output_cannot_encode_is_escaped(server: ServerProcess) -> None:
    code, lines, err = run(
        server.where, stdin="grün".encode(), env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (code, lines[1], err) == (5, r"sent #2: gr\xfcn", "")


# --- how it ends ---


def test_an_unreachable_server_is_exit_code_3(closed: str, tmp_path: Path) -> None:
    assert run(closed) == (3, [], f"cannot connect to {closed}: Connection refused\n")
    where = f"unix:{tmp_path}/none"
    assert run(where) == (3, [], f"cannot connect to {where}: No such file or directory\n")


def test_a_full_server_is_exit_code_4(serve: Callable[..., ServerProcess]) -> None:
    server = serve(1)
    with RawClient(server.address) as first:
        first.hello()
        code, lines, err = run(server.where)
    assert (code, lines) == (4, [])
    assert err.startswith("disconnected: full ")
    assert err.count("\n") == 1


def test_a_web_server_is_exit_code_4() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        code, lines, err = run("{}:{}".format(*web.server_address))
        web.shutdown()
        thread.join()
    assert (code, lines) == (4, [])
    assert err.startswith("disconnected: this is not a rankserver: it says '")
    assert err.count("\n") == 1


def welcome_until_asked(connection: socket.socket) -> None:
    connection.sendall(BANNER + WELCOME)
    while b"ASK" not in connection.recv(1_000):
        pass


def test_a_connection_that_is_lost_is_exit_code_4(
    listen: Callable[[Callable[[socket.socket], None]], str],
) -> None:
    def script(connection: socket.socket) -> None:
        welcome_until_asked(connection)

    where = listen(script)
    assert run(where, stdin=b"x\n") == (
        4,
        [
            f"connected to {where} as me: rank 0 of 1",
            "connection lost before this was seen in the log: x",
            "disconnected: connection lost",
        ],
        "",
    )


def test_a_command_that_the_server_rejects_is_exit_code_6(
    listen: Callable[[Callable[[socket.socket], None]], str],
) -> None:
    def script(connection: socket.socket) -> None:
        welcome_until_asked(connection)
        connection.sendall(b"ERR bad-frame no\n")
        assert connection.recv(1_000) == b"BYE\n"

    code, (_, line), err = run(listen(script), stdin=b"x\n")
    assert (code, line, err) == (6, "the server rejected the command 'x': bad-frame no", "")


MILLION = WELCOME.replace(b'"rank":0,"clients":1,', b'"rank":999999,"clients":1000000,')


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (BANNER.replace(b"65536", b"30"), "INFO with a max_line of 30, which is not from 256 to 16777216"),
        (BANNER + WELCOME.replace(b":30", b":1e300"), "WELCOME with a heartbeat of 1e+300 seconds"),
        (BANNER + b"ERR bad-frame x\n", "an ERR before WELCOME"),
        (BANNER + b"x" * 70_000, "a line is longer than 65792 bytes"),
        (BANNER + MILLION + b"LEFT 1 0-99998\nLEFT 3 0\n", "expected log frame 2, got 3"),
    ],
)
def test_a_server_that_lies_is_left_with_one_line(
    listen: Callable[[Callable[[socket.socket], None]], str], said: bytes, words: str
) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(said)
        while connection.recv(1 << 16):
            pass

    code, lines, err = run(listen(script), "--stay", stdin=b"")
    assert code == 4
    assert (lines + err.splitlines())[-1] == f"disconnected: the server broke the protocol: {words}"
    assert "Traceback" not in err


def test_a_server_that_breaks_the_protocol_is_exit_code_4(
    listen: Callable[[Callable[[socket.socket], None]], str],
) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(BANNER + WELCOME + b"BYE slow \xc2\x9b2J\n")
        connection.recv(1_000)

    code, (_, line), _ = run(listen(script))
    assert code == 4
    assert line.startswith("disconnected: the server broke the protocol: control character U+009B at ")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_makes_it_leave(server: ServerProcess, signum: int, code: int) -> None:
    with RawClient(server.address) as other, ClientProgram(server.where) as program:
        other.hello()
        assert program.line().startswith("connected to")
        program.signal(signum)
        assert program.process.wait(BOUND) == code
        assert program.end() == (code, [], "")
        assert other.lines(2)[1] == b"LEFT 3 1"
    assert "reason=left" in server.log()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 6)])
def test_a_signal_with_open_asks_does_not_look_like_success(
    server: ServerProcess, signum: int, code: int
) -> None:
    with RawClient(server.address) as other, ClientProgram(server.where) as program:
        other.hello()
        program.type("x")
        assert program.lines(2)[1] == "sent #3: x"
        program.signal(signum)
        assert program.process.wait(BOUND) == code
        assert program.end() == (code, ["#3: 0 of 1 answers"], "")


def test_a_signal_ends_waiting_for_a_connection(
    listen: Callable[[Callable[[socket.socket], None]], str],
) -> None:
    def script(connection: socket.socket) -> None:
        assert connection.recv(1_000).startswith(b"HELLO")
        program.signal(signal.SIGINT)
        assert connection.recv(1_000) == b""

    with ClientProgram(listen(script)) as program:
        assert program.process.wait(BOUND) == 130
        assert program.end() == (130, [], "")


def test_output_that_nobody_reads_is_exit_code_1(server: ServerProcess) -> None:
    with ClientProgram(server.where) as program:
        assert program.line().startswith("connected to")
        assert program.process.stdout is not None
        program.process.stdout.close()
        program.process.stdout = None
        code, _, err = program.end(stdin=b"x\n")
    assert (code, err) == (1, "cannot write to standard output: Broken pipe\n")


def test_a_full_disk_is_exit_code_1_without_traceback(server: ServerProcess) -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, err = run(server.where, stdout=full)
    assert (code, err) == (1, "cannot write to standard output: No space left on device\n")
