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
