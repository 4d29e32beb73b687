from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The Python calls that the server may make, and the files that they may lie in: a loop that is composed of
# parts must not cost a lone command more than one that is not.
MAX_COMMAND = (24, 5)
MAX_ASK = (70, 7)


def test_the_calls_of_a_command_and_an_ask_are_listed_by_file() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "trace_calls.py"], capture_output=True, text=True, check=True
    )
    command, ask = (part.splitlines() for part in done.stdout.strip().split("\n\n"))
    for lines, what, waits, limits in (
        (command, "a lone command", 1, MAX_COMMAND),
        (ask, "an ASK and one RES", 2, MAX_ASK),
    ):
        assert lines[0].startswith(f"{what}, 10 receivers: ")
        assert f"    {waits} x EpollSelector.select" in lines
        files = [line.split(": ") for line in lines[1:] if not line.startswith("    ")]
        ours = [int(count) for name, count in files if name.strip().startswith("rankserver/")]
        assert lines[0].split(": ")[1].startswith(f"{sum(ours)} calls in {len(ours)} files,")
        assert min(ours) > 0
        assert sum(ours) <= limits[0]
        assert len(ours) <= limits[1]
