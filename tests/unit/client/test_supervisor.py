from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from client import bounds, policy, supervisor_handle
from client.executors import ExecutorOptions, ShellExecutor
from client.supervisor_handle import SupervisorHandle
from rankserver.client.events import Outcome
from tests.support.executing import (
    Tether,
    another_user,
    closing,
    command,
    detail,
    idle_supervisor,
    outcome,
    shell,
    tethered,
    told,
)
from tests.support.paths import ROOT
from tests.support.waiting import BOUND, run

IGNORING: Final = "trap '' TERM HUP"

# A program that a supervisor cannot tell from a client: it executes its argument.
CLIENT = """
import asyncio, sys
from tests.support.executing import command, shell
asyncio.run(shell().execute(command(sys.argv[1])))
"""


@pytest.fixture
def tether(tmp_path: Path) -> Iterator[Tether]:
    with tethered(tmp_path) as tether:
        yield tether


def daemon(tether: Tether) -> str:
    """Return a command that starts a daemon in the usual way: forked twice, and in its own session.

    It holds the tether and our output, ignores requests to end, and writes its process id.
    """
    return f"setsid sh -c '{IGNORING}; exec 9>{tether.path}; sleep 1000 & echo $!'"


def exists(pid: int | str) -> bool:
    return Path(f"/proc/{pid}").exists()


# --- what a command leaves behind -------------------------------------------------------------


def test_a_daemon_is_ended_when_its_command_is_over(tether: Tether) -> None:
    fields = detail(outcome(shell(), f"{daemon(tether)}; echo over; exit 3"), "fail")
    pid, over = fields["out"].split()
    assert (over, fields["code"]) == ("over", 3)
    assert not exists(pid)
    assert tether.is_free()


def test_a_daemon_is_ended_before_the_next_command_begins(tether: Tether) -> None:
    async def main() -> None:
        async with closing(shell()) as executor:
            out = detail(await executor.execute(command(daemon(tether))), "ok")["out"]
            assert tether.is_free()
            again = await executor.execute(command(f"test ! -e /proc/{out.strip()}"))
            assert again.status == "ok"

    run(main())


def test_a_process_that_heeds_sigterm_may_say_goodbye(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    polite = f"trap 'echo bye; exit' TERM; echo up >{fifo}; sleep 1000 & wait"
    text = f'sh -c "{polite}" & read up <{fifo}; echo over'
    assert detail(outcome(shell(), text), "ok")["out"] == "over\nbye\n"


def test_a_process_that_escapes_by_forking_is_caught(tmp_path: Path, tether: Tether) -> None:
    # No process of it lives long, and each has its own session.
    comet = tmp_path / "comet"
    comet.write_text(f"#!/bin/sh\n{IGNORING}\nsetsid {comet} &\n")
    comet.chmod(0o755)
    assert outcome(shell(), f"exec 9>{tether.path}; {comet}").status == "ok"
    assert tether.is_free()


def test_dead_processes_are_reaped_while_a_command_runs() -> None:
    text = "pid=$(setsid sh -c 'true & echo $!'); while test -e /proc/$pid; do :; done"
    assert outcome(shell(timeout=BOUND / 2), text).status == "ok"


# --- commands that do not end -----------------------------------------------------------------


def test_a_command_that_never_ends_is_ended_in_time(tether: Tether) -> None:
    fields = detail(outcome(shell(timeout=0.2), f"{daemon(tether)} & echo a; exec sleep 1000"), "timeout")
    assert fields["reason"] == "ended after 0.2 s"
    assert fields["code"] == 128 + signal.SIGTERM
    assert fields["ms"] >= 200
    assert "a\n" in fields["out"]
    assert tether.is_free()


# A supervisor that gives a command longer to end than a test may take.
PATIENT = f"""
import sys
sys.path.append(sys.argv[1])
from client import supervisor

supervisor.GRACE = supervisor.LEFTOVER_GRACE = {10 * BOUND}
supervisor.main()
"""


def test_a_command_that_ends_when_told_to_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_handle, "PROGRAM", PATIENT)
    assert outcome(shell(timeout=0.1), "sleep 1000").status == "timeout"


def test_a_command_that_ignores_the_request_is_killed(tether: Tether) -> None:
    text = f"exec 9>{tether.path}; {IGNORING}; sleep 1000; sleep 1000"
    assert detail(outcome(shell(timeout=0.1), text), "timeout")["code"] == 128 + signal.SIGKILL
    assert tether.is_free()


def test_a_command_that_stopped_itself_is_asked_too(tether: Tether) -> None:
    text = f"exec 9>{tether.path}; trap 'echo bye; exit 3' TERM; kill -STOP $$"
    fields = detail(outcome(shell(timeout=0.1), text), "timeout")
    assert (fields["code"], fields["out"]) == (3, "bye\n")
    assert tether.is_free()


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
    running = client(f"exec 9>{tether.path}; cat /proc/self/cgroup >&9; echo end >&9; sleep 1000")
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


