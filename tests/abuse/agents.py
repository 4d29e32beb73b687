"""The real client as an agent that executes everything, and a boss that asks it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness import Program

from tests.abuse.clients import Follower

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness import ServerProgram


@contextmanager
def commanding(
    server: ServerProgram, options: Sequence[str] = (), environment: Sequence[str] = ()
) -> Iterator[Follower]:
    """Run an agent during the block, and yield a client that ranks above it.

    Args:
        server: an empty server.
        options: further options of the agent.
        environment: further variables of its environment, each as ``NAME=VALUE``.
    """
    where = f"{server.address.host}:{server.address.port}"
    command = ["env", *environment, sys.executable, "-m", "client", where, "--stay"]
    command += ["--exec", "shell", "--allow-all", *options]
    with Follower(server.address, "boss") as boss:
        boss.join()
        with Program("the agent", command):
            boss.until(lambda: boss.clients == 2, "see the agent join")
            yield boss


def begin(boss: Follower, command: str) -> None:
    """Ask the agent to execute a command."""
    boss.private.clear()
    boss.send(b"ASK " + command.encode() + b"\n")


def answer(boss: Follower) -> bytes:
    """Wait for the agent's answer, and return it."""
    boss.until(lambda: any(line.startswith(b"RES ") for line in boss.private), "get an answer")
    return next(line for line in boss.private if line.startswith(b"RES "))
