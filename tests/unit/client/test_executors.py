from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from client import policy
from client.executors import (
    ExecutorOptions,
    HandlerExecutor,
    ProgramExecutor,
    ShellExecutor,
    SimulatedExecutor,
    make,
)
from client.policy import Policy
from rankserver.client.events import Execute, Finished, Outcome, Started
from rankserver.client.worker import Executor, Worker
from rankserver.wire import grammar, protocol
from rankserver.wire.exceptions import ConfigError
from tests.support.executing import (
    Tether,
    closing,
    command,
    detail,
    idle_supervisor,
    outcome,
    shell,
    tethered,
    told,
)
from tests.support.waiting import run

# Signals 32 and 33 belong to the C library; some programs that start the tests set them to be ignored.
RESERVED = 0b11 << 31
FIRST = Execute(1, 0, "a", True, 1, "me")
SECOND = Execute(2, 0, "b", False, 1, "me")


class Gate:
    """An executor that finishes a command when the test tells it to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go_on = asyncio.Semaphore(0)

    async def execute(self, command: Execute) -> Outcome:
        self.begun.append(command.text)
        await self.go_on.acquire()
        return Outcome("fail", {"code": len(self.begun)})

    async def close(self) -> None:
        pass


def test_simulating_succeeds_after_the_delay() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        assert await SimulatedExecutor(0.05).execute(FIRST) == Outcome("ok", {"reason": "simulated"})
        assert loop.time() - begin >= 0.05

    run(main())


def test_commands_are_executed_in_order_while_more_are_added() -> None:
    async def main() -> None:
        gate = Gate()
        steps: asyncio.Queue[Started | Finished] = asyncio.Queue()
        async with working(gate, 1, steps.put_nowait) as worker:
            worker.add(FIRST)
            assert await steps.get() == Started(FIRST)
            worker.add(SECOND)
            await asyncio.sleep(0)
            assert gate.begun == ["a"]
            assert steps.empty()
            gate.go_on.release()
            assert await steps.get() == Finished(FIRST, Outcome("fail", {"code": 1}))
            assert await steps.get() == Started(SECOND)
            gate.go_on.release()
            assert await steps.get() == Finished(SECOND, Outcome("fail", {"code": 2}))

    run(main())


@contextlib.asynccontextmanager
async def working(
    executor: Executor, jobs: int, report: Callable[[Started | Finished], None]
) -> AsyncIterator[Worker]:
    worker = Worker(executor, jobs, report, lambda error: pytest.fail(repr(error)))
    try:
        yield worker
    finally:
        await worker.close()
        await executor.close()


# --- what is executed -------------------------------------------------------------------------


def program(*patterns: str, **terms: Any) -> ProgramExecutor:
    allow = Policy(pattern.split() for pattern in patterns) if patterns else policy.ALL
    return ProgramExecutor(ExecutorOptions(allow, **terms))


def script(directory: Path, text: str) -> Path:
    """Write an executable shell script."""
    path = directory / "script"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def test_a_program_gets_its_words_without_a_shell() -> None:
    text = r"""printf '[%s]' a ';' "b  c" $(id) `id` $HOME '*' * \; -- -n 'ü' ">x" && echo"""
    fields = detail(outcome(program(), text), "ok")
    words = ["a", ";", "b  c", "$(id)", "`id`", "$HOME", "*", "*", ";", "--", "-n", "ü", ">x", "&&", "echo"]
    assert fields["out"] == "".join(f"[{word}]" for word in words)
    assert fields["code"] == 0
    assert type(fields["ms"]) is int
    assert set(fields) == {"code", "out", "ms"}


def test_output_and_errors_come_in_the_order_written() -> None:
    assert detail(outcome(shell(), "echo a; echo b >&2; echo c; exit 3"), "fail")["out"] == "a\nb\nc\n"


@pytest.mark.parametrize(("text", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("nosuch", 127), ("/", 126)])
def test_a_shell_that_fails_says_so_with_its_code(text: str, code: int) -> None:
    assert detail(outcome(shell(), text), "fail")["code"] == code


def test_a_shell_command_is_a_shell_command() -> None:
    assert (
        detail(outcome(shell(), "x='a b'; echo \"$x\"; echo $(echo c) | tr c d"), "ok")["out"] == "a b\nd\n"
    )


def test_a_shell_command_that_begins_with_a_dash_is_no_option() -> None:
    assert detail(outcome(shell(), "-x; echo on"), "ok")["out"].endswith("-x: not found\non\n")


@pytest.mark.parametrize("make_one", [program, shell])
def test_a_long_command_arrives_whole(make_one: Callable[[], Executor]) -> None:
    text = "printf %s " + 30_000 * "ü"
    assert len(text.encode()) > 60_000
    assert detail(outcome(make_one(), text), "ok")["out"] == ("ü" * 16_384)


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("nosuch -x", 127, "not found: nosuch"),
        ("/nosuch/thing", 127, "not found: /nosuch/thing"),
        ("/etc/passwd/x", 127, "not found: /etc/passwd/x"),
        ("''", 127, "not found: "),
        ("/etc/passwd", 126, "cannot execute /etc/passwd: Permission denied"),
        ("/", 126, "cannot execute /: Permission denied"),
    ],
)
def test_a_program_that_cannot_run_fails_with_a_shells_words(text: str, code: int, reason: str) -> None:
    assert outcome(program(), text) == Outcome("fail", {"code": code, "reason": reason})


def test_a_program_is_found_by_path_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mine").symlink_to(script(tmp_path, "echo mine"))
    (tmp_path / "mine").write_text("not executable")
    monkeypatch.setenv("PATH", f"{tmp_path}/nowhere:/etc/passwd:{tmp_path}:bin:/bin")
    assert detail(outcome(program(workdir=tmp_path), "mine"), "ok")["out"] == "mine\n"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detail(outcome(program(), "mine"), "fail")["code"] == 126


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo 'a", "no closing quotation: echo 'a"),
        ("echo a\\", "no escaped character: echo a\\"),
        (" \t ", "no command:  \t "),
        ("echo a\0b", "a zero byte cannot be passed to a program: echo a\0b"),
    ],
)
def test_a_malformed_command_fails(text: str, reason: str) -> None:
    assert outcome(program(), text) == Outcome("fail", {"reason": reason})


def test_a_long_command_is_shortened_in_a_reason() -> None:
    assert (
        detail(outcome(program("true"), "x" * 50_000), "denied")["reason"]
        == f"not allowed here: {'x' * 64}..."
    )


def test_binary_output_and_terminal_escapes_can_be_sent() -> None:
    result = outcome(shell(), r"printf 'a\377\303(\033[2J\007'")
    assert detail(result, "ok")["out"] == "a\ufffd\ufffd(\x1b[2J\x07"
    frame = protocol.result(7, *result)
    assert grammar.decode_line(frame.rstrip(b"\n"))
    assert frame.count(b"\n") == 1


def test_output_over_the_limit_is_cut_between_characters() -> None:
    fields = detail(outcome(shell(output_limit=6), "printf aüüüü; exit 1"), "fail")
    assert fields["out"] == "aüü"
    assert fields["truncated"] is True
    fields = detail(outcome(shell(output_limit=6), "printf aüüb"), "ok")
    assert fields["out"] == "aüüb"
    assert "truncated" not in fields


@pytest.mark.parametrize(("make_one", "text"), [(program, "cat"), (shell, "cat; echo done")])
def test_standard_input_is_at_its_end(make_one: Callable[[], Executor], text: str) -> None:
    assert detail(outcome(make_one(), text), "ok")["out"] in {"", "done\n"}


def test_the_environment_is_cleaned_and_tells_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in {"PATH": "/bin", "LC_ALL": "C", "TZ": "UTC", "RANKSERVER_TOKEN": "secret"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(os.environb, b"HOME", b"/h\xff")
    lines = detail(outcome(program(), "/usr/bin/env"), "ok")["out"].splitlines()
    assert sorted(lines) == [
        "HOME=/h\ufffd",
        "LC_ALL=C",
        "PATH=/bin",
        "RANK_FROM=0",
        "RANK_NAME=me",
        "RANK_SELF=1",
        "RANK_SEQ=7",
        "TZ=UTC",
    ]
    assert detail(outcome(program(), "printenv HOME"), "ok")["out"] == "/h\ufffd\n"


def test_signals_are_default_and_no_descriptor_is_inherited() -> None:
    text = "grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd"
    _, blocked, _, ignored, *descriptors = detail(outcome(shell(), text), "ok")["out"].split()
    assert (int(blocked, 16), int(ignored, 16) & ~RESERVED) == (0, 0)
    # Descriptor 3 belongs to ls.
    assert descriptors == ["0", "1", "2", "3"]


def test_commands_run_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert detail(outcome(shell(workdir=tmp_path), "pwd"), "ok")["out"] == f"{tmp_path}\n"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ü").mkdir()
    assert detail(outcome(shell(workdir=Path("ü")), "pwd"), "ok")["out"] == f"{tmp_path}/ü\n"
    assert detail(outcome(shell(), "pwd"), "ok")["out"] == f"{tmp_path}\n"


def test_a_working_directory_that_has_gone_fails_the_command(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    executor = shell(workdir=place)
    place.rmdir()
    reason = f"cannot change to '{place}': No such file or directory"
    assert outcome(executor, "true") == Outcome("fail", {"reason": reason})


# --- what is allowed --------------------------------------------------------------------------


def test_a_program_runs_only_if_the_policy_allows_it() -> None:
    assert outcome(program("echo *"), "echo a").status == "ok"
    assert outcome(program("echo *"), "reboot") == Outcome("denied", {"reason": "not allowed here: reboot"})
    assert outcome(program("echo *"), "echo 'a").status == "fail"
    assert outcome(ProgramExecutor(ExecutorOptions()), "true").status == "denied"


def test_a_shell_runs_only_if_all_is_allowed() -> None:
    for allow in (None, Policy([["..."]])):
        reason = "this client allows no shell commands: true"
        assert outcome(ShellExecutor(ExecutorOptions(allow)), "true") == Outcome("denied", {"reason": reason})


def test_a_handler_decides_what_no_policy_decided(tmp_path: Path) -> None:
    path = script(tmp_path, 'read -r line; printf "%s: %s\\n" "$RANK_FROM" "$line"; cat; exit ${#line}')
    fields = detail(outcome(HandlerExecutor(path, ExecutorOptions()), r"it's -x \n"), "fail")
    assert fields["out"] == "0: it's -x \\n\n"
    assert fields["code"] == 10
    allow = ExecutorOptions(Policy([["one", "*"]]))
    assert outcome(HandlerExecutor(path, allow), "one x").status == "fail"
    assert outcome(HandlerExecutor(path, allow), "two x") == Outcome(
        "denied", {"reason": "not allowed here: two x"}
    )
    assert (
        detail(outcome(HandlerExecutor(path, allow), "one 'x"), "fail")["reason"]
        == "no closing quotation: one 'x"
    )


def test_a_handler_need_not_read_a_long_command(tmp_path: Path) -> None:
    text = "ü" * 60_000
    assert outcome(HandlerExecutor(script(tmp_path, "exit 0"), ExecutorOptions()), text).status == "ok"
    assert (
        detail(outcome(HandlerExecutor(script(tmp_path, "wc -c"), ExecutorOptions()), text), "ok")["out"]
        == "120001\n"
    )


# --- making one -------------------------------------------------------------------------------


def test_each_kind_can_be_made(tmp_path: Path) -> None:
    terms = ExecutorOptions(policy.ALL)
    assert outcome(make("simulate", terms, delay=0), "echo $0") == Outcome("ok", {"reason": "simulated"})
    assert detail(outcome(make("program", terms), "echo $0"), "ok")["out"] == "$0\n"
    assert detail(outcome(make("shell", terms), "echo $0"), "ok")["out"] == "/bin/sh\n"
    handler = script(tmp_path, "cat")
    assert detail(outcome(make("handler", terms, handler=handler), "echo $0"), "ok")["out"] == "echo $0\n"


def test_a_handler_path_is_relative_to_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(script(tmp_path, "pwd").parent)
    executor = make("handler", ExecutorOptions(workdir="/"), handler="script")
    assert detail(outcome(executor, "x"), "ok")["out"] == "/\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"kind": "nothing"}, "^executor 'nothing' is not simulate, program, shell, or handler with"),
        ({"kind": "handler"}, "^executor 'handler' is not"),
        ({"kind": "handler", "handler": "/nosuch"}, "^the handler '/nosuch' is not a file$"),
        ({"kind": "handler", "handler": "/etc"}, "^the handler '/etc' is not a file$"),
        ({"kind": "handler", "handler": "/etc/passwd"}, "^the handler '/etc/passwd' is not executable$"),
        ({"kind": "shell", "workdir": "/nosuch"}, "^the working directory '/nosuch' is not a directory$"),
        ({"kind": "program", "workdir": "/etc/passwd"}, "^the working directory '/etc/passwd' is not"),
    ],
)
def test_impossible_settings_are_reported_early(arguments: dict[str, str], problem: str) -> None:
    terms = ExecutorOptions(workdir=arguments.pop("workdir", None))
    with pytest.raises(ConfigError, match=problem):
        make(arguments.pop("kind"), terms, handler=arguments.get("handler"))


# --- several at once --------------------------------------------------------------------------


def test_a_supervisor_serves_one_command_after_another() -> None:
    async def main() -> None:
        async with closing(shell()) as executor:
            parents = {
                detail(await executor.execute(command(text)), "ok")["out"]
                for text in ("echo $PPID", "echo $PPID; :", "echo $PPID & wait")
            }
            assert parents == {f"{idle_supervisor(executor)}\n"}

    run(main())


def test_jobs_run_at_once_and_begin_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        executor = shell()
        steps: asyncio.Queue[Started | Finished] = asyncio.Queue()
        async with working(executor, 3, steps.put_nowait) as worker:
            fifo = tmp_path / "fifo"
            os.mkfifo(fifo)
            # The first command ends only if the second runs, and the second only if the third runs.
            texts = [f"read x <{fifo}", f"echo >{fifo}; read x <{fifo}.", f"echo >{fifo}.", "true"]
            os.mkfifo(f"{fifo}.")
            commands = [command(text, seq=seq) for seq, text in enumerate(texts)]
            for one in commands:
                worker.add(one)
            happened = [await steps.get() for _ in range(8)]
        assert happened[:3] == [Started(one) for one in commands[:3]]
        assert [step.command for step in happened if isinstance(step, Started)] == commands
        assert all(step.outcome.status == "ok" for step in happened if isinstance(step, Finished))

    run(main())


def test_commands_given_at_once_begin_in_that_order() -> None:
    async def main() -> None:
        async with closing(shell()) as executor:
            # One supervisor is running already; others must start first.
            await executor.execute(command("true"))
            given = [executor.execute(command("cut -d' ' -f22 /proc/$$/stat; echo $$")) for _ in range(6)]
            outs = [detail(result, "ok")["out"].split() for result in await asyncio.gather(*given)]
            assert len({pid for _, pid in outs}) == 6
            begun = [(int(ticks), int(pid)) for ticks, pid in outs]
            assert begun == sorted(begun)

    run(main())


def test_closing_the_worker_ends_all_execution(tmp_path: Path) -> None:
    async def main(tether: Tether) -> None:
        async with working(shell(), 2, lambda _: None) as worker:
            for seq in (1, 2):
                worker.add(command(f"exec 9>{tether.path}; sleep 1000 & echo up >&9; wait", seq=seq))
            assert [await told(tether.line) for _ in range(2)] == ["up", "up"]
            await worker.close()
            assert tether.is_free()

    with tethered(tmp_path) as tether:
        run(main(tether))
