"""The interface of a frontend, which reads a person's lines and shows what happens.

``plain`` has the frontend for pipes and files, and ``terminal`` the one for a person at a keyboard.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Protocol

from client.words import Line


class Status(NamedTuple):
    """The contents of a status line.

    Attributes:
        address: the server's address.
        rank: our rank; None while not connected.
        clients: the number of clients.
        asks: the number of open commands.
        answered: the number of answers that these have so far.
        targets: the number of answers that these will have.
    """

    address: str
    rank: int | None
    clients: int
    asks: int
    answered: int
    targets: int

    @property
    def progress(self) -> str:
        """The progress of the open commands in words; an empty string if there are none."""
        return f"{self.answered} of {self.targets} answers" if self.asks else ""


class Frontend(Protocol):
    """Shows lines and yields lines. Use it inside its own ``async with``; only ``show`` works before that."""

    async def __aenter__(self) -> Frontend:
        """Start the frontend."""

    async def __aexit__(self, *exc: object) -> None:
        """Restore the terminal as it was before."""

    def show(self, lines: Sequence[Line]) -> None:
        """Show what happened."""

    def complain(self, text: str) -> None:
        """Say that something the person asked for cannot be done."""

    def refresh(self, status: Status) -> None:
        """Show the current status."""

    def interrupt_writes(self, seconds: float) -> None:
        """From now on, interrupt each write with SIGALRM whenever it has lasted for some seconds more."""

    def give_up(self) -> None:
        """Abort a write that waits for a reader; for a signal handler."""

    def lines(self, max_line: int) -> AsyncGenerator[bytes, None]:
        """Yield what the person types, line by line, without line ends, until the input ends.

        A line of more than ``max_line`` bytes may be cut, but not to ``max_line`` bytes or fewer.
        """
