"""The server: what each frame and each timeout does, who is a member, and how one comes and goes.

The turns are ``loop``'s. How frames are written is ``protocol``'s, who may come in is ``door``'s.
"""

from __future__ import annotations

import logging
import secrets
import selectors
import ssl
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import rankserver
from rankserver.asks import AskTable
from rankserver.channel import Channel, State
from rankserver.clist import READ_BYTES
from rankserver.config import Config
from rankserver.door import Door
from rankserver.logs import MAX_MEMBER_LINES, MAX_STRANGER_LINES, Limited, event
from rankserver.loop import JOIN_WAIT, JOIN_WAIT_EACH, MANY, NO_MEMORY, READ_LEAST, TURN_BYTES, Loop
from rankserver.tokens import Tokens
from rankserver.wire import frames, protocol
from rankserver.wire.exceptions import NoSuchAskError, RemoteProtocolError

PENALTY: Final = 1.0  # seconds that a wrong token waits for its answer
LOG_RENEWAL: Final = 1.0  # seconds for which events that others cause are counted, see ``logs``
RANK_BYTES: Final = 8  # of a rank in a list, comma included, at most
WHO_SHARE: Final = 8  # clients in a new roster that cost as much as one other line that is handled in Python


class Server(Loop):
    """A ranked command server. ``listen``, then ``run``; ``close`` frees what is left.

    ``stop`` may be called from a signal handler's turn only: the server is not safe for threads.

    Args:
        config: what it is told to be.
        tokens: who may join; None for everybody.
        context: the TLS context for TCP connections; None for plain ones.
        selector: what waits for sockets; the system's best if none is given.
        clock: the time in seconds, which never goes back.
    """

    def __init__(
        self,
        config: Config,
        tokens: Tokens | None = None,
        context: ssl.SSLContext | None = None,
        *,
        selector: selectors.BaseSelector | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(config, selector or selectors.DefaultSelector(), clock)
        self._context = context
        self._asks: AskTable[Channel] = AskTable()
        self._door = Door(config.capacity, config.max_per_address, tokens)
        self._stranger_events = Limited(MAX_STRANGER_LINES)
        self._member_events = Limited(MAX_MEMBER_LINES)
        self._accepted = 0  # connections, of which ...
        self._members = 0  # ... so many ever joined
        self._refused: Counter[str] = Counter()  # those that were told BYE before they joined, by code, ...
        self._dropped: Counter[str] = Counter()  # ... and after
        self._changes = 0  # JOIN and LEFT frames
        self._roster_parts: list[bytes] = []  # as of ...
        self._roster_of = 0  # ... this change
        self._joining: list[Channel] = []  # at the end of the turn
        self._handshake = self._timers.timeout(config.handshake_timeout, self._on_no_hello)
        self._penalty = self._timers.timeout(PENALTY, self._on_penalty)
        self._silence = self._timers.timeout(config.heartbeat, self._on_silence)
        self._pinged = self._timers.timeout(config.heartbeat, self._on_no_pong)
        self._log_renewal = self._timers.timeout(LOG_RENEWAL, Limited.renew)
        self._info = protocol.info(
            frames.InfoFrame(
                protocol.VERSION,
                f"rankserver/{rankserver.__version__}",
                config.max_line,
                tokens is not None,
                config.capacity,
            )
        )

    # --- from outside -------------------------------------------------------------------------

    def listen(self) -> list[str]:
        """Open the sockets to listen on, and return their addresses as text, TCP first.

        Raises:
            ListenError: names the address that cannot be had.
        """
        return self._acceptor.listen(
            self.config.host, self.config.port, self.config.unix, self.config.heartbeat
        )

    def stop(self) -> None:
        """Accept nobody any more, and tell everybody ``BYE shutdown`` behind what is logged so far."""
        if self._stopping:
            return
        event(logging.INFO, "stopping", clients=self._log.clients)
        self._stopping = True
        self._accept_pause.stop("")
        for channel in self._channels.values():
            self._dismiss(channel, protocol.SHUTDOWN, "the server is stopping")

    def close(self) -> None:
        """Log what was left out, close every socket and free all memory. Closing twice is allowed."""
        for events in self._log_renewal:
            events.renew()
        super().close()

    def reload(self, tokens: Tokens | None, context: ssl.SSLContext | None) -> None:
        """Use other tokens and another certificate from now on; who has joined stays.

        Args:
            tokens: who may join. Whether any are needed cannot change: clients were told.
            context: the TLS context for connections that come from now on; likewise.
        """
        self._door.tokens = tokens
        self._context = context
        event(logging.INFO, "reloaded", tokens=len(tokens) if tokens else 0, tls=context is not None)

    def report(self) -> None:
        """Log how things are, for the operator: a line with the counters, then one for each client."""
        event(
            logging.INFO,
            "report",
            clients=self._log.clients,
            strangers=self._door.strangers,
            accepted=self._accepted,
            joined=self._members,
            refused=self._refused.total(),
            **{f"refused_{code}": count for code, count in sorted(self._refused.items())},
            dropped=self._dropped.total(),
            **{f"dropped_{code}": count for code, count in sorted(self._dropped.items())},
            seq=self._log.seq,
            commands=self._log.seq - self._changes,
            log_bytes=self._log.held,
            holding=self._pace.is_holding,
            held=len(self._pace),
            asks=len(self._asks),
        )
        for rank, channel in enumerate(self._ranked()):
            event(
                logging.INFO,
                "client",
                name=channel.name,
                peer=channel.peer,
                rank=rank,
                **{"class": channel.rank_class},
                **_whose(channel),
                lag=self._log.lag(channel.client),
                held=channel.held,
            )

    # --- frames -------------------------------------------------------------------------------

    def _heard(self, channel: Channel) -> None:
        if channel.state is State.JOINED:
            self._silence.start(channel, self._now)

    def _handle_line(self, channel: Channel, line: bytes) -> None:
        if self._pace.is_full(channel):
            self._hold(channel, channel)
            return
        try:
            frame = protocol.parse_client_line(line)
        except RemoteProtocolError as error:
            if channel.state is State.HANDSHAKE:
                self._dismiss(channel, protocol.PROTO, error.text)
            else:
                self._send(channel, protocol.err(error.code, error.text))
            return
        if channel.state is State.HANDSHAKE:
            self._on_hello(channel, frame)
        else:
            self._on_frame(channel, frame)

    def _on_hello(self, channel: Channel, frame: frames.ClientFrame) -> None:
        if not isinstance(frame, frames.Hello):
            self._dismiss(channel, protocol.PROTO, "the first frame must be HELLO")
            return
        holder = self._door.holder(frame)
        if isinstance(holder, str):
            self._penalize(channel, holder)
        elif frame.resume is not None:
            self._dismiss(channel, protocol.RESUME, "the session is unknown or over")
        else:
            channel.name = frame.name or ""
            channel.holder = holder
            channel.state = State.JOINING
            self._door.pass_on(channel)
            self._handshake.stop(channel)
            self._joining.append(channel)

    def _penalize(self, channel: Channel, text: str) -> None:
        """Let who has no token wait for its answer, so that guessing is slow; nobody else waits."""
        channel.refusal = text
        self._log.ignore(channel.client)
        self._handshake.stop(channel)
        self._penalty.start(channel, self._now)

    def _on_frame(self, channel: Channel, frame: frames.ClientFrame) -> None:
        """Do what a ranked client's frame asks for, or let it wait for those who cannot keep up."""
        if isinstance(frame, frames.Submit):
            self._on_submit(channel, frame)
        elif isinstance(frame, frames.Result):
            self._on_result(channel, frame)
        elif isinstance(frame, frames.Ping):
            self._send(channel, protocol.pong(frame.text))
        elif isinstance(frame, frames.Who):
            for part in self._roster():
                self._work += 1
                self._send(channel, part)
        elif isinstance(frame, frames.Leave):
            self._dismiss(channel, reason="left")
        elif isinstance(frame, frames.Hello):
            self._dismiss(channel, protocol.PROTO, "a second HELLO")

    def _roster(self) -> list[bytes]:
        """Return the answer to WHO. O(clients) after a change of these, else O(1)."""
        if self._roster_of != self._changes:
            self._work += self._log.clients // WHO_SHARE
            members = [
                frames.RosterEntry(rank, member.name, member.rank_class)
                for rank, member in enumerate(self._ranked())
            ]
            self._roster_parts = list(protocol.roster(members, self.config.max_line))
            self._roster_of = self._changes
        return self._roster_parts

    def _on_submit(self, channel: Channel, frame: frames.Submit) -> None:
        if self._pace.is_holding:
            self._hold(channel, None)
            return
        rank = self._log.rank(channel.client)
        verb = b"ASK" if frame.wants_answer else b"CMD"
        seq = self._log.append(verb, f"{rank} {frame.text}".encode())
        if frame.wants_answer:
            self._asks.open(seq, channel)

    def _on_result(self, channel: Channel, frame: frames.Result) -> None:
        asker = self._asks.asker(frame.seq)
        if asker is not None and self._pace.is_full(asker):
            self._hold(channel, asker)
            return
        try:
            asker = self._asks.answer(frame.seq, channel)
        except NoSuchAskError:
            text = f"{frame.seq} is no ASK that waits for your answer"
            self._send(channel, protocol.err(protocol.NO_SUCH_ASK, text))
            return
        if asker is not None and asker.state is State.JOINED:
            rank = self._log.rank(channel.client)
            self._send(asker, protocol.answer(rank, channel.name, frame))

    # --- membership ---------------------------------------------------------------------------

    def _accept(self) -> None:
        for sock, peer, host in self._acceptor.accept():
            try:
                channel = Channel(sock, peer, self._log, host, self._context if host else None)
            except MemoryError:
                self._note(self._stranger_events, logging.ERROR, "cannot accept", peer=peer, reason=NO_MEMORY)
                sock.close()
                continue
            self._accepted += 1
            self._channels[channel.fd] = channel
            self._door.enter(channel)
            self._handshake.start(channel, self._now)
            self._send(channel, self._info)
            self._note(self._stranger_events, logging.DEBUG, "connected", peer=peer)
            self._admit(channel)
        if self._acceptor.paused:
            self._accept_pause.start_once("", self._now)

    def _admit(self, channel: Channel) -> None:
        if self._door.is_crowded(channel):
            text = f"{self.config.max_per_address} connections from one address are enough"
            self._dismiss(channel, protocol.FULL, text)
        else:
            if not channel.tls:
                self._read(channel, READ_LEAST)  # most say HELLO at once: it is here, and saves a turn
            self._watch(channel)

    def _note(self, whose: Limited, level: int, message: str, **fields: object) -> None:
        """Log an event that others can cause as often as they like."""
        whose.event(level, message, **fields)
        self._log_renewal.start_once(whose, self._now)

    def _dismiss(self, channel: Channel, code: str = "", text: str = "", *, reason: str = "") -> None:
        """Let a connection go, with ``BYE code text`` if there is a code; its rank is free after the turn."""
        if channel.is_going:
            return
        was = channel.state
        channel.state = State.LEAVING
        channel.paused = channel.held = False
        self._pace.forget(channel)
        self._log.ignore(channel.client)
        channel.farewell = protocol.bye(code, text) if code else b""
        channel.cut = code == protocol.SLOW or reason == NO_MEMORY  # what it is owed would have a hole
        for timeout in (self._handshake, self._penalty, self._silence, self._pinged):
            timeout.stop(channel)
        reason = reason or f"{code} {text}"
        if was is State.JOINED:
            rank = self._log.rank(channel.client)
            who = {"name": channel.name, "peer": channel.peer, "rank": rank}
            self._note(self._member_events, logging.INFO, "left", **who, reason=reason)
            self._dropped.update([code] if code else [])
            self._leaving.append(channel)
            return
        level, what = (logging.INFO, "refused") if code else (logging.DEBUG, "closed")
        self._note(self._stranger_events, level, what, name=channel.name, peer=channel.peer, reason=reason)
        self._refused.update([code] if code else [])
        self._door.refuse(channel)
        self._say_farewell(channel)

    def _change_members(self) -> None:
        """Log who has left and who has joined, let it be so, and see that strangers are not too many."""
        self._starved = False
        while (self._leaving or self._joining) and not self._starved:
            self._apply_departures()
            self._apply_arrivals()
            self._turn_bytes = TURN_BYTES if self._log.clients < MANY else READ_BYTES
        while oldest := self._door.one_too_many():
            self._turn_away(oldest)

    def _turn_away(self, oldest: Channel) -> None:
        """Close the connection of a stranger, of whom there are too many."""
        self._dismiss(oldest, protocol.TIMEOUT, "too many connections wait, and this one for the longest")
        self._door.pass_on(oldest)
        self._flush(oldest)
        if not oldest.wants_write:  # else it has got a part of its BYE, and may linger
            self._finish(oldest)

    def _apply_departures(self) -> None:
        """Log who has left, the lowest ranks first: then no frame renumbers those of the next."""
        leaving, self._leaving = self._leaving, []
        leaving.sort(key=lambda channel: self._log.rank(channel.client), reverse=True)
        while leaving:
            some = leaving[: self.config.max_line // RANK_BYTES]
            try:
                self._log.reserve(self.config.max_line)
            except MemoryError:
                self._leaving += leaving  # tried again soon: their ranks are theirs until it is logged
                self._starved = True
                return
            del leaving[: len(some)]
            self._let_go(some)

    def _let_go(self, channels: Sequence[Channel]) -> None:
        """Take these, the lowest rank first, out of the ranks, and log it."""
        ranks = [self._log.rank(channel.client) for channel in reversed(channels)]
        for channel in channels:
            if channel.cut:
                self._log.cut(channel.client)
            else:
                self._log.retire(channel.client)
        self._asks.leave(channels)
        self._log.append(b"LEFT", protocol.rank_lists(ranks, self.config.max_line)[0])
        self._changes += 1
        for channel in channels:
            self._external.pop(channel, None)
            self._say_farewell(channel)

    def _apply_arrivals(self) -> None:
        joining = [channel for channel in self._joining if channel.state is State.JOINING]
        self._joining = []
        free = self.config.capacity - self._log.clients
        for channel in joining[free:]:
            self._dismiss(channel, protocol.FULL, f"all {self.config.capacity} places are taken")
        joining = sorted(joining[:free], key=lambda channel: channel.rank_class)
        while joining:
            some = joining[: self.config.max_line // RANK_BYTES]
            del joining[: len(some)]
            self._let_in(some)

    def _let_in(self, channels: Sequence[Channel]) -> None:
        """Log that these have joined, in ascending order of their classes, and welcome them."""
        before = (
            sorted(member.rank_class for member in self._ranked()) if self._door.tokens is not None else []
        )
        first = self._log.clients
        ranks = [
            (bisect_right(before, channel.rank_class) if before else first) + place
            for place, channel in enumerate(channels)
        ]
        try:
            self._log.append(b"JOIN", protocol.rank_lists(ranks, self.config.max_line)[0])
        except MemoryError:
            for channel in channels:
                self._dismiss(channel, reason=NO_MEMORY)
            return
        self._changes += 1
        self._lazy_joins += 1
        self._join_wait.seconds = max(JOIN_WAIT, first * JOIN_WAIT_EACH)
        self._join_wait.start_once("", self._now)
        for channel in channels:
            self._log.join(channel.client, channel.rank_class)
            self._asks.enter(channel)
            if channel.tls:
                self._external[channel] = None
            self._members += 1
            channel.name = channel.name or f"c{self._members}"
            channel.state = State.JOINED
            self._silence.start(channel, self._now)
        for rank, channel in zip(ranks, channels, strict=True):
            self._welcome(channel, rank)
        for channel in channels:
            self._resume(channel)
            self._watch(channel)  # it was not listened to while it was joining

    def _welcome(self, channel: Channel, rank: int) -> None:
        session = secrets.token_urlsafe(16)
        clients = self._log.clients
        heartbeat = self.config.heartbeat
        frame = frames.WelcomeFrame(
            rank, clients, self._log.seq, channel.name, session, heartbeat, channel.rank_class
        )
        self._send(channel, protocol.welcome(frame))
        who = {"name": channel.name, "peer": channel.peer, "rank": rank}
        whose = _whose(channel)
        self._note(self._member_events, logging.INFO, "joined", **who, clients=clients, **whose)

    def _ranked(self) -> Iterator[Channel]:
        return (self._channels[fd] for fd in self._log.ranked_fds())

    def _on_closed(self, channel: Channel) -> None:
        self._door.leave(channel)

    # --- timers -------------------------------------------------------------------------------

    def _on_no_hello(self, channel: Channel) -> None:
        seconds = self.config.handshake_timeout
        self._dismiss(channel, protocol.TIMEOUT, f"no HELLO within {seconds:g} seconds")

    def _on_penalty(self, channel: Channel) -> None:
        self._dismiss(channel, protocol.AUTH, channel.refusal)

    def _on_slow(self, channel: Channel) -> None:
        if channel.state is State.CLOSING:  # it goes anyway, and lets others wait for what it is still owed
            self._finish(channel)
            return
        seconds = self.config.slow_timeout
        self._dismiss(channel, protocol.SLOW, f"read too slowly for {seconds:g} seconds")

    def _on_lost_time(self, seconds: float) -> None:
        self._note(self._member_events, logging.WARNING, "was not running", seconds=round(seconds, 1))

    def _on_silence(self, channel: Channel) -> None:
        channel.read_to = self._taken(channel)
        channel.pinged_at = self._log.sent(channel.client) + self._log.lag(channel.client)
        self._pinged.start(channel, self._now)
        self._send(channel, protocol.ping())

    def _on_no_pong(self, channel: Channel) -> None:
        if channel in self._silence:  # started again since the PING: something was heard
            return
        if channel.paused:  # or held: it is we who do not listen
            self._silence.start(channel, self._now)
            return
        taken = self._taken(channel)
        if channel.read_to < min(taken, channel.pinged_at):  # the PING came behind what it has read since
            channel.read_to = taken
            self._pinged.start(channel, self._now)
            return
        seconds = 2 * self.config.heartbeat
        self._dismiss(channel, protocol.TIMEOUT, f"nothing heard for {seconds:g} seconds")


def _whose(channel: Channel) -> dict[str, object]:
    """Return whose token it showed, for the log: a client gives itself any name."""
    return {"token": channel.holder.name} if channel.holder.name else {}
