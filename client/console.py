"""What a person sees and types: events in words, and the conversation between a face and a server.

A *face* is where lines come from and go to: ``Plain`` here, for pipes and files, ``terminal.Terminal`` for a
person at a keyboard. The words are the same on both; docs/design.md lists them.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import re
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, NamedTuple, Protocol, TextIO

from client import events
from client.aio import Client
from client.executors import Executor, Finished, Started, Worker
from rankserver import protocol
from rankserver.exceptions import DisconnectedError, ProtocolError, StreamError

EXIT_COMMAND: Final = b"exit"
READ_SIZE: Final = 16_384  # bytes of input per turn: a few milliseconds, and the events get theirs
MAX_OPEN: Final = (
    65_536  # asks without an outcome, before input waits: each costs memory here and on the server
)

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class Exit(enum.IntEnum):
    """Exit codes; docs/design.md, "Command line"."""

    OK = 0
    FAILED = 1
    NO_CONNECTION = 3
    DISCONNECTED = 4
    INTERRUPTED = 130


# --- words ------------------------------------------------------------------------------------


class Line(NamedTuple):
    """One line for a person; ``kind`` says what it is about, for whoever colours it."""

    kind: str
    text: str


def describe(happened: events.Event | Started | Finished, address: str) -> Line | None:
    """Put what happened into words, or return None if it is not worth a line."""
    line = _describe(happened, address)
    return line and Line(line.kind, visible(line.text))


def visible(text: str) -> str:
    """Make control characters visible, so that no text can move the cursor, whatever a server let pass."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _describe(happened: events.Event | Started | Finished, address: str) -> Line | None:
    match happened:
        case events.Connected(name, rank, clients):
            return Line("rank", f"connected to {address} as {name}: rank {rank} of {clients}")
        case events.Sent(seq, text):
            return Line("sent", f"sent #{seq}: {text}")
        case Started(command):
            return Line("execute", f"executing #{command.seq} from rank {command.rank}: {command.text}")
        case Finished(command):
            return Line("execute", f"executed #{command.seq}: {command.text}")
        case events.Refused(seq, rank, text):
            return Line("refuse", f"cannot execute #{seq} from lower-ranked rank {rank}: {text}")
        case events.RankChanged(rank, clients):
            return Line("rank", f"rank is now {rank} of {clients}")
        case events.AskDone():
            return Line("done", _outcome(happened))
        case events.Rejected(code, text, command):
            what = "a frame" if command is None else f"the command {command!r}"
            return Line("error", f"the server rejected {what}: {code} {text}")
        case events.Disconnected(code, text):
            return Line("error", f"disconnected: {DisconnectedError(code, text)}")
    return None


def _outcome(done: events.AskDone) -> str:
    counts = (
        (", refused by", done.refused),
        (", failed by", done.failed),
        (", denied by", done.denied),
        (", timed out at", done.timed_out),
        (", gone", done.gone),
    )
    rest = "".join(f"{words} {count}" for words, count in counts if count)
    return f"#{done.seq}: executed by {done.executed} of {done.may_execute}{rest}"


# --- faces ------------------------------------------------------------------------------------


class Face(Protocol):
    """Where a person's lines come from and go to. Used inside its own ``async with``."""

    async def __aenter__(self) -> Face:
        """Begin."""

    async def __aexit__(self, *exc: object) -> None:
        """Leave everything as it was before."""

    def show(self, line: Line) -> None:
        """Show what happened."""

    def complain(self, text: str) -> None:
        """Say that the person asked for something that cannot be done."""

    def refresh(self) -> None:
        """Show the client's rank and number of clients as they are now."""

    def lines(self) -> AsyncGenerator[bytes, None]:
        """Yield what the person types, line by line, without line ends, until they are done."""


