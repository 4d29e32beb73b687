"""The server's own account of itself: whose input waits, and whether its process seemed to stand still."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.abuse.subjects import LoggedServer

# Seconds between two reports.
INTERVAL: Final = 0.05

# A member in a report: its rank, and whether its input waits.
MEMBER: Final = re.compile(rb" client .*\brank=(\d+) .*\bheld=(True|False)")


class Sampler:
    """Asks a server for its report from time to time, and counts how often the highest ranks waited.

    Args:
        server: the server; it must log at least ``info``.
        ranks: how many ranks to look at, from 0 on.
    """

    def __init__(self, server: LoggedServer, ranks: int) -> None:
        self._server = server
        self._ranks = ranks
        self._due = 0.0

    def sample(self) -> None:
        """Ask for a report, unless the last one is recent."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + INTERVAL
            self._server.signal(signal.SIGUSR1)

    def waits(self) -> tuple[int, int]:
        """Return in how many cases the input of one of the ranks waited, and how many cases there were."""
        found = MEMBER.findall(self._server.log())
        states = [held == b"True" for rank, held in found if int(rank) < self._ranks]
        return sum(states), len(states)


def stops(server: LoggedServer) -> int:
    """Return how often the server believed that its process had been stopped."""
    return server.log().count(b"was not running")
