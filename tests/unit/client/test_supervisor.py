from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from pathlib import Path
from typing import Final

import pytest

from client import supervisor_handle
from client.supervisor_handle import SupervisorHandle
from rankserver.client.events import Outcome
from tests.support.executing import (
    Tether,
    client_process,
    closing,
    command,
    daemon,
    detail,
    idle_supervisor,
    outcome,
    shell,
    told,
)
from tests.support.waiting import BOUND, run

IGNORING: Final = "trap '' TERM HUP"


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


def test_a_client_that_is_killed_leaves_nothing_behind(tether: Tether) -> None:
    text = f"{daemon(tether)}; exec 9>{tether.path}; (sleep 1000 & sleep 1000) & echo $PPID >&9; sleep 1000"
    running = client_process(text)
    pid = int(tether.line())
    ending = os.pidfd_open(pid)
    running.kill()
    running.wait()
    tether.until_free()
    until_ended(ending)


def test_a_supervisor_that_is_told_to_end_ends_its_command(tether: Tether) -> None:
    running = client_process(f"{daemon(tether)}; exec 9>{tether.path}; echo $PPID >&9; sleep 1000")
    os.kill(int(tether.line()), signal.SIGTERM)
    tether.until_free()
    # Its ``execute`` has returned.
    assert running.wait(BOUND) == 0


def test_a_command_does_not_outlive_a_killed_supervisor(tether: Tether) -> None:
    running = client_process(f"exec 9>{tether.path}; echo $PPID >&9; exec sleep 1000")
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
