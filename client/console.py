"""The conversation between a frontend and a server: commands in, events out, and how it ends.

All frontends show the same lines: a *renderer*, such as ``words.render_text``, makes them from each event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from client import words
from client.exits import Exit
from client.frontend import Frontend, Status
from client.progress import Progress
from client.words import DisplayEvent, Line, Renderer, Unsent
from rankserver.client import events
from rankserver.client.aio import Client
from rankserver.client.display import visible
from rankserver.client.runner import cancel_and_wait
from rankserver.client.stream import EventStream
from rankserver.wire import grammar, protocol
from rankserver.wire.exceptions import DisconnectedError, ProtocolError

EXIT_COMMAND: Final = b"exit"
# A synonym of ``exit`` that only works at the prompt: people need not remember which of the two it is.
QUIT_COMMAND: Final = b"quit"
WHO_COMMANDS: Final = (b"?", b":who")
HELP_COMMAND: Final = b":help"
# The most unfinished commands: further input waits, because each takes memory, here and at the server.
MAX_OPEN: Final = 65_536


class ConsoleOptions(NamedTuple):
    """The options of a conversation.

    Attributes:
        commands: the commands to send; None to read them from the frontend.
        wait_for: the number of other clients that must be connected before the first command is sent.
        answer_timeout: seconds to wait for the answers to a command; None for as long as it takes.
        stays: whether to go on executing after the last of our own commands.
        is_interactive: whether a person types commands. Only then is there help, and the exit code does not
            depend on the commands.
    """

    commands: Sequence[bytes] | None = None
    wait_for: int = 0
    answer_timeout: float | None = None
    stays: bool = False
    is_interactive: bool = False


class Console:
    """Sends what a person types to the server, and shows the person what happens there."""

    def __init__(self, client: Client, frontend: Frontend, render: Renderer, options: ConsoleOptions) -> None:
        self._client = client
        self._frontend = frontend
        self._render = render
        self._options = options
        self._progress = Progress()
        # Commands that cannot be sent yet.
        self._unsent = deque(options.commands or ())
        # Set when a condition that ``_until`` waits for may have become true.
        self._changed = asyncio.Event()

    @property
    def code(self) -> Exit:
        """The exit code if we leave now."""
        if self._options.is_interactive:
            return Exit.OK
        is_unfinished = self._unsent or self._progress
        return max(self._progress.code, Exit.NOT_ALL) if is_unfinished else self._progress.code

    async def run(self) -> Exit:
        """Run until the person leaves, everything is answered, or the server ends the connection.

        Everything unfinished by then is reported, even if this call is cancelled.

        Raises:
            ConnectError: no server answers.
            DisconnectedError: the server refused us.
            StreamError: the frontend's input or output fails.
        """
        try:
            async with self._frontend:
                code = await self._first_end()
        except asyncio.CancelledError:
            self._tell_unfinished()
            raise
        self._tell_unfinished()
        return code

    async def _first_end(self) -> Exit:
        """Return the exit code of the first task to end; if several end at once, the connection's counts."""
        receiving = asyncio.create_task(self._receive(aiter(self._client)))
        joining = asyncio.create_task(self._stay_joined())
        sending = asyncio.create_task(self._send())
        ends = (joining, receiving, sending)
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return next(end.result() for end in ends if end.done())
        finally:
            # Before the frontend is closed, because it shows nothing after that.
            for task in (sending, joining, receiving):
                await cancel_and_wait(task)

    async def _stay_joined(self) -> Exit:
        async with self._client:
            return await asyncio.Event().wait() and Exit.OK

    def _tell_unfinished(self) -> None:
        """Report the progress of every unfinished command: silence must not look like success."""
        self._show(*self._progress.unfinished)
        self._show(*(Unsent(line.decode(errors="replace")) for line in self._unsent))

    # --- events ---

    async def _receive(self, stream: EventStream) -> Exit:
        try:
            while batch := await stream.batch():
                self._show(*batch)
                for event in batch:
                    self._progress.note(event)
                self._changed.set()
                self._refresh()
        except DisconnectedError as error:
            self._show(events.Disconnected(error.code, error.text))
            return Exit.DISCONNECTED
        return await asyncio.Event().wait() and Exit.OK  # we are ending it ourselves

    def _show(self, *happened: DisplayEvent) -> None:
        lines = [line for event in happened for line in self._render(event)]
        if lines:
            self._frontend.show(lines)

    def _refresh(self) -> None:
        is_connected = self._client.is_connected
        status = Status(
            str(self._client.address),
            self._client.rank if is_connected else None,
            self._client.clients if is_connected else 0,
            self._progress.open,
            self._progress.answered,
            self._progress.targets,
        )
        self._frontend.refresh(status)

    # --- commands ---

    async def _send(self) -> Exit:
        if not await self._wait_for_others():
            return self.code
        await self._ask_unsent()
        if self._options.commands is None and await self._converse():
            return self.code
        await self._until(lambda: self._progress.is_complete)
        if self._options.stays:
            await asyncio.Event().wait()
        return self.code

    async def _wait_for_others(self) -> bool:
        """Wait until enough other clients are connected, and say that we wait. A person need not wait.

        Returns:
            False if the server can never have that many clients.
        """
        if self._options.is_interactive:
            return True
        await self._until(lambda: self._client.is_connected)
        wanted = self._options.wait_for
        capacity = self._client.capacity
        if wanted >= capacity:
            why = f"{wanted} others cannot be here: the server takes {capacity} clients in all"
            self._cannot_send(b"", why)
            return False
        if self._client.clients <= wanted:
            here = self._client.clients - 1
            self._frontend.show([Line("rank", f"waiting for others: {here} of {wanted} here")])
        await self._until(self._enough_are_here)
        return True

    async def _converse(self) -> bool:
        """Act on each typed line until the end of the input; return whether a line asked to leave."""
        is_person = self._options.is_interactive
        max_line = self._client.max_line if self._client.is_connected else protocol.DEFAULT_MAX_LINE
        async with contextlib.aclosing(self._frontend.lines(max_line)) as lines:
            async for line in lines:
                if len(line) > max_line:
                    self._cannot_send(line, "the line is longer than the server takes")
                elif self._leaves(line):
                    return True
                elif is_person and line.startswith((b"?", b":")):
                    await self._help(line.strip())
                elif line.strip():
                    self._unsent.append(line)
                    await self._ask_unsent()
        return False

    def _leaves(self, line: bytes) -> bool:
        """Tell whether the line asks to leave.

        If a person types a space before it, it is sent as a command instead.
        """
        if self._options.is_interactive:
            return line.rstrip() in (EXIT_COMMAND, QUIT_COMMAND)
        return line.strip() == EXIT_COMMAND

    async def _help(self, line: bytes) -> None:
        if line in WHO_COMMANDS:
            try:
                self._frontend.show(words.render_roster(await self._client.who(), self._client.rank))
            except DisconnectedError as error:
                self._frontend.complain(f"cannot ask who is here: {visible(error.text)}")
        elif line == HELP_COMMAND:
            self._frontend.show([Line("roster", text) for text in words.HELP])
        else:
            shown = visible(line.decode(errors="replace"))
            self._frontend.complain(
                f"unknown: {shown} (:help lists what there is; a space before it sends it)"
            )

    async def _ask_unsent(self) -> None:
        while self._unsent:
            await self._until(self._may_ask)
            line = self._unsent.popleft()
            timeout = self._options.answer_timeout
            try:
                ask = self._client.ask(grammar.decode_line(line), timeout=timeout)
            except ProtocolError as error:
                self._cannot_send(line, error.text)
                continue
            except DisconnectedError as error:
                self._cannot_send(line, f"not connected ({error.text})")
                continue
            self._progress.add(ask)
            if timeout is not None:  # a server that hangs logs nothing: check again after the timeout
                asyncio.get_running_loop().call_later(timeout, self._changed.set)
            await self._client.drain()

    def _cannot_send(self, line: bytes, why: str) -> None:
        """Complain, and show an event as well: programs read events, but not complaints."""
        unsent = Unsent(line.decode(errors="replace"), why)
        self._frontend.complain(words.cannot_send(unsent))
        self._show(unsent)
        self._progress.worsen(Exit.NOT_ALL)

    def _may_ask(self) -> bool:
        """Tell whether the next command may be sent.

        The number of open commands is bounded. While there is no connection, commands wait for it, unless a
        person types them.
        """
        is_up = self._options.is_interactive or self._client.is_connected
        return is_up and len(self._progress) < MAX_OPEN

    def _enough_are_here(self) -> bool:
        return self._client.is_connected and self._client.clients > self._options.wait_for

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()
