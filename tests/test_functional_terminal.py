"""The console on a real pseudo-terminal, read as a person does: from the screen."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pexpect
import pyte
import pytest

from tests.support import BOUND, ROOT, RawClient, Server

ROWS, COLUMNS = 24, 100
CTRL_C, CTRL_D, UP, LEFT = "\x03", "\x04", "\x1b[A", "\x1b[D"


class Console:
    """``python -m client`` on a terminal of its own."""

    def __init__(self, *arguments: str, env: dict[str, str]) -> None:
        self.raw = b""  # all that it wrote
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self.child: pexpect.spawn[bytes] = pexpect.spawn(
            sys.executable,
            ["-m", "client", *arguments],
            cwd=ROOT,
            env=env,
            dimensions=(ROWS, COLUMNS),
            timeout=BOUND,
            echo=True,  # as a shell leaves it
        )
        self.child.delaybeforesend = None

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.child.close(force=True)

    def type(self, text: str) -> None:
        self.child.send(text)

    def rows(self) -> list[str]:
        """Return what the screen shows, without the empty rows at its end."""
        rows = [row.rstrip() for row in self._screen.display]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def see(self, *last: str) -> None:
        """Wait until these are the last rows on the screen."""
        self._until(lambda: self.rows()[-len(last) :] == list(last))

    def is_cooked(self) -> bool:
        """Tell whether the terminal is as a shell needs it."""
        flags = termios.ECHO | termios.ICANON | termios.ISIG
        return bool(termios.tcgetattr(self.child.child_fd)[3] & flags == flags)

    def exit_code(self) -> int:
        """Wait for the end and return the exit code."""
        self._until(lambda: self.child.flag_eof)
        self.child.wait()
        assert self.child.exitstatus is not None
        return self.child.exitstatus

    def _until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + BOUND
        while not happened():
            assert time.monotonic() < deadline, "\n".join(self.rows())
            try:
                data = self.child.read_nonblocking(1 << 16, timeout=BOUND)
            except (pexpect.EOF, pexpect.TIMEOUT):
                assert happened(), "\n".join(self.rows())
                return
            self.raw += data
            self._stream.feed(data)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "RANKSERVER")}
    return kept | {"TERM": "xterm-256color", "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[..., Console]]:
    """Return a function that starts a console with these arguments and changes to the environment."""
    with ExitStack() as stack:
        yield lambda *arguments, **changes: stack.enter_context(
            Console(*arguments, env=environment | changes)
        )


@pytest.fixture
def console(server: Server, start: Callable[..., Console]) -> Console:
    """Start a console that is the first at the server and executes at once."""
    started = start(server.where, "--name", "me", "--delay", "0")
    started.see(f"connected to {server.where} as me: rank 0 of 1", "0/1>")
    return started


def test_a_half_typed_line_survives_what_arrives_meanwhile(server: Server, console: Console) -> None:
    console.type("half ti")
    console.see("0/1> half ti")
    with RawClient(server.address) as other:
        other.hello()
        console.see("0/2> half ti")
        console.type(LEFT)
        other.send(b"ASK reboot\n")
        console.see("cannot execute #3 from lower-ranked rank 1: reboot", "0/2> half ti")
        console.type("yped\x1b[F!\r")
        other.expect(b"ASK 3 1 reboot")
        other.expect(b"RES 3 0 me refused")
        other.expect(b"ASK 4 0 half typedi!")
        console.see("0/2> half typedi!", "sent #4: half typedi!", "0/2>")


def test_many_lines_above_the_prompt_leave_it_whole(server: Server, console: Console) -> None:
    console.type("half")
    with RawClient(server.address) as other:
        other.hello()
        console.see("0/2> half")
        other.send(b"".join(b"CMD %d\n" % count for count in range(500)))
        shown = [
            f"cannot execute #{count + 3} from lower-ranked rank 1: {count}" for count in range(478, 500)
        ]
        console.see(*shown, "0/2> half")


def test_the_prompt_follows_the_rank_without_a_key(server: Server, start: Callable[..., Console]) -> None:
    with RawClient(server.address) as top, RawClient(server.address) as second:
        top.hello()
        second.hello()
        console = start(server.where)
        console.see(f"connected to {server.where} as c3: rank 2 of 3", "2/3>")
        top.close()
        console.see("rank is now 1 of 2", "1/2>")
        second.close()
        console.see("rank is now 1 of 2", "rank is now 0 of 1", "0/1>")


def test_a_paste_of_several_lines_is_several_commands(console: Console) -> None:
    console.type("ec")
    console.see("0/1> ec")
    console.type("\x1b[200~ho a\r\necho b\recho c\nec\x1b[201~")
    console.see("sent #4: echo c", "#4: executed by 0 of 0", "0/1> ec")
    console.type("ho d\r")
    console.see("sent #5: echo d", "#5: executed by 0 of 0", "0/1>")
    assert [row for row in console.rows() if row.startswith("sent")] == [
        f"sent #{count + 2}: echo {letter}" for count, letter in enumerate("abcd")
    ]


def test_lines_typed_faster_than_they_are_read_are_all_sent_in_order(console: Console) -> None:
    console.type("".join(f"{count}\r" for count in range(200)))
    console.see("sent #201: 199", "#201: executed by 0 of 0", "0/1>")


def test_what_may_not_be_sent_is_refused_above_the_prompt(console: Console) -> None:
    console.type("\x1b[200~a\x1bb\n\x1b[201~half")
    console.see("cannot send: control character U+001B at position 1; only TAB is allowed", "0/1> half")


def test_exit_leaves(console: Console) -> None:
    console.type("exit\r")
    assert console.exit_code() == 0


def test_ctrl_d_leaves_from_an_empty_line_only(console: Console) -> None:
    console.type("ab" + LEFT + CTRL_D)
    console.see("0/1> a")
    console.type("\x7f" + CTRL_D)
    assert console.exit_code() == 0


def test_ctrl_c_clears_a_line_and_leaves_from_an_empty_one(server: Server, console: Console) -> None:
    console.type("abc")
    console.see("0/1> abc")
    console.type(CTRL_C)
    console.see("0/1>")
    console.type(CTRL_C)
    assert console.exit_code() == 130
    assert console.rows() == [f"connected to {server.where} as me: rank 0 of 1"]


def test_a_signal_leaves(console: Console) -> None:
    assert not console.is_cooked()
    console.child.kill(signal.SIGTERM)
    assert console.exit_code() == 0
    assert console.is_cooked()


def test_the_end_of_the_server_ends_it_and_leaves_the_terminal_as_it_was(
    server: Server, console: Console
) -> None:
    console.type("half")
    console.see("0/1> half")
    server.process.send_signal(signal.SIGTERM)
    assert console.exit_code() == 4
    assert console.rows()[-1] == "disconnected: shutdown the server is stopping"
    assert console.is_cooked()
    assert console.raw.rfind(b"\x1b[?2004l") > console.raw.rfind(b"\x1b[?2004h")  # bracketed paste is off


def test_history_is_kept_for_the_next_time_and_for_its_owner_only(
    server: Server, console: Console, start: Callable[..., Console], tmp_path: Path
) -> None:
    console.type("uptime\r")
    console.see("sent #2: uptime", "#2: executed by 0 of 0", "0/1>")
    console.type("exit\r")
    assert console.exit_code() == 0
    again = start(server.where)
    again.see("0/1>")
    again.type(UP + UP)
    again.see("0/1> uptime")
    history = tmp_path / "state" / "rankserver" / "history"
    assert history.stat().st_mode & 0o777 == 0o600


def test_it_does_without_a_history_file_that_cannot_be_written(
    server: Server, start: Callable[..., Console]
) -> None:
    console = start(server.where, XDG_STATE_HOME=os.devnull)
    console.see("0/1>")
    console.type("uptime\r")
    console.see("#2: executed by 0 of 0", "0/1>")
    console.type(UP)
    console.see("0/1> uptime")


def test_colour_is_used_unless_no_color_is_set(server: Server, start: Callable[..., Console]) -> None:
    for changes, is_coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        console = start(server.where, **changes)
        console.see("0/1>")
        console.type("exit\r")
        assert console.exit_code() == 0
        colours = re.findall(rb"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])(?:;\d+)*m", console.raw)
        assert bool(colours) is is_coloured


def test_a_dumb_terminal_gets_plain_lines(server: Server, start: Callable[..., Console]) -> None:
    console = start(server.where, TERM="dumb")
    console.see(f"connected to {server.where} as c1: rank 0 of 1")
    console.type("uptime\n")
    console.see("uptime", "sent #2: uptime", "#2: executed by 0 of 0")
    console.type(CTRL_C)
    assert console.exit_code() == 130
    assert b"\x1b" not in console.raw
