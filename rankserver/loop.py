"""The loop: one thread that waits for sockets and timers, and does what is due, a bounded turn at a time.

It moves bytes and knows no frame and no rank: what a line means, who is a member and when what times out is
``server``'s. Cutting, logging and sending is the C core's, behind ``channel`` and ``clist``; who has to wait
for whom is ``pace``'s. Nothing is closed, freed or accepted while the events of a turn are being handled: a
descriptor's number would be used again while its old event still waits.
"""

from __future__ import annotations

import abc
import contextlib
import math
import selectors
import socket
from collections.abc import Callable
from typing import Final

from rankserver.channel import Channel, State
from rankserver.clist import READ_BYTES, Flushed, Log
from rankserver.config import Config
from rankserver.listeners import Acceptor
from rankserver.pace import PRIVATE_BYTES, Pace
from rankserver.timers import Timers
from rankserver.wire.exceptions import RemoteProtocolError

TURN_BYTES: Final = READ_BYTES // 2  # read in a turn, shared by the channels that are ready: much, as ...
MANY: Final = 300  # ... a turn costs a system call for each client; from so many on it is twice as much
READ_LEAST: Final = 4 * 1024  # read of each channel in a turn, however many share that
LINES: Final = 1000  # handled in Python in one turn, shared by the channels that sent some: some 10 ms; ...
LINES_LEAST: Final = (
    8  # ... so many of each are no small change, and those that are left come first in the next
)
BROKEN_BYTES: Final = 32 * 1024 * 1024  # read of a connection that broke: no receive buffer holds more
HANDSHAKES: Final = 4  # of TLS that go on in one turn: a step of one takes 6 ms if the key has 4096 bits
UNSENT: Final = 100  # private frames of one channel that wait for the end of a turn: it is to have work, too
ACCEPT_PAUSE: Final = 0.5  # seconds without accepting, after there was no descriptor for one
JOIN_WAIT: Final = 0.05  # seconds that a JOIN may wait for company before all are sent to ...
JOIN_WAIT_EACH: Final = 20e-6  # ... but this for each client, if it is more: telling one costs some 5 µs
LINGER: Final = (
    2.0  # seconds without progress for a peer that is to go to take what it is owed, and close, ...
)
LINGER_MOST: Final = 10.0  # ... and in all
LATE: Final = 1.0  # seconds more than a select was to take, or in one turn: the process was stopped; ...
LATE_SHARE: Final = 0.5  # ... of the heartbeat, if that is less: a PING sent before that is not answered yet
STARVED_WAIT: Final = 0.05  # seconds until a LEFT is tried again that there was no memory for
LONGEST_WAIT: Final = 3600.0  # seconds in one select, which cannot take any number
NO_MEMORY: Final = "out of memory"


