"""The client program as an agent: it executes until it is told to leave, and reconnects."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from client import bounds
from tests.support.executing import another_user
from tests.support.paths import ROOT
from tests.support.program import ClientProgram, run
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

# A client with a second thread, which does nothing.
TWO_THREADS = """
import threading
from client.cli import main

threading.Thread(target=threading.Event().wait, daemon=True).start()
raise SystemExit(main())
"""
# The delay before another attempt is random, and at most half a second.
RETRY = r"trying again in (0\.[2-5]) s"


@pytest.fixture
def agent(server: ServerProcess) -> Iterator[Callable[..., ClientProgram]]:
    """Return a function that starts a client that only executes, and waits until it has joined."""
    with ExitStack() as stack:

        def start(*arguments: str) -> ClientProgram:
            # Where root cannot limit a command, the agent would say so.
            limit = () if bounds.find().can_limit else ("--max-processes", "0")
            options = ("--stay", *limit, "--exec", *arguments)
            program = stack.enter_context(ClientProgram(server.where, *options, stdin=subprocess.DEVNULL))
            assert program.line().startswith("connected to")
            return program

        yield start


# --- executing --------------------------------------------------------------------------------


def test_an_agent_stays_until_it_is_told_to_leave(
    server: ServerProcess, agent: Callable[..., ClientProgram]
) -> None:
    with RawClient(server.address) as top:
        top.hello("top")
        program = agent("shell", "--allow-all")
        for number in range(2):
            top.send(b"ASK echo %d $RANK_FROM\n" % number)
            top.expect(b"JOIN" if not number else b"ASK")
        assert program.lines(4)[1::2] == [f"executed #{3 + n}: echo {n} $RANK_FROM" for n in range(2)]
        program.signal(signal.SIGTERM)
        assert program.end() == (0, [], "")
        assert b"LEFT 5 1" in top.settle()
    assert "reason=left" in server.log()


def test_a_handler_gets_commands_on_its_input(
    server: ServerProcess, agent: Callable[..., ClientProgram], tmp_path: Path
) -> None:
    handler = tmp_path / "a handler"
    handler.write_text('#!/bin/sh\nread -r command\necho "$RANK_NAME does $command"\n')
    handler.chmod(0o700)
    with RawClient(server.address) as top:
        top.hello("top")
        agent("handler", str(handler), "--name", "web")
        top.send(b"ASK it; please\n")
        while not (line := top.line()).startswith(b"RES 3 1 web ok "):
            pass
        assert json.loads(line.partition(b" ok ")[2])["out"] == "web does it; please\n"


def test_a_denied_command_is_not_reported_as_executed(
    serve: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = serve(8)
    allow = tmp_path / "allow"
    allow.write_text("echo ...\n")
    agent = ("--name", "agent", "--stay", "--exec", "program", "--allow", str(allow))
    with RawClient(server.address) as boss:
        boss.hello("boss")
        with ClientProgram(server.where, *agent) as program:
            assert program.line() == f"connected to {server.where} as agent: rank 1 of 2"
            boss.send(b'ASK reboot now\nASK echo "\nASK echo hello\n')
            assert program.lines(4) == [
                "denied #3: reboot now (not allowed here: reboot now)",
                'failed #4: echo " (no closing quotation: echo ")',
                "executing #5 from rank 0: echo hello",
                "executed #5: echo hello",
            ]


def test_jobs_bounds_how_many_commands_execute_at_once(
    server: ServerProcess, agent: Callable[..., ClientProgram], tmp_path: Path
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    for fifo in (there, back):
        os.mkfifo(fifo)
    with RawClient(server.address) as top:
        top.hello()
        agent("shell", "--allow-all", "--jobs", "2")
        # Each command waits for the other to open its end.
        top.send(f"ASK echo >{there}; read x <{back}\nASK read x <{there}; echo >{back}\n".encode())
        assert [line.split()[0] for line in top.lines(3)] == [b"JOIN", b"ASK", b"ASK"]
        for _ in range(2):
            assert b" ok " in top.expect(b"RES ")


def test_a_client_that_may_execute_nothing_says_so_at_the_start(server: ServerProcess) -> None:
    for kind in ("program", "shell"):
        _, _, err = run(server.where, "--exec", kind)
        assert err == "nothing is executed here: --allow FILE or --allow-all says what may be\n"


def test_a_command_cannot_read_its_agents_environment(server: ServerProcess) -> None:
    options = ("--stay", "--exec", "shell", "--allow-all")
    started = {"stdin": subprocess.DEVNULL, **another_user()}
    with ExitStack() as stack:
        top = stack.enter_context(RawClient(server.address))
        top.hello("top")
        program = stack.enter_context(ClientProgram(server.where, *options, **started))
        assert program.line().startswith("connected to")
        top.expect(b"JOIN ")
        top.send(f"ASK cat /proc/{program.process.pid}/environ\n".encode())
        top.expect(b"ASK ")
        answer = json.loads(top.expect(b"RES ").partition(b" fail ")[2])
    assert answer["out"].endswith("Permission denied\n")


def test_an_agent_says_once_that_it_cannot_limit_processes(
    server: ServerProcess, capfd: pytest.CaptureFixture[str]
) -> None:
    text = """
