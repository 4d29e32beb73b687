"""The server: turns the lines of members into inputs, and the results of inputs into frames.

This module decides what each line of a member does, and how a connection departs. ``loop`` takes the turns,
``state`` applies inputs, ``reception`` handles strangers, and ``membership`` handles joins and leaves.
"""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from rankserver.channel import NO_MEMORY, Blocker, Channel, ChannelState, Departure, Wait
from rankserver.clist import Log
from rankserver.config import Config
from rankserver.farewell import Farewells
from rankserver.heartbeat import Heartbeat
from rankserver.inputs import Answered, Asked, Lines
from rankserver.logs import event
from rankserver.loop import Loop
from rankserver.members import NOBODY, Member
from rankserver.membership import Membership
from rankserver.order import Immediate, Order
from rankserver.reception import Reception
from rankserver.state import State
from rankserver.telemetry import Telemetry
from rankserver.tokens import Tokens
from rankserver.wire import codes, frames, protocol
from rankserver.wire.exceptions import RemoteProtocolError

# The most bytes that a command in the log has in addition to its text: its verb, its seq, the rank of its
# sender, and the spaces and the LF between them, as long as the seq has at most 12 digits.
STAMP_BYTES: Final = 25
# The most bytes that an answer has in addition to the name of its sender and its detail: the same as for a
# command, and a status.
ANSWER_BYTES: Final = 34


