"""Farewells: how a connection that departs is sent what it is owed, and when it is closed.

It is sent the rest of its part of the log, its private frames and its BYE, and then the end of the stream in
our direction. It is closed once the peer has closed, too; a peer that does not is given up when it has taken
nothing for ``CLOSE_TIMEOUT``, and after ``MAX_CLOSE_TIMEOUT`` in any case, so that a stop of the server takes
no longer than that.
"""

from __future__ import annotations

import contextlib
from typing import Final

from rankserver.channel import Channel, ChannelState
from rankserver.loop import Loop

# Seconds without progress after which a departing peer is given up: what a slow network needs to deliver
# something.
CLOSE_TIMEOUT: Final = 2.0
# Seconds in all for a departing peer that takes what it is owed, but slowly.
MAX_CLOSE_TIMEOUT: Final = 10.0


class Farewells:
    """The connections that have no rank any more and are not closed yet.

    Args:
        loop: sends to them and closes them.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._progress = loop.timers.timeout(CLOSE_TIMEOUT, self._on_no_progress)
        self._whole = loop.timers.timeout(MAX_CLOSE_TIMEOUT, loop.sender.finish)

    def begin(self, channel: Channel) -> None:
        """Send a departing channel what it is owed and its farewell, and close it after that."""
        channel.move(ChannelState.CLOSING)
        if channel.departure is not None and channel.departure.farewell:
            with contextlib.suppress(MemoryError):  # it goes without a farewell then
                channel.cursor.private(channel.departure.farewell)
        self._whole.start(channel, self._loop.now)
        self._go_on(channel)
        self._loop.sender.touch(channel)
        self._loop.sender.watch(
            channel
        )  # it may have waited: it is read again, so that it reads its farewell

    def forget(self, channel: Channel) -> None:
        """Note that the channel is closed."""
        self._progress.stop(channel)
        self._whole.stop(channel)

    def _on_no_progress(self, channel: Channel) -> None:
        """Give up a peer that has taken nothing for a while, unless there was nothing to take."""
        if channel.taken < channel.bytes_taken < channel.bytes_owed:
            self._go_on(channel)
        else:
            self._loop.sender.finish(channel)

    def _go_on(self, channel: Channel) -> None:
        channel.taken = channel.bytes_taken
        self._progress.start(channel, self._loop.now)
