"""The console on a pseudo-terminal, whose screen is read as a person would read it.

``conftest`` has the fixtures that start a ``TerminalClient``.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import termios
import time
from collections.abc import Callable
from typing import Final

import pexpect
import pyte

from tests.support.paths import ROOT
from tests.support.waiting import BOUND

ROWS, COLUMNS = 24, 100
CTRL_C, CTRL_D, CTRL_L, CTRL_Q, CTRL_R, CTRL_Z, TAB = "\x03", "\x04", "\x0c", "\x11", "\x12", "\x1a", "\t"
UP, RIGHT, LEFT, END = "\x1b[A", "\x1b[C", "\x1b[D", "\x1b[F"
# The sequence that ends each drawing: it shows the cursor again.
DRAWN: Final = b"\x1b[?25h"
CLIENT: Final = (sys.executable, "-m", "client")


class TerminalClient:
    """``python -m client`` on a terminal of its own.

    Args:
        arguments: the client's arguments.
        env: its whole environment.
        size: rows and columns.
        in_shell: whether a shell with job control starts it; the shell's prompt is ``$``.

    Attributes:
        raw: all bytes that it wrote.
        child: the process.
    """

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str],
        size: tuple[int, int] = (ROWS, COLUMNS),
        in_shell: bool = False,
    ) -> None:
        self.raw = b""
        self._screen = pyte.Screen(size[1], size[0])
        self._stream = pyte.ByteStream(self._screen)
        command = ["bash", "--norc"] if in_shell else [*CLIENT, *arguments]
        self.child: pexpect.spawn[bytes] = pexpect.spawn(
            command[0],
            command[1:],
            cwd=ROOT,
            env=env | {"PS1": "$ ", "HISTFILE": ""},
            dimensions=size,
            timeout=BOUND,
            # The state in which a shell leaves a terminal.
            echo=True,
        )
        self.child.delaybeforesend = None
        if in_shell:
            self.see("$")
            self.type(f"clear; {shlex.join([*CLIENT, *arguments])}\r")

    def __enter__(self) -> TerminalClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.child.close(force=True)

    def type(self, text: str) -> None:
        """Send keys."""
        self.child.send(text)

    # --- the screen ---

    def rows(self) -> list[str]:
        """Return the rows above the bottom line, without empty ones at the end."""
        at = self._bottom_at()
        rows = [row.rstrip() for row in self._screen.display[: self._screen.lines if at is None else at]]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def bottom(self) -> str:
        """Return the bottom line, the last row in reverse video; empty if there is none."""
        at = self._bottom_at()
        return "" if at is None else self._screen.display[at].rstrip()

    def bottom_distance(self) -> int:
        """Return the distance in rows from the last of ``rows`` to the bottom line."""
        at = self._bottom_at()
        assert at is not None, self._shown()
        return at + 1 - len(self.rows())

    def cursor(self) -> tuple[int, int]:
        """Return the cursor's index in ``rows``, from the end (-1 is the last), and its column from 0."""
        return self._screen.cursor.y - len(self.rows()), self._screen.cursor.x

    def colour(self, text: str, column: int = 0) -> str:
        """Return the colour in the last row that shows ``text``, ``column`` columns after its beginning."""
        at = next(row for row in reversed(range(self._screen.lines)) if text in self._screen.display[row])
        return str(self._screen.buffer[at][self._screen.display[at].index(text) + column].fg)

    def has_colour(self) -> bool:
        """Return whether anything that it wrote had a colour."""
        return re.search(rb"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m", self.raw) is not None

    @property
    def title(self) -> str:
        """The window title."""
        return str(self._screen.title)

    def _bottom_at(self) -> int | None:
        lines = reversed(range(self._screen.lines))
        return next((row for row in lines if self._screen.buffer[row][0].reverse), None)

    # --- waiting ---

    def see(self, *last: str) -> None:
        """Wait until ``rows`` are the last rows above the bottom line."""
        self.until(lambda: self.rows()[-len(last) :] == list(last))

    def see_bottom(self, line: str) -> None:
        """Wait until this is the bottom line."""
        self.until(lambda: self.bottom() == line)

    def exit_code(self) -> int:
        """Wait for the end and return the exit code."""
        self.until(lambda: self.child.flag_eof)
        self.child.wait()
        assert self.child.exitstatus is not None
        return self.child.exitstatus

    def until(self, happened: Callable[[], bool]) -> None:
        """Read the program's output until ``happened()`` is true."""
        deadline = time.monotonic() + BOUND
        while not happened():
            assert time.monotonic() < deadline, self._shown()
            try:
                data = self.child.read_nonblocking(1 << 16, timeout=BOUND)
            except (pexpect.EOF, pexpect.TIMEOUT):
                assert happened(), self._shown()
                return
            self.raw += data
            self._stream.feed(data)

    def _shown(self) -> str:
        return "\n".join([*self._screen.display, f"cursor at {self.cursor()}"])

    # --- the terminal ---

    def is_cooked(self) -> bool:
        """Return whether the terminal is in the mode that a shell needs."""
        flags = termios.ECHO | termios.ICANON | termios.ISIG
        return bool(termios.tcgetattr(self.child.child_fd)[3] & flags == flags)

    def resize(self, rows: int, columns: int) -> None:
        """Resize the terminal as xterm does.

        Rows below the text are removed first, then rows at the top; rows that become too long are cut.
        """
        screen = self._screen
        used = max([at for at, row in enumerate(screen.display) if row.strip()] + [screen.cursor.y]) + 1
        over = max(0, used - rows)
        at = screen.cursor.y
        screen.cursor.y = screen.lines - 1
        for _ in range(over):
            screen.index()
        screen.cursor.y = at - over
        # Do not use resize(), which leaves the cursor in another row.
        screen.lines = rows
        for row in [row for row in screen.buffer if row >= rows]:
            del screen.buffer[row]
        screen.resize(rows, columns)
        screen.cursor.x = min(screen.cursor.x, columns - 1)
        self.child.setwinsize(rows, columns)

    def resized(self, rows: int, columns: int) -> None:
        """Resize the terminal, and wait until the console is redrawn."""
        drawn = self.raw.count(DRAWN)
        self.resize(rows, columns)
        self.until(lambda: self.raw.count(DRAWN) > drawn)


def terminal_environment(state: os.PathLike[str]) -> dict[str, str]:
    """Return the environment for a console with its history in ``state``."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "RANKSERVER")}
    return kept | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "XDG_STATE_HOME": os.fspath(state)}
