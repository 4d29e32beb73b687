"""The server: it turns what clients send into inputs, and what becomes of them into frames.

This module decides what each line and each deadline does. The turns are ``loop``'s, what counts is
``state``'s, how frames are written is ``wire``'s, and who may come in is ``door``'s.
"""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import rankserver
from rankserver.channel import NO_MEMORY, Blocker, Channel, ChannelState, Departure, Wait
from rankserver.clist import Log
from rankserver.config import Config
from rankserver.door import Door
from rankserver.farewell import Farewells
from rankserver.heartbeat import Heartbeat
from rankserver.inputs import Answered, Asked, Lines
from rankserver.logs import event
from rankserver.loop import MIN_READ_BYTES, Loop
from rankserver.members import NOBODY, Member
from rankserver.membership import Membership
from rankserver.order import Immediate, Order
from rankserver.state import State
from rankserver.telemetry import Telemetry
from rankserver.tokens import Tokens
from rankserver.wire import frames, protocol
from rankserver.wire.exceptions import RemoteProtocolError

# Seconds before a wrong token is answered, so that guessing is slow. Nobody else waits meanwhile.
TOKEN_PENALTY: Final = 1.0
# Members in a new roster that cost as much to write as one other line that is handled in Python.
MEMBERS_PER_LINE: Final = 8


