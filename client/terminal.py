"""The console's face for a person at a keyboard: a live prompt, with what happens printed above it.

One prompt runs from the first line to the last, so the terminal stays in one mode and no key is lost
between two lines. What is to be printed waits for the next time that the prompt is drawn, at most
``max_render_postpone_time`` of prompt_toolkit, and goes to the terminal with it in one write: a burst of
lines costs one drawing, and nobody sees half of it.

Apart from ``console`` because loading prompt_toolkit takes longer than all the rest. ``history`` keeps what
was typed.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Final, cast

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.buffer import Buffer, CompletionState
from prompt_toolkit.completion import Completion, DummyCompleter
from prompt_toolkit.data_structures import Size
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus, is_done
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import ConditionalContainer, FormattedTextControl, HSplit, Window
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from client import history
from client.console import EXIT_COMMAND
from client.plain import Status
from client.words import Line
from rankserver.client.display import visible

COLOURS: Final = {  # by kind of line; the terminal's own colours fit its background
    "rank": "ansiyellow",
    "sent": "ansicyan",
    "execute": "ansigreen",
    "refuse": "ansimagenta",
    "answer": "ansimagenta",
    "done": "bold",
    "error": "ansired",
    "roster": "ansiyellow",
    "prompt": "ansiblue",
}
STYLE: Final = Style.from_dict(COLOURS | {"bottom": "reverse", "auto-suggestion": "ansibrightblack"})
RESET: Final = "\x1b[0m"
MENU_ROWS: Final = 6  # for completions
FEWEST_ROWS: Final = 3  # that leave one for the bottom line


class Terminal:
    """A prompt with history and editing; used as ``async with``."""

    def __init__(self) -> None:
        self._status = Status("", None, 0, 0, 0, 0)
        self._typed: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: there will be no more
        self._unprinted: list[str] = []
        self._output = _output()
        depth = self._output.get_default_color_depth()
        self._painted = {kind: sgr(kind, depth) for kind in COLOURS}
        self._prompt: PromptSession[None] = PromptSession(
            self._message,
            history=history.load(),
            completer=DummyCompleter(),  # with none, there is no room for the menu; _complete fills it
            complete_while_typing=False,
            # Without colour, what is suggested would look like what is typed.
            auto_suggest=None if depth is ColorDepth.DEPTH_1_BIT else AutoSuggestFromHistory(),
            key_bindings=self._key_bindings(),
            style=STYLE,
            output=self._output,
            enable_suspend=True,  # Ctrl-Z
            erase_when_done=True,
        )
        self._prompt.default_buffer.accept_handler = self._accept
        self._add_bottom()
        self._prompt.app.before_render += self._before_render
        self._prompt.app.after_render += self._after_render

    async def __aenter__(self) -> Terminal:
        self._prompting = asyncio.create_task(self._prompt.prompt_async(handle_sigint=False))
        self._prompting.add_done_callback(lambda _: self._typed.put_nowait(None))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._prompting.cancel()
        with contextlib.suppress(asyncio.CancelledError, EOFError):
            await self._prompting

    def show(self, lines: Sequence[Line]) -> None:
        """Print lines above the prompt, soon."""
        painted = self._painted
        self._unprinted += [
            f"{painted[kind]}{text}{RESET}\r\n" if kind in painted else f"{text}\r\n" for kind, text in lines
        ]
        self._print_soon()

    def complain(self, text: str) -> None:
        """Print a complaint above the prompt."""
        self.show([Line("error", visible(text))])

    def refresh(self, status: Status) -> None:
        """Draw the prompt and the bottom line again, with how things stand now."""
        self._status = status
        self._prompt.app.invalidate()

    def give_up(self) -> None:
        """Do nothing: a terminal is read, or gone."""

    async def lines(self, _max_line: int) -> AsyncGenerator[bytes, None]:
        """Yield what is typed, line by line, until the prompt is left."""
        while (line := await self._typed.get()) is not None:
            yield line
        with contextlib.suppress(EOFError):  # the terminal is gone
            await self._prompting

    # --- what is typed ---

    def _accept(self, buffer: Buffer) -> bool:
        """Take a line and leave its prompt standing above; the buffer is emptied for the next one."""
        self._unprinted.append(f"{self._painted['prompt']}{self._rank()}{RESET}{visible(buffer.text)}\r\n")
        self._print_soon()
        self._typed.put_nowait(buffer.text.encode(errors="surrogateescape"))
        return False

    def _key_bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        typing = has_focus(DEFAULT_BUFFER)

        @bindings.add("tab", filter=typing)
        def _complete(event: KeyPressEvent) -> None:
            complete(event.current_buffer)

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

    # --- what is drawn ---

    def _rank(self) -> str:
        rank = "-" if self._status.rank is None else self._status.rank
        return f"{rank}/{self._status.clients}> "

    def _message(self) -> FormattedText:
        return FormattedText([("class:prompt", self._rank())])

    def _add_bottom(self) -> None:
        """Put the bottom line below the prompt.

        The prompt has one of its own, but that waits for a cursor position report.
        """
        text = FormattedTextControl(lambda: bottom(self._status, self._output.get_size().columns))
        fits = Condition(lambda: self._output.get_size().rows >= FEWEST_ROWS)
        window = Window(text, height=1, style="class:bottom")
        whole = cast(HSplit, self._prompt.layout.container)
        whole.children.append(ConditionalContainer(window, fits & ~is_done))

    def _print_soon(self) -> None:
        if self._prompt.app.is_running:
            self._prompt.app.invalidate()
        else:
            self._print()

    def _print(self) -> None:
        """Print what waits, at the cursor."""
        self._output.write_raw("".join(self._unprinted))
        self._unprinted.clear()
        self._output.flush()

    def _before_render(self, app: Application[None]) -> None:
        """Print what waits, before the prompt is drawn again below it."""
        self._output.is_held = True
        size = self._output.get_size()
        self._prompt.reserve_space_for_menu = min(MENU_ROWS, max(0, size.rows - FEWEST_ROWS))
        if self._unprinted:
            app.renderer.erase()
            self._print()
        elif self._is_too_high(app, size):
            app.renderer.erase()

    def _after_render(self, _app: Application[None]) -> None:
        self._output.is_held = False
        self._output.flush()

    @staticmethod
    def _is_too_high(app: Application[None], size: Size) -> bool:
        """Whether there are empty rows above the bottom line: left alone, the prompt never gives one back."""
        screen = app.renderer.last_rendered_screen
        if screen is None:
            return False
        return screen.height > app.layout.container.preferred_height(size.columns, size.rows).preferred


class _Output(Vt100_Output):
    """An output that can hold back what is written."""

    is_held = False

    def flush(self) -> None:
        """Write to the terminal, unless held back."""
        if not self.is_held:
            super().flush()


def _output() -> _Output:
    """Return an output to standard output."""
    output = cast(
        _Output,
        _Output.from_pty(sys.stdout, term=os.environ.get("TERM"), default_color_depth=ColorDepth.from_env()),
    )
    # A prompt at the bottom needs no cursor position reports, and not every terminal answers them.
    output.enable_cpr = False
    return output


def complete(buffer: Buffer) -> None:
    """Complete a line from the ones before it: as far as they agree, and then with each in turn.

    Not by a completer, which works in a task of its own: Enter may come before that is done.
    """
    if buffer.complete_state is not None:
        buffer.complete_next()
    elif buffer.document.is_cursor_at_the_end:
        found = history.matches(buffer.text, buffer.history)
        common = os.path.commonprefix(found)  # noqa: RUF071 - of any strings
        buffer.insert_text(common[len(buffer.text) :])
        if len(found) > 1:
            completions = [Completion(text, -len(buffer.text)) for text in found]
            buffer.complete_state = CompletionState(buffer.document, completions)


def sgr(kind: str, depth: ColorDepth) -> str:
    """Return the escape sequence that begins the style of ``kind``."""
    text = io.StringIO()
    output = Vt100_Output(text, lambda: Size(1, 1))
    output.set_attributes(STYLE.get_attrs_for_style_str(f"class:{kind}"), depth)
    output.flush()
    return text.getvalue()


def bottom(status: Status, columns: int) -> str:
    """Return the bottom line: rank, clients, open answers and connection, or as much as there is room for."""
    if status.rank is None:
        return "not connected"[:columns]
    rank = f"rank {status.rank} of {status.clients}"
    if status.asks:
        rank += f" | {status.asks} open: {status.progress}"
    counts = f"{status.rank}/{status.clients}"
    if status.asks:
        counts += f" | {status.answered}/{status.targets}"
    forms = (f"{rank} | connected to {visible(status.address)}", rank, counts)
    return next((form for form in forms if get_cwidth(form) <= columns), counts[:columns])
