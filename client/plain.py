"""The frontend for pipes and files: plain lines out, and lines in from a descriptor."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncGenerator, Sequence
from typing import Final, TextIO

from client.frontend import Status
from client.words import RESULTS, Line
from rankserver.wire.exceptions import StreamError

# The most bytes read at once: handling them takes a few milliseconds, and then events have their turn.
MAX_READ_BYTES: Final = 16_384
# Moves the cursor to the start of the row and clears it.
CLEAR: Final = "\r\x1b[K"


class PlainFrontend:
    """Takes lines from a descriptor of any kind, and writes lines to streams.

    Args:
        stdin: descriptor to read from. It is not made non-blocking, because others may share it, and not read
            by a thread, which would hang at exit.
        out: for results, such as answers.
        err: for complaints and progress.
        chatter: for everything else that happens; ``out`` or ``err``.
        shows_progress: whether ``err`` is a terminal on which nobody types.
    """

    def __init__(
        self, stdin: int, out: TextIO, err: TextIO, chatter: TextIO, *, shows_progress: bool = False
    ) -> None:
        self._stdin = stdin
        self._out = out
        self._err = err
        self._chatter = chatter
        self._shows_progress = shows_progress
        # The text in the last row of ``err``, which has no line end.
        self._progress = ""
        # The stream of the write that is under way, if any.
        self._writing: TextIO | None = None
        # The seconds after which a write is interrupted, again and again; 0 for never.
        self._interval = 0.0

    async def __aenter__(self) -> PlainFrontend:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Leave no progress behind in the last row."""
        self._draw("")

    def show(self, lines: Sequence[Line]) -> None:
        """Write lines in order. Each stream is flushed before the other is used: both may be the same file.

        Raises:
            StreamError: they cannot be written, for example because nobody reads the pipe any more.
        """
        self._draw("")
        for stream, same in itertools.groupby(lines, self._stream):
            text = "".join(f"{line.text}\n" for line in same)
            try:
                self._begin_write(stream)
                stream.write(text)
                stream.flush()
            except OSError as error:
                name = "output" if stream is self._out else "error"
                raise StreamError(f"cannot write to standard {name}: {error.strerror}") from error
            finally:
                self._end_write()

    def interrupt_writes(self, seconds: float) -> None:
        """From now on, interrupt each write with SIGALRM whenever it has lasted for some seconds more.

        The handlers of signals run then, even if the signals themselves did not interrupt the write.
        """
        self._interval = seconds

    def give_up(self) -> None:
        """Abort a write that is under way, because nobody may ever read it; for a signal handler.

        Raises:
            StreamError: a write was under way. Anything written to that stream from now on is discarded.
        """
        stream, self._writing = self._writing, None
        if stream is not None:
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), stream.fileno())
            raise StreamError("nobody reads the output")

    def _begin_write(self, stream: TextIO) -> None:
        self._writing = stream
        if self._interval:
            signal.setitimer(signal.ITIMER_REAL, self._interval, self._interval)

    def _end_write(self) -> None:
        self._writing = None
        if self._interval:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _stream(self, line: Line) -> TextIO:
        return self._out if line.kind in RESULTS else self._chatter

    def complain(self, text: str) -> None:
        """Write a line to standard error; if even that fails, there is nobody to tell."""
        self._draw("")
        with contextlib.suppress(OSError):
            self._err.write(text + "\n")
            self._err.flush()

    def refresh(self, status: Status) -> None:
        """Show how many answers have come, if this can be seen on a terminal."""
        if self._shows_progress:
            self._draw(status.progress)

    async def lines(self, max_line: int) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the input until its end; a last line without LF counts.

        Args:
            max_line: in bytes; a longer line is cut to its first ``max_line`` + 1 bytes.

        Raises:
            StreamError: the input cannot be read.
        """
        cutter = LineCutter(max_line)
        ended = False
        while not ended:
            data = await self._read()
            ended = not data
            for line in cutter.end() if ended else cutter.feed(data):
                yield line

    async def _read(self) -> bytes:
        try:
            await _readable(self._stdin)
            return os.read(self._stdin, MAX_READ_BYTES)
        except OSError as error:
            raise StreamError(f"cannot read standard input: {error.strerror}") from error

    def _draw(self, progress: str) -> None:
        if progress != self._progress:
            self._progress = progress
            with contextlib.suppress(OSError):
                self._err.write(CLEAR + progress)
                self._err.flush()


class LineCutter:
    """Cuts typed bytes into lines, and goes on after a line that is too long.

    ``wire.lines.LineBuffer`` is for a peer that must keep to a limit, and gives up on one that does not.

    Args:
        limit: in bytes; a longer line is cut to ``limit`` + 1 bytes, which shows that it was longer.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pending = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Add ``data`` and return the lines that are complete, without CR and LF."""
        *lines, pending = (self._pending + data).split(b"\n")
        self._pending = pending[: self.limit + 2]  # one more, because a CR at the end is not part of the line
        return [self._cut(line) for line in lines]

    def end(self) -> list[bytes]:
        """Return the last line, if it has no LF."""
        return [self._cut(self._pending)] if self._pending else []

    def _cut(self, line: bytes) -> bytes:
        return line.removesuffix(b"\r")[: self.limit + 1]


async def _readable(descriptor: int) -> None:
    """Wait until reading from ``descriptor`` does not block."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # from epoll, for regular files and /dev/null, which never block
        await asyncio.sleep(0)  # let other tasks run
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
