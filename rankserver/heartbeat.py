"""Heartbeats: detecting members that have vanished without closing their connections.

Theory of operation. A member that has been silent for one heartbeat is sent a PING; after another heartbeat
of silence, it departs. Receiving only sets ``Channel.heard_at``, once per read. Each channel has one entry in
a heap of deadlines. If an entry comes up too early, because something was received meanwhile, it is put back
with the time that remains. So a read costs one assignment, and a heartbeat one heap operation.

Two kinds of silence prove nothing. While a channel's input has to wait for others, the server does not read
it. And a member that reads slowly may have megabytes of the log to take before it reaches the PING: as long
as its system takes some of them in each heartbeat, it is alive.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

from rankserver.channel import Channel, ChannelState, Departure
from rankserver.timers import MAX_EXPIRIES, Timers
from rankserver.wire import codes, protocol

# The least number of entries of departed channels for which the heap is rebuilt: fewer are not worth it. From
# there on, it is rebuilt whenever they are the majority. Until then, they keep their channels.
MIN_STALE = 8


class Heartbeat:
    """The members that are checked for silence.

    Args:
        timers: the loop's deadlines, to which this one's are added.
        seconds: one heartbeat, in seconds: a silent member is sent a PING after one, and departs after two;
            0 for never.
        send: sends a frame to a channel.
        depart: disconnects a channel.
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
        # Deadline, id of the member, channel. The ids break ties, because channels cannot be compared.
        self._heap: list[tuple[float, int, Channel]] = []
        self._stale = 0
        # Built once, so that there is always memory for it.
        self._ping = protocol.ping()
        timers.add(self)

    def __len__(self) -> int:
        """Return how many channels are checked."""
        return len(self._heap) - self._stale

    @property
    def deadline(self) -> float:
        """When the first entry comes up; infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def start(self, channel: Channel, now: float) -> None:
        """Check a channel, which has just joined, until it departs. O(log channels)."""
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
        """Check some of the channels whose deadlines have passed. O(log channels) for each."""
        for _ in range(MAX_EXPIRIES):
            if self.deadline > now:
                return
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
                self._send(channel, self._ping)
            else:
                self._judge(channel, now)

    def _judge(self, channel: Channel, now: float) -> None:
        """Decide about a channel that has been silent for two heartbeats."""
        if channel.waits_for is not None:
            channel.pinged_at = 0
            self._push(channel, now + self.seconds)
            return
        taken = channel.bytes_taken
        if channel.taken < min(taken, channel.pinged_at):
            channel.taken = taken
            self._push(channel, now + self.seconds)
        else:
            # Put back an entry for this channel, because ``stop`` is about to count one as stale.
            self._push(channel, math.inf)
            text = f"nothing heard for {2 * self.seconds:g} seconds"
            self._depart(channel, Departure(codes.TIMEOUT, text))

    def _push(self, channel: Channel, deadline: float) -> None:
        heapq.heappush(self._heap, (deadline, channel.member.id, channel))
        self._timers.expect(deadline)