class Server:
    """A ranked command server. ``listen``, then ``run``; ``close`` frees what is left.

    Call ``stop`` only from within a turn, such as from a callback of ``loop.on_readable``: the server is not
    thread-safe.

    Args:
        config: its settings.
        tokens: the accepted tokens; None if clients need none.
        context: the TLS context for TCP connections; None for plain ones.
        selector: waits for sockets; the system's best if none is given.
        clock: returns the time in seconds, which never goes back.
        order: returns the order of inputs, given the function that applies them; by default that of a single
            server.

    Attributes:
        loop: the event loop.
        state: the members, ranks, open asks and the log.
        heartbeat: detects members that have vanished.
        farewells: sends departing channels the rest of their output.
        membership: lets members join and leave at the end of a turn.
        telemetry: counts and logs for the operator.
        is_unsettled, collects: see ``handler.Handler``.
    """

    def __init__(  # noqa: PLR0913 - all but the first have defaults
        self,
        config: Config,
        tokens: Tokens | None = None,
        context: ssl.SSLContext | None = None,
        *,
        selector: selectors.BaseSelector | None = None,
        clock: Callable[[], float] = time.monotonic,
        order: Callable[[Callable[[Any], None]], Order] = Immediate,
    ) -> None:
        log = Log(config.max_line)
        self.config = config
        self.is_unsettled = False
        self.state = State(log, config.max_line, self)
        self._order = order(self.state.apply)
        self.collects = self._order.collects
        self.loop = Loop(config, selector or selectors.DefaultSelector(), clock, log, self)
        self.telemetry = Telemetry(self.loop.timers)
        self.farewells = Farewells(self.loop)
        self.heartbeat = Heartbeat(self.loop.timers, config.heartbeat, self.loop.sender.send, self.depart)
        self.membership = Membership(config, self.loop, self.state, self._order, self)
        self._reception = Reception(config, log, self, tokens, context)
        self._handlers: dict[type[Any], Callable[[Channel, Any], Blocker]] = {
            frames.Submit: self._on_submit,
            frames.Result: self._on_result,
            frames.Ping: self._on_ping,
            frames.Pong: lambda *_: None,
            frames.Who: self._on_who,
            frames.Leave: self._on_leave,
            frames.Hello: self._on_second_hello,
        }

    # --- from outside -------------------------------------------------------------------------

    def listen(self) -> list[str]:
        """Open the sockets to listen on, and return their addresses as text, TCP first.

        Raises:
            ListenError: an address cannot be listened on; the message names it.
        """
        config = self.config
        return self.loop.acceptor.listen(config.host, config.port, config.unix, config.heartbeat)

    def run(self) -> None:
        """Serve until ``stop`` was called and all connections are closed; see ``farewell``."""
        self.loop.run()

    def stop(self) -> None:
        """Stop accepting, and send every client ``BYE shutdown`` after what is logged so far."""
        if self.loop.is_stopping:
            return
        event(logging.INFO, "stopping", clients=self.state.log.count)
        self.loop.stop()
        for channel in self.loop.channels.values():
            self.depart(channel, Departure(codes.SHUTDOWN, "the server is stopping"))

    def close(self) -> None:
        """Log what was left out, close every socket and free all memory. Closing twice is allowed."""
        self.telemetry.close()
        self.loop.close()
        self._reception.release_memory()
        self.state.log.close()

    def reload(self, tokens: Tokens | None, context: ssl.SSLContext | None) -> None:
        """Use other tokens and another certificate from now on; members stay.

        Args:
            tokens: the accepted tokens. Whether clients need one must not change, because they were told.
            context: the TLS context for new connections. Whether TLS is used must not change either.
        """
        self._reception.reload(tokens, context)
        event(logging.INFO, "reloaded", tokens=len(tokens) if tokens else 0, tls=context is not None)

    def report(self) -> None:
        """Log a report for the operator: a line with the counters, then a line for each member."""
        log, pace = self.state.log, self.loop.pace
        self.telemetry.report(
            clients=log.count,
            strangers=self._reception.door.strangers,
            seq=log.seq,
            commands=log.seq - self.state.changes,
            log_bytes=log.held,
            holding=pace.is_holding,
            held=len(pace.waiting),
            asks=len(self.state.asks),
        )
        for rank, member in enumerate(self.state.roster):
            channel = member.channel
            if channel is not None:
                lag, is_held = channel.cursor.lag(), channel in pace.waiting
                self.telemetry.report_member(member, rank, lag=lag, held=is_held)

    # --- what the loop calls ------------------------------------------------------------------

    def on_connection(self, sock: socket.socket, peer: str) -> None:
        """Take over a connection that has arrived, or close it."""
        self._reception.receive(sock, peer)

    def has_memory(self) -> bool:
        """Tell whether there is memory for strangers; if not, disconnect all of them."""
        return self._reception.has_memory()

    def on_line(self, channel: Channel, line: bytes) -> Blocker:
        """Handle a line and return None, or do nothing and return what the line must wait for."""
        if channel in self.loop.pace.congested:
            return channel
        if self.collects:  # what it sent before counts first
            self._apply_ready()
        try:
            frame = protocol.parse_client_line(line)
        except RemoteProtocolError as error:
            if channel.state is ChannelState.HANDSHAKE:
                self.depart(channel, Departure(codes.PROTO, error.text))
            else:
                self.loop.sender.send(channel, protocol.err(error.code, error.text))
            return None
        if channel.state is ChannelState.HANDSHAKE:
            self._reception.on_frame(channel, frame)
            return None
        return self._handlers[type(frame)](channel, frame)

    def on_batch(self, channel: Channel, batch: bytes) -> None:
        """Propose a batch of a member's commands."""
        pace = self.loop.pace
        if pace.is_under_pressure:
            pace.charge(channel, len(batch) + STAMP_BYTES * batch.count(b"\n"))
        self._order.propose(Lines(channel.member.id, batch))

    def on_end(self, channel: Channel, reason: str) -> None:
        """Note that a channel receives nothing more."""
        channel.at_eof = True
        if channel.is_going:
            self.loop.sender.watch(channel)
            self.loop.sender.touch(channel)  # it is closed once all its output is sent
        else:
            self.depart(channel, Departure("", reason))

    def depart(self, channel: Channel, departure: Departure) -> None:
        """Disconnect a channel: ignore its input, and let its member leave at the end of this turn."""
        if channel.is_going:
            return
        channel.departure = departure
        self.loop.reader.charge_departure(self.state.asks.leaving_cost(channel.member.id))
        if departure is NO_MEMORY:  # to depart takes some
            self._reception.release_memory()
        self.loop.pace.forget(channel)
        channel.cursor.ignore()
        self.is_unsettled = True
        member = channel.member
        if member is not NOBODY:
            channel.move(ChannelState.LEAVING)
            self.heartbeat.stop()
            self.membership.leave(member)
            rank = self.state.roster.rank(member)
            self.telemetry.on_left(channel, member, rank, departure, self.loop.now)
        else:
            self.membership.withdraw(channel)
            self.telemetry.on_refused(channel, departure, self.loop.now)
            self._reception.refuse(channel)
            self.farewells.begin(channel)

    def settle(self) -> None:
        """Make the joins and leaves of this turn count, and close strangers if there are too many.

        Strangers are closed if memory is low as well, whoever uses it.
        """
        if self._reception.door.strangers:
            self._reception.has_memory()
        if self.collects:
            self._apply_ready()
            self.membership.resume()
        if not self.is_unsettled:
            return
        while self.membership.has_changes:
            self.membership.propose()
            self._apply_ready()
            self.membership.resume()
            self._apply_ready()  # what newcomers had sent behind their HELLO counts in this turn
        self._reception.close_excess()
        self.is_unsettled = False

    def _apply_ready(self) -> None:
        for given in self._order.ready():
            self.state.apply(given)

    def on_closed(self, channel: Channel) -> None:
        """Note that a channel is closed."""
        self._reception.door.leave(channel)
        self.farewells.forget(channel)

    def on_slow(self, channel: Channel) -> None:
        """Disconnect a channel that made others wait for too long."""
        if channel.state is ChannelState.CLOSING:  # it has departed, and others wait for its unsent output
            self.loop.sender.finish(channel)
            return
        text = f"read too slowly for {self.config.slow_timeout:g} seconds"
        self.depart(channel, Departure(codes.SLOW, text, is_cut=True))

    def on_lost_time(self, seconds: float) -> None:
        """Note that the process was stopped for this long."""
        self.telemetry.on_lost_time(seconds, self.loop.now)

    def unsettle(self) -> None:
        """Let another turn follow at once, and settle in it."""
        self.is_unsettled = True

    # --- what the state tells -----------------------------------------------------------------

    def joined(self, members: Sequence[Member], ranks: Sequence[int]) -> None:
        """Welcome new members."""
        self.membership.joined(members, ranks)

    def left(self, members: Sequence[Member]) -> None:
        """Begin the farewells of members that have left."""
        self.membership.left(members)

    def tell(self, member: Member, frame: bytes) -> None:
        """Send a member a frame that is for it alone, if it has a channel here."""
        if member.channel is not None:
            self.loop.sender.send(member.channel, frame)

    # --- frames -------------------------------------------------------------------------------

    def _on_submit(self, channel: Channel, frame: frames.Submit) -> Blocker:
        pace = self.loop.pace
        if pace.is_under_pressure:
            if not pace.may_log(channel):
                return Wait.BACKLOG
            pace.charge(channel, len(frame.text.encode()) + STAMP_BYTES)
        if frame.wants_answer:
            self.loop.reader.charge(self.state.asks.cost(channel.member.id))
            self._order.propose(Asked(channel.member.id, frame.text))
        else:
            self._order.propose(Lines(channel.member.id, b"CMD %s\n" % frame.text.encode()))
        return None

    def _on_result(self, channel: Channel, frame: frames.Result) -> Blocker:
        pace = self.loop.pace
        if pace.congested and (number := self.state.asks.asker(frame.seq)) is not None:
            asker = self.state.roster.by_id[number].channel
            if asker is not None and pace.is_congested(asker):
                size = len(channel.member.name) + len(frame.detail.encode()) + ANSWER_BYTES
                if not pace.may_answer(channel, asker, size):
                    return asker
        self._order.propose(Answered(channel.member.id, frame.seq, frame.status, frame.detail))
        return None

    def _on_ping(self, channel: Channel, frame: frames.Ping) -> Blocker:
        self.loop.sender.send(channel, protocol.pong(frame.text))
        return None

    def _on_who(self, channel: Channel, _: frames.Who) -> Blocker:
        parts = self.membership.roster()
        self.loop.reader.charge(len(parts))
        for part in parts:
            self.loop.sender.send(channel, part)
        return None

    def _on_leave(self, channel: Channel, _: frames.Leave) -> Blocker:
        self.depart(channel, Departure("", "left"))
        return None

    def _on_second_hello(self, channel: Channel, _: frames.Hello) -> Blocker:
        self.depart(channel, Departure(codes.PROTO, "a second HELLO"))
        return None
