"""Sending: the log to all channels, and private frames to single ones.

A turn ends with one flush. The core sends the log to all members whose sockets it can write to; channels with
private frames and TLS channels follow one by one. What a socket does not take waits until the selector says
that the socket is writable; only such sockets are registered for writing.
"""

from __future__ import annotations

import selectors
from collections.abc import Mapping
from typing import Final, Protocol

from rankserver.channel import NO_MEMORY, Channel, ChannelState, Departure
from rankserver.clist import Flushed, Log
from rankserver.pace import MAX_PRIVATE_BYTES, Pace
from rankserver.timers import Timeout, Timers

# The most private frames that are queued for one channel before they are sent in the middle of a turn: the
# client can handle them while the turn goes on.
MAX_UNSENT: Final = 100


class Disconnector(Protocol):
    """Disconnects channels."""

    def depart(self, channel: Channel, departure: Departure) -> None:
        """Begin to disconnect a channel."""


class Sender:
    """Sends the log to channels, and queues private frames.

    Args:
        selector: is told which channels wait to be written to.
        channels: all channels, by descriptor.
        log: the shared log.
        pace: is told which channels have too much queued.
        timers: the deadlines of the loop.
        disconnector: disconnects channels for which there is no memory.

    Attributes:
        finished: the channels to close at the end of this turn.
        broken: the channels whose sending failed; they are still read to their end.
    """

    def __init__(  # noqa: PLR0913 - it is made once, by the loop, whose parts these are
        self,
        *,
        selector: selectors.BaseSelector,
        channels: Mapping[int, Channel],
        log: Log,
        pace: Pace,
        timers: Timers,
        disconnector: Disconnector,
    ) -> None:
        self.finished: list[Channel] = []
        self.broken: dict[Channel, None] = {}
        self._selector = selector
        self._channels = channels
        self._log = log
        self._pace = pace
        self._disconnector = disconnector
        # How many of the unsent frames of the log may wait for other frames, and until when.
        self._deferred_frames = 0
        self._flush_due: Timeout[None] = timers.timeout(1, self._on_flush_due)
        # The channels to flush at the end of the turn, each with the number of private frames that were
        # queued since it was last flushed.
        self._unsent: dict[Channel, int] = {}
        # The channels of members that the core cannot write to, because they use TLS.
        self._external: dict[Channel, None] = {}

    def send(self, channel: Channel, frame: bytes) -> None:
        """Queue a private frame, to be sent at the end of the turn, or earlier if many are queued.

        A channel that has departed is sent none: an earlier frame may be missing for lack of memory.
        """
        if channel.departure is not None:
            return
        try:
            queued = channel.cursor.private(frame)
        except MemoryError:
            self._disconnector.depart(channel, NO_MEMORY)
            return
        if queued > MAX_PRIVATE_BYTES and channel.state is ChannelState.JOINED:
            self._pace.mark_congested(channel)
        waiting = self._unsent.get(channel, 0) + 1
        self._unsent[channel] = waiting % MAX_UNSENT
        if waiting == MAX_UNSENT and not channel.interest & selectors.EVENT_WRITE:
            self.flush(channel)

    def touch(self, channel: Channel) -> None:
        """Flush the channel at the end of the turn."""
        self._unsent.setdefault(channel, 0)

    def defer_flush(self, frames: int, seconds: float, now: float) -> None:
        """Let this many frames that were just logged wait for other frames, for at most ``seconds``.

        Sending to all clients costs a system call for each, however little is sent.
        """
        self._deferred_frames += frames
        self._flush_due.set_seconds(seconds)
        self._flush_due.start_once(None, now)

    def attach(self, channel: Channel) -> None:
        """Send the log to this channel, which has become that of a member, from now on."""
        self._pace.admit(channel)
        if channel.tls:
            self._external[channel] = None

    def detach(self, channel: Channel) -> None:
        """Send the channel nothing that is logged from now on."""
        self._external.pop(channel, None)

    def flush_all(self) -> None:
        """Send what this turn has logged and queued."""
        if self._log.unflushed > self._deferred_frames:
            self._flush_log()
        if self._unsent:
            unsent, self._unsent = self._unsent, {}
            for channel in unsent:
                # One that is registered for EVENT_WRITE is blocked, and is flushed when it is writable.
                if channel.state is not ChannelState.CLOSED and not channel.interest & selectors.EVENT_WRITE:
                    self.flush(channel)

    def flush(self, channel: Channel) -> None:
        """Send what waits for one channel."""
        self._after_flush(channel, channel.tls.flush() if channel.tls else channel.cursor.flush())

    def watch(self, channel: Channel) -> None:
        """Register the channel for the events that it waits for. A system call only if these have changed."""
        interest = selectors.EVENT_READ * channel.wants_read | selectors.EVENT_WRITE * channel.wants_write
        if interest == channel.interest:
            return
        if not channel.interest:
            self._selector.register(channel.sock, interest, channel)
        elif not interest:
            self._selector.unregister(channel.sock)
        else:
            self._selector.modify(channel.sock, interest, channel)
        channel.interest = interest

    def finish(self, channel: Channel) -> None:
        """Close the connection at the end of the turn, even if it has unsent output."""
        if channel.state is not ChannelState.CLOSED:
            channel.move(ChannelState.CLOSED)
            self.finished.append(channel)

    def forget(self, channel: Channel) -> None:
        """Note that a channel is being closed."""
        self.broken.pop(channel, None)
        if channel.interest:
            self._selector.unregister(channel.sock)

    def take_finished(self) -> list[Channel]:
        """Return the channels to close now."""
        finished, self.finished = self.finished, []
        return finished

    def take_broken(self) -> list[Channel]:
        """Return the channels whose sending has failed since this was last called."""
        broken, self.broken = self.broken, {}
        return list(broken)

    def _flush_log(self) -> None:
        if self._deferred_frames:
            self._deferred_frames = 0
            self._flush_due.stop(None)
        blocked, broken = self._log.flush_all()
        for fd in blocked:
            self.watch(self._channels[fd])
        for fd in broken:
            self._after_flush(self._channels[fd], Flushed.BROKEN)
        for channel in list(self._external):
            if not channel.wants_write and channel.cursor.lag():
                self.flush(channel)

    def _on_flush_due(self, _: None) -> None:
        self._deferred_frames = 0

    def _after_flush(self, channel: Channel, status: Flushed) -> None:
        if status is Flushed.BROKEN:
            channel.cursor.mute()  # it reads no more, so nobody must wait for it
            if not channel.is_going:
                self.broken[channel] = None
        if channel.state is ChannelState.CLOSING:
            if status is Flushed.BROKEN or (
                status is Flushed.DONE and channel.shut_down() and channel.at_eof
            ):
                self.finish(channel)
                return
        elif status is Flushed.DONE and not channel.interest & selectors.EVENT_WRITE:
            return  # what it waits for has not changed
        self.watch(channel)