import sys
from client import bounds, cli
bounds.find = lambda: bounds.Means((), counts=False, has_rlimit=False)
sys.exit(cli.main())
"""
    for option, said in ((), True), (("--max-processes", "0"), False):
        argv = [sys.executable, "-c", text, server.where, "--exec", "shell", "--allow-all", *option]
        subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
        err = capfd.readouterr().err
        assert err.splitlines() == said * [
            "the processes of a command cannot be limited here: see --max-processes in docs/executing.md"
        ]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_even_if_nobody_reads_what_it_writes(
    server: ServerProcess, signum: int, code: int
) -> None:
    with RawClient(server.address) as top, ClientProgram(server.where, "--stay", "--delay", "0") as agent:
        top.hello()
        top.expect(b"JOIN ")
        # The client writes each text twice, which is more than a pipe holds.
        top.send(b"ASK %s\n" % (b"x" * 60_000) * 20)
        answers = 0
        while answers == 0:
            answers = top.line().startswith(b"RES ")
        agent.process.send_signal(signum)
        assert agent.process.wait(BOUND) == code


def test_a_signal_that_does_not_interrupt_a_write_ends_it(server: ServerProcess) -> None:
    # A signal that comes just before a write does not interrupt it, nor does one that another thread gets.
    arguments = (server.where, "--stay", "--delay", "0")
    with (
        RawClient(server.address) as top,
        ClientProgram(*arguments, program=("-c", TWO_THREADS)) as agent,
    ):
        top.hello()
        top.expect(b"JOIN ")
        top.send(b"ASK %s\n" % (b"x" * 60_000) * 20)
        process = agent.process
        # What the kernel waits for in the main thread (proc_pid_wchan(5)).
        waits_for = Path(f"/proc/{process.pid}/wchan")
        deadline = time.monotonic() + BOUND
        while "pipe_write" not in waits_for.read_text():
            assert time.monotonic() < deadline, "the client writes less than a pipe holds"
        _, thread = sorted(map(int, os.listdir(f"/proc/{process.pid}/task")))
        os.kill(thread, signal.SIGTERM)
        assert process.wait(BOUND) == 0


# --- reconnecting -----------------------------------------------------------------------------


def test_with_reconnect_it_outlives_the_server(serve: Callable[..., ServerProcess]) -> None:
    server = serve(8)
    with (
        RawClient(server.address) as other,
        ClientProgram(server.where, "--name", "me", "--reconnect") as program,
    ):
        assert program.line() == f"connected to {server.where} as me: rank 0 of 1"
        other.hello("other")
        program.type("a")
        assert program.line() == "sent #3: a"
        server.kill()
        lines = program.lines(4)
        program.type("b")
        assert re.fullmatch(r"#3 rank 1(?: other)?: gone \(the connection was lost\)", lines[0])
        assert lines[1:3] == ["#3: executed by 0 of 1, gone 1", "disconnected: connection lost"]
        assert re.fullmatch(f"(?:.*; )?{RETRY}", lines[3])
        serve(8, "--port", str(server.port))
        while (line := program.line()) != f"connected to {server.where} as me: rank 0 of 1":
            assert re.fullmatch(
                rf"cannot connect to {server.where}: Connection refused; trying again in .* s", line
            )
        assert program.lines(2) == ["sent #2: b", "#2: executed by 0 of 0"]
        assert program.end() == (6, [], "")


def test_with_reconnect_it_waits_for_a_server_to_start(serve: Callable[..., ServerProcess]) -> None:
    server = serve(8)
    server.stop()
    with ClientProgram(server.where, "--name", "me", "--reconnect", "-c", "x") as program:
        reason = re.escape(f"cannot connect to {server.where}: Connection refused")
        assert re.fullmatch(f"{reason}; {RETRY}", program.error())
        serve(8, "--port", str(server.port))
        code, lines, err = program.end()
    assert (code, lines) == (5, ["#2: executed by 0 of 0"])
    assert err.splitlines()[-2:] == [f"connected to {server.where} as me: rank 0 of 1", "sent #2: x"]


def test_while_it_waits_for_a_server_it_can_be_told_to_leave(serve: Callable[..., ServerProcess]) -> None:
    server = serve(8)
    server.stop()
    for signum, arguments, code, err in (
        (signal.SIGTERM, ["--stay"], 0, ""),
        (signal.SIGTERM, ["-c", "x"], 6, "not sent: x\n"),
        (signal.SIGINT, ["--stay"], 130, ""),
    ):
        with ClientProgram(server.where, "--reconnect", *arguments) as program:
            assert "trying again" in (program.error if "-c" in arguments else program.line)()
            program.signal(signum)
            program.process.wait(BOUND)
            assert program.end() == (code, [], err)
