"""What the supervisor bounds: how many processes a command may have, and what a command can see."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from client import bounds, policy
from client.executors import ExecutorOptions, ShellExecutor
from client.supervisor_handle import SupervisorHandle
from rankserver.client.events import Outcome
from tests.support.executing import (
    Tether,
    another_user,
    client_process,
    closing,
    command,
    daemon,
    detail,
    outcome,
    shell,
)
from tests.support.paths import ROOT
from tests.support.waiting import BOUND, run

# --- how many processes a command may have ----------------------------------------------------

# Forks until it may not, or has 99 children, and prints how many there are.
FORK = """
import os, signal
children = 0
try:
    while children < 99:
        if not os.fork():
            signal.pause()
        children += 1
except BlockingIOError:
    pass
print(children, flush=True)
"""

# Eight lines of processes. Each lives in a session of its own, and only until it has forked the next one.
COMETS = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for line in range(8):
    if not os.fork():
        while True:
            os.setsid()
            if os.fork():
                os._exit(0)
print("up", flush=True)
signal.pause()
"""

# An executor without cgroups, in a process of any user, that executes its argument.
UNGROUPED = """
import sys
from client import bounds, executors, policy
from tests.support.executing import outcome

bounds.find = lambda: bounds.Means((), counts=False, has_rlimit=True)
options = executors.ExecutorOptions(policy.ALL, max_processes=20)
print(outcome(executors.ShellExecutor(options), sys.argv[1]).detail["out"], end="")
"""


def executed_by_a_user(text: str) -> str:
    """Execute a command as another user than root, and without cgroups; return its output."""
    argv = [sys.executable, "-c", UNGROUPED, text]
    return str(subprocess.check_output(argv, cwd=ROOT, text=True, **another_user()))


def python(text: str) -> str:
    """Return a shell command that runs a Python program in place of the shell."""
    return f"exec {shlex.quote(sys.executable)} -S -c {shlex.quote(text)}"


def limited(max_processes: int, timeout: float | None = None) -> ShellExecutor:
    return ShellExecutor(ExecutorOptions(policy.ALL, timeout, max_processes=max_processes))


def test_a_command_may_not_have_more_processes_than_it_should() -> None:
    executor = limited(20)
    if executor.lacks_limit:
        pytest.skip("this system lets root limit nothing")
    assert detail(outcome(executor, python(FORK)), "ok")["out"] == "19\n"
    assert detail(outcome(limited(0), python(FORK)), "ok")["out"] == "99\n"


def test_each_command_may_have_as_many_as_the_one_before() -> None:
    async def main() -> None:
        async with closing(limited(20)) as executor:
            if executor.lacks_limit:
                pytest.skip("this system lets root limit nothing")
            for _ in range(3):
                assert detail(await executor.execute(command(python(FORK))), "ok")["out"] == "19\n"

    run(main())


def test_a_user_is_limited_relative_to_what_it_runs() -> None:
    children = int(executed_by_a_user(python(FORK)))
    # Another process of the user who runs this may begin or end meanwhile.
    assert children == 19 if os.getuid() == 0 else 15 <= children <= 23


@pytest.mark.parametrize("has_cgroups", [False, True])
def test_what_forks_faster_than_it_can_be_listed_is_ended(
    tether: Tether, monkeypatch: pytest.MonkeyPatch, has_cgroups: bool
) -> None:
    if not has_cgroups:
        monkeypatch.setattr(bounds, "find", lambda: bounds.Means((), counts=False, has_rlimit=False))
    elif not bounds.find().parents:
        pytest.skip("no cgroup can be made here")
    text = f"exec 9>{tether.path}; {python(COMETS)}"
    fields = detail(outcome(limited(0, timeout=0.5), text), "timeout")
    assert (fields["out"], fields["reason"]) == ("up\n", "ended after 0.5 s")
    assert tether.is_free()


def test_what_outlives_its_supervisor_is_ended_with_its_cgroup(tether: Tether) -> None:
    executor = limited(20)
    if not bounds.find().parents:
        pytest.skip("no cgroup can be made here")
    assert outcome(executor, f"{daemon(tether)}; kill -9 $PPID").status == "fail"
    tether.until_free()


def test_a_command_that_cannot_be_limited_does_not_run(tmp_path: Path) -> None:
    async def main() -> None:
        kept = SupervisorHandle()
        kept._cgroups = [str(tmp_path / "gone")]
        executor = shell()
        text = f"echo ran >{tmp_path}/file"
        reply = await kept.begin(executor._request(command(text), executor._argv(text)))
        if "pid" in reply:
            reply = await kept.result()
        await kept.end()
        assert reply == {"failed": "limit", "errno": errno.ENOENT}
        reason = "cannot limit the command's processes: No such file or directory"
        assert executor._outcome(["/bin/sh"], reply) == Outcome("fail", {"reason": reason})

    run(main())
    assert not (tmp_path / "file").exists()


def test_cgroups_are_removed_with_their_supervisor() -> None:
    async def main() -> None:
        async with closing(limited(20)) as executor:
            await executor.execute(command("sleep 1000 &"))
            (kept,) = executor._idle
            made = kept._cgroups
            assert all(map(os.path.isdir, made))
            assert len(made) == len(bounds.find().parents)
        assert not any(map(os.path.exists, made))

    run(main())


def test_a_killed_client_leaves_no_cgroup(tether: Tether) -> None:
    running = client_process(f"exec 9>{tether.path}; cat /proc/self/cgroup >&9; echo end >&9; sleep 1000")
    lines = iter(tether.line, "end")
    own = set(bounds.own_cgroups("\n".join(lines), Path("/proc/self/mountinfo").read_text()).values())
    ours = set(
        bounds.own_cgroups(
            *map(Path.read_text, map(Path, ("/proc/self/cgroup", "/proc/self/mountinfo")))
        ).values()
    )
    made = own - ours
    assert len(made) == len(bounds.find().parents)
    running.kill()
    running.wait()
    tether.until_free()
    deadline = time.monotonic() + BOUND
    while any(map(os.path.exists, made)):
        assert time.monotonic() < deadline


# --- what a command can see -------------------------------------------------------------------


def test_a_supervisor_knows_nothing_of_its_clients_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "2f9c")
    text = "cat /proc/$PPID/environ /proc/$PPID/cmdline; ls -l /proc/$PPID/fd"
    # As another user than root, it may not even list the descriptors.
    shown: dict[str, Any] = dict(outcome(shell(), text).detail or {})
    assert "SECRET" not in shown["out"]
    assert "HOME" not in shown["out"]
    assert "supervisor.main()" in shown["out"]


def test_commands_cannot_look_into_their_supervisor() -> None:
    assert executed_by_a_user("cat /proc/$PPID/environ 2>&1 || true").endswith("Permission denied\n")
    assert executed_by_a_user("ls /proc/$PPID/fd 2>&1 || true").endswith("Permission denied\n")
    # What it executes is an ordinary process.
    assert executed_by_a_user("cat /proc/self/environ | tr '\\0' '\\n' | grep SEQ") == "RANK_SEQ=7\n"
