"""The progress of the commands of a conversation, according to the events shown so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from client.exits import Exit, exit_code
from client.words import Unfinished, Unlogged
from rankserver.client import events
from rankserver.client.ask import Ask


class OpenCommand(NamedTuple):
    """A command in the log: how many answers it has so far, and how many it will have."""

    answered: int
    targets: int


class Progress:
    """The unfinished commands, and the exit code that follows from the finished ones.

    Attributes:
        code: the highest exit code so far.
    """

    def __init__(self) -> None:
        self.code = Exit.OK
        # The commands that are not in the log yet, by handle, in the order in which they were sent.
        self._unlogged: dict[object, Ask] = {}
        # The unfinished commands in the log, by seq.
        self._open: dict[int, OpenCommand] = {}

    def __len__(self) -> int:
        """Return the number of unfinished commands."""
        return len(self._unlogged) + len(self._open)

    @property
    def open(self) -> int:
        """The number of unfinished commands in the log."""
        return len(self._open)

    @property
    def answered(self) -> int:
        """The number of answers that the open commands have so far."""
        return sum(command.answered for command in self._open.values())

    @property
    def targets(self) -> int:
        """The number of answers that the open commands will have."""
        return sum(command.targets for command in self._open.values())

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to wait for.

        A command that timed out before it was logged is not waited for. All commands have the same
        timeout, so only the last one needs to be checked.
        """
        last = next(reversed(self._unlogged.values()), None)
        return not self._open and (last is None or last.has_failed)

    @property
    def unfinished(self) -> list[Unfinished | Unlogged]:
        """What to show about the unfinished commands."""
        in_log = [Unfinished(seq, *command) for seq, command in self._open.items()]
        return in_log + [Unlogged(ask.text) for ask in self._unlogged.values()]

    def add(self, ask: Ask) -> None:
        """Add a command that was sent."""
        self._unlogged[ask] = ask

    def worsen(self, code: Exit) -> None:
        """Raise the exit code to ``code``, unless it is higher already."""
        self.code = max(self.code, code)

    def note(self, event: events.Event) -> None:
        """Take note of an event."""
        if note := self._NOTES.get(type(event)):
            note(self, event)

    def _sent(self, event: events.Sent) -> None:
        del self._unlogged[event.handle]
        self._open[event.seq] = OpenCommand(0, event.targets)

    def _answer(self, event: events.Answer) -> None:
        answered, targets = self._open[event.seq]
        self._open[event.seq] = OpenCommand(answered + 1, targets)

    def _done(self, event: events.AskDone) -> None:
        del self._open[event.seq]
        self.worsen(exit_code(event))

    def _not_logged(self, event: events.Rejected | events.Lost) -> None:
        if event.command is not None:
            del self._unlogged[event.handle]
            self.worsen(Exit.NOT_ALL)

    _NOTES: ClassVar[Mapping[type[events.Event], Callable[[Progress, Any], None]]] = {
        events.Sent: _sent,
        events.Answer: _answer,
        events.AskDone: _done,
        events.Rejected: _not_logged,
        events.Lost: _not_logged,
    }
