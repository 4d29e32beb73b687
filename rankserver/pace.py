"""Pace: which clients must wait for which, so that memory stays bounded and nothing is dropped.

Theory of operation. A client that sends faster than others read must be slowed down, and the only way that
loses nothing is to stop reading from it: TCP then slows the sender itself. Two things can pile up:

- the *log*, while the slowest client is more than ``max_backlog`` bytes behind. A line that would add a
  command then waits (``Wait.BACKLOG``). Answers, heartbeats, joins and leaves continue, because they let
  clients catch up.
- the *private frames* of one client, while more than ``MAX_PRIVATE_BYTES`` of them are queued. A line that
  would add one waits for that client, and so does everything that its sender sent after it. A client that
  sends lines and does not read the replies waits for itself.

Lines wait before anything is proposed; an input that was proposed never waits. Both conditions are evaluated
at the end of each turn, from what is queued then and not from what happened. A client that makes others wait
for ``slow`` seconds without a break is disconnected; the owner of that timeout decides how.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rankserver.channel import Blocker, Channel, Wait
from rankserver.clist import Log
from rankserver.timers import Timeout

# The most bytes of private frames that are queued for one client before lines that would add to them wait. A
# mebibyte holds the answers of ten thousand clients to one ASK, and is little beside what the systems between
# the two buffer.
MAX_PRIVATE_BYTES: Final = 1024 * 1024


class Pace:
    """The channels whose next line waits for other channels, and the channels that they wait for.

    Args:
        log: the shared log.
        channels: all channels, by descriptor.
        max_backlog: bytes of the log that may be kept for a client before commands wait.
        slow: the timeout of channels that make others wait.

    Attributes:
        is_holding: commands wait.
        congested: the channels with too many private frames queued. Only methods change it.
        waiting: the channels whose next line waits, in the order in which they began to wait. Only methods
            change it. ``Channel.waits_for`` says what each waits for.
    """

    def __init__(
        self, log: Log, channels: Mapping[int, Channel], max_backlog: int, slow: Timeout[Channel]
    ) -> None:
        self.max_backlog = max_backlog
        self.is_holding = False
        self.congested: dict[Channel, None] = {}
        self.waiting: dict[Channel, None] = {}
        self._log = log
        self._channels = channels
        self._slow = slow

    def is_congested(self, channel: Channel) -> bool:
        """Tell whether no more should be queued for this client alone. O(1)."""
        return channel in self.congested

    def mark_congested(self, channel: Channel) -> None:
        """Note that more than ``MAX_PRIVATE_BYTES`` are queued for the channel of a member. O(1)."""
        self.congested[channel] = None

    def wait(self, channel: Channel, blocker: Blocker) -> None:
        """Let the channel's next line wait until ``update`` returns it. O(1)."""
        channel.waits_for = blocker
        self.waiting[channel] = None

    def forget(self, channel: Channel) -> None:
        """Forget a channel that departs: it neither waits nor makes others wait. O(1)."""
        channel.waits_for = None
        self.waiting.pop(channel, None)
        self.congested.pop(channel, None)
        self._slow.stop(channel)

    def update(self, now: float) -> list[Channel]:
        """Decide which channels must wait from now on. O(1) if none must or had to, else O(clients).

        Returns:
            The channels that need not wait any more, in the order in which they began to wait.
        """
        is_late = self._log.held > self.max_backlog
        if not (is_late or self.is_holding or self.congested or self.waiting):
            return []
        behind = [self._channels[fd] for fd in self._log.behind(self.max_backlog)] if is_late else []
        self.is_holding = bool(behind)
        self.congested = {
            channel: None for channel in self.congested if channel.cursor.queued() > MAX_PRIVATE_BYTES
        }
        self._measure({*behind, *self.congested}, now)
        released = [channel for channel in self.waiting if not self._must_wait(channel.waits_for)]
        for channel in released:
            del self.waiting[channel]
            channel.waits_for = None
        return released

    def _must_wait(self, blocker: Blocker) -> bool:
        return self.is_holding if blocker is Wait.BACKLOG else blocker in self.congested

    def _measure(self, late: set[Channel], now: float) -> None:
        """Start the timeouts of channels that make others wait, and stop those of channels that caught up."""
        for channel in self._slow:
            if channel not in late:
                self._slow.stop(channel)
        for channel in late:
            self._slow.start_once(channel, now)
