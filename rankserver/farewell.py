"""Farewells: sending a departing connection the rest of its output, and closing it.

The rest is its part of the log, its private frames and its BYE; then our side of the connection is shut down.
The connection is closed when the peer has closed its side too. A peer that does not is closed when it has
taken nothing for ``CLOSE_TIMEOUT``, and after ``MAX_CLOSE_TIMEOUT`` in any case, so that stopping the server
takes no longer than that.
"""

from __future__ import annotations

import contextlib
from typing import Final

from rankserver.channel import Channel, ChannelState
from rankserver.loop import Loop

# Seconds without progress after which a departing peer is closed: even a slow network delivers something in
# this time.
CLOSE_TIMEOUT: Final = 2.0
# The most seconds in all for a departing peer that takes its output, but slowly.
MAX_CLOSE_TIMEOUT: Final = 10.0


class Farewells:
    """The connections that have departed, have no rank and are not closed yet.

    Args:
        loop: sends to them and closes them.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._progress = loop.timers.timeout(CLOSE_TIMEOUT, self._on_no_progress)
        self._whole = loop.timers.timeout(MAX_CLOSE_TIMEOUT, loop.sender.finish)

    def begin(self, channel: Channel) -> None:
        """Send a departing channel the rest of its output and its BYE, then close it."""
        channel.move(ChannelState.CLOSING)
        with contextlib.suppress(MemoryError):  # then it is sent no BYE
            if channel.departure is not None and (farewell := channel.departure.farewell):
                channel.cursor.private(farewell)
        self._whole.start(channel, self._loop.now)
        self._go_on(channel)
        self._loop.sender.touch(channel)
        # If its input had to wait, read it again: a client that is stuck in writing reads no BYE.
        self._loop.sender.watch(channel)

    def forget(self, channel: Channel) -> None:
        """Note that the channel is closed."""
        self._progress.stop(channel)
        self._whole.stop(channel)

    def _on_no_progress(self, channel: Channel) -> None:
        """Close a peer that has taken nothing since the last check, or has taken everything."""
        if channel.taken < channel.bytes_taken < channel.bytes_owed:
            self._go_on(channel)
        else:
            self._loop.sender.finish(channel)

    def _go_on(self, channel: Channel) -> None:
        channel.taken = channel.bytes_taken
        self._progress.start(channel, self._loop.now)
