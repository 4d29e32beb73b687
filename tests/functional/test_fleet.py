"""A fleet whose agents die while it works: every ask ends, every answer is right, and no process is left."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rankserver.client import Ask, Client, connect
from tests.support.paths import ROOT
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND, read_line

AGENTS = 50
ASKS = 100
KILLED = 25
# Prints the name of its agent, and leaves one process in its group and one in another session.
LITTERS = "sleep 1000 & setsid sleep 1000 & printenv RANK_NAME"


class Fleet:
    """Client programs that execute commands, and that the test can kill.

    Args:
        mark: TMPDIR in the environment of all their processes, including those of their commands.
    """

    def __init__(self, address: str, mark: Path) -> None:
        self.mark = f"TMPDIR={mark}".encode()
        command = [sys.executable, "-m", "tests.support.forked_clients", address, str(AGENTS)]
        self._parent = subprocess.Popen(
            [*command, "--exec", "shell", "--allow-all"],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(mark)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._parent.stdout is not None
        self.pids = [int(read_line(self._parent.stdout)) for _ in range(AGENTS)]

    def kill(self, number: int) -> None:
        os.kill(self.pids[number], signal.SIGKILL)

    def close(self) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self._parent.communicate()

    def processes(self) -> list[int]:
        """Return all live processes with the mark."""
        found = []
        for entry in Path("/proc").iterdir():
            # The process may have ended by now.
            with suppress(OSError):
                if entry.name.isdecimal() and self.mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found


@contextmanager
def fleet(address: str, mark: Path) -> Iterator[Fleet]:
    mark.mkdir()
    started = Fleet(address, mark)
    try:
        yield started
    finally:
        started.close()


async def until(client: Client, happened: Callable[[], bool]) -> None:
    """Wait for events until ``happened`` returns true for one."""
    events = aiter(client)
    while not happened():
        await anext(events)


def wait_until_gone(agents: Fleet) -> None:
    """Wait until no process of the agents or of their commands is left."""
    while left := agents.processes():
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(left[0])
            ended, _, _ = select.select([descriptor], [], [], BOUND)
            os.close(descriptor)
            assert ended, f"{left} are left"


def check(ask: Ask, roster: dict[int, str]) -> None:
    """Check that every target has exactly one answer, which is its own."""
    assert ask.is_done
    assert sum(ask.counts) == len(ask) == len(ask.by_rank)
    assert set(ask.by_rank) == set(range(1, len(ask) + 1))
    for answer in ask:
        assert answer.status in ("ok", "gone"), answer
        assert answer.name == roster[answer.rank]
        if answer.status == "ok":
            assert answer.out == f"{answer.name}\n"


@pytest.mark.timeout(300)  # 15 s on two idle cores
def test_a_fleet_answers_100_asks_while_half_of_it_is_killed(
    serve: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    chance = random.Random(1)
    server = serve(AGENTS + 1)

    async def main() -> None:
        async with connect(server.where, name="operator") as c:
            with fleet(server.where, tmp_path / "mark") as agents:
                await asyncio.wait_for(until(c, lambda: c.clients == AGENTS + 1), 3 * BOUND)
                victims = chance.sample(range(AGENTS), KILLED)
                for number in range(ASKS):
                    roster = {member.rank: member.name for member in await c.who()}
                    ask = c.ask(LITTERS if number % 10 == 0 else "printenv RANK_NAME")
                    seq = await ask.logged()
                    if number % (ASKS // KILLED) == 0:
                        agents.kill(victims.pop())
                    check(await asyncio.wait_for(ask, 2 * BOUND), roster)
                    # A client that answered before it was killed may leave later, which would make the roster
                    # out of date.
                    await asyncio.wait_for(
                        until(c, lambda: c.clients == AGENTS + 1 - KILLED + len(victims)), BOUND
                    )
                    assert seq == ask.seq
                assert not victims
            await asyncio.wait_for(until(c, lambda: c.clients == 1), BOUND)
        wait_until_gone(agents)

    asyncio.run(main())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_an_agent_executes_ends_with_it(
    serve: Callable[..., ServerProcess], tmp_path: Path, end: signal.Signals
) -> None:
    server = serve(AGENTS + 1)

    async def main() -> None:
        async with connect(server.where, name="operator") as c:
            with fleet(server.where, tmp_path / "mark") as agents:
                await asyncio.wait_for(until(c, lambda: c.clients == AGENTS + 1), 3 * BOUND)
                ask = c.ask("trap '' TERM; setsid sleep 1000 & sleep 1000; wait")
                await ask.logged()
                for pid in agents.pids:
                    os.kill(pid, end)
                await asyncio.wait_for(ask, 2 * BOUND)
                assert ask.counts.gone == AGENTS
        wait_until_gone(agents)

    asyncio.run(main())
