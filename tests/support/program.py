"""The client program, started with pipes: tests write its input, and read its output line by line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rankserver.wire import frames, protocol
from tests.support.paths import ROOT
from tests.support.waiting import BOUND, read_line

BANNER = protocol.info(frames.InfoFrame(1, "fake", 65_536, auth=False, capacity=8))
WELCOME = protocol.welcome(frames.WelcomeFrame(0, 1, 0, "me", "s", 30))


class ClientProgram:
    """``python -m client`` in plain mode, whose input the test writes and whose output it reads.

    Args:
        arguments: those of the client.
        program: what Python runs.
        options: those of ``Popen`` that differ from the usual ones.
    """

    def __init__(self, *arguments: str, program: Sequence[str] = ("-m", "client"), **options: Any) -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments], cwd=ROOT, bufsize=0, **{**pipes, **options}
        )

    def __enter__(self) -> ClientProgram:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.communicate()

    def type(self, *lines: str) -> None:
        """Write lines to its standard input."""
        assert self.process.stdin is not None
        for line in lines:
            self.process.stdin.write(line.encode() + b"\n")

    def line(self) -> str:
        """Return the next line of its standard output."""
        assert self.process.stdout is not None
        line = read_line(self.process.stdout)
        assert line.endswith(b"\n"), line
        return line[:-1].decode()

    def lines(self, count: int) -> list[str]:
        """Return the next lines of its standard output."""
        return [self.line() for _ in range(count)]

    def error(self) -> str:
        """Return the next line of its standard error."""
        assert self.process.stderr is not None
        line = read_line(self.process.stderr)
        assert line.endswith(b"\n"), line
        return line[:-1].decode()

    def event(self, kind: str) -> dict[str, Any]:
        """Return the next JSON object of this kind on standard output, skipping others."""
        while True:
            event: dict[str, Any] = json.loads(self.line())
            if event["event"] == kind:
                return event

    def signal(self, signum: int) -> None:
        """Send it a signal."""
        self.process.send_signal(signum)

    def end(self, *, stdin: bytes = b"") -> tuple[int, list[str], str]:
        """End the input and wait; return the exit code, the rest of the output, and the rest of stderr."""
        out, err = self.process.communicate(stdin, BOUND)
        return self.process.returncode, (out or b"").decode().splitlines(), (err or b"").decode()


def run(*arguments: str, stdin: bytes = b"", **options: Any) -> tuple[int, list[str], str]:
    """Run ``python -m client`` to its end; return the exit code, the output and stderr."""
    with ClientProgram(*arguments, **options) as program:
        return program.end(stdin=stdin)
