"""One channel in a loop whose handler knows no frames, driven turn by turn."""

from __future__ import annotations

import select
import socket
from typing import Final

from rankserver.channel import Blocker, Channel, ChannelState, Departure, Wait
from rankserver.clist import Log
from rankserver.config import Config
from rankserver.loop import Loop
from rankserver.pace import MAX_PRIVATE_BYTES
from tests.support.draining import drain
from tests.support.turns import ManualSelector

MAX_LINE: Final = 256
# Bytes that any socket holds.
SEND_BYTES: Final = 64 * 1024
WATCHER, MEMBER = 1, 2


class LineHandler:
    """Handles lines as a server does, as far as the reader is concerned. Only BYE has a meaning.

    Attributes:
        lines: the lines that were handed over.
        blocker: the wait that all lines but the first return.
        error: the reason of the departure, unless it was a BYE.
        ended: the reason why the stream ended.
    """

    def __init__(self, log: Log) -> None:
        self.is_unsettled = False
        self.collects = False
        self.lines: list[bytes] = []
        self.blocker: Blocker = None
        self.error: Departure | None = None
        self.ended: str | None = None
        self.log = log

    def on_connection(self, sock: socket.socket, peer: str) -> None:
        raise AssertionError(f"nobody connects: {sock} {peer}")

    def has_memory(self) -> bool:
        return True

    def on_line(self, channel: Channel, line: bytes) -> Blocker:
        if channel.state is ChannelState.HANDSHAKE:
            channel.move(ChannelState.JOINING)
        elif self.blocker is not None:
            return self.blocker
        elif line == b"BYE":
            self.go(channel)
        self.lines.append(line)
        return None

    def on_batch(self, channel: Channel, batch: bytes) -> None:
        raise AssertionError(f"{channel} has its commands collected: {batch!r}")

    def on_end(self, channel: Channel, reason: str) -> None:
        channel.at_eof = True
        self.ended = reason

    def depart(self, channel: Channel, departure: Departure) -> None:
        self.error = channel.departure = departure
        self.go(channel)

    def go(self, channel: Channel) -> None:
        channel.cursor.ignore()
        channel.waits_for = None
        going = ChannelState.LEAVING if channel.state is ChannelState.JOINED else ChannelState.CLOSING
        channel.move(going)

    def settle(self) -> None:
        """Do nothing: the test itself lets clients join and leave."""

    def on_slow(self, channel: Channel) -> None:
        raise AssertionError(f"{channel} is too slow")

    def on_closed(self, channel: Channel) -> None:
        raise AssertionError(f"{channel} is closed")

    def on_lost_time(self, seconds: float) -> None:
        raise AssertionError(f"the clock stood still for {seconds} seconds")


class Conversation:
    """A channel in a loop, below a member that has no channel and whose rank is 0."""

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self.log = Log(max_line)
        self.handler = LineHandler(self.log)
        self.lines = self.handler.lines
        selector = ManualSelector()
        self.loop = Loop(Config(8), selector, selector.clock, self.log, self.handler)
        self.ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.others: list[socket.socket] = []
        self.log.join(WATCHER)
        self.watcher = self.log.retain()
        self.channel = Channel(self.ours, "127.0.0.1:40112", self.log)
        self.loop.add(self.channel)
        self.loop.sender.watch(self.channel)

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.log.check()
        self.close()

    def close(self) -> None:
        self.loop.close()
        self.log.close()
        for sock in (self.theirs, *self.others):
            sock.close()

    @property
    def error(self) -> Departure | None:
        return self.handler.error

    @property
    def state(self) -> ChannelState:
        return self.channel.state

    def feed(self, data: bytes) -> None:
        """Send ``data``, and take turns while the channel is read and has input."""
        for at in range(0, len(data), SEND_BYTES):
            piece = data[at : at + SEND_BYTES]
            assert self.theirs.send(piece) == len(piece)
            self.read()

    def read(self) -> None:
        while self.channel.wants_read and not self.is_paused and select.select([self.ours], [], [], 0)[0]:
            self.loop.turn()

    def join(self) -> None:
        """Join, as a server does at the end of the turn that brought the HELLO, and read on."""
        assert self.state is ChannelState.JOINING
        self.log.join(MEMBER)
        self.channel.cursor.attach(MEMBER)
        self.channel.move(ChannelState.JOINED)
        self.loop.reader.handle(self.channel)
        self.loop.sender.watch(self.channel)
        self.read()

    def depart(self) -> None:
        self.handler.go(self.channel)

    def connect(self) -> tuple[Channel, socket.socket]:
        """Return another channel and its peer."""
        ours, theirs = socket.socketpair()
        self.others.append(theirs)
        other = Channel(ours, "127.0.0.1:40113", self.log)
        self.loop.add(other)
        return other, theirs

    def congested(self) -> Channel:
        """Return another channel, for which too many private frames wait."""
        other, _ = self.connect()
        other.cursor.private(b"x" * MAX_PRIVATE_BYTES + b"\n")
        self.loop.pace.mark_congested(other)
        return other

    def relieve(self, other: Channel) -> None:
        """Mark all that waits for the other channel as sent."""
        other.cursor.advance(other.cursor.queued())

    @property
    def is_paused(self) -> bool:
        return self.channel.waits_for is Wait.TURN

    def logged(self) -> list[bytes]:
        """Return the frames that were logged since the last call."""
        return drain(self.watcher).splitlines()
