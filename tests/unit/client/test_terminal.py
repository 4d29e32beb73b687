"""The console's drawing and completion, as far as they need no terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import ColorDepth, vt100

from client import history
from client.frontend import Status
from client.terminal import COLOURS, TerminalFrontend, _output, bottom, complete, sgr
from client.words import Line
from tests.support.waiting import BOUND

BUSY = Status("127.0.0.1:5050", 0, 41, 2, 12, 40)
IDLE = Status("127.0.0.1:5050", 0, 3, 0, 0, 0)


@pytest.mark.parametrize(
    ("status", "columns", "line"),
    [
        (IDLE, 80, "rank 0 of 3 | connected to 127.0.0.1:5050"),
        (IDLE, 41, "rank 0 of 3 | connected to 127.0.0.1:5050"),
        (IDLE, 40, "rank 0 of 3"),
        (IDLE, 10, "0/3"),
        (IDLE, 2, "0/"),
        (BUSY, 80, "rank 0 of 41 | 2 open: 12 of 40 answers | connected to 127.0.0.1:5050"),
        (BUSY, 68, "rank 0 of 41 | 2 open: 12 of 40 answers"),
        (BUSY, 38, "0/41 | 12/40"),
        (BUSY, 3, "0/4"),
        (Status("x", None, 0, 0, 0, 0), 80, "not connected"),
        (Status("x", None, 0, 0, 0, 0), 7, "not con"),
        (Status("unix:/日本", 1, 2, 0, 0, 0), 37, "rank 1 of 2 | connected to unix:/日本"),
        # Each of these characters takes two columns.
        (Status("unix:/日本", 1, 2, 0, 0, 0), 36, "rank 1 of 2"),
        (Status("unix:/\x1b", 1, 2, 0, 0, 0), 80, "rank 1 of 2 | connected to unix:/\\x1b"),
    ],
)
def test_the_bottom_line_shows_what_it_has_room_for(status: Status, columns: int, line: str) -> None:
    assert bottom(status, columns) == line


def test_without_colours_no_kind_of_line_has_one() -> None:
    assert {sgr(kind, ColorDepth.DEPTH_1_BIT) for kind in COLOURS} == {"\x1b[0m", "\x1b[0;1m"}
    assert sgr("error", ColorDepth.DEPTH_4_BIT) == "\x1b[0;31m"


def earlier(*commands: str) -> InMemoryHistory:
    kept = InMemoryHistory()
    for command in commands:
        kept.append_string(command)
    return kept


def test_matches_are_continuations_each_once_the_latest_first() -> None:
    kept = earlier("uptime", "up", "upgrade", "uptime", "date")
    assert history.matches("up", kept) == ["uptime", "upgrade"]
    assert history.matches("upt", kept) == ["uptime"]
    assert history.matches("uptime", kept) == []
    assert history.matches(":", kept) == [":who", ":help"]


@pytest.mark.parametrize("begin", ["", " "])
def test_nothing_matches_nothing(begin: str) -> None:
    assert history.matches(begin, earlier("uptime", " date")) == []


def test_the_number_of_matches_is_limited() -> None:
    assert len(history.matches("c", earlier(*(f"c{count}" for count in range(1000))))) == 50


def completed(*presses: str) -> list[str]:
    """Return the line after each press of Tab; each of ``presses`` is text typed before it."""
    buffer = Buffer(history=earlier("upgrade all", "uptime"))
    lines = []
    for typed in presses:
        buffer.insert_text(typed)
        complete(buffer)
        lines.append(buffer.text)
    return lines


def test_tab_goes_as_far_as_all_agree_then_through_each_and_back() -> None:
    assert completed("u", "", "", "") == ["up", "uptime", "upgrade all", "up"]


def test_typing_after_tab_accepts_the_match() -> None:
    assert completed("u", "g", "!") == ["up", "upgrade all", "upgrade all!"]


def test_nothing_is_completed_in_the_middle_of_a_line() -> None:
    buffer = Buffer(history=earlier("uptime"))
    buffer.insert_text("upx")
    buffer.cursor_left()
    complete(buffer)
    assert buffer.text == "upx"


def test_the_history_is_in_the_home_directory_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    history.load().append_string("uptime")
    path = tmp_path / ".local" / "state" / "rankserver" / "history"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(history.load().load_history_strings()) == ["uptime"]


def test_a_history_entry_of_invalid_text_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    kept = history.load()
    kept.append_string("a\udcff")
    kept.append_string("b")
    assert list(history.load().load_history_strings()) == ["b", "a?"]


def test_a_history_file_that_cannot_be_written_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    kept = history.load()
    path = tmp_path / "rankserver" / "history"
    path.unlink()
    path.mkdir()
    kept.append_string("uptime")
    assert history.matches("u", kept) == ["uptime"]


def test_before_the_prompt_lines_are_printed_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalFrontend().show([Line("error", "one"), Line("out", "two")])
    assert capsys.readouterr().out.endswith("\x1b[0;31mone\x1b[0m\r\ntwo\r\n")


def test_a_complaint_is_made_visible(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalFrontend().complain("\x9b2J")
    assert capsys.readouterr().out.endswith("\x1b[0;31m\\x9b2J\x1b[0m\r\n")


def test_lines_held_back_are_written_later(capsys: pytest.CaptureFixture[str]) -> None:
    output = _output()
    output.is_held = True
    output.write("half")
    output.flush()
    assert not capsys.readouterr().out
    output.is_held = False
    output.flush()
    assert capsys.readouterr().out == "half"


def test_a_burst_goes_out_with_the_prompt_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []

    async def next_write() -> str:
        has_written = asyncio.Event()

        def write(_stdout: object, data: str) -> None:
            writes.append(data)
            has_written.set()

        monkeypatch.setattr(vt100, "flush_stdout", write)
        writes.clear()
        await asyncio.wait_for(has_written.wait(), BOUND)
        (written,) = writes
        return written

    async def show_a_burst() -> str:
        async with TerminalFrontend() as terminal:
            assert "-/0> " in await next_write()
            terminal.refresh(IDLE)
            for batch in range(100):
                terminal.show([Line("out", f"line {batch * 10 + count}") for count in range(10)])
            return await next_write()

    with create_pipe_input() as keys, create_app_session(input=keys):
        write = asyncio.run(show_a_burst())
    assert write.index("line 0\r\nline 1\r\n") < write.index("line 999\r\n") < write.index("0/3> ")
