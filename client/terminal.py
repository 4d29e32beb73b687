"""The console's face for a person at a keyboard: a live prompt, with what happens printed above it.

One prompt runs from the first line to the last, so the terminal stays in one mode and no key is lost
between two lines. Apart from ``console`` because loading prompt_toolkit takes longer than all the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.renderer import print_formatted_text
from prompt_toolkit.styles import Style

from client.console import EXIT_COMMAND
from client.plain import Status
from client.words import Line

STYLE: Final = Style.from_dict(
    {  # the kinds of console.Line, and the prompt; the terminal's own colours fit its background
        "rank": "ansiyellow",
        "sent": "ansicyan",
        "execute": "ansigreen",
        "refuse": "ansimagenta",
        "done": "bold",
        "error": "ansired",
        "prompt": "ansiblue",
    }
)


class Terminal:
    """A prompt with history and editing; used as ``async with``."""

    def __init__(self) -> None:
        self._status = Status("", None, 0, 0, 0, 0)
        self._typed: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: there will be no more
        # A prompt of one line needs no cursor position reports, and not every terminal answers them.
        self._output = Vt100_Output.from_pty(
            sys.stdout, term=os.environ.get("TERM"), default_color_depth=ColorDepth.from_env()
        )
        self._output.enable_cpr = False
        self._prompt: PromptSession[None] = PromptSession(
            self._message,
            history=_history(),
            key_bindings=self._key_bindings(),
            style=STYLE,
            output=self._output,
            enable_suspend=True,  # Ctrl-Z
            erase_when_done=True,
        )
        self._prompt.default_buffer.accept_handler = self._accept

    async def __aenter__(self) -> Terminal:
        self._prompting = asyncio.create_task(self._prompt.prompt_async(handle_sigint=False))
        self._prompting.add_done_callback(lambda _: self._typed.put_nowait(None))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._prompting.cancel()
        with contextlib.suppress(asyncio.CancelledError, EOFError):
            await self._prompting

    def show(self, lines: Sequence[Line]) -> None:
        """Print lines above the prompt."""
        self._print(*((f"class:{kind}", text + "\n") for kind, text in lines))

    def complain(self, text: str) -> None:
        """Print a complaint above the prompt."""
        self._print(("class:error", text + "\n"))

    def refresh(self, status: Status) -> None:
        """Draw the prompt again, with the rank and number of clients as they are now."""
        self._status = status
        self._prompt.app.invalidate()

    async def lines(self, _max_line: int) -> AsyncGenerator[bytes | None, None]:
        """Yield what is typed, line by line, until the prompt is left."""
        while (line := await self._typed.get()) is not None:
            yield line
        with contextlib.suppress(EOFError):  # the terminal is gone
            await self._prompting

    def _message(self) -> FormattedText:
        rank = "-" if self._status.rank is None else self._status.rank
        return FormattedText([("class:prompt", f"{rank}/{self._status.clients}> ")])

    def _print(self, *fragments: tuple[str, str]) -> None:
        """Print above the prompt, which is drawn again in the next turn of the loop with what was typed."""
        app = self._prompt.app
        if app.is_running:
            app.renderer.erase()
        # Not the shortcut of this name, which leaves raw mode for a moment: keys typed then would be echoed.
        print_formatted_text(self._output, FormattedText(fragments), STYLE)
        app.invalidate()

    def _accept(self, buffer: Buffer) -> bool:
        """Take a line and leave its prompt standing above; the buffer is emptied for the next one."""
        self._print(*self._message(), ("", buffer.text + "\n"))
        self._typed.put_nowait(buffer.text.encode(errors="surrogateescape"))
        return False

    def _key_bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        typing = has_focus(DEFAULT_BUFFER)

        @bindings.add("c-c", filter=typing)
        def _clear_or_interrupt(event: KeyPressEvent) -> None:
            if event.current_buffer.text:
                event.current_buffer.reset()
            else:
                signal.raise_signal(signal.SIGINT)  # what the key does elsewhere

        @bindings.add("c-d", filter=typing)
        def _delete_or_leave(event: KeyPressEvent) -> None:
            if event.current_buffer.text:
                event.current_buffer.delete()
            else:
                self._typed.put_nowait(EXIT_COMMAND)

        @bindings.add(Keys.BracketedPaste, filter=typing)
        def _paste(event: KeyPressEvent) -> None:
            """Take a paste of several lines like typing them."""
            buffer = event.current_buffer
            *lines, rest = event.data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            for line in lines:
                buffer.insert_text(line)
                buffer.validate_and_handle()
            buffer.insert_text(rest)

        return bindings


class _History(FileHistory):
    """A history file that costs nothing but itself when it cannot be written."""

    def store_string(self, string: str) -> None:
        """Append to the file; the disk may be full, or what was typed no valid text."""
        with contextlib.suppress(OSError, UnicodeError):
            super().store_string(string)


def _history() -> History:
    """Return the history in the XDG state directory, or one in memory if that cannot be used."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(state).expanduser() / "rankserver" / "history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)  # commands can hold secrets
        os.close(os.open(path, os.O_RDWR))
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return InMemoryHistory()
    return _History(path)
