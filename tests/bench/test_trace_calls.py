from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_calls_of_a_command_and_an_ask_are_listed_by_file() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "trace_calls.py"], capture_output=True, text=True, check=True
    )
    command, ask = (part.splitlines() for part in done.stdout.strip().split("\n\n"))
    for lines, what, waits in ((command, "a lone command", 1), (ask, "an ASK and one RES", 2)):
        assert lines[0].startswith(f"{what}, 10 receivers: ")
        assert f"    {waits} x EpollSelector.select" in lines
        files = [line.split(": ") for line in lines[1:] if not line.startswith("    ")]
        ours = [int(count) for name, count in files if name.strip().startswith("rankserver/")]
        assert lines[0].split(": ")[1].startswith(f"{sum(ours)} calls in {len(ours)} files,")
        assert min(ours) > 0