# --- output -----------------------------------------------------------------------------------


def test_a_flood_of_output_neither_blocks_nor_fills_memory() -> None:
    async def main() -> None:
        async with closing(shell()) as executor:
            flood = "head -c 100000000 /dev/zero | tr '\\0' a; echo over >&2; exit 3"
            fields = detail(await executor.execute(command(flood)), "fail")
            assert fields["out"] == "a" * 32_768
            assert fields["truncated"] is True
            assert fields["code"] == 3
            assert memory(idle_supervisor(executor)) < 40_000

    run(main())


def test_an_endless_flood_is_ended_in_time() -> None:
    fields = detail(outcome(shell(timeout=0.2), "yes"), "timeout")
    assert fields["out"] == "y\n" * 16_384
    assert fields["truncated"] is True


def test_the_last_output_is_read_however_much_the_pipe_holds() -> None:
    assert len(detail(outcome(shell(output_limit=10**6), "head -c 65536 /dev/zero"), "ok")["out"]) == 65_536


def test_a_command_that_closes_its_output_costs_nothing() -> None:
    async def main() -> None:
        async with closing(shell(timeout=0.5)) as executor:
            await executor.execute(command("true"))
            before = processor_ticks(idle_supervisor(executor))
            fields = detail(await executor.execute(command("echo a; exec >&- 2>&-; sleep 1000")), "timeout")
            assert fields["out"] == "a\n"
            # There are 50 ticks in this time.
            assert processor_ticks(idle_supervisor(executor)) - before <= 10

    run(main())


