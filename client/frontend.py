"""Where a person's lines come from and go to.

``plain`` has the frontend for pipes and files, and ``terminal`` the one for a person at a keyboard.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Protocol

from client.words import Line


class Status(NamedTuple):
    """How things stand, for a status line.

    Attributes:
        address: of the server.
        rank: our rank; None while not connected.
        clients: the number of clients.
        asks: how many commands are open.
        answered: how many answers to these have come.
        targets: how many answers to these there will be.
    """

    address: str
    rank: int | None
    clients: int
    asks: int
    answered: int
    targets: int

    @property
    def progress(self) -> str:
        """How far the open commands are, in words; nothing if there are none."""
        return f"{self.answered} of {self.targets} answers" if self.asks else ""


class Frontend(Protocol):
    """Shows lines and yields lines. Use it inside its own ``async with``; only ``show`` works before that."""

    async def __aenter__(self) -> Frontend:
        """Begin."""

    async def __aexit__(self, *exc: object) -> None:
        """Restore everything as it was before."""

    def show(self, lines: Sequence[Line]) -> None:
        """Show what happened."""

    def complain(self, text: str) -> None:
        """Say that something the person asked for cannot be done."""

    def refresh(self, status: Status) -> None:
        """Show how things stand now."""

    def give_up(self) -> None:
        """Stop a write that waits for a reader; for a signal handler."""

    def lines(self, max_line: int) -> AsyncGenerator[bytes, None]:
        """Yield what the person types, line by line, without line ends, until they are done.

        Of a line with more than ``max_line`` bytes, only the beginning may come, if that is too long as well.
        """
