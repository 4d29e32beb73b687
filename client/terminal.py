"""The frontend for a person at a keyboard: a live prompt, with everything that happens printed above it.

One prompt runs from the first line to the last, so the terminal stays in one mode and no key is lost between
two lines. Lines to print wait until the prompt is next drawn (at most ``max_render_postpone_time`` of
prompt_toolkit), and go to the terminal with it in one write. So a burst of lines is drawn once, and never
shown in part.

It is a separate module because loading prompt_toolkit takes longer than everything else. ``history`` keeps
what was typed.
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
from client.frontend import Status
from client.words import Line
from rankserver.client.display import visible

# The colour of each kind of line, from the terminal's own colours, which suit its background.
COLOURS: Final = {
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
# The most rows of the menu of completions: fewer leave too little to choose from, and more would push
# the conversation off a small screen.
MAX_MENU_ROWS: Final = 6
# The least number of rows of a terminal that gets a bottom line.
MIN_ROWS: Final = 3


class TerminalFrontend:
    """A prompt with history and editing; used as ``async with``."""

    def __init__(self) -> None:
        self._status = Status("", None, 0, 0, 0, 0)
        # The typed lines, and None at the end.
        self._typed: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._unprinted: list[str] = []
        self._output = _output()
        depth = self._output.get_default_color_depth()
        self._painted = {kind: sgr(kind, depth) for kind in COLOURS}
        self._prompt: PromptSession[None] = PromptSession(
            self._message,
            history=history.load(),
            # ``complete`` fills the menu; without any completer there would be no room for it.
            completer=DummyCompleter(),
            complete_while_typing=False,
            # Without colour, a suggestion would look like what is typed.
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

    async def __aenter__(self) -> TerminalFrontend:
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
        """Redraw the prompt and the bottom line with the current status."""
        self._status = status
        self._prompt.app.invalidate()

    def interrupt_writes(self, _seconds: float) -> None:
        """Do nothing: a terminal is always read, or gone."""

    def give_up(self) -> None:
        """Do nothing: a terminal is always read, or gone."""

    async def lines(self, _max_line: int) -> AsyncGenerator[bytes, None]:
        """Yield what is typed, line by line, until the prompt is left."""
        while (line := await self._typed.get()) is not None:
            yield line
        with contextlib.suppress(EOFError):  # the terminal is gone
            await self._prompting

    # --- what is typed ---

    def _accept(self, buffer: Buffer) -> bool:
        """Take a line, and leave a copy with its prompt above; the buffer is emptied for the next line."""
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
                signal.raise_signal(signal.SIGINT)  # as Ctrl-C does elsewhere

        @bindings.add("c-d", filter=typing)
        def _delete_or_leave(event: KeyPressEvent) -> None:
            if event.current_buffer.text:
                event.current_buffer.delete()
            else:
                self._typed.put_nowait(EXIT_COMMAND)

        @bindings.add(Keys.BracketedPaste, filter=typing)
        def _paste(event: KeyPressEvent) -> None:
            """Take a paste of several lines as if they were typed."""
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
        fits = Condition(lambda: self._output.get_size().rows >= MIN_ROWS)
        window = Window(text, height=1, style="class:bottom")
        whole = cast(HSplit, self._prompt.layout.container)
        whole.children.append(ConditionalContainer(window, fits & ~is_done))

    def _print_soon(self) -> None:
        if self._prompt.app.is_running:
            self._prompt.app.invalidate()
        else:
            self._print()

    def _print(self) -> None:
        """Print the waiting lines at the cursor."""
        self._output.write_raw("".join(self._unprinted))
        self._unprinted.clear()
        self._output.flush()

    def _before_render(self, app: Application[None]) -> None:
        """Print the waiting lines, before the prompt is drawn again below them."""
        self._output.is_held = True
        size = self._output.get_size()
        self._prompt.reserve_space_for_menu = min(MAX_MENU_ROWS, max(0, size.rows - MIN_ROWS))
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
        """Tell whether rows above the bottom line are empty: the prompt never shrinks by itself."""
        screen = app.renderer.last_rendered_screen
        if screen is None:
            return False
        return screen.height > app.layout.container.preferred_height(size.columns, size.rows).preferred


class HeldOutput(Vt100_Output):
    """An output that can hold back what is written to it."""

    is_held = False

    def flush(self) -> None:
        """Write to the terminal, unless held back."""
        if not self.is_held:
            super().flush()


def _output() -> HeldOutput:
    """Return a ``HeldOutput`` to standard output."""
    term, depth = os.environ.get("TERM"), ColorDepth.from_env()
    output = cast(HeldOutput, HeldOutput.from_pty(sys.stdout, term=term, default_color_depth=depth))
    # A prompt at the bottom needs no cursor position reports, and not every terminal answers them.
    output.enable_cpr = False
    return output


def complete(buffer: Buffer) -> None:
    """Complete a line from earlier ones: first as far as they agree, and then with each of them in turn.

    A completer would not do: it runs in its own task, and Enter may be pressed before that is done.
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
    """Return the bottom line: rank, clients, open answers and address, or as much as there is room for."""
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
