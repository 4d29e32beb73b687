"""Helpers for tests of execution: commands, and a way to check that no process of a command is left."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from client import policy
from client.executors import ExecutorOptions, ProcessExecutor, ShellExecutor
from rankserver.client.events import Execute, Outcome
from rankserver.client.worker import Executor
from tests.support.paths import ROOT
from tests.support.waiting import BOUND, run

T = TypeVar("T")
E = TypeVar("E", bound=Executor)


# A program that a supervisor cannot tell from a client: it executes its argument.
CLIENT = """
import asyncio, sys
from tests.support.executing import command, shell
asyncio.run(shell().execute(command(sys.argv[1])))
"""


def command(text: str, *, seq: int = 7) -> Execute:
    """Return a command from rank 0 that rank 1 must execute."""
    return Execute(seq, 0, text, True, 1, "me")


def outcome(executor: Executor, text: str) -> Outcome:
    """Execute one command, and close the executor."""

    async def main() -> Outcome:
        async with closing(executor):
            return await executor.execute(command(text))

    return run(main())


@asynccontextmanager
async def closing(executor: E) -> AsyncIterator[E]:
    try:
        yield executor
    finally:
        await executor.close()


def shell(
    *, timeout: float | None = None, output_limit: int = 32_768, workdir: Path | None = None
) -> ShellExecutor:
    """Return a shell executor that allows every command."""
    return ShellExecutor(ExecutorOptions(policy.ALL, timeout, output_limit, workdir))


def another_user() -> dict[str, Any]:
    """Return options of ``Popen`` that start a program as a user of its own, if we are root.

    The test is skipped if this Python lies in a folder that no other user may enter.
    """
    if os.getuid() != 0:
        return {}
    user = 1_000_000_000 + os.getpid()
    options: dict[str, Any] = {"user": user, "group": user, "extra_groups": []}
    try:
        subprocess.run([sys.executable, "-c", ""], check=True, capture_output=True, **options)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("another user cannot run this Python")
    return options


def detail(result: Outcome, status: str) -> dict[str, Any]:
    """Check the status of an outcome; return its fields."""
    assert result.status == status, result
    assert result.detail is not None
    return dict(result.detail)


class Tether:
    """A FIFO that processes hold open for writing: its end proves that none of them is left.

    Commands write to it as ``path``.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "tether"
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def line(self) -> str:
        """Return the next line that a process writes."""
        line = b""
        while not line.endswith(b"\n"):
            self._wait(select.POLLIN)
            line += os.read(self._fd, 1)
        return line.decode().strip()

    def is_free(self) -> bool:
        """Return whether no process holds it at the moment."""
        try:
            return os.read(self._fd, 1) == b""
        except BlockingIOError:
            return False

    def until_free(self) -> None:
        """Wait until no process holds it."""
        self._wait(select.POLLHUP)

    def close(self) -> None:
        os.close(self._fd)

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._fd, event)
        deadline = time.monotonic() + BOUND
        while not any(mask & event for _, mask in poll.poll(BOUND * 1000)):
            assert time.monotonic() < deadline, "nobody writes to the tether, or somebody holds it"


@contextmanager
def tethered(directory: Path) -> Iterator[Tether]:
    tether = Tether(directory)
    try:
        yield tether
    finally:
        tether.close()


async def told(wait: Callable[[], T]) -> T:
    """Run a blocking call in a thread, while the loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(None, wait)


def idle_supervisor(executor: ProcessExecutor) -> int:
    """Return the process id of the one supervisor that waits for a command."""
    (kept,) = executor._idle
    return kept._process.pid


def daemon(tether: Tether) -> str:
    """Return a command that starts a daemon in the usual way: forked twice, and in its own session.

    It holds the tether and our output, and writes its process id.
    """
    return f"setsid sh -c 'exec 9>{tether.path}; sleep 1000 & echo $!'"


def client_process(text: str) -> subprocess.Popen[bytes]:
    """Start a client that executes a command, and return its process."""
    return subprocess.Popen([sys.executable, "-c", CLIENT, text], cwd=ROOT)
