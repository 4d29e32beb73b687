"""The loop: one thread that waits for sockets and timers, and does what is due, a bounded turn at a time.

It keeps who is a member and when what times out. How frames are written is ``protocol``'s; cutting,
logging and sending them is the C core's, behind ``channel`` and ``clist``. Nothing is closed, freed or
accepted while the events of a turn are being handled: a descriptor's number would be used again while
its old event still waits.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import rankserver
from rankserver import frames, protocol
from rankserver.asks import AskTable
from rankserver.channel import Channel, State
from rankserver.clist import BLOCK_BYTES, READ_BYTES, Flushed, Log
from rankserver.exceptions import NoSuchAskError, RemoteProtocolError
from rankserver.listeners import Acceptor
from rankserver.logs import event
from rankserver.timers import Timers

TURN_BYTES: Final = READ_BYTES // 2  # read in a turn, shared by the channels that are ready: much, as ...
MANY: Final = 300  # ... a turn costs a system call for each client; from so many on it is twice as much
READ_LEAST: Final = 4 * 1024  # read of each channel in a turn, however many share that
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


@dataclass(frozen=True)
class Config:
    """What the server is told to be, in seconds and bytes; see ``cli`` for the meaning of each."""

    capacity: int
    host: str = "127.0.0.1"
    port: int = 5050
    unix: str | None = None
    handshake_timeout: float = 5
    heartbeat: float = 30
    max_line: int = protocol.DEFAULT_MAX_LINE
    max_backlog: int = 64 * 1024 * 1024


class Server:
    """A ranked command server. ``listen``, then ``run``; ``close`` frees what is left.

    ``stop`` may be called from a signal handler's turn only: the server is not safe for threads.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._log = Log(config.max_line)
        self._asks: AskTable[Channel] = AskTable()
        self._selector = selectors.DefaultSelector()
        self._acceptor = Acceptor(self._selector)
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
        self._lazy_joins = 0  # JOINs that may wait, of those that were not flushed yet
        self._timers = Timers()
        self._handshake = self._timers.timeout(config.handshake_timeout, self._on_no_hello)
        self._silence = self._timers.timeout(config.heartbeat, self._on_silence)
        self._pinged = self._timers.timeout(config.heartbeat, self._on_no_pong)
        self._linger = self._timers.timeout(LINGER, self._finish)
        self._join_wait = self._timers.timeout(JOIN_WAIT, self._on_join_wait)
        self._accept_pause = self._timers.timeout(ACCEPT_PAUSE, self._on_accept_pause)
        self._info = protocol.info(
            frames.Info(
                protocol.VERSION,
                f"rankserver/{rankserver.__version__}",
                config.max_line,
                False,
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
        ready = self._selector.select(self._patience())
        self._now = time.monotonic()
        share = max(self._turn_bytes // (len(ready) or 1), READ_LEAST)
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
        while self._leaving or self._joining:
            self._apply_departures()
            self._apply_arrivals()
            self._turn_bytes = TURN_BYTES if self._log.clients < MANY else READ_BYTES
        self._flush_all()
        if self._finished or self._stopping:
            self._close_finished()

    def _patience(self) -> float | None:
        """Return how many seconds select may wait, None for ever."""
        if self._leaving or self._broken or self._paused:
            return 0
        nearest = self._timers.nearest
        if nearest == math.inf:
            return None
        return min(max(nearest - time.monotonic(), 0), LONGEST_WAIT)

    # --- in -----------------------------------------------------------------------------------

    def _read(self, channel: Channel, most: int) -> int:
        """Read once, and handle what came; return how many bytes it was, 0 if no more is to be had now."""
        try:
            count = self._log.read(channel.client, most)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._on_end(channel, error.strerror or "connection lost")
            return 0
        if not count:
            self._on_end(channel, "connection closed")
            return 0
        if channel.state is State.JOINED:
            self._silence.start(channel, self._now)
        self._handle(channel)
        return count

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
        self._work = 0
        try:
            while (line := channel.next_line()) is not None:
                self._work += 1
                self._handle_line(channel, line)
                channel.paused = self._work >= self._work_share and channel.state is State.JOINED
        except RemoteProtocolError as error:
            self._dismiss(channel, error.code, error.text)
        if channel.paused:
            self._paused.append(channel)

    def _resume(self, channel: Channel) -> None:
        channel.resume()
        self._handle(channel)

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
        elif frame.resume is not None:
            self._dismiss(channel, protocol.RESUME, "the session is unknown or over")
        else:
            channel.name = frame.name or ""
            channel.state = State.JOINING
            self._handshake.stop(channel)
            self._joining.append(channel)

    def _on_frame(self, channel: Channel, frame: frames.ClientFrame) -> None:
        """Do what a ranked client's frame asks for."""
        if isinstance(frame, frames.Submit):
            self._on_submit(channel, frame)
        elif isinstance(frame, frames.Result):
            self._on_result(channel, frame)
        elif isinstance(frame, frames.Ping):
            self._send(channel, protocol.pong(frame.text))
        elif isinstance(frame, frames.Who):
            self._work += self._log.clients // WHO_SHARE
            for part in protocol.roster([member.name for member in self._ranked()], self.config.max_line):
                self._send(channel, part)
        elif isinstance(frame, frames.Leave):
            self._dismiss(channel, reason="left")
        elif isinstance(frame, frames.Hello):
            self._dismiss(channel, protocol.PROTO, "a second HELLO")

    def _on_submit(self, channel: Channel, frame: frames.Submit) -> None:
        rank = self._log.rank(channel.client)
        verb = b"ASK" if frame.wants_answer else b"CMD"
        seq = self._log.append(verb, f"{rank} {frame.text}".encode())
        if frame.wants_answer:
            self._asks.open(seq, channel)

    def _on_result(self, channel: Channel, frame: frames.Result) -> None:
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
        for sock, peer in self._acceptor.accept():
            channel = Channel(sock, peer, self._log)
            self._channels[channel.fd] = channel
            self._handshake.start(channel, self._now)
            self._send(channel, self._info)
            event(logging.DEBUG, "connected", peer=peer)
            self._read(channel, READ_LEAST)  # most say HELLO at once: it is here, and saves a turn
        if self._acceptor.paused:
            self._accept_pause.start_once("", self._now)

    def _dismiss(self, channel: Channel, code: str = "", text: str = "", *, reason: str = "") -> None:
        """Let a connection go, with ``BYE code text`` if there is a code; its rank is free after the turn."""
        if channel.is_going:
            return
        was = channel.state
        channel.state = State.LEAVING
        channel.paused = False
        self._log.ignore(channel.client)
        channel.farewell = protocol.bye(code, text) if code else b""
        channel.cut = code == protocol.SLOW
        for timeout in (self._handshake, self._silence, self._pinged):
            timeout.stop(channel)
        if was is State.JOINED:
            self._leaving.append(channel)
        else:
            self._say_farewell(channel)
        what = "left" if was is State.JOINED else "refused" if code else "closed"
        level = logging.DEBUG if what == "closed" else logging.INFO
        event(level, what, name=channel.name, peer=channel.peer, reason=reason or f"{code} {text}")

    def _apply_departures(self) -> None:
        leaving, self._leaving = self._leaving, []
        ranks = sorted(self._log.rank(channel.client) for channel in leaving)
        for channel in leaving:
            if channel.cut:
                self._log.cut(channel.client)
            else:
                self._log.retire(channel.client)
        self._asks.leave(leaving)
        # The highest ranks first: then those in the next frame are not renumbered by this one.
        for piece in reversed(protocol.rank_lists(ranks, self.config.max_line)):
            self._log.append(b"LEFT", piece)
        for channel in leaving:
            self._say_farewell(channel)

    def _apply_arrivals(self) -> None:
        joining = [channel for channel in self._joining if channel.state is State.JOINING]
        self._joining = []
        free = self.config.capacity - self._log.clients
        for channel in joining[free:]:
            self._dismiss(channel, protocol.FULL, f"all {self.config.capacity} places are taken")
        joining = joining[:free]
        first = self._log.clients
        for piece in protocol.rank_lists(range(first, first + len(joining)), self.config.max_line):
            self._log.append(b"JOIN", piece)
            self._lazy_joins += 1
            self._join_wait.seconds = max(JOIN_WAIT, first * JOIN_WAIT_EACH)
            self._join_wait.start_once("", self._now)
        for channel in joining:
            self._log.join(channel.client)
            self._asks.enter(channel)
            self._members += 1
            channel.name = channel.name or f"c{self._members}"
            channel.state = State.JOINED
            self._silence.start(channel, self._now)
        for rank, channel in enumerate(joining, first):
            self._welcome(channel, rank)
        for channel in joining:
            self._resume(channel)

    def _welcome(self, channel: Channel, rank: int) -> None:
        session = secrets.token_urlsafe(16)
        clients = self._log.clients
        frame = frames.Welcome(rank, clients, self._log.seq, channel.name, session, self.config.heartbeat)
        self._send(channel, protocol.welcome(frame))
        event(logging.INFO, "joined", name=channel.name, peer=channel.peer, rank=rank, clients=clients)

    def _ranked(self) -> Iterator[Channel]:
        return (self._channels[fd] for fd in self._log.ranked_fds())

    # --- out ----------------------------------------------------------------------------------

    def _send(self, channel: Channel, frame: bytes) -> None:
        """Queue a private frame, to be flushed at the end of the turn, or before if there are many."""
        self._log.private(channel.client, frame)
        waiting = self._unsent.get(channel, 0) + 1
        self._unsent[channel] = waiting % UNSENT
        self._check_backlog(channel)
        if waiting == UNSENT and not self._log.is_blocked(channel.client):
            self._flush(channel)

    def _say_farewell(self, channel: Channel) -> None:
        channel.state = State.CLOSING
        if channel.farewell:
            self._log.private(channel.client, channel.farewell)
        self._linger.start(channel, self._now)
        self._unsent.setdefault(channel, 0)

    def _check_backlog(self, channel: Channel) -> None:
        if channel.state is State.JOINED and self._log.lag(channel.client) > self.config.max_backlog:
            self._dismiss(channel, protocol.SLOW, f"more than {self.config.max_backlog} bytes behind")

    def _flush_all(self) -> None:
        """Send what this turn has logged and queued; find those who do not keep up."""
        if self._log.unflushed > self._lazy_joins:
            self._flush_ranked()
        if self._unsent:
            self._flush_unsent()

    def _bound_log(self) -> None:
        """Let those go for whom too much of the log is kept; at twice that, those who linger, too."""
        lingering_too = self._log.held > 2 * (self.config.max_backlog + BLOCK_BYTES)
        for channel in self._channels.values():
            if channel.state is State.CLOSING and lingering_too:
                self._finish(channel)
            else:
                self._check_backlog(channel)

    def _flush_unsent(self) -> None:
        unsent, self._unsent = self._unsent, {}
        for channel in unsent:
            if channel.state is not State.CLOSED and not self._log.is_blocked(channel.client):
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
        if self._log.held > self.config.max_backlog:
            self._bound_log()

    def _flush(self, channel: Channel) -> None:
        self._after_flush(channel, self._log.flush(channel.client))

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
            with contextlib.suppress(OSError):  # it is gone already
                channel.sock.shutdown(socket.SHUT_WR)
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
            if channel.interest:
                self._selector.unregister(channel.sock)
            del self._channels[channel.fd]
            self._log.discard(channel.client)
            channel.sock.close()

    # --- timers -------------------------------------------------------------------------------

    def _on_no_hello(self, channel: Channel) -> None:
        seconds = self.config.handshake_timeout
        self._dismiss(channel, protocol.TIMEOUT, f"no HELLO within {seconds:g} seconds")

    def _on_silence(self, channel: Channel) -> None:
        self._pinged.start(channel, self._now)
        self._send(channel, protocol.ping())

    def _on_no_pong(self, channel: Channel) -> None:
        if channel in self._silence:  # started again since the PING: something was heard
            return
        seconds = 2 * self.config.heartbeat
        self._dismiss(channel, protocol.TIMEOUT, f"nothing heard for {seconds:g} seconds")

    def _on_join_wait(self, _: str) -> None:
        self._lazy_joins = 0

    def _on_accept_pause(self, _: str) -> None:
        self._acceptor.resume()
