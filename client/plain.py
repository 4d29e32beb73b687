"""The face for pipes and files: plain lines out, and lines in from a descriptor."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Final, NamedTuple, TextIO

from client.words import RESULTS, Line
from rankserver.wire.exceptions import StreamError

READ_SIZE: Final = 16_384  # bytes of input per turn: a few milliseconds, and the events get theirs
CLEAR: Final = "\r\x1b[K"  # to the begin of the row, and empty it


class Status(NamedTuple):
    """How things stand, for the line at the bottom."""

    address: str
    rank: int | None  # None while not connected
    clients: int
    asks: int  # open
    answered: int  # answers that these have
    targets: int  # answers that these will have

    @property
    def progress(self) -> str:
        """The open asks in words, or nothing."""
        return f"{self.answered} of {self.targets} answers" if self.asks else ""


class Plain:
    """Lines from a descriptor, of whatever kind, and words to streams.

    Args:
        stdin: descriptor to read from. It is neither made non-blocking, since others may share it, nor read
            by a thread, which would hang at exit.
        out: for results: what a command is given for.
        err: for complaints, and the progress.
        chatter: for all else that happens, one of the two.
        shows_progress: whether ``err`` is a terminal that nobody types on.
    """

    def __init__(
        self, stdin: int, out: TextIO, err: TextIO, chatter: TextIO, *, shows_progress: bool = False
    ) -> None:
        self._stdin = stdin
        self._out = out
        self._err = err
        self._chatter = chatter
        self._shows_progress = shows_progress
        self._progress = ""  # what stands in the last row, if it is not whole
        self._writing: TextIO | None = None

    async def __aenter__(self) -> Plain:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Leave no half row behind."""
        self._draw("")

    def show(self, lines: Sequence[Line]) -> None:
        """Write lines, and flush where the next goes elsewhere: both streams may end in the same file.

        Raises:
            StreamError: they cannot be written, as when nobody reads the pipe any more.
        """
        self._draw("")
        for stream, same in itertools.groupby(lines, self._stream):
            text = "".join(f"{line.text}\n" for line in same)
            try:
                self._writing = stream
                stream.write(text)
                stream.flush()
            except OSError as error:
                name = "output" if stream is self._out else "error"
                raise StreamError(f"cannot write to standard {name}: {error.strerror}") from error
            finally:
                self._writing = None

    def give_up(self) -> None:
        """Stop a write that is under way, for a signal handler: nobody may be reading, for ever.

        Raises:
            StreamError: there is one. What is written to that stream from now on goes nowhere.
        """
        if self._writing is not None:
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self._writing.fileno())
            raise StreamError("what was to be written is not read")

    def _stream(self, line: Line) -> TextIO:
        return self._out if line.kind in RESULTS else self._chatter

    def complain(self, text: str) -> None:
        """Write a line to standard error; if even that fails, there is nobody to tell."""
        self._draw("")
        with contextlib.suppress(OSError):
            self._err.write(text + "\n")
            self._err.flush()

    def refresh(self, status: Status) -> None:
        """Show how many answers are there, if a person looks."""
        if self._shows_progress:
            self._draw(status.progress)

    async def lines(self, max_line: int) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the input until its end; a last one without LF counts.

        Args:
            max_line: bytes; of a longer line comes its beginning, with one byte more.

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
            return os.read(self._stdin, READ_SIZE)
        except OSError as error:
            raise StreamError(f"cannot read standard input: {error.strerror}") from error

    def _draw(self, progress: str) -> None:
        if progress != self._progress:
            self._progress = progress
            with contextlib.suppress(OSError):
                self._err.write(CLEAR + progress)
                self._err.flush()


class LineCutter:
    """Cut typed bytes into lines; of one longer than ``limit`` bytes keep ``limit + 1``, which tells it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pending = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Add ``data`` and return the lines that are complete, without CR and LF."""
        *lines, pending = (self._pending + data).split(b"\n")
        self._pending = pending[: self.limit + 2]  # whatever follows, a CR at its end is no part of the line
        return [self._cut(line) for line in lines]

    def end(self) -> list[bytes]:
        """Return the last line if it had no LF."""
        return [self._cut(self._pending)] if self._pending else []

    def _cut(self, line: bytes) -> bytes:
        return line.removesuffix(b"\r")[: self.limit + 1]


async def _readable(descriptor: int) -> None:
    """Wait until reading from ``descriptor`` does not block."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # epoll's word for a regular file or /dev/null, which never block
        await asyncio.sleep(0)  # but others want their turn
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
