"""Who has to wait for whom, so that nobody's memory grows and nothing is dropped.

Producers of commands wait while the log is longer than it may be for the slowest client: TCP then slows
down whoever sends them. A frame for one client alone waits while too many wait for that client already,
and with it what its sender sent behind it. Whoever lets others wait for too long goes, see ``slow``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rankserver import frames
from rankserver.channel import Channel, State
from rankserver.clist import BLOCK_BYTES, Log
from rankserver.timers import Timeout

PRIVATE_BYTES: Final = 1024 * 1024  # of private frames that wait for one client, before their senders do


class Pace:
    """The channels whose next frame waits, and why.

    Args:
        log: the shared log.
        max_backlog: bytes of it that may wait for a client before commands do.
        slow: the time that a client may let others wait; what it says when that is over is the server's.
    """

    def __init__(self, log: Log, max_backlog: int, slow: Timeout[Channel]) -> None:
        self.is_holding = False  # commands wait
        self._log = log
        self._max_backlog = max_backlog
        self._slow = slow
        self._held: dict[Channel, Channel | None] = {}  # with whom it waits for, None for the slowest

    def __len__(self) -> int:
        return len(self._held)

    def is_full(self, channel: Channel) -> bool:
        """Tell whether no more private frames should be queued for this client. O(1)."""
        return channel.state is State.JOINED and self._log.queued(channel.client) > PRIVATE_BYTES

    def hold(self, channel: Channel, frame: frames.ClientFrame, full: Channel | None, now: float) -> None:
        """Let ``frame`` of ``channel`` wait until ``full``, or with None the slowest one, has caught up."""
        channel.held = frame
        self._held[channel] = full
        if full is not None:
            self._slow.start_once(full, now)

    def forget(self, channel: Channel) -> None:
        """Note that a channel goes: it neither waits nor lets anybody wait. O(1)."""
        channel.held = None
        self._held.pop(channel, None)
        self._slow.stop(channel)

    def update(self, channels: Mapping[int, Channel], now: float) -> list[Channel]:
        """Find out who has to wait from now on. O(1) if nobody has to or had to, else O(clients).

        Returns:
            The channels that wait no more; their ``held`` frame is for the caller to handle.
        """
        too_long = self._log.held > self._max_backlog
        if not (too_long or self._held or self._slow):
            return []
        behind = self._log.behind(self._max_backlog) if too_long else []
        for fd in behind:
            self._slow.start_once(channels[fd], now)
        # It may also be kept for one that has left: that one is waited for as long as it may linger.
        self.is_holding = bool(behind) or self._log.held > self._max_backlog + BLOCK_BYTES
        self._log.hold(on_hold=self.is_holding)
        self._excuse(set(behind))
        released = [channel for channel, full in self._held.items() if not self._must_wait(full)]
        for channel in released:
            del self._held[channel]
        return released

    def _must_wait(self, full: Channel | None) -> bool:
        return self.is_holding if full is None else self.is_full(full)

    def _excuse(self, behind: set[int]) -> None:
        """Stop the time of those who have caught up."""
        for channel in self._slow:
            if channel.fd not in behind and not self.is_full(channel):
                self._slow.stop(channel)