class Server:
    """A ranked command server. ``listen``, then ``run``; ``close`` frees what is left.

    ``stop`` may be called from within a turn only, such as from a callback of ``loop.on_readable``: the
    server is not safe for threads.

    Args:
        config: its settings.
        tokens: who may join; None for everybody.
        context: the TLS context for TCP connections; None for plain ones.
        selector: what waits for sockets; the system's best if none is given.
        clock: the time in seconds, which never goes back.
        order: makes the order of inputs from what applies them; a single server's if none is given.

    Attributes:
        loop: its turns.
        state: what counts.
        heartbeat: finds out which members are gone without a word.
        farewells: sends those that go what they are owed.
        telemetry: what its operator is told.
        is_unsettled, collects: see ``loop.Handler``.
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
        self.loop = Loop(
            config,
            selector or selectors.DefaultSelector(),
            clock,
            log,
            self,
        )
        timers = self.loop.timers
        self.telemetry = Telemetry(timers)
        self.farewells = Farewells(self.loop)
        self.heartbeat = Heartbeat(timers, config.heartbeat, self._ping, self._on_dead)
        self._membership = Membership(config, self.loop, self.state, self._order, self)
        self._context = context
        self._door = Door(config.capacity, config.max_per_address, tokens)
        self._handshake = timers.timeout(config.handshake_timeout, self._on_no_hello)
        self._penalty = timers.timeout(TOKEN_PENALTY, self._on_penalty)
        self._info = protocol.info(
            frames.InfoFrame(
                proto=protocol.VERSION,
                server=f"rankserver/{rankserver.__version__}",
                max_line=config.max_line,
                auth=tokens is not None,
                capacity=config.capacity,
            )
        )
        # The answer to WHO, and the number of changes as of which it is right.
        self._roster: tuple[int, list[bytes]] = (-1, [])
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
        """Serve until ``stop`` was called and everybody has been told, or given up; see ``farewell``."""
        self.loop.run()

    def stop(self) -> None:
        """Accept nobody any more, and tell everybody ``BYE shutdown`` behind what is logged so far."""
        if self.loop.is_stopping:
            return
        event(logging.INFO, "stopping", clients=self.state.log.count)
        self.loop.stop()
        for channel in self.loop.channels.values():
            self.depart(channel, Departure(protocol.SHUTDOWN, "the server is stopping"))

    def close(self) -> None:
        """Log what was left out, close every socket and free all memory. Closing twice is allowed."""
        self.telemetry.close()
        self.loop.close()
        self.state.log.close()

    def reload(self, tokens: Tokens | None, context: ssl.SSLContext | None) -> None:
        """Use other tokens and another certificate from now on; members stay.

        Args:
            tokens: who may join. Whether any are needed cannot change: clients were told.
            context: the TLS context for connections that come from now on; likewise.
        """
        self._door.tokens = tokens
        self._context = context
        event(logging.INFO, "reloaded", tokens=len(tokens) if tokens else 0, tls=context is not None)

    def report(self) -> None:
        """Log how things are, for the operator: a line with the counters, then one for each member."""
        log, pace = self.state.log, self.loop.pace
        self.telemetry.report(
            clients=log.count,
            strangers=self._door.strangers,
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
        context = None if peer.startswith("unix:") else self._context
        try:
            channel = Channel(sock, peer, self.state.log, context)
        except MemoryError:
            self.telemetry.on_not_accepted(peer, NO_MEMORY.text, self.loop.now)
            sock.close()
            return
        self.loop.add(channel)
        self._door.enter(channel)
        self.is_unsettled = True
        self._handshake.start(channel, self.loop.now)
        self.loop.sender.send(channel, self._info)
        self.telemetry.on_connected(channel, self.loop.now)
        if self._door.is_crowded(channel):
            text = f"{self.config.max_per_address} connections from one address are enough"
            self.depart(channel, Departure(protocol.FULL, text))
        else:
            if not channel.tls:
                # Most clients say HELLO at once: it is here already, and a turn is saved.
                self.loop.reader.read(channel, MIN_READ_BYTES)
            self.loop.sender.watch(channel)

    def on_line(self, channel: Channel, line: bytes) -> Blocker:
        """Do what a line asks for, and return None; or do nothing, and return what it must wait for."""
        if channel in self.loop.pace.congested:
            return channel
        if self.collects:  # what it sent before counts first
            self._apply_ready()
        try:
            frame = protocol.parse_client_line(line)
        except RemoteProtocolError as error:
            self._on_bad_line(channel, error)
            return None
        if channel.state is ChannelState.HANDSHAKE:
            self._on_hello(channel, frame)
            return None
        return self._handlers[type(frame)](channel, frame)

    def on_batch(self, channel: Channel, batch: bytes) -> None:
        """Propose a stretch of a member's commands."""
        self._order.propose(Lines(channel.member.id, batch))

    def on_end(self, channel: Channel, reason: str) -> None:
        """Note that nothing more comes from a channel."""
        channel.at_eof = True
        if channel.is_going:
            self.loop.sender.watch(channel)
            self.loop.sender.touch(channel)  # it is closed once it was sent what it is owed
        else:
            self.depart(channel, Departure("", reason))

    def depart(self, channel: Channel, departure: Departure) -> None:
        """Let a channel go: ignore what it sends from now on, and let its member leave after this turn."""
        if channel.is_going:
            return
        channel.departure = departure
        self.loop.pace.forget(channel)
        channel.cursor.ignore()
        self._handshake.stop(channel)
        self._penalty.stop(channel)
        self.is_unsettled = True
        member = channel.member
        if member is not NOBODY:
            channel.move(ChannelState.LEAVING)
            self.heartbeat.stop()
            self._membership.leave(member)
            rank = self.state.roster.rank(member)
            self.telemetry.on_left(channel, member, rank, departure, self.loop.now)
        else:
            self.telemetry.on_refused(channel, self._membership.name(channel), departure, self.loop.now)
            self._membership.withdraw(channel)
            self._door.refuse(channel)
            self.farewells.begin(channel)

    def settle(self) -> None:
        """Make the joins and leaves of this turn count, and see that strangers are not too many."""
        if self.collects:
            self._apply_ready()
        if not self.is_unsettled:
            return
        while self._membership.has_changes:
            self._membership.propose()
            self._apply_ready()
            self._membership.resume()
            self._apply_ready()  # what newcomers had sent behind their HELLO counts in this turn
        while (oldest := self._door.excess()) is not None:
            self._turn_away(oldest)
        self.is_unsettled = False

    def _apply_ready(self) -> None:
        for given in self._order.ready():
            self.state.apply(given)

    def on_closed(self, channel: Channel) -> None:
        """Note that a channel is closed."""
        self._door.leave(channel)
        self.farewells.forget(channel)

    def on_slow(self, channel: Channel) -> None:
        """Let a channel go that made others wait for too long."""
        if channel.state is ChannelState.CLOSING:  # it goes anyway, and others wait for what it is still owed
            self.loop.sender.finish(channel)
            return
        text = f"read too slowly for {self.config.slow_timeout:g} seconds"
        self.depart(channel, Departure(protocol.SLOW, text, is_cut=True))

    def on_lost_time(self, seconds: float) -> None:
        """Note that the process was stopped for this long."""
        self.telemetry.on_lost_time(seconds, self.loop.now)

    def unsettle(self) -> None:
        """Let another turn follow at once, and settle in it."""
        self.is_unsettled = True

    # --- what the state tells -----------------------------------------------------------------

    def joined(self, members: Sequence[Member], ranks: Sequence[int]) -> None:
        """Welcome new members."""
        self._membership.joined(members, ranks)

    def left(self, members: Sequence[Member]) -> None:
        """Say farewell to members that have left."""
        self._membership.left(members)

    def tell(self, member: Member, frame: bytes) -> None:
        """Send a member a frame that is for it alone, if it has a channel here."""
        if member.channel is not None:
            self.loop.sender.send(member.channel, frame)

    # --- frames -------------------------------------------------------------------------------

    def _on_bad_line(self, channel: Channel, error: RemoteProtocolError) -> None:
        if channel.state is ChannelState.HANDSHAKE:
            self.depart(channel, Departure(protocol.PROTO, error.text))
        else:
            self.loop.sender.send(channel, protocol.err(error.code, error.text))

    def _on_hello(self, channel: Channel, frame: frames.ClientFrame) -> None:
        if not isinstance(frame, frames.Hello):
            self.depart(channel, Departure(protocol.PROTO, "the first frame must be HELLO"))
            return
        holder = self._door.holder(frame)
        if isinstance(holder, str):
            self._penalize(channel, holder)
        elif frame.resume is not None:
            self.depart(channel, Departure(protocol.RESUME, "the session is unknown or over"))
        else:
            self._door.forget(channel)
            self._handshake.stop(channel)
            self._membership.admit(channel, frame.name, holder)
            self.is_unsettled = True

    def _penalize(self, channel: Channel, text: str) -> None:
        """Answer a bad token only after a while."""
        channel.move(ChannelState.PENALIZED)
        channel.cursor.ignore()
        self._handshake.stop(channel)
        channel.departure = Departure(protocol.AUTH, text)
        self._penalty.start(channel, self.loop.now)

    def _on_submit(self, channel: Channel, frame: frames.Submit) -> Blocker:
        if self.loop.pace.is_holding:
            return Wait.BACKLOG
        if frame.wants_answer:
            self._order.propose(Asked(channel.member.id, frame.text))
        else:
            self._order.propose(Lines(channel.member.id, b"CMD %s\n" % frame.text.encode()))
        return None

    def _on_result(self, channel: Channel, frame: frames.Result) -> Blocker:
        congested = self.loop.pace.congested
        if congested and (asker := self.state.asks.asker(frame.seq)) is not None:
            blocker = self.state.roster.by_id[asker].channel
            if blocker in congested:
                return blocker
        self._order.propose(Answered(channel.member.id, frame.seq, frame.status, frame.detail))
        return None

    def _on_ping(self, channel: Channel, frame: frames.Ping) -> Blocker:
        self.loop.sender.send(channel, protocol.pong(frame.text))
        return None

    def _on_who(self, channel: Channel, _: frames.Who) -> Blocker:
        parts = self._roster_parts()
        self.loop.reader.charge(len(parts))
        for part in parts:
            self.loop.sender.send(channel, part)
        return None

    def _on_leave(self, channel: Channel, _: frames.Leave) -> Blocker:
        self.depart(channel, Departure("", "left"))
        return None

    def _on_second_hello(self, channel: Channel, _: frames.Hello) -> Blocker:
        self.depart(channel, Departure(protocol.PROTO, "a second HELLO"))
        return None

    def _turn_away(self, stranger: Channel) -> None:
        """Close the connection of a stranger because there are too many."""
        text = "too many connections wait, and this one for the longest"
        self.depart(stranger, Departure(protocol.TIMEOUT, text))
        self._door.forget(stranger)
        self.loop.sender.flush(stranger)
        if not stranger.wants_write:  # else it has got a part of its BYE, and may have the rest of its time
            self.loop.sender.finish(stranger)

    def _roster_parts(self) -> list[bytes]:
        """Return the answer to WHO. O(members) after a change of these, else O(1)."""
        state = self.state
        if self._roster[0] != state.changes:
            self.loop.reader.charge(state.log.count // MEMBERS_PER_LINE)
            entries = [
                frames.RosterEntry(rank, member.name, member.rank_class)
                for rank, member in enumerate(state.roster)
            ]
            self._roster = (state.changes, list(protocol.roster(entries, self.config.max_line)))
        return self._roster[1]

    # --- deadlines ----------------------------------------------------------------------------

    def _on_no_hello(self, channel: Channel) -> None:
        text = f"no HELLO within {self.config.handshake_timeout:g} seconds"
        self.depart(channel, Departure(protocol.TIMEOUT, text))

    def _on_penalty(self, channel: Channel) -> None:
        if channel.departure is not None:
            self.depart(channel, channel.departure)

    def _ping(self, channel: Channel) -> None:
        self.loop.sender.send(channel, protocol.ping())

    def _on_dead(self, channel: Channel) -> None:
        text = f"nothing heard for {2 * self.config.heartbeat:g} seconds"
        self.depart(channel, Departure(protocol.TIMEOUT, text))
