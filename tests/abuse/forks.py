"""Row: a command that forks without end."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import Program

from client import bounds
from tests.abuse.clients import Follower
from tests.abuse.outcome import RowOutcome

if TYPE_CHECKING:
    from harness import HostPort

    from tests.abuse.subjects import Subject

# The most forks of the bomb if nothing limits it, because this machine may have other work.
MAX_FORKS: Final = 2_000

# Forks for ever in all of its processes. Each has its own session, ignores SIGTERM, and adds a byte to a file
# after each fork. The arguments are this file, and its size at which all processes rest. A process that
# nothing else ends is ended by its alarm, a minute after its last fork.
BOMB: Final = """\
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
forks = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
while True:
    signal.alarm(60)
    if os.fstat(forks).st_size >= int(sys.argv[2]):
        signal.pause()
    try:
        if os.fork():
            os.write(forks, b".")
        else:
            os.setsid()
    except BlockingIOError:
        time.sleep(0.01)
"""


def can_limit() -> bool:
    """Return whether this machine lets an agent of our user limit the processes of a command."""
    return bounds.find().can_limit


def fork_bomb(subject: Subject, processes: int = 512, timeout: float = 5) -> RowOutcome:
    """Let an agent execute a fork bomb, then a harmless command; count what was forked, and what is left."""
    outcome = RowOutcome()
    mark = uuid.uuid4().hex
    with (
        tempfile.NamedTemporaryFile("w") as program,
        tempfile.NamedTemporaryFile() as forks,
        subject.start(8) as server,
    ):
        program.write(BOMB)
        program.flush()
        bomb = f"exec {sys.executable} -S {program.name} {forks.name} {MAX_FORKS} {mark}"
        options = ["--timeout", str(timeout), "--max-processes", str(processes), "--stay"]
        with Follower(server.address, "boss") as boss, _agent(server.address, options):
            boss.join()
            boss.until(lambda: boss.clients == 2, "see the agent")
            answer = _ask(boss, bomb)
            left = sum(_is_marked(entry, mark) for entry in Path("/proc").iterdir())
            after = _ask(boss, "echo fine")
        forked = Path(forks.name).stat().st_size
    outcome.check(forked < processes, f"it had {forked + 1:,} processes")
    outcome.check(not left, f"{left:,} processes are left")
    outcome.check(answer.startswith("timeout "), f"the answer is {answer[:100]}")
    outcome.check(after.startswith("ok "), f"the next command got {after[:100]}")
    seconds = json.loads(answer.partition(" ")[2]).get("ms", 0) / 1000
    outcome.figure = f"{forked + 1:,} processes, all ended after {seconds:.1f} s; the agent goes on"
    return outcome


def _agent(address: HostPort, options: list[str]) -> Program:
    where = f"{address.host}:{address.port}"
    return Program(
        "the agent", [sys.executable, "-m", "client", where, "--exec", "shell", "--allow-all", *options]
    )


def _ask(boss: Follower, text: str) -> str:
    """Ask the agent to execute ``text``; return the status and details of its answer."""
    boss.private.clear()
    boss.send(f"ASK {text}\n".encode())
    boss.until(lambda: any(line.startswith(b"RES ") for line in boss.private), "get an answer")
    return boss.private[-1].decode().split(" ", 4)[4]


def _is_marked(process: Path, mark: str) -> bool:
    """Return whether ``mark`` is an argument of a process."""
    with contextlib.suppress(OSError):
        return mark.encode() in (process / "cmdline").read_bytes()
    return False
