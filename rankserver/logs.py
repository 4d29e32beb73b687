"""What the operator reads on standard error: one line per event, as text or as JSON.

Whatever a value holds, it can neither end a line nor move a cursor; and what others can cause as often as
they like is written so often, and then counted. What standard error does not take at once is only counted.
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

STRANGER_LINES: Final = 100  # written a second of what strangers cause, ...
MEMBER_LINES: Final = 1000  # ... of what members do, and of stops of the server
# In the longest line, LF included. It is written together with one that says how many were left out; a pipe
# that takes some takes both.
LINE_BYTES: Final = select.PIPE_BUF - 256
STDERR: Final = 2
LEFT_OUT: Final = "left out"  # the event that says how many others were

_logger = logging.getLogger("rankserver")
_WORD: Final = re.compile(r"[!#-\[\]-~]+")  # visible ASCII; not what is quoted with, or escaped


def configure(level: str, line_format: str) -> None:
    """Send events of ``level`` (one of ``LEVELS``) and above to standard error, in one of ``FORMATS``."""
    for before in _logger.handlers:
        before.close()
    # Where it was closed when the program started, its number is or will be that of a socket.
    handler = logging.NullHandler() if sys.stderr is None else _StderrHandler()
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
            event(logging.WARNING, LEFT_OUT, events=self._left_out)
        self._written = self._left_out = 0


class _StderrHandler(logging.Handler):
    """Writes to standard error what it takes at once; a line that it does not take is left out, and counted.

    That nothing can be said, for whatever reason, is none to stop, or to raise an exception.
    """

    def __init__(self) -> None:
        super().__init__()
        self._fd = _open_stderr()
        self._poll = select.poll()
        self._poll.register(STDERR, select.POLLOUT)
        self._rest = b""  # of a line of which only a part was taken: it comes before all else
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._left_out += 1  # until it is written
        with contextlib.suppress(OSError, MemoryError):
            if self._fd != STDERR or self._takes_some():
                self._write(record)

    def close(self) -> None:
        """Give back what was opened. Closing twice is allowed; what is logged after that waits for nobody."""
        fd, self._fd = self._fd, STDERR
        if fd != STDERR:
            os.close(fd)
        super().close()

    def _takes_some(self) -> bool:
        return any(events & select.POLLOUT for _, events in self._poll.poll(0))

    def _write(self, record: logging.LogRecord) -> None:
        """Write what was left out before this line, and the line, as one: all is taken or nothing, mostly.

        Raises:
            OSError: nothing was taken.
        """
        records = [record] if self._left_out == 1 else [_how_many(self._left_out - 1), record]
        lines = "".join(f"{self.format(each)}\n" for each in records).encode()
        written = os.write(self._fd, self._rest + lines) - len(self._rest)
        if written > 0:
            self._rest = lines[written:]
            self._left_out = 0
        else:
            self._rest = self._rest[len(self._rest) + written :]


def _open_stderr() -> int:
    """Return a descriptor of ours for standard error that does not block, or its own if that cannot be had.

    Standard error itself must stay as it is: it is shared with the shell, for example. To ask ``poll`` would
    do for a pipe that nobody else fills, and for a socket, which cannot be opened again; but a terminal that
    nobody reads says that it takes something when that is less than a line. A file is not waited for, and
    would be written from its start again.
    """
    try:
        if stat.S_ISREG(os.fstat(STDERR).st_mode):
            return STDERR
        return os.open(f"/proc/self/fd/{STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return STDERR


def _how_many(count: int) -> logging.LogRecord:
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
    """Makes a line that is at most ``LINE_BYTES`` long: if it has to be, texts in it end with ``...``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        most = LINE_BYTES
        while len(line := self.line(record, fields)) >= LINE_BYTES and most:
            most //= 2
            fields = {key: _head(value, most) for key, value in fields.items()}
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


def _head(value: object, most: int) -> object:
    """Return the value, or if it is a longer text, so many characters of it."""
    return value[:most] + "..." if isinstance(value, str) and len(value) > most else value


def _word(value: object) -> str:
    text = str(value)
    return text if _WORD.fullmatch(text) else _json(text)


def _json(value: object) -> str:
    """Return JSON in visible ASCII: DEL is the one control character that JSON leaves as it is."""
    return json.dumps(value).replace("\x7f", "\\u007f")