class Plain:
    """Lines from a descriptor, of whatever kind, and words to streams, flushed line by line.

    Args:
        stdin: descriptor to read from. It is neither made non-blocking, since others may share it, nor read
            by a thread, which would hang at exit.
        out: for what happens.
        err: for complaints.
        max_line: bytes; longer lines are complained about and skipped.
    """

    def __init__(self, stdin: int, out: TextIO, err: TextIO, max_line: int) -> None:
        self._stdin = stdin
        self._out = out
        self._err = err
        self._cutter = LineCutter(max_line)

    async def __aenter__(self) -> Plain:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing was changed that would have to be put right."""

    def show(self, line: Line) -> None:
        """Write a line.

        Raises:
            StreamError: it cannot be written, as when nobody reads the pipe any more.
        """
        try:
            self._out.write(line.text + "\n")
            self._out.flush()
        except OSError as error:
            raise StreamError(f"cannot write to standard output: {error.strerror}") from error

    def complain(self, text: str) -> None:
        """Write a line to standard error; if even that fails, there is nobody to tell."""
        with contextlib.suppress(OSError):
            self._err.write(text + "\n")
            self._err.flush()

    def refresh(self) -> None:
        """Do nothing: what was written stays as it is."""

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the input until its end; a last one without LF counts.

        Raises:
            StreamError: the input cannot be read.
        """
        ended = False
        while not ended:
            data = await self._read()
            ended = not data
            for line in self._cutter.end() if ended else self._cutter.feed(data):
                if line is None:
                    self.complain(f"cannot send: the line has more than {self._cutter.limit} bytes")
                else:
                    yield line

    async def _read(self) -> bytes:
        try:
            await _readable(self._stdin)
            return os.read(self._stdin, READ_SIZE)
        except OSError as error:
            raise StreamError(f"cannot read standard input: {error.strerror}") from error


class LineCutter:
    """Cut typed bytes into lines; of one longer than ``limit`` bytes keep only that it was there."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pending = b""
        self._is_overlong = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """Add ``data`` and return the lines that are complete, without CR and LF; None for one too long."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        cut = [self._cut(line) for line in lines]
        if len(self._pending) > self.limit:
            self._pending = b""
            self._is_overlong = True
        return cut

    def end(self) -> list[bytes | None]:
        """Return the last line if it had no LF."""
        return [self._cut(self._pending)] if self._pending or self._is_overlong else []

    def _cut(self, line: bytes) -> bytes | None:
        is_overlong = self._is_overlong or len(line) > self.limit
        self._is_overlong = False
        return None if is_overlong else line.removesuffix(b"\r")


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


# --- the conversation -------------------------------------------------------------------------


class Console:
    """Carries what a person types to the server, and what happens there to the person."""

    def __init__(self, client: Client, face: Face, executor: Executor) -> None:
        self._client = client
        self._face = face
        self._worker = Worker(executor)
        self._open = 0  # asks whose outcome has not been shown
        self._progress = asyncio.Event()  # there may be fewer now

    async def run(self) -> Exit:
        """Converse until the person leaves or the server ends it.

        Raises:
            StreamError: the face's input or output fails.
        """
        receiving = asyncio.create_task(self._receive())
        tasks = [
            receiving,
            asyncio.create_task(_until_over(self._send(), receiving)),
            asyncio.create_task(_until_over(self._worker.run(self._report), receiving)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return max(task.result() for task in done)  # with two ends at once, the one that was not wanted
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self) -> Exit:
        async for event in self._client:
            self._show(event)
            match event:
                case events.Execute():
                    self._worker.add(event)
                case events.RankChanged() | events.ClientsChanged():
                    self._face.refresh()
                case events.AskDone() | events.Rejected(command=str()):
                    self._open -= 1
                    self._progress.set()
        return Exit.DISCONNECTED

    async def _send(self) -> Exit:
        async with contextlib.aclosing(self._face.lines()) as lines:
            async for line in lines:
                if line.strip() == EXIT_COMMAND:
                    return Exit.OK
                if line.strip():
                    await self._ask(line)
        await self._until_open(0)
        return Exit.OK

    async def _ask(self, line: bytes) -> None:
        await self._until_open(MAX_OPEN - 1)
        self._open += 1  # now, because the outcome may arrive while ``ask`` waits for room
        try:
            await self._client.ask(protocol.decode_line(line))
        except ProtocolError as error:
            self._open -= 1
            self._face.complain(f"cannot send: {error.text}")

    async def _until_open(self, most: int) -> None:
        while self._open > most:
            self._progress.clear()
            await self._progress.wait()

    async def _report(self, step: Started | Finished) -> None:
        self._show(step)
        if isinstance(step, Finished) and step.command.wants_answer:
            await self._client.result(step.command.seq, *step.outcome)

    def _show(self, happened: events.Event | Started | Finished) -> None:
        line = describe(happened, str(self._client.address))
        if line:
            self._face.show(line)


async def _until_over(work: Coroutine[Any, Any, Exit], receiving: asyncio.Task[Exit]) -> Exit:
    """Do ``work``; if it finds the connection over, let ``receiving`` first show all that came before."""
    try:
        return await work
    except DisconnectedError:
        return await receiving
