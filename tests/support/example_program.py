"""A program of examples/, started with pipes: tests write its input, and read its output line by line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.waiting import BOUND, read_line


class ExampleProgram:
    """An example program, whose input the test writes and whose output it reads."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )

    def __enter__(self) -> ExampleProgram:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()

    def line(self) -> str:
        assert self.process.stdout is not None
        line = read_line(self.process.stdout)
        assert line.endswith(b"\n"), f"it wrote {line!r}"
        return line[:-1].decode()

    def until(self, *prefixes: str) -> list[str]:
        """Return the lines up to the first that starts with one of ``prefixes``."""
        deadline = time.monotonic() + BOUND
        lines = [self.line()]
        while not lines[-1].startswith(prefixes):
            assert time.monotonic() < deadline, f"no {prefixes} in {lines}"
            lines.append(self.line())
        return lines

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def end(self) -> tuple[int, list[str], str]:
        """Wait for its end; return the exit code, the rest of the output, and its stderr."""
        out, err = self.process.communicate(timeout=BOUND)
        return self.process.returncode, out.decode().splitlines(), err.decode()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None

    def kill(self) -> None:
        """Kill it with SIGKILL; further calls do nothing."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        """Suspend it with SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)
