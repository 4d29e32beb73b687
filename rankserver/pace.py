"""Who has to wait for whom, so that nobody's memory grows and nothing is dropped.

Producers of commands wait while the log is longer than it may be for the slowest client: TCP then slows
down whoever sends them. What is for one client alone waits while too much waits for that client already,
and with it what its sender sent behind it. Whoever lets others wait for too long goes, see ``slow``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rankserver.channel import Channel
from rankserver.clist import Log
from rankserver.timers import Timeout

PRIVATE_BYTES: Final = 1024 * 1024  # of private frames that wait for one client, before their senders do


class Pace:
    """The channels whose next line waits, and why.

    Args:
        log: the shared log.
        max_backlog: bytes of it that may be kept for a client before commands wait.
        slow: the time that a client may let others wait; what it says when that is over is the server's.

    Attributes:
        is_holding: commands wait.
    """

    def __init__(self, log: Log, max_backlog: int, slow: Timeout[Channel]) -> None:
        self.is_holding = False
        self._log = log
        self._max_backlog = max_backlog
        self._slow = slow
        self._full: dict[Channel, None] = {}  # more than PRIVATE_BYTES wait for them
        self._held: dict[Channel, Channel | None] = {}  # with whom it waits for, None for the slowest

    def __len__(self) -> int:
        """Return how many channels wait."""
        return len(self._held)

    def is_full(self, channel: Channel) -> bool:
        """Tell whether no more should be queued for this client alone. O(1)."""
        return channel in self._full

    def fill(self, channel: Channel) -> None:
        """Note that more than ``PRIVATE_BYTES`` wait for this client, which has a rank. O(1)."""
        self._full[channel] = None

    def hold(self, channel: Channel, full: Channel | None) -> None:
        """Let the channel wait until ``full``, or with None the slowest client, has caught up. O(1)."""
        self._held[channel] = full

    def forget(self, channel: Channel) -> None:
        """Note that a channel goes: it neither waits nor lets anybody wait. O(1)."""
        self._held.pop(channel, None)
        self._full.pop(channel, None)
        self._slow.stop(channel)

    def update(self, channels: Mapping[int, Channel], now: float) -> list[Channel]:
        """Find out who has to wait from now on. O(1) if nobody has to or had to, else O(clients).

        Returns:
            The channels that wait no more, in the order in which they began to.
        """
        too_long = self._log.held > self._max_backlog
        if not (too_long or self.is_holding or self._full or self._held):
            return []
        behind = [channels[fd] for fd in self._log.behind(self._max_backlog)] if too_long else []
        self.is_holding = bool(behind)
        self._log.hold(on_hold=self.is_holding)
        self._full = {
            channel: None for channel in self._full if self._log.queued(channel.client) > PRIVATE_BYTES
        }
        self._measure({*behind, *self._full}, now)
        released = [
            channel
            for channel, full in self._held.items()
            if not (self.is_holding if full is None else full in self._full)
        ]
        for channel in released:
            del self._held[channel]
        return released

    def _measure(self, late: set[Channel], now: float) -> None:
        """Let the time of these go on, and stop that of all who have caught up."""
        for channel in self._slow:
            if channel not in late:
                self._slow.stop(channel)
        for channel in late:
            self._slow.start_once(channel, now)