class Loop(abc.ABC):
    """The turns of a server; a subclass says what lines mean.

    Args:
        config: what it is told to be.
        selector: what waits for sockets.
        clock: the time in seconds, which never goes back.
    """

    def __init__(self, config: Config, selector: selectors.BaseSelector, clock: Callable[[], float]) -> None:
        self.config = config
        self._clock = clock
        self._log = Log(config.max_line)
        self._selector = selector
        self._acceptor = Acceptor(selector)
        self._channels: dict[int, Channel] = {}  # by descriptor, from accept to close
        self._late = min(LATE, config.heartbeat * LATE_SHARE or LATE)
        self._now = clock()
        self._stopping = False
        # What the events of a turn leave to its end.
        self._leaving: list[Channel] = []
        self._unsent: dict[Channel, int] = {}  # with the private frames that were not flushed yet
        self._broken: dict[Channel, int] = {}  # with the bytes that may still be read of each
        self._paused: list[Channel] = []
        self._turn_bytes = TURN_BYTES
        self._work = 0  # lines that this turn has handled in Python
        self._work_share = LINES
        self._put_off: list[Channel] = []  # whose handshake had to wait, the first that may go on first
        self._finished: list[Channel] = []
        self._external: dict[Channel, None] = {}  # ranked, and not sent to by the core itself
        self._starved = False  # a LEFT could not be logged, for want of memory
        self._went_on = False  # with what was held
        self._lazy_joins = 0  # JOINs that may wait, of those that were not flushed yet
        self._timers = Timers()
        self._slow = self._timers.timeout(config.slow_timeout, self._on_slow)
        self._pace = Pace(self._log, config.max_backlog, self._slow)
        self._linger = self._timers.timeout(LINGER, self._on_linger)
        self._linger_most = self._timers.timeout(LINGER_MOST, self._finish)
        self._join_wait = self._timers.timeout(JOIN_WAIT, self._on_join_wait)
        self._accept_pause = self._timers.timeout(ACCEPT_PAUSE, self._on_accept_pause)

    # --- what a subclass says -----------------------------------------------------------------

    @abc.abstractmethod
    def _accept(self) -> None:
        """Take in the connections that have arrived."""

    @abc.abstractmethod
    def _heard(self, channel: Channel) -> None:
        """Note that something came from the channel."""

    @abc.abstractmethod
    def _handle_line(self, channel: Channel, line: bytes) -> None:
        """Do what a line asks for; one that cannot be handled now is held, see ``_hold``.

        Raises:
            MemoryError: nothing of it was done.
        """

    @abc.abstractmethod
    def _dismiss(self, channel: Channel, code: str = "", text: str = "", *, reason: str = "") -> None:
        """Let a connection go, with ``BYE code text`` if there is a code."""

    @abc.abstractmethod
    def _change_members(self) -> None:
        """Log who has left and who has joined, and let it be so."""

    @abc.abstractmethod
    def _on_closed(self, channel: Channel) -> None:
        """Note that the channel is closed."""

    @abc.abstractmethod
    def _on_slow(self, channel: Channel) -> None:
        """Let a channel go that made others wait for too long."""

    @abc.abstractmethod
    def _on_lost_time(self, seconds: float) -> None:
        """Note that the server was not running for so long."""

    # --- from outside -------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until ``stop`` was called and everybody has been told, or has not listened: ``LINGER``."""
        self._now = self._clock()
        while self._channels or not self._stopping:
            self._turn()

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
        budget = 0 if self._pace.is_holding else self._turn_bytes  # what has to wait has to be kept
        share = max(budget // (len(ready) or 1), READ_LEAST)
        self._work = 0
        self._work_share = max(LINES // (len(ready) + len(self._paused) or 1), LINES_LEAST)
        if self._paused:
            self._resume_paused()
        self._dispatch(ready, share)
        if self._broken:
            self._drain_broken(share)
        self._timers.expire(self._now)
        if self._acceptor.ready and not self._stopping:
            self._accept()
        self._change_members()
        self._flush_all()
        if self._finished or self._stopping:
            self._close_finished()
        self._go_on()

    def _dispatch(self, ready: list[tuple[selectors.SelectorKey, int]], share: int) -> None:
        """Do what the events of a turn ask for, with ``share`` bytes for each channel."""
        strangers = []
        for key, events in ready:
            if isinstance(key.data, Channel):
                if events & selectors.EVENT_READ and not key.data.paused:
                    if key.data.tls and key.data.state is State.HANDSHAKE:
                        strangers.append(key.data)
                    else:
                        self._read(key.data, share)
                if events & selectors.EVENT_WRITE:
                    self._flush(key.data)
            else:
                key.data()
        if strangers or self._put_off:
            self._shake_hands(strangers)

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for what is next; time in which this process was stopped counts for no timeout.

        A turn itself counts for ``_late`` at most: it may have been stopped in the middle of one; but if
        there is that much to do in each, time must go on.
        """
        patience = self._patience()
        begin = self._clock()
        ready = self._selector.select(patience)
        now = self._clock()
        lost = max(begin - self._now - self._late, 0)
        if patience is not None and now - begin - patience > self._late:
            lost += now - begin
        if lost:
            self._on_lost_time(lost)
            self._timers.delay(lost)
        self._now = now
        return ready

    def _patience(self) -> float | None:
        """Return how many seconds select may wait, None for ever."""
        if self._starved:
            return STARVED_WAIT
        if self._leaving or self._paused or self._finished or self._went_on:
            return 0
        if any(not channel.held for channel in self._broken):
            return 0
        nearest = self._timers.nearest
        if nearest == math.inf:
            return None
        return min(max(nearest - self._clock(), 0), LONGEST_WAIT)

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
                self._unsent.setdefault(channel, 0)  # the handshake may have something to say, or be over
        if not count:
            self._on_end(channel, "connection closed")
            return 0
        self._heard(channel)
        self._handle(channel)
        if channel.tls and channel.tls.ended:  # there is no event for it; what came before it counts
            self._broken.setdefault(channel, BROKEN_BYTES)
        return count

    def _shake_hands(self, strangers: list[Channel]) -> None:
        """Read some of those that speak TLS and have not joined, those first whose turn was longest ago."""
        order = {channel: place for place, channel in enumerate(self._put_off)}
        strangers.sort(key=lambda channel: order.get(channel, len(order)))
        for channel in strangers[:HANDSHAKES]:
            self._read(channel, READ_LEAST)
        self._put_off = strangers[HANDSHAKES:]

    def _drain_broken(self, share: int) -> None:
        """Go on reading what clients had sent before their connection broke; they are gone after that."""
        broken, self._broken = self._broken, {}
        for channel, left in broken.items():
            if channel.paused or channel.state is State.JOINING:
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
        most = min(LINES, self._work + self._work_share)
        try:
            while (line := channel.next_line()) is not None:
                if self._work >= most and channel.state is State.JOINED:
                    channel.pause()
                    continue
                self._work += 1
                self._handle_line(channel, line)
        except RemoteProtocolError as error:
            self._dismiss(channel, error.code, error.text)
        except MemoryError:
            self._dismiss(channel, reason=NO_MEMORY)
        if channel.paused and not channel.held:
            self._paused.append(channel)

    def _resume(self, channel: Channel) -> None:
        channel.resume()
        self._handle(channel)

    def _hold(self, channel: Channel, full: Channel | None) -> None:
        """Let the line that is being handled wait until ``full``, or with None the slowest, has caught up."""
        channel.hold()
        self._pace.hold(channel, full)
        self._watch(channel)

    def _go_on(self) -> None:
        """Handle what had to wait and need not any more; the next turn sees whom that lets wait."""
        released = self._pace.update(self._channels, self._now)
        for channel in released:
            self._resume(channel)
            self._watch(channel)
        self._went_on = bool(released)
        if released:
            self._flush_all()

    def _resume_paused(self) -> None:
        """Go on with those that wait, until this turn has done enough: the others come first in the next."""
        paused, self._paused = self._paused, []
        for place, channel in enumerate(paused):
            if self._work >= LINES:
                self._paused = paused[place:] + self._paused
                break
            if channel.paused:  # it has not left meanwhile
                self._resume(channel)

    # --- out ----------------------------------------------------------------------------------

    def _send(self, channel: Channel, frame: bytes) -> None:
        """Queue a private frame, to be flushed at the end of the turn, or before if there are many.

        A channel that goes gets none: one that there was no memory for may be missing before it.
        """
        if channel.is_going:
            return
        try:
            queued = self._log.private(channel.client, frame)
        except MemoryError:
            self._dismiss(channel, reason=NO_MEMORY)
            return
        if queued > PRIVATE_BYTES and channel.state is State.JOINED:
            self._pace.fill(channel)
        waiting = self._unsent.get(channel, 0) + 1
        self._unsent[channel] = waiting % UNSENT
        if waiting == UNSENT and not self._log.is_blocked(channel.client):
            self._flush(channel)

    def _say_farewell(self, channel: Channel) -> None:
        channel.state = State.CLOSING
        if channel.farewell:
            with contextlib.suppress(MemoryError):  # then it goes without
                self._log.private(channel.client, channel.farewell)
        self._linger_most.start(channel, self._now)
        self._linger_on(channel)
        self._unsent.setdefault(channel, 0)
        self._watch(channel)  # it may have been held: now it is read again, so that it reads its farewell

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
        if status is Flushed.BROKEN:
            self._log.mute(channel.client)  # nobody has to wait for one who reads no more
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
        return channel.shut_down() and channel.ended

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
            self._linger_most.stop(channel)
            self._broken.pop(channel, None)
            self._on_closed(channel)
            if channel.interest:
                self._selector.unregister(channel.sock)
            del self._channels[channel.fd]
            self._log.discard(channel.client)
            channel.sock.close()

    # --- timers -------------------------------------------------------------------------------

    def _taken(self, channel: Channel) -> int:
        """Return how many of the bytes that were sent the client's system has taken; a system call."""
        return self._log.sent(channel.client) - self._log.in_flight(channel.client)

    def _on_linger(self, channel: Channel) -> None:
        """Let who reads on take more, if it is owed more."""
        owed = self._log.sent(channel.client) + self._log.lag(channel.client)
        if channel.read_to < self._taken(channel) < owed:
            self._linger_on(channel)
        else:
            self._finish(channel)

    def _linger_on(self, channel: Channel) -> None:
        channel.read_to = self._taken(channel)
        self._linger.start(channel, self._now)

    def _on_join_wait(self, _: str) -> None:
        self._lazy_joins = 0

    def _on_accept_pause(self, _: str) -> None:
        self._acceptor.resume()
