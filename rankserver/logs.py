"""What the operator reads on standard error: one line per event, as text or as JSON."""

from __future__ import annotations

import json
import logging
import time
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")

_logger = logging.getLogger("rankserver")


def configure(level: str, line_format: str) -> None:
    """Send events of ``level`` (one of ``LEVELS``) and above to standard error, in one of ``FORMATS``."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if line_format == "json" else _TextFormatter())
    _logger.handlers = [handler]
    _logger.propagate = False
    _logger.setLevel(level.upper())


def event(level: int, message: str, **fields: object) -> None:
    """Log one event; ``fields`` are shown behind the message. Text from a peer must have been checked."""
    if _logger.isEnabledFor(level):
        _logger.log(level, message, extra={"fields": fields})


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def _timestamp(record: logging.LogRecord) -> str:
    """Return the time in UTC, to the millisecond (RFC 3339)."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_word(value)}" for key, value in _fields(record).items())
        return f"{_timestamp(record)} {record.levelname} {record.getMessage()}{fields}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = {"time": _timestamp(record), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(head | _fields(record))


def _word(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or " " in text or '"' in text else text
