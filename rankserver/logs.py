"""What the operator reads on standard error: one line per event, as text or as JSON.

Whatever a value holds, it can neither end a line nor move a cursor; and what others can cause as often as
they like is written so often, and then counted.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")

STRANGER_LINES: Final = 100  # written a second of what strangers cause, ...
MEMBER_LINES: Final = 1000  # ... of what members do, and of stops of the server

_logger = logging.getLogger("rankserver")
_WORD: Final = re.compile(r"[!#-\[\]-~]+")  # visible ASCII; not what is quoted with, or escaped


def configure(level: str, line_format: str) -> None:
    """Send events of ``level`` (one of ``LEVELS``) and above to standard error, in one of ``FORMATS``."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if line_format == "json" else _TextFormatter())
    _logger.handlers = [handler]
    _logger.propagate = False
    _logger.setLevel(level.upper())


def event(level: int, message: str, **fields: object) -> None:
    """Log one event; ``fields`` are shown behind the message, and may be text from a peer."""
    if _logger.isEnabledFor(level):
        _logger.log(level, message, extra={"fields": fields})


class Limited:
    """Events that others can cause; ``renew`` is to be called each second in which there was one.

    Args:
        most: how many are written until ``renew``.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._written = 0
        self._left_out = 0

    def event(self, level: int, message: str, **fields: object) -> None:
        """Do as the function of that name, up to so many times until ``renew``."""
        if not _logger.isEnabledFor(level):
            return
        if self._written == self._most:
            self._left_out += 1
            return
        self._written += 1
        event(level, message, **fields)

    def renew(self) -> None:
        """Say how many events were left out, if any, and begin to count anew."""
        if self._left_out:
            event(logging.WARNING, "left out", events=self._left_out)
        self._written = self._left_out = 0


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
        return _json(head | _fields(record))


def _word(value: object) -> str:
    text = str(value)
    return text if _WORD.fullmatch(text) else _json(text)


def _json(value: object) -> str:
    """Return JSON in visible ASCII: DEL is the one control character that JSON leaves as it is."""
    return json.dumps(value).replace("\x7f", "\\u007f")
