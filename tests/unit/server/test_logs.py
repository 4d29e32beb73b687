"""The operator's log: the format of lines as text and as JSON, and which lines are written."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import select
import socket
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rankserver import logs

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


pytestmark = pytest.mark.usefixtures("logger")


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make local time differ from UTC by five and a half hours."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-5:30")
        time.tzset()
        yield
    time.tzset()


def written(capfd: pytest.CaptureFixture[str]) -> list[str]:
    captured = capfd.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_text_has_the_time_the_level_the_event_and_its_fields(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "text")
    logs.event(logging.INFO, "joined", name="web-1", rank=3)
    (line,) = written(capfd)
    assert re.fullmatch(TIME + " INFO joined name=web-1 rank=3", line)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", '""'),
        ("two words", '"two words"'),
        ('a"b', r'"a\"b"'),
        ("a=b", "a=b"),
        (1.5, "1.5"),
        (None, "None"),
    ],
)
def test_text_quotes_a_value_that_is_not_one_word(
    value: object, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", "text")
    logs.event(logging.WARNING, "left", reason=value)
    (line,) = written(capfd)
    assert line.endswith(f" WARNING left reason={shown}")


def test_json_is_one_object_on_a_line_and_keeps_the_types(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logs.event(logging.INFO, "joined", name='we "b"', rank=3, pause=0.5)
    (line,) = written(capfd)
    fields = json.loads(line)
    assert re.fullmatch(TIME, fields.pop("time"))
    assert fields == {"level": "info", "event": "joined", "name": 'we "b"', "rank": 3, "pause": 0.5}


@pytest.mark.usefixtures("far_from_greenwich")
def test_the_time_is_utc_to_the_millisecond(
    capfd: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    logs.configure("info", "json")
    fields = {"msg": "x", "levelno": logging.INFO, "levelname": "INFO", "created": 86_399.042, "msecs": 42}
    record = logging.makeLogRecord(fields)
    logger.handle(record)
    assert json.loads(*written(capfd))["time"] == "1970-01-01T23:59:59.042Z"


@pytest.mark.parametrize("line_format", logs.FORMATS)
@pytest.mark.parametrize(("number", "level"), list(enumerate(logs.LEVELS)))
def test_a_level_shows_itself_and_those_above(
    number: int, level: str, line_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(level, line_format)
    for name in logs.LEVELS:
        logs.event(getattr(logging, name.upper()), f"event-{name}")
    lines = written(capfd)
    assert [re.findall(r"event-(\w+)", line) for line in lines] == [[name] for name in logs.LEVELS[number:]]


def test_configuring_again_replaces_the_old_configuration(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logs.configure("info", "json")
    logs.event(logging.INFO, "joined")
    (line,) = written(capfd)
    assert json.loads(line)["event"] == "joined"


def test_the_root_logger_does_not_repeat_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handler = logging.StreamHandler()
    root.addHandler(handler)
    try:
        logs.configure("info", "text")
        logs.event(logging.INFO, "joined")
    finally:
        root.removeHandler(handler)
    assert len(written(capfd)) == 1


# --- what peers and strangers can do --------------------------------------------------------------


HOSTILE = [
    "\n2026-01-01T00:00:00.000Z ERROR forged",
    "\r",
    "a\x1b[2Jb",
    "\x7f",
    "\x9b2J",
    "\u2028",
    "\u202eltr",
    "a\\nb",
    "\ud800",
    "x\x00y",
]


@pytest.mark.parametrize("line_format", logs.FORMATS)
@pytest.mark.parametrize("text", HOSTILE)
def test_no_value_ends_a_line_or_moves_a_cursor(
    text: str, line_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", line_format)
    logs.event(logging.INFO, "refused", reason=text, peer="192.0.2.1:1")
    output = capfd.readouterr().err
    assert output.endswith("\n")
    assert re.fullmatch("[ -~]+", output[:-1]), "visible ASCII on one line"
    if line_format == "json":
        assert json.loads(output)["reason"] == text
    else:
        quoted = re.fullmatch(TIME + r' INFO refused reason=(".*") peer=192\.0\.2\.1:1', output[:-1])
        assert quoted
        assert json.loads(quoted[1]) == text


@pytest.mark.parametrize("max_lines", [logs.MAX_STRANGER_LINES, logs.MAX_MEMBER_LINES])
def test_events_above_the_limit_are_only_counted(max_lines: int, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    others = logs.Limited(max_lines)
    for number in range(max_lines + 7):
        others.event(logging.INFO, "refused", number=number)
    assert len(written(capfd)) == max_lines
    others.renew()
    (line,) = written(capfd)
    assert line.endswith(" WARNING left out events=7")
    others.event(logging.INFO, "refused")
    assert len(written(capfd)) == 1
    others.renew()
    assert written(capfd) == []


def test_events_below_the_level_are_not_counted(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    strangers = logs.Limited(logs.MAX_STRANGER_LINES)
    for _ in range(2 * logs.MAX_STRANGER_LINES):
        strangers.event(logging.DEBUG, "connected")
    strangers.event(logging.INFO, "refused")
    strangers.renew()
    assert len(written(capfd)) == 1


@pytest.mark.parametrize("line_format", logs.FORMATS)
@pytest.mark.parametrize("character", ["x", '"', "\U0001f600"])
def test_a_line_is_never_longer_than_a_pipe_takes_at_once(
    line_format: str, character: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", line_format)
    logs.event(logging.ERROR, "not reloaded", number=17, path=2 * character, reason=10_000 * character)
    output = capfd.readouterr().err
    assert len(output) <= logs.MAX_LINE_BYTES
    if line_format == "json":
        fields = json.loads(output)
    else:
        fields = dict(re.findall(r" (\w+)=(\S+)", output))
        fields = {key: json.loads(text) if text[0] in '"1' else text for key, text in fields.items()}
    assert (fields["number"], fields["path"]) == (17, 2 * character)
    assert re.fullmatch(f"{character}{{100,}}[.]{{3}}", fields["reason"])


# --- a standard error that does not take it ------------------------------------------------------


@contextmanager
def standard_error(fd: int) -> Iterator[None]:
    """Replace standard error by this descriptor during the block."""
    before = os.dup(logs.STDERR)
    os.dup2(fd, logs.STDERR)
    try:
        yield
    finally:
        # Close the descriptor that the handler has opened.
        logs.configure("info", "text")
        os.dup2(before, logs.STDERR)
        os.close(before)


def pipe() -> tuple[int, int]:
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    return ours, theirs


def pipe_of_others() -> tuple[int, int]:
    """Return a pipe that this process cannot reopen."""
    return pipe()


def not_allowed(*_: object) -> int:
    raise PermissionError


def stopped_terminal() -> tuple[int, int]:
    ours, theirs = pty.openpty()
    termios.tcflow(theirs, termios.TCOOFF)
    return ours, theirs


def unix_sockets() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def take(fd: int) -> bytes:
    """Return the bytes that are there, waiting briefly if there are none."""
    data = b""
    while select.select([fd], [], [], 0 if data else 0.1)[0]:
        data += os.read(fd, 65_536)
    return data


@pytest.mark.timeout(20)
@pytest.mark.parametrize("line_format", logs.FORMATS)
@pytest.mark.parametrize("pair", [pipe, pipe_of_others, pty.openpty, stopped_terminal, unix_sockets])
def test_unread_lines_are_left_out_counted_and_never_torn(
    pair: Callable[[], tuple[int, int]], line_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair()
    if pair is pipe_of_others:
        monkeypatch.setattr(os, "open", not_allowed)
    with standard_error(theirs):
        logs.configure("error", line_format)
        for number in range(1000):
            logs.event(logging.ERROR, "said", number=number)
        assert os.get_blocking(theirs), "others share it"
        if pair is stopped_terminal:
            termios.tcflow(theirs, termios.TCOON)
        said = number
        output = b""
        while not re.search(rb"number\W+%d\W+$" % said, output):
            output += take(ours)
            said += 1
            logs.event(logging.ERROR, "said", number=said)
            output += take(ours)
    os.close(ours)
    os.close(theirs)
    lines = output.decode().splitlines()
    for line in lines:
        if line_format == "json":
            assert json.loads(line)["event"] in ("said", "left out")
        else:
            assert re.fullmatch(TIME + r" (ERROR said number|WARNING left out events)=\d+", line)
    left_out = [int(count) for count in re.findall(r"left out\W+events\W+(\d+)", output.decode())]
    assert left_out
    assert len(lines) - len(left_out) + sum(left_out) == said + 1


def test_a_standard_error_that_fails_is_ignored() -> None:
    # The pipe has no reader left.
    ours, theirs = os.pipe()
    os.close(ours)
    full = os.open("/dev/full", os.O_WRONLY)
    for fd in (theirs, full):
        with standard_error(fd):
            logs.configure("info", "text")
            for _ in range(3):
                logs.event(logging.INFO, "said")
        os.close(fd)


def test_a_file_shared_with_other_writers_is_not_overwritten(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b", buffering=0) as file, standard_error(file.fileno()):
        file.write(b"before\n")
        logs.configure("info", "text")
        logs.event(logging.INFO, "said")
        file.write(b"after\n")
    before, said, after = (tmp_path / "log").read_text().splitlines()
    assert (before, said[-4:], after) == ("before", "said", "after")


def test_nothing_is_logged_if_standard_error_was_closed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    logs.configure("info", "text")
    logs.event(logging.INFO, "said")
    assert written(capfd) == []