def memory(pid: int) -> int:
    """Return the peak memory of a process in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# --- the end of the client, of a supervisor, of the interest ----------------------------------


def client(text: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CLIENT, text], cwd=ROOT)


def test_a_client_that_is_killed_leaves_nothing_behind(tether: Tether) -> None:
    text = f"{daemon(tether)}; exec 9>{tether.path}; (sleep 1000 & sleep 1000) & echo $PPID >&9; sleep 1000"
    running = client(text)
    pid = int(tether.line())
    ending = os.pidfd_open(pid)
    running.kill()
    running.wait()
    tether.until_free()
    until_ended(ending)


def test_a_supervisor_that_is_told_to_end_ends_its_command(tether: Tether) -> None:
    running = client(f"{daemon(tether)}; exec 9>{tether.path}; echo $PPID >&9; sleep 1000")
    os.kill(int(tether.line()), signal.SIGTERM)
    tether.until_free()
    # Its ``execute`` has returned.
    assert running.wait(BOUND) == 0


def test_a_command_does_not_outlive_a_killed_supervisor(tether: Tether) -> None:
    running = client(f"exec 9>{tether.path}; echo $PPID >&9; exec sleep 1000")
    try:
        pid = int(tether.line())
        running.send_signal(signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        tether.until_free()
    finally:
        running.kill()
        running.wait()


def test_a_killed_supervisor_fails_only_its_own_command(tether: Tether) -> None:
    async def main() -> None:
        async with closing(shell()) as executor:
            text = f"exec 9>{tether.path}; {IGNORING}; kill -9 $PPID; sleep 1000; sleep 1000"
            reason = "the command's supervisor ended before the command"
            assert await executor.execute(command(text)) == Outcome("fail", {"reason": reason})
            await told(tether.until_free)
            assert (await executor.execute(command("true"))).status == "ok"
            first = idle_supervisor(executor)
            ending = os.pidfd_open(first)
            os.kill(first, signal.SIGKILL)
            await told(lambda: until_ended(ending))
            assert (await executor.execute(command("true"))).status == "ok"
            assert not exists(first)

    run(main())


@pytest.mark.parametrize("is_stubborn", [False, True])
def test_a_cancelled_command_is_ended_before_cancelling_returns(
    tether: Tether,
    is_stubborn: bool,
) -> None:
    async def main() -> None:
        async with closing(shell()) as executor:
            await executor.execute(command("true"))
            pid = idle_supervisor(executor)
            trap = IGNORING if is_stubborn else ":"
            text = f"{trap}; exec 9>{tether.path}; sleep 1000 & echo up >&9; sleep 1000"
            executing = asyncio.create_task(executor.execute(command(text)))
            assert await told(tether.line) == "up"
            executing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await executing
            assert tether.is_free()
            # It does not exist even as a zombie.
            assert not exists(pid)
            assert (await executor.execute(command("true"))).status == "ok"

    run(main())


def test_a_command_that_is_cancelled_at_any_time_is_ended(tether: Tether) -> None:
    async def main() -> None:
        async with closing(shell()) as executor:
            for turns in range(12):
                executing = asyncio.create_task(executor.execute(command(f"exec sleep 1000 9>{tether.path}")))
                for _ in range(turns):
                    await asyncio.sleep(0)
                executing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await executing
                assert tether.is_free()

    run(main())


def test_a_supervisor_that_hangs_is_killed_with_its_command(
    tether: Tether, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.supervisor_handle.END_TIMEOUT", 0.2)

    async def main() -> None:
        text = f"exec 9>{tether.path}; kill -STOP $PPID; echo up >&9; sleep 1000; sleep 1000"
        executing = asyncio.create_task(shell().execute(command(text)))
        assert await told(tether.line) == "up"
        executing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await executing
        await told(tether.until_free)

    run(main())


def test_a_cancelled_start_is_ended_despite_a_hung_supervisor(
    tether: Tether, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.supervisor_handle.END_TIMEOUT", 0.2)

    async def main() -> None:
        kept = SupervisorHandle()
        text = f"exec 9>{tether.path}; kill -STOP $PPID; echo up >&9; sleep 1000; sleep 1000"
        executor = shell()
        beginning = asyncio.create_task(kept.begin(executor._request(command(text), executor._argv(text))))
        await asyncio.sleep(0)
        # It is cancelled before it has read anything.
        beginning.cancel()
        assert await told(tether.line) == "up"
        await kept.end()
        await told(tether.until_free)

    run(main())


def test_a_command_that_stops_its_supervisor_times_out_alone(
    tether: Tether, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.supervisor_handle.END_TIMEOUT", 0.2)

    async def main() -> None:
        async with closing(shell(timeout=0.1)) as executor:
            text = f"exec 9>{tether.path}; kill -STOP $PPID; sleep 1000"
            stopped = await executor.execute(command(text))
            assert stopped.status == "timeout"
            await told(tether.until_free)
            assert (await executor.execute(command("echo next"))).status == "ok"

    run(main())


def test_a_supervisor_stopped_while_idle_fails_one_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client.supervisor_handle.END_TIMEOUT", 0.2)

    async def main() -> None:
        async with closing(shell(timeout=0.1)) as executor:
            await executor.execute(command("true"))
            stopped = idle_supervisor(executor)
            os.kill(stopped, signal.SIGSTOP)
            first, second = await asyncio.gather(
                executor.execute(command("true")), executor.execute(command("true"))
            )
            assert detail(first, "timeout")["reason"] == "ended, as its supervisor does not answer"
            assert second.status == "ok"
            assert not exists(stopped)
            assert idle_supervisor(executor) != stopped

    run(main())


def test_closing_ends_the_supervisors_and_may_be_done_again(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main() -> None:
        executor = shell()
        await asyncio.gather(
            *(executor.execute(command(text)) for text in (f"read x <{fifo}", f"echo >{fifo}"))
        )
        pids = [kept._process.pid for kept in executor._idle]
        assert all(map(exists, pids))
        await executor.close()
        await executor.close()
        assert len(pids) == 2
        assert not any(map(exists, pids))

    run(main())


def test_commands_and_supervisors_leave_the_client_session() -> None:
    out = detail(outcome(shell(), "cut -d' ' -f1,6 /proc/$$/stat /proc/$PPID/stat"), "ok")["out"]
    own, own_session, parent, parent_session = map(int, out.split())
    assert (own_session, parent_session) == (own, parent)


def until_ended(descriptor: int) -> None:
    """Wait until the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(BOUND * 1000)
    os.close(descriptor)


# --- what cannot be ended ---------------------------------------------------------------------


# A supervisor that may kill no process, as if all belonged to another user.
POWERLESS = """
import sys
sys.path.append(sys.argv[1])
from client import processes, supervisor

processes.tell = lambda *_: None
processes.kill_cgroup = lambda _: None
supervisor.GRACE = supervisor.LEFTOVER_GRACE = supervisor.KILL_TIMEOUT = 0.1
supervisor.main()
"""


def test_unkillable_processes_are_named_and_delay_nobody_else(
    tether: Tether, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_handle, "PROGRAM", POWERLESS)

    async def main() -> None:
        async with closing(shell()) as executor:
            fields = detail(await executor.execute(command(f"{daemon(tether)}; exit 3")), "fail")
            pid = int(fields["out"])
            os.kill(pid, signal.SIGKILL)
            assert fields["reason"] == f"cannot end process {pid}"
            assert fields["code"] == 3
            assert not executor._idle

    run(main())


def test_a_reason_names_only_some_of_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_handle, "PROGRAM", POWERLESS)

    async def main() -> None:
        async with closing(shell()) as executor:
            text = "for n in $(seq 12); do sleep 1000 & echo $!; done"
            fields = detail(await executor.execute(command(text)), "ok")
            pids = fields["out"].split()
            for pid in pids:
                os.kill(int(pid), signal.SIGKILL)
            first = sorted(map(int, pids))[:10]
            assert fields["reason"] == f"cannot end process {', '.join(map(str, first))} and 2 more"

    run(main())
