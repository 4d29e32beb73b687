"""The operator's log on standard error: one line per event, as text or as JSON.

No value can end a line or move a terminal's cursor. Events that others can cause at will are limited, and
beyond the limit only counted. Writing never blocks: lines that standard error does not take at once are only
counted, too.
"""

from __future__ import annotations

import abc
import contextlib
import json
import logging
import os
import re
import select
import stat
import sys
import time
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")

# The most lines per second about strangers: anybody who can connect can cause them.
MAX_STRANGER_LINES: Final = 100
# The most lines per second about members, and about stops of the process: a whole fleet may join or leave at
# once.
MAX_MEMBER_LINES: Final = 1000
# The most bytes in a line, LF included. It is written together with a line that says how many were left out,
# and a pipe takes PIPE_BUF bytes entirely or not at all.
MAX_LINE_BYTES: Final = select.PIPE_BUF - 256
# The event that says how many others were left out.
LEFT_OUT: Final = "left out"
STDERR: Final = 2

_logger = logging.getLogger("rankserver")
# Visible ASCII without the quote and the backslash: a value that can be written as it is.
_WORD: Final = re.compile(r"[!#-\[\]-~]+")


def configure(level: str, line_format: str) -> None:
    """Send events of ``level`` (one of ``LEVELS``) and above to standard error, in one of ``FORMATS``."""
    for previous in _logger.handlers:
        previous.close()
    # If standard error was closed when the program started, its number belongs to some other file by now.
    handler = logging.NullHandler() if sys.stderr is None else _StderrHandler()
    handler.setFormatter(_JsonFormatter() if line_format == "json" else _TextFormatter())
    _logger.handlers = [handler]
    _logger.propagate = False
    _logger.setLevel(level.upper())


def event(level: int, message: str, **fields: object) -> None:
    """Log one event; ``fields`` follow the message, and may be text from a peer."""
    if _logger.isEnabledFor(level):
        # ``Logger.log`` would look up the file and line of the caller, which takes longer than all the rest,
        # and no format shows them.
        record = _logger.makeRecord(_logger.name, level, "", 0, message, (), None, extra={"fields": fields})
        _logger.handle(record)


class Limited:
    """Limits events that others can cause. Call ``renew`` a second after the first one.

    Args:
        max_lines: how many are written until ``renew``.
    """

    def __init__(self, max_lines: int) -> None:
        self._max_lines = max_lines
        self._written = 0
        self._left_out = 0

    def event(self, level: int, message: str, **fields: object) -> None:
        """Log an event like the function ``event``, or only count it if the limit is reached."""
        if not _logger.isEnabledFor(level):
            return
        if self._written == self._max_lines:
            self._left_out += 1
            return
        self._written += 1
        event(level, message, **fields)

    def renew(self) -> None:
        """Log how many events were left out, if any, and start over."""
        if self._left_out:
            event(logging.WARNING, LEFT_OUT, events=self._left_out)
        self._written = self._left_out = 0


class _StderrHandler(logging.Handler):
    """Writes to standard error without blocking; counts the lines that it does not take.

    A standard error that fails, for whatever reason, must neither stop the server nor raise an exception.
    """

    def __init__(self) -> None:
        super().__init__()
        self._fd = _open_stderr()
        self._poll = select.poll()
        self._poll.register(STDERR, select.POLLOUT)
        # The rest of a line that was only partly taken. It must be written before anything else.
        self._rest = b""
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        # The record counts as left out until it is written.
        self._left_out += 1
        with contextlib.suppress(OSError, MemoryError):
            if self._fd != STDERR or self._takes_some():
                self._write(record)

    def close(self) -> None:
        """Close what was opened. Closing twice is allowed, and what is logged afterwards does not block."""
        fd, self._fd = self._fd, STDERR
        if fd != STDERR:
            os.close(fd)
        super().close()

    def _takes_some(self) -> bool:
        return any(events & select.POLLOUT for _, events in self._poll.poll(0))

    def _write(self, record: logging.LogRecord) -> None:
        """Write this line, after a line that says how many were left out, if any, in one call.

        Raises:
            OSError: nothing was written.
        """
        records = [record] if self._left_out == 1 else [_left_out_record(self._left_out - 1), record]
        lines = "".join(f"{self.format(each)}\n" for each in records).encode()
        written = os.write(self._fd, self._rest + lines) - len(self._rest)
        if written > 0:
            self._rest = lines[written:]
            self._left_out = 0
        else:
            self._rest = self._rest[len(self._rest) + written :]


def _open_stderr() -> int:
    """Return a non-blocking descriptor of our own for standard error, or standard error itself.

    Setting standard error to non-blocking would affect everybody who shares it, such as the shell, so it is
    opened again. Where that fails, as it does for a socket, ``poll`` is asked before each line. That is less
    reliable: a terminal that nobody reads claims to be writable even when it has room for less than a line. A
    regular file never blocks, and a second descriptor would overwrite it from its start.
    """
    try:
        if stat.S_ISREG(os.fstat(STDERR).st_mode):
            return STDERR
        return os.open(f"/proc/self/fd/{STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return STDERR


def _left_out_record(count: int) -> logging.LogRecord:
    level = {"levelno": logging.WARNING, "levelname": "WARNING"}
    return logging.makeLogRecord({"msg": LEFT_OUT, **level, "fields": {"events": count}})


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def _timestamp(record: logging.LogRecord) -> str:
    """Return the time in UTC, to the millisecond (RFC 3339)."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class _LineFormatter(logging.Formatter, abc.ABC):
    """Makes a line of at most ``MAX_LINE_BYTES``: texts that are too long are cut, and end in ``...``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        room = MAX_LINE_BYTES
        while len(line := self.line(record, fields)) >= MAX_LINE_BYTES and room:
            room //= 2
            fields = {key: _shortened(value, room) for key, value in fields.items()}
        return line

    @abc.abstractmethod
    def line(self, record: logging.LogRecord, fields: dict[str, object]) -> str:
        """Return the line, in visible ASCII, without its LF."""


class _TextFormatter(_LineFormatter):
    def line(self, record: logging.LogRecord, fields: dict[str, object]) -> str:
        words = "".join(f" {key}={_word(value)}" for key, value in fields.items())
        return f"{_timestamp(record)} {record.levelname} {record.getMessage()}{words}"


class _JsonFormatter(_LineFormatter):
    def line(self, record: logging.LogRecord, fields: dict[str, object]) -> str:
        head = {"time": _timestamp(record), "level": record.levelname.lower(), "event": record.getMessage()}
        return _json(head | fields)


def _shortened(value: object, length: int) -> object:
    """Return the value, or the beginning of a text that is longer than ``length`` characters."""
    return value[:length] + "..." if isinstance(value, str) and len(value) > length else value


def _word(value: object) -> str:
    text = str(value)
    return text if _WORD.fullmatch(text) else _json(text)


def _json(value: object) -> str:
    """Return JSON in visible ASCII: DEL is the only control character that JSON does not escape."""
    return json.dumps(value).replace("\x7f", "\\u007f")
