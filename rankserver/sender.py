"""Sending: what the log holds for channels, and frames for one channel alone.

A turn ends with one flush. The core sends the log to all members whose sockets it can write to; channels with
private frames and TLS channels follow one by one. What a socket does not take waits until the selector says
that it is writable; nothing else is registered for that.
"""

from __future__ import annotations

import selectors
from collections.abc import Mapping
from typing import Final, Protocol

from rankserver.channel import NO_MEMORY, Channel, ChannelState, Departure
from rankserver.clist import Flushed, Log
from rankserver.pace import MAX_PRIVATE_BYTES, Pace
from rankserver.timers import Timeout, Timers

# Private frames queued for one channel before they are sent in the middle of a turn, so that it has work
# meanwhile.
MAX_UNSENT: Final = 100


class Departs(Protocol):
    """Lets channels go."""

    def depart(self, channel: Channel, departure: Departure) -> None:
        """Let a channel go."""


class Sender:
    """What goes out: it sends what the log holds for channels, and queues private frames.

    Args:
        selector: is told which channels wait to be written to.
        channels: all channels, by descriptor.
        log: the shared log.
        pace: is told for whom too much waits.
        timers: the deadlines of the loop.
        departs: lets channels go for which there is no memory.

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
        departs: Departs,
    ) -> None:
        self.finished: list[Channel] = []
        self.broken: dict[Channel, None] = {}
        self._selector = selector
        self._channels = channels
        self._log = log
        self._pace = pace
        self._departs = departs
        # Frames of the log that may wait for company, of those that were not sent yet, and for how long.
        self._lazy_frames = 0
        self._company: Timeout[None] = timers.timeout(1, self._on_no_company)
        # The channels to flush at the end of the turn, each with the private frames queued since it was
        # flushed.
        self._unsent: dict[Channel, int] = {}
        # The channels of members that the core itself does not send to.
        self._external: dict[Channel, None] = {}

    def send(self, channel: Channel, frame: bytes) -> None:
        """Queue a private frame, to be sent at the end of the turn, or before if there are many.

        A channel that goes gets none: one for which there was no memory may be missing before it.
        """
        if channel.departure is not None:
            return
        try:
            queued = channel.cursor.private(frame)
        except MemoryError:
            self._departs.depart(channel, NO_MEMORY)
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

    def put_off(self, frames: int, seconds: float, now: float) -> None:
        """Let this many frames that were just logged wait until others come, but for so long at most.

        Telling all clients costs a system call for each, whatever it is that they are told.
        """
        self._lazy_frames += frames
        self._company.seconds = seconds
        self._company.start_once(None, now)

    def attach(self, channel: Channel) -> None:
        """Send the log to this channel from now on."""
        if channel.tls:
            self._external[channel] = None

    def detach(self, channel: Channel) -> None:
        """Send the channel no more than it is owed now."""
        self._external.pop(channel, None)

    def flush_all(self) -> None:
        """Send what this turn has logged and queued."""
        if self._log.unflushed > self._lazy_frames:
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
        """Register for what the channel waits for; a system call only where that has changed."""
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
        """Close the connection at the end of the turn, whatever it is still owed."""
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
        if self._lazy_frames:
            self._lazy_frames = 0
            self._company.stop(None)
        blocked, broken = self._log.flush_all()
        for fd in blocked:
            self.watch(self._channels[fd])
        for fd in broken:
            self._after_flush(self._channels[fd], Flushed.BROKEN)
        for channel in list(self._external):
            if not channel.wants_write and channel.cursor.lag():
                self.flush(channel)

    def _on_no_company(self, _: None) -> None:
        self._lazy_frames = 0

    def _after_flush(self, channel: Channel, status: Flushed) -> None:
        if status is Flushed.BROKEN:
            channel.cursor.mute()  # nobody has to wait for one that reads no more
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
