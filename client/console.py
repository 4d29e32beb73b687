"""The conversation between a face and a server: commands in, events out, and how it ends.

A *face* is where lines come from and go to: ``plain.Plain`` for pipes and files, ``terminal.Terminal`` for a
person at a keyboard. What is said is the same on both: ``words`` or one of its kind puts events into lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from client import words
from client.plain import Status
from client.words import Describe, Happening, Line, Unfinished, Unlogged, Unsent
from rankserver.client import events
from rankserver.client.aio import Client, cancelled
from rankserver.client.ask import Ask
from rankserver.client.display import visible
from rankserver.client.stream import Events
from rankserver.wire import protocol
from rankserver.wire.exceptions import DisconnectedError, ProtocolError

EXIT_COMMAND: Final = b"exit"
QUIT_COMMAND: Final = b"quit"  # a person's other word for it: no fleet should have to look it up
WHO_COMMANDS: Final = (b"?", b":who")
HELP_COMMAND: Final = b":help"
MAX_OPEN: Final = 65_536  # asks without an outcome, before input waits: each costs memory, here and there


class Exit(enum.IntEnum):
    """Exit codes; docs/design.md, "Command line"."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_CONNECTION = 3
    DISCONNECTED = 4
    NOBODY = 5
    NOT_ALL = 6
    INTERRUPTED = 130


def exit_code(done: events.AskDone) -> Exit:
    """Return what an ask makes of the exit code: of several asks, the highest counts."""
    if done.nobody:
        return Exit.NOBODY
    return Exit.OK if done.ok else Exit.NOT_ALL


class Face(Protocol):
    """Where a person's lines come from and go to. Inside its own ``async with``; ``show`` also before it."""

    async def __aenter__(self) -> Face:
        """Begin."""

    async def __aexit__(self, *exc: object) -> None:
        """Leave everything as it was before."""

    def show(self, lines: Sequence[Line]) -> None:
        """Show what happened."""

    def complain(self, text: str) -> None:
        """Say that the person asked for something that cannot be done."""

    def refresh(self, status: Status) -> None:
        """Show how things stand now."""

    def give_up(self) -> None:
        """Stop a write that waits for whoever reads it; for a signal handler."""

    def lines(self, max_line: int) -> AsyncGenerator[bytes, None]:
        """Yield what the person types, line by line, without line ends, until they are done.

        Of a line of more than ``max_line`` bytes, the beginning may come, if that is too long as well.
        """


class Plan(NamedTuple):
    """What a conversation is for.

    Attributes:
        commands: what to ask; None for what the face's person types.
        wait_for: how many others have to be there before the first command.
        patience: seconds to wait for answers to a command; None for as long as it takes.
        stays: whether to go on executing when there is nothing more to ask.
        is_interactive: whether a person types, who may ask for help and does not look at exit codes.
    """

    commands: Sequence[bytes] | None = None
    wait_for: int = 0
    patience: float | None = None
    stays: bool = False
    is_interactive: bool = False


