"""How far the commands of a conversation are, as far as their events have been shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from client.exits import Exit, exit_code
from client.words import Unfinished, Unlogged
from rankserver.client import events
from rankserver.client.ask import Ask


class OpenCommand(NamedTuple):
    """A command in the log, with the number of its answers so far and the number that there will be."""

    answered: int
    targets: int


class Progress:
    """The commands without an end, and the exit code that the others make.

    Attributes:
        code: the highest exit code so far.
    """

    def __init__(self) -> None:
        self.code = Exit.OK
        # By handle, in the order in which they were sent.
        self._unlogged: dict[object, Ask] = {}
        # By seq.
        self._open: dict[int, OpenCommand] = {}

    def __len__(self) -> int:
        """Return how many commands have no end yet."""
        return len(self._unlogged) + len(self._open)

    @property
    def open(self) -> int:
        """How many commands are in the log and have no end yet."""
        return len(self._open)

    @property
    def answered(self) -> int:
        """How many answers the open commands have."""
        return sum(command.answered for command in self._open.values())

    @property
    def targets(self) -> int:
        """How many answers the open commands will have."""
        return sum(command.targets for command in self._open.values())

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to wait for.

        A command that timed out before it was logged is not waited for. If the last one did, all did.
        """
        last = next(reversed(self._unlogged.values()), None)
        return not self._open and (last is None or last.has_failed)

    @property
    def unfinished(self) -> list[Unfinished | Unlogged]:
        """What there is to say about the commands without an end."""
        in_log = [Unfinished(seq, *command) for seq, command in self._open.items()]
        return in_log + [Unlogged(ask.text) for ask in self._unlogged.values()]

    def add(self, ask: Ask) -> None:
        """Add a command that was sent."""
        self._unlogged[ask] = ask

    def worsen(self, code: Exit) -> None:
        """Let the exit code be at least this one."""
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
