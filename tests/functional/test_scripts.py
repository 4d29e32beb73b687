"""The client program in scripts: single commands, their exit codes, JSON, and progress on a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest

from client.plain import CLEAR
from tests.support.paths import ROOT
from tests.support.program import BANNER, ClientProgram, run
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

# More seconds than any test takes: a program that ends has not waited for this long.
LONG = "1000"


@pytest.fixture
def fleet(server: ServerProcess) -> Iterator[Callable[..., list[RawClient]]]:
    """Return a function that joins clients that do nothing by themselves."""
    with ExitStack() as stack:

        def join(*names: str) -> list[RawClient]:
            clients = []
            for name in names:
                clients.append(stack.enter_context(RawClient(server.address)))
                clients[-1].hello(name)
            return clients

        yield join


@pytest.fixture
def script(server: ServerProcess) -> Iterator[Callable[..., ClientProgram]]:
    """Return a function that starts a client, and waits until it has joined."""
    with ExitStack() as stack:

        def start(*arguments: str, **options: Any) -> ClientProgram:
            program = stack.enter_context(ClientProgram(server.where, "--name", "me", *arguments, **options))
            chatter = program.error if "-c" in arguments else program.line
            if "--json" in arguments:
                program.event("connected")
            else:
                assert chatter().startswith(f"connected to {server.where} as me: rank ")
            return program

        yield start


def seq(client: RawClient, command: str) -> int:
    """Wait until ``command`` is in the log, and return its number."""
    while True:
        match = re.fullmatch(rb"(?:ASK|CMD) (\d+) \d+ (.*)", client.line())
        if match and match[2].decode() == command:
            return int(match[1])


def answer(client: RawClient, command: str, outcome: str) -> None:
    """Wait for ``command``, and answer it."""
    client.send(b"RES %d %s\n" % (seq(client, command), outcome.encode()))


def parsed(lines: list[str]) -> list[dict[str, Any]]:
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
    return [json.loads(line) for line in lines]


# --- one command -------------------------------------------------------------------------------


def test_a_command_is_asked_answered_and_left_at_once(
    script: Callable[..., ClientProgram], fleet: Callable[..., list[RawClient]]
) -> None:
    program = script("-c", "uptime", "--wait-for", "2", "--answer-timeout", LONG)
    assert program.error() == "waiting for others: 0 of 2 here"
    web, db = fleet("web", "db")
    answer(web, "uptime", 'ok {"code":0,"out":"up 3 days\\n"}')
    # It is printed as it comes, not at the end.
    assert program.line() == "#4 rank 1 web | up 3 days"
    answer(db, "uptime", "ok")
    assert program.end() == (
        0,
        ["#4 rank 2 db: executed", "#4: executed by 2 of 2"],
        "sent #4: uptime\n",
    )


def test_a_last_target_that_leaves_is_not_waited_for(
    script: Callable[..., ClientProgram], fleet: Callable[..., list[RawClient]]
) -> None:
    program = script("-c", "uptime", "--wait-for", "2", "--answer-timeout", LONG)
    web, db = fleet("web", "db")
    answer(web, "uptime", "ok")
    assert program.line() == "#4 rank 1 web: executed"
    db.abort()
    code, lines, _ = program.end()
    assert (code, lines) == (6, ["#4 rank 2 db: gone", "#4: executed by 1 of 2, gone 1"])


@pytest.mark.parametrize(
    ("outcome", "said", "code"),
    [
        ("ok", "executed", 0),
        ('fail {"code":3}', "failed with exit code 3", 6),
        ('denied {"reason":"not here"}', "denied (not here)", 6),
        ("timeout", "timed out", 6),
    ],
)
def test_the_exit_code_tells_the_outcome_of_a_command(
    script: Callable[..., ClientProgram],
    fleet: Callable[..., list[RawClient]],
    outcome: str,
    said: str,
    code: int,
) -> None:
    program = script("-c", "x", "--wait-for", "1")
    (web,) = fleet("web")
    answer(web, "x", outcome)
    assert program.line() == f"#3 rank 1 web: {said}"
    assert program.end()[0] == code


def test_a_command_that_nobody_executes_is_exit_code_5(
    server: ServerProcess, fleet: Callable[..., list[RawClient]]
) -> None:
    assert run(server.where, "-c", "x")[:2] == (5, ["#2: executed by 0 of 0"])
    (top,) = fleet("top")
    with ClientProgram(server.where, "-c", "x") as program:
        answer(top, "x", "refused")
        lines = ["#6 rank 0 top: refused", "#6: executed by 0 of 0, refused by 1"]
        assert program.end()[:2] == (5, lines)


def test_the_worst_of_several_commands_gives_the_exit_code(
    server: ServerProcess,
) -> None:
    code, lines, err = run(server.where, "-c", "a", "-c", "", "-c", "-x", "--name", "me", stdin=b"not read\n")
    # One command could not be sent, and the others had no targets.
    assert code == 6
    assert lines == ["#2: executed by 0 of 0", "#3: executed by 0 of 0"]
    assert sorted(err.splitlines()) == [
        "cannot send: the command is empty",
        f"connected to {server.where} as me: rank 0 of 1",
        "sent #2: a",
        "sent #3: -x",
    ]


def test_a_client_that_does_not_answer_in_time_is_timed_out(
    script: Callable[..., ClientProgram], fleet: Callable[..., list[RawClient]]
) -> None:
    program = script("-c", "x", "--wait-for", "1", "--answer-timeout", "0.1")
    fleet("web")
    assert program.end()[:2] == (
        6,
        ["#3 rank 1 web: timed out (no answer in time)", "#3: executed by 0 of 1, timed out at 1"],
    )


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 6)])
def test_an_interrupt_reports_the_progress_of_commands(
    script: Callable[..., ClientProgram], fleet: Callable[..., list[RawClient]], signum: int, code: int
) -> None:
    program = script("-c", "x", "-c", "y", "-c", "z", "--wait-for", "3")
    web, db, _ = fleet("web", "db", "mail")
    for command in ("x", "z"):
        answer(web, command, "ok")
    answer(db, "x", "ok")
    assert len(program.lines(3)) == 3
    program.signal(signum)
    ended, lines, err = program.end()
    assert (ended, lines) == (code, [])
    assert err.splitlines()[-3:] == ["#5: 2 of 3 answers", "#6: 0 of 3 answers", "#7: 1 of 3 answers"]


def test_an_interrupt_while_waiting_says_that_nothing_was_sent(
    script: Callable[..., ClientProgram],
) -> None:
    program = script("-c", "x", "--wait-for", "1")
    assert program.error() == "waiting for others: 0 of 1 here"
    program.signal(signal.SIGTERM)
    assert program.end() == (6, [], "not sent: x\n")


# --- grouped -----------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-b", "--diff"])
def test_equal_answers_are_grouped(
    script: Callable[..., ClientProgram], fleet: Callable[..., list[RawClient]], option: str
) -> None:
    program = script("-c", "uname", "--wait-for", "4", option)
    *webs, db = fleet("web-1", "web-2", "web-3", "db")
    answer(db, "uname", 'ok {"out":"Linux\\n#6: executed by 9 of 9\\n"}')
    for web in webs:
        answer(web, "uname", 'ok {"out":"Linux\\n6.1\\n"}')
    other = ["| Linux", "| #6: executed by 9 of 9"]
    if option == "--diff":
        other = ["| @@ -1,2 +1,2 @@", "|  Linux", "| -6.1", "| +#6: executed by 9 of 9"]
    assert program.end()[:2] == (
        0,
        [
            "#6 ranks 1-3 (3) web-[1-3]",
            "| Linux",
            "| 6.1",
            "#6 rank 4 (1) db",
            *other,
            "#6: executed by 4 of 4",
        ],
    )


# --- text of others ----------------------------------------------------------------------------

HOSTILE = "#4: executed by 3 of 3\\r\\n\\u001b[2A\\u001b[2K\\u202e\\u2028#4 rank 0 top | x\\u200b"


def test_an_output_can_neither_forge_a_line_nor_move_the_cursor(
    script: Callable[..., ClientProgram], fleet: Callable[..., list[RawClient]]
) -> None:
    program = script("-c", "x", "--wait-for", "1")
    (web,) = fleet("web")
    answer(web, "x", f'fail {{"out":"{HOSTILE}","reason":"{HOSTILE}"}}')
    shown = "\\x1b[2A\\x1b[2K\\u202e\\u2028#4 rank 0 top | x\\u200b"
    assert program.end()[:2] == (
        6,
        [
            "#3 rank 1 web | #4: executed by 3 of 3",
            f"#3 rank 1 web | {shown}",
            f"#3 rank 1 web: failed (#4: executed by 3 of 3\\x0d\\x0a{shown})",
            "#3: executed by 0 of 1, failed by 1",
        ],
    )


# --- JSON --------------------------------------------------------------------------------------


def test_with_json_the_output_is_json_only(
    script: Callable[..., ClientProgram], fleet: Callable[..., list[RawClient]]
) -> None:
    program = script("-c", "x", "--wait-for", "1", "--json")
    assert program.error() == "waiting for others: 0 of 1 here"
    (web,) = fleet("web")
    answer(web, "x", f'fail {{"code":1,"out":"{HOSTILE}"}}')
    code, lines, err = program.end()
    events = parsed(lines)
    assert (code, err) == (6, "")
    assert [event["event"] for event in events] == ["clients_changed", "sent", "answer", "ask_done", "exit"]
    assert events[2]["out"] == json.loads(f'"{HOSTILE}"')
    assert events[3] == {
        "event": "ask_done",
        "seq": 3,
        "text": "x",
        "may_execute": 1,
        "counts": {"ok": 0, "failed": 1, "refused": 0, "denied": 0, "timeout": 0, "gone": 0},
        "exit": 6,
    }
    assert events[4] == {"event": "exit", "code": 6}


def test_json_says_why_there_is_no_connection(
    server: ServerProcess, serve: Callable[..., ServerProcess]
) -> None:
    full = serve(1)
    with RawClient(full.address) as first:
        first.hello()
        code, (line,), err = run(full.where, "--json", "-c", "x")
    exit_event = json.loads(line)
    assert (code, exit_event["event"], exit_event["code"]) == (4, "exit", 4)
    assert exit_event["error"].startswith("disconnected: full ")
    assert err == exit_event["error"] + "\n"
    server.stop()
    code, (line,), err = run(server.where, "--json", "-c", "x")
    refused = f"cannot connect to {server.where}: Connection refused"
    assert (code, err) == (3, refused + "\n")
    assert json.loads(line) == {"event": "exit", "code": 3, "error": refused}


def test_the_reason_of_a_refusal_cannot_move_the_cursor() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = f"127.0.0.1:{listener.getsockname()[1]}"
        with ClientProgram(where, "--json", "-c", "x") as program:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(BANNER + "BYE full \u202e8 places\n".encode())
                code, (*_, line), err = program.end()
    assert (code, err) == (4, "disconnected: full \\u202e8 places\n")
    assert json.loads(line) == {"event": "exit", "code": 4, "error": "disconnected: full \u202e8 places"}


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 6), (signal.SIGKILL, 4), (0, 0)]
)
def test_json_ends_with_the_exit_code_however_it_ends(
    server: ServerProcess, script: Callable[..., ClientProgram], signum: int, code: int
) -> None:
    arguments = ["-c", "x", "--wait-for", "1"] if signum else []
    program = script("--json", *arguments)
    if signum == signal.SIGKILL:
        server.kill()
    elif signum:
        program.signal(signum)
        program.process.wait(BOUND)
    ended, lines, _ = program.end()
    events = parsed(lines)
    assert ended == code
    assert events[-1] == {"event": "exit", "code": code}
    if signum:
        assert {"event": "unsent", "text": "x", "reason": ""} in events
    assert ("disconnected" in [event["event"] for event in events]) == (code == 4)


def test_json_says_why_a_command_cannot_be_sent(server: ServerProcess) -> None:
    code, lines, err = run(server.where, "--json", stdin=b"bad\xff\n" + b"y" * 100_000 + b"\nok\n")
    unsent = [event for event in parsed(lines) if event["event"] == "unsent"]
    assert unsent == [
        {"event": "unsent", "text": "bad\ufffd", "reason": "the byte at offset 3 is not valid UTF-8"},
        {"event": "unsent", "text": "y" * 65_537, "reason": "the line is longer than the server takes"},
    ]
    assert err.splitlines() == [
        "cannot send 'bad\ufffd': the byte at offset 3 is not valid UTF-8",
        f"cannot send '{'y' * 64}'...: the line is longer than the server takes",
    ]
    assert json.loads(lines[-1]) == {"event": "exit", "code": 6}
    code, lines, _ = run(server.where, "--json", "-c", "a\x1bb")
    reason = "control character U+001B at position 1; only TAB is allowed"
    assert {"event": "unsent", "text": "a\x1bb", "reason": reason} in parsed(lines)
    assert code == 6


def test_json_says_why_there_is_nothing_to_wait_for(serve: Callable[..., ServerProcess]) -> None:
    code, lines, _ = run(serve(3).where, "--json", "--wait-for", "3", stdin=b"x\n")
    reason = "3 others cannot be here: the server takes 3 clients in all"
    assert {"event": "unsent", "text": "", "reason": reason} in parsed(lines)
    assert code == 6


@pytest.mark.parametrize(
    ("stdin", "err"), [(b"x\n", "cannot write to standard output: Broken pipe\n"), (b"", "")]
)
def test_json_that_nobody_reads_is_exit_code_1(
    script: Callable[..., ClientProgram], stdin: bytes, err: str
) -> None:
    program = script("--json")
    assert program.process.stdout is not None
    program.process.stdout.close()
    program.process.stdout = None
    assert program.end(stdin=stdin)[::2] == (1, err)


def test_json_on_a_terminal_has_no_prompt_progress_or_help(
    server: ServerProcess, fleet: Callable[..., list[RawClient]]
) -> None:
    (top,) = fleet("top")
    child: pexpect.spawn[bytes] = pexpect.spawn(
        sys.executable,
        ["-m", "client", server.where, "--json"],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm"},
        timeout=BOUND,
        echo=False,
    )
    written = io.BytesIO()
    child.logfile_read = written
    child.sendline("?")
    child.expect_exact('"sent"')
    answer(top, "?", "refused")
    child.expect_exact("ask_done")
    child.sendline("exit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 5
    assert [event["event"] for event in parsed(written.getvalue().decode().splitlines())] == [
        "connected",
        "sent",
        "answer",
        "ask_done",
        "exit",
    ]


# --- staying, and waiting for others -----------------------------------------------------------


def test_a_client_may_stay_and_execute_after_its_own_command(
    server: ServerProcess, script: Callable[..., ClientProgram]
) -> None:
    with RawClient(server.address) as top:
        top.hello("top")
        program = script("-c", "x", "--stay", "--delay", "0")
        answer(top, "x", "refused")
        assert program.lines(2) == ["#3 rank 0 top: refused", "#3: executed by 0 of 0, refused by 1"]
        top.send(b"ASK y\n")
        top.expect(b"ASK 4 0 y")
        top.expect(b"RES 4 1 me ok ")
        program.signal(signal.SIGTERM)
        assert program.end()[:2] == (5, [])


@pytest.mark.parametrize(("arguments", "unsent"), [(("-c", "x"), "not sent: x\n"), ((), "")])
def test_more_clients_than_the_server_takes_are_not_waited_for(
    serve: Callable[..., ServerProcess], arguments: tuple[str, ...], unsent: str
) -> None:
    server = serve(3)
    with ClientProgram(server.where, "--name", "me", "--wait-for", "3", *arguments) as program:
        code, out, err = program.end()
    assert (code, [line for line in out if not line.startswith("connected ")]) == (6, [])
    words = "cannot send: 3 others cannot be here: the server takes 3 clients in all\n"
    assert err.endswith(words + unsent)


# --- the progress on a terminal ----------------------------------------------------------------


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_progress_is_shown_only_on_a_terminal_and_then_erased(
    server: ServerProcess, fleet: Callable[..., list[RawClient]], term: str
) -> None:
    child: pexpect.spawn[bytes] = pexpect.spawn(
        sys.executable,
        ["-m", "client", server.where, "--name", "me", "-c", "x", "--wait-for", "2"],
        cwd=ROOT,
        env={**os.environ, "TERM": term},
        timeout=BOUND,
    )
    written = io.BytesIO()
    child.logfile_read = written
    child.expect_exact("waiting for others: 0 of 2 here")
    web, db = fleet("web", "db")
    if term == "xterm":
        child.expect_exact(CLEAR + "0 of 2 answers")
    answer(web, "x", "ok")
    child.expect_exact("#4 rank 1 web: executed")
    if term == "xterm":
        child.expect_exact(CLEAR + "1 of 2 answers")
    answer(db, "x", "ok")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert (CLEAR.encode() in written.getvalue()) == (term == "xterm")
    screen = pyte.Screen(80, 24)
    pyte.ByteStream(screen).feed(written.getvalue())
    assert [row.rstrip() for row in screen.display if row.strip()] == [
        f"connected to {server.where} as me: rank 0 of 1",
        "waiting for others: 0 of 2 here",
        "sent #4: x",
        "#4 rank 1 web: executed",
        "#4 rank 2 db: executed",
        "#4: executed by 2 of 2",
    ]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_failing_output_ends_a_client_that_is_still_connecting(closed: str, options: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, err = run("--reconnect", closed, *options, stdout=full)
    assert (code, err.splitlines()[-1:]) == (1, ["cannot write to standard output: No space left on device"])
