"""What the loop calls: the interface between turns, and what lines and connections mean."""

from __future__ import annotations

import socket
from typing import Protocol

from rankserver.channel import Blocker, Channel, Departure


class Handler(Protocol):
    """What the loop calls. Every method may use the loop's ``sender`` and ``reader``.

    Attributes:
        is_unsettled: something waits for ``settle``, so another turn must follow at once.
        collects: commands are always passed to ``on_batch`` instead of being logged as they are read.
    """

    is_unsettled: bool
    collects: bool

    def on_connection(self, sock: socket.socket, peer: str) -> None:
        """Take over a connection that has arrived, or close it."""

    def has_memory(self) -> bool:
        """Tell whether there is memory for channels that have not joined; if not, disconnect them all."""

    def on_line(self, channel: Channel, line: bytes) -> Blocker:
        """Handle a line and return None, or do nothing and return what the line must wait for.

        Raises:
            MemoryError: nothing was done.
        """

    def on_batch(self, channel: Channel, batch: bytes) -> None:
        """Propose a batch of commands. This is called if the handler ``collects``, or under pressure."""

    def on_end(self, channel: Channel, reason: str) -> None:
        """Note that a channel receives nothing more."""

    def depart(self, channel: Channel, departure: Departure) -> None:
        """Begin to disconnect a channel."""

    def settle(self) -> None:
        """Make the joins and leaves of this turn count."""

    def on_slow(self, channel: Channel) -> None:
        """Disconnect a channel that made others wait for too long."""

    def on_closed(self, channel: Channel) -> None:
        """Note that a channel is closed."""

    def on_lost_time(self, seconds: float) -> None:
        """Note that the process was stopped for this long."""
