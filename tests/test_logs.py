"""Lines for the operator: what they look like as text and as JSON, and which are written."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator

import pytest

from rankserver import logs

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """Leave the program's logger as it was."""
    logger = logging.getLogger("rankserver")
    before = logger.handlers, logger.propagate, logger.level
    yield logger
    logger.handlers, logger.propagate, logger.level = before
    logger.setLevel(before[2])  # forgets what it has worked out about levels


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let local time be five hours and a half off UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-5:30")
        time.tzset()
        yield
    time.tzset()


def written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_text_has_the_time_the_level_the_event_and_its_fields_in_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "text")
    logs.event(logging.INFO, "joined", name="web-1", rank=3)
    (line,) = written(capsys)
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
    value: object, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", "text")
    logs.event(logging.WARNING, "left", reason=value)
    (line,) = written(capsys)
    assert line.endswith(f" WARNING left reason={shown}")


def test_json_is_one_object_on_a_line_and_keeps_the_types(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logs.event(logging.INFO, "joined", name='we "b"', rank=3, pause=0.5)
    (line,) = written(capsys)
    fields = json.loads(line)
    assert re.fullmatch(TIME, fields.pop("time"))
    assert fields == {"level": "info", "event": "joined", "name": 'we "b"', "rank": 3, "pause": 0.5}


@pytest.mark.usefixtures("far_from_greenwich")
def test_the_time_is_utc_to_the_millisecond(
    capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    logs.configure("info", "json")
    fields = {"msg": "x", "levelno": logging.INFO, "levelname": "INFO", "created": 86_399.042, "msecs": 42}
    record = logging.makeLogRecord(fields)
    logger.handle(record)
    assert json.loads(*written(capsys))["time"] == "1970-01-01T23:59:59.042Z"


@pytest.mark.parametrize("line_format", logs.FORMATS)
@pytest.mark.parametrize(("number", "level"), list(enumerate(logs.LEVELS)))
def test_a_level_shows_itself_and_those_above(
    number: int, level: str, line_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(level, line_format)
    for name in logs.LEVELS:
        logs.event(getattr(logging, name.upper()), f"event-{name}")
    lines = written(capsys)
    assert [re.findall(r"event-(\w+)", line) for line in lines] == [[name] for name in logs.LEVELS[number:]]


def test_configuring_again_replaces_what_was(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logs.configure("info", "json")
    logs.event(logging.INFO, "joined")
    (line,) = written(capsys)
    assert json.loads(line)["event"] == "joined"


def test_the_root_logger_does_not_write_it_a_second_time(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handler = logging.StreamHandler()
    root.addHandler(handler)
    try:
        logs.configure("info", "text")
        logs.event(logging.INFO, "joined")
    finally:
        root.removeHandler(handler)
    assert len(written(capsys)) == 1


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
def test_no_value_ends_a_line_moves_a_cursor_or_is_taken_for_another(
    text: str, line_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", line_format)
    logs.event(logging.INFO, "refused", reason=text, peer="192.0.2.1:1")
    output = capsys.readouterr().err
    assert output.endswith("\n")
    assert re.fullmatch("[ -~]+", output[:-1]), "visible ASCII on one line"
    if line_format == "json":
        assert json.loads(output)["reason"] == text
    else:
        quoted = re.fullmatch(TIME + r' INFO refused reason=(".*") peer=192\.0\.2\.1:1', output[:-1])
        assert quoted
        assert json.loads(quoted[1]) == text


@pytest.mark.parametrize("most", [logs.STRANGER_LINES, logs.MEMBER_LINES])
def test_what_others_cause_is_written_so_often_and_then_counted(
    most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", "text")
    others = logs.Limited(most)
    for number in range(most + 7):
        others.event(logging.INFO, "refused", number=number)
    assert len(written(capsys)) == most
    others.renew()
    (line,) = written(capsys)
    assert line.endswith(" WARNING left out events=7")
    others.event(logging.INFO, "refused")
    assert len(written(capsys)) == 1
    others.renew()
    assert written(capsys) == []


def test_what_the_level_hides_is_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    strangers = logs.Limited(logs.STRANGER_LINES)
    for _ in range(2 * logs.STRANGER_LINES):
        strangers.event(logging.DEBUG, "connected")
    strangers.event(logging.INFO, "refused")
    strangers.renew()
    assert len(written(capsys)) == 1
