"""The loop: one thread that waits for sockets and timers, and does what is due, a bounded turn at a time.

It keeps who is a member and when what times out. How frames are written is ``protocol``'s; cutting,
logging and sending them is the C core's, behind ``channel`` and ``clist``; who may come in is ``door``'s,
and who has to wait for whom ``pace``'s. Nothing is closed, freed or accepted while the events of a turn
are being handled: a descriptor's number would be used again while its old event still waits.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import selectors
import socket
import ssl
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import rankserver
from rankserver import frames, protocol
from rankserver.asks import AskTable
from rankserver.channel import Channel, State
from rankserver.clist import READ_BYTES, Flushed, Log
from rankserver.config import Config
from rankserver.door import Door
from rankserver.exceptions import NoSuchAskError, RemoteProtocolError
from rankserver.listeners import Acceptor
from rankserver.logs import event
from rankserver.pace import Pace
from rankserver.timers import Timers
from rankserver.tokens import Tokens

TURN_BYTES: Final = READ_BYTES // 2  # read in a turn, shared by the channels that are ready: much, as ...
MANY: Final = 300  # ... a turn costs a system call for each client; from so many on it is twice as much
READ_LEAST: Final = 4 * 1024  # read of each channel in a turn, however many share that
STARVED_WAIT: Final = 0.05  # seconds until a LEFT is tried again that there was no memory for
NO_MEMORY: Final = "out of memory"
PENALTY: Final = 1.0  # seconds that a wrong token waits for its answer
LATE: Final = 1.0  # seconds more than select was to take: the process was stopped, and time with it
RANK_BYTES: Final = 8  # of a rank in a list, comma included, at most
ACCEPT_PAUSE: Final = 0.5  # seconds without accepting, after there was no descriptor for one
JOIN_WAIT: Final = 0.05  # seconds that a JOIN may wait for company before all are sent to ...
JOIN_WAIT_EACH: Final = 20e-6  # ... but this for each client, if it is more: telling one costs some 5 µs
LINGER: Final = 2.0  # seconds for a peer that is to go to take what it is owed, and close
LINES: Final = 1000  # handled in Python in one turn, shared by the channels that sent some: some 10 ms ...
LINES_LEAST: Final = 8  # ... but so many of each
WHO_SHARE: Final = 8  # clients in a roster that cost as much as one such line
BROKEN_BYTES: Final = 32 * 1024 * 1024  # read of a connection that broke: no receive buffer holds more
UNSENT: Final = 100  # private frames of one channel that wait for the end of a turn: it is to have work, too
LONGEST_WAIT: Final = 3600.0  # seconds in one select, which cannot take any number


class Server:
    """A ranked command server. ``listen``, then ``run``; ``close`` frees what is left.

    ``stop`` may be called from a signal handler's turn only: the server is not safe for threads.
    """

    def __init__(
        self, config: Config, tokens: Tokens | None = None, context: ssl.SSLContext | None = None
    ) -> None:
        self.config = config
        self._context = context
        self._log = Log(config.max_line)
        self._asks: AskTable[Channel] = AskTable()
        self._selector = selectors.DefaultSelector()
        self._acceptor = Acceptor(self._selector)
        self._door = Door(config.capacity, config.max_per_address, tokens)
        self._channels: dict[int, Channel] = {}  # by descriptor, from accept to close
        self._now = time.monotonic()
        self._members = 0  # that ever joined
        self._stopping = False
        # What the events of a turn leave to its end.
        self._joining: list[Channel] = []
        self._leaving: list[Channel] = []
        self._unsent: dict[Channel, int] = {}  # with the private frames that were not flushed yet
        self._broken: dict[Channel, int] = {}  # with the bytes that may still be read of each
        self._paused: list[Channel] = []
        self._turn_bytes = TURN_BYTES
        self._work = 0  # lines of one channel that this turn has handled in Python
        self._work_share = LINES
        self._finished: list[Channel] = []
        self._external: dict[Channel, None] = {}  # ranked, and not sent to by the core itself
        self._starved = False  # a LEFT could not be logged, for want of memory
        self._lazy_joins = 0  # JOINs that may wait, of those that were not flushed yet
        self._timers = Timers()
        self._handshake = self._timers.timeout(config.handshake_timeout, self._on_no_hello)
        self._silence = self._timers.timeout(config.heartbeat, self._on_silence)
        self._penalty = self._timers.timeout(PENALTY, self._on_penalty)
        self._slow = self._timers.timeout(config.slow_timeout, self._on_slow)
        self._pace = Pace(self._log, config.max_backlog, self._slow)
        self._pinged = self._timers.timeout(config.heartbeat, self._on_no_pong)
        self._linger = self._timers.timeout(LINGER, self._finish)
        self._join_wait = self._timers.timeout(JOIN_WAIT, self._on_join_wait)
        self._accept_pause = self._timers.timeout(ACCEPT_PAUSE, self._on_accept_pause)
        self._info = protocol.info(
            frames.Info(
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
        return self._acceptor.listen(self.config.host, self.config.port, self.config.unix)

    def run(self) -> None:
        """Serve until ``stop`` was called and everybody has been told, or has not listened for ``LINGER``."""
        while self._channels or not self._stopping:
            self._turn()

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
        """Close every socket and free all memory. Closing twice is allowed."""
        self._acceptor.close()
        for channel in self._channels.values():
            channel.sock.close()
        self._channels.clear()
        self._selector.close()
        self._log.close()

    def on_readable(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the loop when ``sock`` is readable: this is how signals get in."""
        self._selector.register(sock, selectors.EVENT_READ, callback)

    # --- one turn -----------------------------------------------------------------------------

    def _turn(self) -> None:
        ready = self._wait()
        budget = 0 if self._pace.is_holding else self._turn_bytes  # what is held has to be kept
        share = max(budget // (len(ready) or 1), READ_LEAST)
        self._work_share = max(LINES // (len(ready) + len(self._paused) or 1), LINES_LEAST)
        if self._paused:
            self._resume_paused()
        for key, events in ready:
            if isinstance(key.data, Channel):
                if events & selectors.EVENT_READ and not key.data.paused:
                    self._read(key.data, share)
                if events & selectors.EVENT_WRITE:
                    self._flush(key.data)
            else:
                key.data()
        if self._broken:
            self._drain_broken(share)
        self._timers.expire(self._now)
        if self._acceptor.ready and not self._stopping:
            self._accept()
        self._change_members()
        self._flush_all()
        self._go_on()
        if self._finished or self._stopping:
            self._close_finished()

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for what is next; time in which this process was stopped counts for no timeout."""
        patience = self._patience()
        begin = time.monotonic()
        ready = self._selector.select(patience)
        self._now = time.monotonic()
        late = self._now - begin - (patience or 0)
        if late > LATE and (patience is not None or not ready):
            event(logging.WARNING, "was not running", seconds=round(late, 1))
            self._timers.delay(late)
        return ready

    def _patience(self) -> float | None:
        """Return how many seconds select may wait, None for ever."""
        if self._starved:
            return STARVED_WAIT
        if self._leaving or self._paused or any(channel.held is None for channel in self._broken):
            return 0
        nearest = self._timers.nearest
        if nearest == math.inf:
            return None
        return min(max(nearest - time.monotonic(), 0), LONGEST_WAIT)

    # --- in -----------------------------------------------------------------------------------

    def _read(self, channel: Channel, most: int) -> int:
        """Read once, and handle what came; return how many bytes it was, 0 if no more is to be had now."""
        try:
            count = channel.receive(most)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._on_end(channel, error.strerror or "connection lost")
            return 0
        finally:
            if channel.tls:
                self._unsent.setdefault(channel, 0)  # the handshake may have let something out
        if not count:
            self._on_end(channel, "connection closed")
            return 0
        if channel.state is State.JOINED:
            self._silence.start(channel, self._now)
        self._handle(channel)
        if channel.tls and channel.tls.ended:
            self._on_end(channel, "connection closed")
        return count

    def _drain_broken(self, share: int) -> None:
        """Go on reading what clients had sent before their connection broke; they are gone after that."""
        broken, self._broken = self._broken, {}
        for channel, left in broken.items():
            if channel.paused or channel.held is not None or channel.state is State.JOINING:
                self._broken[channel] = left
                continue
            count = 0 if channel.is_going else self._read(channel, share)
            if 0 < count < left:
                self._broken[channel] = left - count
            else:
                self._on_end(channel, "connection lost")

    def _on_end(self, channel: Channel, reason: str) -> None:
        channel.ended = True
        if channel.is_going:
            self._watch(channel)
            self._unsent.setdefault(channel, 0)  # closed once it is sent what it is still owed
        else:
            self._dismiss(channel, reason=reason)

    def _handle(self, channel: Channel) -> None:
        """Handle what was read of a channel, up to its share of this turn; the rest waits for the next."""
        self._work = 0
        try:
            while (line := channel.next_line()) is not None:
                self._work += 1
                self._handle_line(channel, line)
                channel.paused = self._work >= self._work_share and channel.state is State.JOINED
        except RemoteProtocolError as error:
            self._dismiss(channel, error.code, error.text)
        except MemoryError:
            self._dismiss(channel, reason=NO_MEMORY)
        if channel.paused and channel.held is None:
            self._paused.append(channel)

    def _resume(self, channel: Channel) -> None:
        channel.resume()
        self._handle(channel)

    def _go_on(self) -> None:
        """Handle the frames that had to wait and need not any more, and what is behind them."""
        released = self._pace.update(self._channels, self._now)
        for channel in released:
            frame, channel.held = channel.held, None
            if frame is not None and not channel.is_going:
                self._on_frame(channel, frame)
                if channel.held is None and not channel.is_going:
                    self._resume(channel)
                self._watch(channel)
        if released:
            self._flush_all()

    def _resume_paused(self) -> None:
        paused, self._paused = self._paused, []
        for channel in paused:
            if channel.paused:  # it has not left meanwhile
                self._resume(channel)

    def _handle_line(self, channel: Channel, line: bytes) -> None:
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
            channel.rank_class = holder.rank_class
            channel.state = State.JOINING
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
        if self._pace.is_full(channel):
            self._hold(channel, frame, channel)
        elif isinstance(frame, frames.Submit):
            self._on_submit(channel, frame)
        elif isinstance(frame, frames.Result):
            self._on_result(channel, frame)
        elif isinstance(frame, frames.Ping):
            self._send(channel, protocol.pong(frame.text))
        elif isinstance(frame, frames.Who):
            self._work += self._log.clients // WHO_SHARE
            members = [
                frames.Member(rank, member.name, member.rank_class)
                for rank, member in enumerate(self._ranked())
            ]
            for part in protocol.roster(members, self.config.max_line):
                self._send(channel, part)
        elif isinstance(frame, frames.Leave):
            self._dismiss(channel, reason="left")
        elif isinstance(frame, frames.Hello):
            self._dismiss(channel, protocol.PROTO, "a second HELLO")

    def _hold(self, channel: Channel, frame: frames.ClientFrame, full: Channel | None) -> None:
        channel.paused = True
        self._pace.hold(channel, frame, full, self._now)
        self._watch(channel)

    def _on_submit(self, channel: Channel, frame: frames.Submit) -> None:
        if self._pace.is_holding:
            self._hold(channel, frame, None)
            return
        rank = self._log.rank(channel.client)
        verb = b"ASK" if frame.wants_answer else b"CMD"
        seq = self._log.append(verb, f"{rank} {frame.text}".encode())
        if frame.wants_answer:
            self._asks.open(seq, channel)

    def _on_result(self, channel: Channel, frame: frames.Result) -> None:
        asker = self._asks.asker(frame.seq)
        if asker is not None and self._pace.is_full(asker):
            self._hold(channel, frame, asker)
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
                event(logging.ERROR, "cannot accept", peer=peer, reason=NO_MEMORY)
                sock.close()
                continue
            self._channels[channel.fd] = channel
            self._door.enter(channel)
            self._handshake.start(channel, self._now)
            self._send(channel, self._info)
            event(logging.DEBUG, "connected", peer=peer)
            self._admit(channel)
        if self._acceptor.paused:
            self._accept_pause.start_once("", self._now)

    def _admit(self, channel: Channel) -> None:
        if self._door.is_crowded(channel):
            text = f"{self.config.max_per_address} connections from one address are enough"
            self._dismiss(channel, protocol.FULL, text)
        else:
            self._read(channel, READ_LEAST)  # most say HELLO at once: it is here, and saves a turn
            self._watch(channel)
        if oldest := self._door.one_too_many():
            self._dismiss(oldest, protocol.TIMEOUT, "too many connections wait, and this one for the longest")

    def _dismiss(self, channel: Channel, code: str = "", text: str = "", *, reason: str = "") -> None:
        """Let a connection go, with ``BYE code text`` if there is a code; its rank is free after the turn."""
        if channel.is_going:
            return
        was = channel.state
        channel.state = State.LEAVING
        channel.paused = False
        self._door.pass_on(channel)
        self._pace.forget(channel)
        self._log.ignore(channel.client)
        channel.farewell = protocol.bye(code, text) if code else b""
        channel.cut = code == protocol.SLOW
        for timeout in (self._handshake, self._penalty, self._silence, self._pinged):
            timeout.stop(channel)
        if was is State.JOINED:
            self._leaving.append(channel)
        else:
            self._say_farewell(channel)
        what = "left" if was is State.JOINED else "refused" if code else "closed"
        level = logging.DEBUG if what == "closed" else logging.INFO
        event(level, what, name=channel.name, peer=channel.peer, reason=reason or f"{code} {text}")

    def _change_members(self) -> None:
        """Log who has left and who has joined, and let it be so."""
        self._starved = False
        while (self._leaving or self._joining) and not self._starved:
            self._apply_departures()
            self._apply_arrivals()
            self._turn_bytes = TURN_BYTES if self._log.clients < MANY else READ_BYTES

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
        before = sorted(member.rank_class for member in self._ranked()) if self._door.tokens else []
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
        self._lazy_joins += 1
        self._join_wait.seconds = max(JOIN_WAIT, first * JOIN_WAIT_EACH)
        self._join_wait.start_once("", self._now)
        for channel in channels:
            self._log.join(channel.client, channel.rank_class)
            self._asks.enter(channel)
            self._door.pass_on(channel)
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

    def _welcome(self, channel: Channel, rank: int) -> None:
        session = secrets.token_urlsafe(16)
        clients = self._log.clients
        heartbeat = self.config.heartbeat
        frame = frames.Welcome(
            rank, clients, self._log.seq, channel.name, session, heartbeat, channel.rank_class
        )
        self._send(channel, protocol.welcome(frame))
        event(logging.INFO, "joined", name=channel.name, peer=channel.peer, rank=rank, clients=clients)

    def _ranked(self) -> Iterator[Channel]:
        return (self._channels[fd] for fd in self._log.ranked_fds())

    # --- out ----------------------------------------------------------------------------------

    def _send(self, channel: Channel, frame: bytes) -> None:
        """Queue a private frame, to be flushed at the end of the turn, or before if there are many."""
        try:
            self._log.private(channel.client, frame)
        except MemoryError:
            self._dismiss(channel, reason=NO_MEMORY)
            return
        waiting = self._unsent.get(channel, 0) + 1
        self._unsent[channel] = waiting % UNSENT
        if waiting == UNSENT and not self._log.is_blocked(channel.client):
            self._flush(channel)

    def _say_farewell(self, channel: Channel) -> None:
        channel.state = State.CLOSING
        if channel.farewell:
            with contextlib.suppress(MemoryError):  # then it goes without
                self._log.private(channel.client, channel.farewell)
        self._linger.start(channel, self._now)
        self._unsent.setdefault(channel, 0)

    def _flush_all(self) -> None:
        """Send what this turn has logged and queued."""
        if self._log.unflushed > self._lazy_joins:
            self._flush_ranked()
        if self._unsent:
            self._flush_unsent()

    def _flush_unsent(self) -> None:
        unsent, self._unsent = self._unsent, {}
        for channel in unsent:
            if channel.state is not State.CLOSED and not channel.wants_write:
                self._flush(channel)

    def _flush_ranked(self) -> None:
        if self._lazy_joins:
            self._lazy_joins = 0
            self._join_wait.stop("")
        blocked, broken = self._log.flush_all()
        for fd in blocked:
            self._watch(self._channels[fd])
        for fd in broken:
            self._after_flush(self._channels[fd], Flushed.BROKEN)
        for channel in list(self._external):
            if not channel.wants_write and self._log.lag(channel.client):
                self._flush(channel)

    def _flush(self, channel: Channel) -> None:
        self._after_flush(channel, channel.flush())

    def _after_flush(self, channel: Channel, status: Flushed) -> None:
        if status is Flushed.BROKEN and not channel.is_going:
            self._broken.setdefault(channel, BROKEN_BYTES)
        elif channel.state is State.CLOSING and (
            status is Flushed.BROKEN or (status is Flushed.DONE and self._has_taken_leave(channel))
        ):
            self._finish(channel)
            return
        self._watch(channel)

    def _has_taken_leave(self, channel: Channel) -> bool:
        """Close our side of a connection that was sent all; return whether the other side is closed, too."""
        if not channel.ended:
            channel.shut_down()
        return channel.ended

    def _watch(self, channel: Channel) -> None:
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

    def _finish(self, channel: Channel) -> None:
        """Close the connection at the end of the turn, whatever it is still owed."""
        if channel.state is not State.CLOSED:
            channel.state = State.CLOSED
            self._finished.append(channel)

    def _close_finished(self) -> None:
        if self._stopping:
            self._acceptor.close()
        finished, self._finished = self._finished, []
        for channel in finished:
            self._linger.stop(channel)
            self._door.leave(channel)
            if channel.interest:
                self._selector.unregister(channel.sock)
            del self._channels[channel.fd]
            self._log.discard(channel.client)
            channel.sock.close()

    # --- timers -------------------------------------------------------------------------------

    def _on_no_hello(self, channel: Channel) -> None:
        seconds = self.config.handshake_timeout
        self._dismiss(channel, protocol.TIMEOUT, f"no HELLO within {seconds:g} seconds")

    def _on_penalty(self, channel: Channel) -> None:
        self._dismiss(channel, protocol.AUTH, channel.refusal)

    def _on_slow(self, channel: Channel) -> None:
        seconds = self.config.slow_timeout
        self._dismiss(channel, protocol.SLOW, f"read too slowly for {seconds:g} seconds")

    def _on_silence(self, channel: Channel) -> None:
        self._pinged.start(channel, self._now)
        self._send(channel, protocol.ping())

    def _on_no_pong(self, channel: Channel) -> None:
        if channel in self._silence:  # started again since the PING: something was heard
            return
        if channel.held is not None:  # it is we who do not listen
            self._silence.start(channel, self._now)
            return
        seconds = 2 * self.config.heartbeat
        self._dismiss(channel, protocol.TIMEOUT, f"nothing heard for {seconds:g} seconds")

    def _on_join_wait(self, _: str) -> None:
        self._lazy_joins = 0

    def _on_accept_pause(self, _: str) -> None:
        self._acceptor.resume()
