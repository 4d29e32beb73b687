"""Reception: connections from accept to an accepted HELLO, or to their refusal.

Until then they are called strangers. A stranger must say HELLO within ``--handshake-timeout``. A bad token is
answered only after a delay, so that guessing is slow; no other client waits meanwhile. When there are too
many strangers, the door says which of them to close. When memory is low, all of them are closed, and no
connection is accepted for a while.
"""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Final, Protocol

import rankserver
from rankserver.channel import NO_MEMORY, Channel, ChannelState, Departure
from rankserver.clist import Log
from rankserver.config import Config
from rankserver.door import Door
from rankserver.logs import event
from rankserver.loop import MIN_READ_BYTES, Loop
from rankserver.membership import Membership
from rankserver.memory import Reserve
from rankserver.telemetry import Telemetry
from rankserver.tokens import Tokens
from rankserver.wire import codes, frames, protocol

# Seconds before a bad token is answered.
TOKEN_PENALTY: Final = 1.0


class Host(Protocol):
    """The server, as far as reception uses it."""

    @property
    def loop(self) -> Loop:
        """Takes charge of connections."""

    @property
    def membership(self) -> Membership:
        """Lets them join."""

    @property
    def telemetry(self) -> Telemetry:
        """Counts and logs them."""

    def depart(self, channel: Channel, departure: Departure) -> None:
        """Begin to disconnect a channel."""

    def unsettle(self) -> None:
        """Settle at the end of this turn."""


class Reception:
    """The connections that have not joined.

    Args:
        config: the settings of the server.
        log: the shared log.
        host: the server.
        tokens: the accepted tokens; None if clients need none.
        context: the TLS context for TCP connections; None for plain ones.
    """

    def __init__(
        self, config: Config, log: Log, host: Host, tokens: Tokens | None, context: ssl.SSLContext | None
    ) -> None:
        self.door = Door(config.capacity, config.max_per_address, tokens)
        self._reserve = Reserve()
        self._config = config
        self._log = log
        self._host = host
        self._context = context
        self._handshake = host.loop.timers.timeout(config.handshake_timeout, self._on_no_hello)
        self._penalty = host.loop.timers.timeout(TOKEN_PENALTY, self._on_penalty)
        self._info = protocol.info(
            frames.InfoFrame(
                proto=frames.VERSION,
                server=f"rankserver/{rankserver.__version__}",
                max_line=config.max_line,
                auth=tokens is not None,
                capacity=config.capacity,
            )
        )

    def reload(self, tokens: Tokens | None, context: ssl.SSLContext | None) -> None:
        """Use other tokens and another certificate from now on."""
        self.door.tokens = tokens
        self._context = context

    def receive(self, sock: socket.socket, peer: str) -> None:
        """Take over a connection that has arrived, or close it."""
        loop, telemetry = self._host.loop, self._host.telemetry
        channel = self._channel(sock, peer)
        if channel is None:
            sock.close()
            telemetry.on_not_accepted(peer, NO_MEMORY.text, loop.now)
            return
        loop.add(channel)
        self.door.enter(channel)
        self._host.unsettle()
        self._handshake.start(channel, loop.now)
        loop.sender.send(channel, self._info)
        telemetry.on_connected(channel, loop.now)
        if self.door.is_crowded(channel):
            text = f"the limit is {self.door.max_per_address} connections from one address"
            self._host.depart(channel, Departure(codes.FULL, text))
            return
        if not channel.tls:
            # Most clients say HELLO at once: it has arrived already, and reading it now saves a turn.
            loop.reader.read(channel, MIN_READ_BYTES)
        loop.sender.watch(channel)

    def has_memory(self) -> bool:
        """Tell whether there is memory for strangers; if not, close them all, and accept none for a while."""
        loop = self._host.loop
        if self._reserve.is_intact(loop.now):
            return True
        loop.pause_accepting()
        strangers = self.door.everybody()
        event(logging.WARNING, "memory is low", strangers=len(strangers))
        for stranger in strangers:
            self._host.depart(stranger, NO_MEMORY)
            self.door.forget(stranger)
            loop.sender.finish(stranger)
        return False

    def release_memory(self) -> None:
        """Give back the memory that is held for members, who need it now. Further calls do nothing."""
        self._reserve.release()

    def on_frame(self, channel: Channel, frame: frames.ClientFrame) -> None:
        """Handle the first frame of a connection, which must be a HELLO."""
        if not isinstance(frame, frames.Hello):
            self._host.depart(channel, Departure(codes.PROTO, "the first frame must be HELLO"))
            return
        holder = self.door.holder(frame)
        if isinstance(holder, str):
            self._penalize(channel, holder)
        elif frame.resume is not None:
            self._host.depart(channel, Departure(codes.RESUME, "the session is unknown or over"))
        else:
            self.door.forget(channel)
            self._handshake.stop(channel)
            self._host.membership.admit(channel, frame.name, holder)
            self._host.unsettle()

    def refuse(self, channel: Channel) -> None:
        """Note that a connection departs before it has joined."""
        self._handshake.stop(channel)
        self._penalty.stop(channel)
        self.door.refuse(channel)

    def close_excess(self) -> None:
        """Close strangers while there are too many."""
        sender = self._host.loop.sender
        text = "too many connections are waiting to join"
        while (stranger := self.door.excess()) is not None:
            if self.door.is_silent(stranger) and _has_begun(stranger):
                self.door.begin(stranger)
                continue
            self._host.depart(stranger, Departure(codes.TIMEOUT, text))
            self.door.forget(stranger)
            sender.flush(stranger)
            # If its BYE was sent only in part, it is given time to take the rest.
            if not stranger.wants_write:
                sender.finish(stranger)

    def _channel(self, sock: socket.socket, peer: str) -> Channel | None:
        """Return a channel for a connection; None if there is no memory for it."""
        if not self.has_memory():
            return None
        context = None if peer.startswith("unix:") else self._context
        try:
            return Channel(sock, peer, self._log, context)
        except MemoryError:
            return None

    def _penalize(self, channel: Channel, text: str) -> None:
        """Answer a bad token, but only after a delay."""
        channel.move(ChannelState.PENALIZED)
        channel.departure = Departure(codes.AUTH, text)
        channel.cursor.ignore()
        self._handshake.stop(channel)
        self._penalty.start(channel, self._host.loop.now)

    def _on_penalty(self, channel: Channel) -> None:
        if channel.departure is not None:
            self._host.depart(channel, channel.departure)

    def _on_no_hello(self, channel: Channel) -> None:
        text = f"no HELLO within {self._config.handshake_timeout:g} seconds"
        self._host.depart(channel, Departure(codes.TIMEOUT, text))


def _has_begun(stranger: Channel) -> bool:
    """Tell whether a stranger has sent what a client sends first. With TLS, at most one system call.

    A turn reads few TLS handshakes, so a ClientHello that has arrived may not have been received yet.
    """
    return stranger.tls.has_begun() if stranger.tls else stranger.heard_at > 0
