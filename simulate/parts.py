"""The parts of the server that report to the simulation, in place of the server's own."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from rankserver.channel import Blocker, Channel, Departure
from rankserver.clist import Cursor
from rankserver.members import Member
from rankserver.sender import Sender
from rankserver.server import Server
from rankserver.tls import TlsTransport
from simulate.client import client_of
from simulate.costs import Meter
from simulate.faults import Shortage

if TYPE_CHECKING:
    from simulate.run import Run


class SimServer(Server):
    """The real server, which reports its decisions to the run."""

    def __init__(self, run: Run, *arguments: Any, **options: Any) -> None:
        self.run_of = run
        self._meter = run.world.meter
        self._handle = run.world.shortage.handle("a line", super().on_line)
        super().__init__(*arguments, **options)

    def on_connection(self, sock: socket.socket, peer: str) -> None:
        """Account for a connection."""
        self._meter.connection()
        super().on_connection(sock, peer)

    def on_line(self, channel: Channel, line: bytes) -> Blocker:
        """Handle a line, after the run has checked whether this turn may; account for it."""
        self.run_of.invariants.check_line(channel, line)
        self._meter.line(len(line))
        return self._handle(channel, line)

    def depart(self, channel: Channel, departure: Departure) -> None:
        """Disconnect a channel, after the run has checked whether the server may."""
        if not channel.is_going:
            self._meter.departure()
            self.run_of.is_let_go(channel, departure)
        super().depart(channel, departure)

    def joined(self, members: Sequence[Member], ranks: Sequence[int]) -> None:
        """Note which members have joined."""
        self.run_of.note_told("joined", members, ranks)
        super().joined(members, ranks)
        channels = [cast("Channel", member.channel) for member in members]
        self.run_of.truth.joining.append([client_of(channel) for channel in channels])

    def left(self, members: Sequence[Member]) -> None:
        """Note which members have left."""
        self.run_of.note_told("left", members)
        super().left(members)

    def tell(self, member: Member, frame: bytes) -> None:
        """Note a frame for one member alone."""
        self.run_of.note_told("private", [member], frame)
        if frame.startswith(b"DROPPED "):
            self.run_of.truth.dropped.add(int(frame.split()[1]))
        super().tell(member, frame)


class SimReserve:
    """The memory reserve, which is used up at random.

    Args:
        shortage: decides when.
        on_low: called when a check finds that memory is low.

    Attributes:
        was_low: the last check has found that.
    """

    def __init__(self, shortage: Shortage, on_low: Callable[[], None]) -> None:
        self.was_low = False
        self._shortage = shortage
        self._on_low = on_low

    def is_intact(self, _: float) -> bool:
        """Tell whether there is enough memory for strangers."""
        self.was_low = not self._shortage.has_reserve()
        if self.was_low:
            self._on_low()
        return not self.was_low

    def release(self) -> None:
        """Do nothing: it holds no memory."""


def sender_class(meter: Meter) -> type[Sender]:
    """Return a class of senders that account for private frames."""

    class MeteredSender(Sender):
        def send(self, channel: Channel, frame: bytes) -> None:
            meter.frame()
            super().send(channel, frame)

    return MeteredSender


def transport_class(meter: Meter, shortage: Shortage) -> type[TlsTransport]:
    """Return a class of TLS transports that account for handshakes, and for which memory may be lacking."""

    class MeteredTransport(TlsTransport):
        def __init__(self, sock: socket.socket, context: ssl.SSLContext, cursor: Cursor) -> None:
            shortage.make("a TLS connection", super().__init__)(sock, context, cursor)

        def receive(self, size: int) -> int:
            is_handshake = not (self._is_open or self._is_shut)
            count = super().receive(size)
            if is_handshake:
                meter.handshake()
            return count

    return MeteredTransport