class Console:
    """Carries what a person types to the server, and what happens there to the person."""

    def __init__(self, client: Client, face: Face, describe: Describe, plan: Plan) -> None:
        self._client = client
        self._face = face
        self._describe = describe
        self._plan = plan
        self._held = deque(plan.commands or ())  # what is to be asked, but cannot be yet
        self._submitted: deque[Ask] = deque()  # not in the log yet, oldest first
        self._open: dict[int, tuple[int, int]] = {}  # by seq: answers so far, and how many there will be
        self._changed = asyncio.Event()  # there may be fewer open asks, or more clients
        self._code = Exit.OK  # what those that are done make of it

    @property
    def code(self) -> Exit:
        """What all that was asked, or was to be, makes of the exit code if we leave now."""
        if self._plan.is_interactive:
            return Exit.OK
        is_unfinished = self._held or self._submitted or self._open
        return max(self._code, Exit.NOT_ALL) if is_unfinished else self._code

    async def run(self) -> Exit:
        """Converse until the person leaves, all is answered or the server ends it; the exit code says which.

        Whatever is unfinished by then is said to be, also when this is cancelled.

        Raises:
            ConnectError: nobody there.
            DisconnectedError: the server refused us.
            StreamError: the face's input or output fails.
        """
        try:
            async with self._face:
                code = await self._first_end()
        except asyncio.CancelledError:
            self._tell_unfinished()
            raise
        self._tell_unfinished()
        return code

    async def _first_end(self) -> Exit:
        """Return what the first end makes of the exit code; of two at once, that of the connection."""
        receiving = asyncio.create_task(self._receive(aiter(self._client)))
        joining = asyncio.create_task(self._stay_joined())
        sending = asyncio.create_task(self._send())
        ends = (joining, receiving, sending)
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return next(end.result() for end in ends if end.done())
        finally:
            # Before the face ends, which shows nothing more.
            for task in (sending, joining, receiving):
                await cancelled(task)

    async def _stay_joined(self) -> Exit:
        async with self._client:
            return await asyncio.Event().wait() and Exit.OK

    def _tell_unfinished(self) -> None:
        """Say how far everything is that has no end: silence must not look like success."""
        self._show(*(Unfinished(seq, *progress) for seq, progress in self._open.items()))
        self._show(*(Unlogged(ask.text) for ask in self._submitted))
        self._show(*(Unsent(line.decode(errors="replace")) for line in self._held))

    # --- what happens ---

    async def _receive(self, stream: Events) -> Exit:
        try:
            while batch := await stream.batch():
                self._show(*batch)
                for event in batch:
                    self._note(event)
                self._changed.set()
                self._refresh()
        except DisconnectedError as error:
            self._show(events.Disconnected(error.code, error.text))
            return Exit.DISCONNECTED
        return await asyncio.Event().wait() and Exit.OK  # it is we who end it

    def _show(self, *happened: Happening) -> None:
        lines = [line for event in happened for line in self._describe(event)]
        if lines:
            self._face.show(lines)

    def _note(self, event: events.Event) -> None:
        """Keep count of what is open, and what becomes of it."""
        match event:
            case events.Sent(seq, targets=targets):
                self._submitted.popleft()
                self._open[seq] = (0, targets)
            case events.Answer(seq):
                answered, targets = self._open[seq]
                self._open[seq] = (answered + 1, targets)
            case events.AskDone(seq):
                del self._open[seq]
                self._worsen(exit_code(event))
            case events.Rejected(command=str()) | events.Lost():
                self._submitted.popleft()
                self._worsen(Exit.NOT_ALL)

    def _worsen(self, code: Exit) -> None:
        self._code = max(self._code, code)

    def _refresh(self) -> None:
        is_connected = self._client.is_connected
        status = Status(
            str(self._client.address),
            self._client.rank if is_connected else None,
            self._client.clients if is_connected else 0,
            len(self._open),
            sum(answered for answered, _ in self._open.values()),
            sum(targets for _, targets in self._open.values()),
        )
        self._face.refresh(status)

    # --- what is asked ---

    async def _send(self) -> Exit:
        if not await self._gather_company():
            return self.code
        await self._ask_held()
        if self._plan.commands is None and await self._converse():
            return self.code
        await self._until(self._is_answered)
        if self._plan.stays:
            await asyncio.Event().wait()
        return self.code

    async def _gather_company(self) -> bool:
        """Wait until enough others are here, and say so if they are not; a person does not wait.

        Return whether there ever can be so many.
        """
        if self._plan.is_interactive:
            return True
        await self._until(lambda: self._client.is_connected)
        wanted = self._plan.wait_for
        capacity = self._client.capacity
        if wanted >= capacity:
            why = f"{wanted} others cannot be here: the server takes {capacity} clients in all"
            self._cannot_send(b"", why)  # whatever it is
            return False
        if self._client.clients <= wanted:
            here = self._client.clients - 1
            self._face.show([Line("rank", f"waiting for others: {here} of {wanted} here")])
        await self._until(self._enough_are_here)
        return True

    async def _converse(self) -> bool:
        """Do what is typed until there is no more; return whether the person said that they leave."""
        is_person = self._plan.is_interactive
        longest = self._client.max_line if self._client.is_connected else protocol.DEFAULT_MAX_LINE
        async with contextlib.aclosing(self._face.lines(longest)) as lines:
            async for line in lines:
                if len(line) > longest:
                    self._cannot_send(line, "the line is longer than the server takes")
                elif self._leaves(line):
                    return True
                elif is_person and line.startswith((b"?", b":")):
                    await self._help(line.strip())
                elif line.strip():
                    self._held.append(line)
                    await self._ask_held()
        return False

    def _leaves(self, line: bytes) -> bool:
        """Whether it says that we leave; where a person types, a space before it sends it as a command."""
        if self._plan.is_interactive:
            return line.rstrip() in (EXIT_COMMAND, QUIT_COMMAND)
        return line.strip() == EXIT_COMMAND

    async def _help(self, line: bytes) -> None:
        if line in WHO_COMMANDS:
            try:
                self._face.show(words.roster(await self._client.who(), self._client.rank))
            except DisconnectedError as error:
                self._face.complain(f"cannot ask who is here: {visible(error.text)}")
        elif line == HELP_COMMAND:
            self._face.show([Line("roster", text) for text in words.HELP])
        else:
            shown = visible(line.decode(errors="replace"))
            self._face.complain(f"unknown: {shown} (:help lists what there is; a space before it sends it)")

    async def _ask_held(self) -> None:
        while self._held:
            await self._until(self._may_ask)
            line = self._held.popleft()
            try:
                ask = self._client.ask(protocol.decode_line(line), timeout=self._plan.patience)
            except ProtocolError as error:
                self._cannot_send(line, error.text)
                continue
            except DisconnectedError as error:
                self._cannot_send(line, f"not connected ({error.text})")
                continue
            self._submitted.append(ask)
            if self._plan.patience is not None:  # a server that hangs logs nothing: look again by then
                asyncio.get_running_loop().call_later(self._plan.patience, self._changed.set)
            await self._client.drain()

    def _cannot_send(self, line: bytes, why: str) -> None:
        """Complain, and leave a trace where what happened is looked for and no complaint."""
        unsent = Unsent(line.decode(errors="replace"), why)
        self._face.complain(words.cannot_send(unsent))
        self._show(unsent)
        self._worsen(Exit.NOT_ALL)

    def _may_ask(self) -> bool:
        """Whether not too much is open; and what no person types waits until the connection is back."""
        is_up = self._plan.is_interactive or self._client.is_connected
        return is_up and len(self._submitted) + len(self._open) < MAX_OPEN

    def _is_answered(self) -> bool:
        """Whether nothing is open. What ran out of time before it was logged is not waited for."""
        return not self._open and (not self._submitted or self._submitted[-1].has_failed)

    def _enough_are_here(self) -> bool:
        return self._client.is_connected and self._client.clients > self._plan.wait_for

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()
