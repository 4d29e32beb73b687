"""Heartbeats: finding out which members are gone without a word.

Theory of operation. A member from which nothing has come for a heartbeat is sent a PING, and if nothing comes
for another one, it departs. What comes is noted by setting ``Channel.heard_at``, once for each read, and
nothing else: each channel has one entry in a heap of deadlines, and an entry that comes up too early, because
something was heard meanwhile, is put back for the rest of its time. So a read costs one assignment, and a
heartbeat one heap operation.

Two kinds of silence are no proof of death. While a channel's input waits for others, it is we who do not
listen. And a member that reads on slowly may have megabytes of the log to take before it comes to the PING:
as long as its system takes some of them in each heartbeat, it is alive.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

from rankserver.channel import Channel, ChannelState, Departure
from rankserver.timers import Timers
from rankserver.wire import protocol

# A heap with this many entries of channels that have left may have more of them than others, before it is
# made anew.
MIN_STALE = 64


class Heartbeat:
    """The members that are listened for.

    Args:
        timers: expire this with the loop's other deadlines.
        seconds: of silence before a PING, and as many again before a member is taken for dead; 0 for never.
        send: sends a frame to a channel.
        depart: lets a channel go.
    """

    def __init__(
        self,
        timers: Timers,
        seconds: float,
        send: Callable[[Channel, bytes], None],
        depart: Callable[[Channel, Departure], None],
    ) -> None:
        self.seconds = seconds
        self._timers = timers
        self._send = send
        self._depart = depart
        # By deadline, then in the order in which the entries were made: channels cannot be compared.
        self._heap: list[tuple[float, int, Channel]] = []
        self._numbers = itertools.count()
        self._stale = 0
        timers.add(self)

    def __len__(self) -> int:
        """Return how many channels are listened for."""
        return len(self._heap) - self._stale

    @property
    def deadline(self) -> float:
        """When the first entry comes up; infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def start(self, channel: Channel, now: float) -> None:
        """Listen for a channel that has just joined, until it departs. O(log channels)."""
        channel.heard_at = now
        if self.seconds:
            self._push(channel, now + self.seconds)

    def stop(self) -> None:
        """Note that one of the channels has departed. O(1), amortised."""
        self._stale += self.seconds > 0
        if self._stale > max(len(self._heap) - self._stale, MIN_STALE):
            self._heap = [entry for entry in self._heap if entry[2].state is ChannelState.JOINED]
            heapq.heapify(self._heap)
            self._stale = 0

    def expire(self, now: float) -> None:
        """Look at the channels whose entries have come up. O(log channels) for each."""
        while self.deadline <= now:
            deadline, _, channel = heapq.heappop(self._heap)
            due = channel.heard_at + self.seconds
            if channel.state is not ChannelState.JOINED:
                self._stale -= 1
                continue
            if due > deadline:  # something was heard since this entry was made
                channel.pinged_at = 0
            if due > now:
                self._push(channel, due)
            elif not channel.pinged_at:
                channel.taken = channel.bytes_taken
                channel.pinged_at = channel.bytes_owed
                self._push(channel, now + self.seconds)
                self._send(channel, protocol.ping())
            else:
                self._judge(channel, now)

    def _judge(self, channel: Channel, now: float) -> None:
        """Decide about a channel that has not been heard for two heartbeats."""
        if channel.waits_for is not None:
            channel.pinged_at = 0
            self._push(channel, now + self.seconds)
            return
        taken = channel.bytes_taken
        if channel.taken < min(taken, channel.pinged_at):
            channel.taken = taken
            self._push(channel, now + self.seconds)
        else:
            # Its entry is gone, and is counted as one that is still there, which ``stop`` will count as
            # stale.
            self._push(channel, math.inf)
            text = f"nothing heard for {2 * self.seconds:g} seconds"
            self._depart(channel, Departure(protocol.TIMEOUT, text))

    def _push(self, channel: Channel, deadline: float) -> None:
        heapq.heappush(self._heap, (deadline, next(self._numbers), channel))
        self._timers.expect(deadline)
