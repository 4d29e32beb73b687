"""The loop: one thread that waits for sockets and deadlines, and handles them in turns of bounded length.

Theory of operation. A turn goes through these steps, in this order:

 1. wait for the selector, until the nearest deadline at most;
 2. read: first the channels that had to stop in the last turn, then those that are ready, then those whose
    connection broke while it still held input; and send to those that are writable again;
 3. expire deadlines, then accept connections;
 4. settle: the handler makes this turn's joins and leaves count;
 5. send what this turn has logged and queued;
 6. close the connections that are finished;
 7. decide which channels must wait for others from now on, and resume those that need not wait any more.

Two rules keep this simple. Nothing is closed, freed or accepted while the events of a turn are being handled:
a descriptor could be reused while an event of the old connection is still pending. And all work is bounded
per turn, in the units of its cost: bytes read, lines handled in Python, departures, handshakes, frames queued
for one channel. A channel that has more than its share continues in the next turn, before the others.

A line is charged for its bytes, because parsing a long one may take as long as handling hundreds of short
ones. Short and long lines wait in separate lanes, and a turn spends the same on each. So a short line never
waits for the long lines of other channels, and long lines are handled in the order in which they came.

The loop moves bytes and times turns, and knows neither frames nor ranks. Its handler decides what a line
means, which channels belong to members, and when a channel is disconnected. The C core, behind ``channel``
and ``clist``, cuts lines, logs and sends.

Its clock stands still while the process is stopped (SIGSTOP, a suspended machine): if a wait or a turn took
much longer than it should, that time is taken out of the clock that deadlines see. Otherwise every client
would time out after a stop.
"""

from __future__ import annotations

import math
import selectors
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final

from rankserver.channel import NO_MEMORY, STRANGERS, Blocker, Channel, ChannelState, Departure, Wait
from rankserver.clist import MAX_READ_BYTES, Log
from rankserver.config import Config
from rankserver.handler import Handler
from rankserver.lateness import LateClients
from rankserver.listeners import Acceptor
from rankserver.pace import Pace
from rankserver.sender import Sender
from rankserver.timers import Timeout, Timers
from rankserver.wire.exceptions import RemoteProtocolError

# The most bytes read in one turn, shared by the ready channels: half of what one read may return. Fewer would
# not be worth a turn, which costs one system call per client.
MAX_TURN_BYTES: Final = MAX_READ_BYTES // 2
# From this many clients on, a turn reads twice as much: sending to each costs more by then than reading does.
MANY_CLIENTS: Final = 300
# The least number of bytes that each ready channel may have read in a turn, however many share it: fewer are
# not worth the system call.
MIN_READ_BYTES: Final = 4 * 1024
# The same for TLS channels: a byte of short TLS records takes 0.1 µs, longer than any other input that is not
# charged by lines.
MIN_TLS_READ_BYTES: Final = 1024
# The most that one turn spends on short lines handled in Python, and also the most that it spends on long
# ones. The unit is the shortest line, which takes about 10 µs.
MAX_COST: Final = 1000
# The least that each channel may spend in a turn, however many share it: most clients send fewer lines at
# once. A line that costs more than this counts as long.
MIN_COST: Final = 8
# A line costs one unit more for each of this many bytes, because parsing takes up to 50 ns a byte. The
# parser's fuzzer checks that.
BYTES_PER_UNIT: Final = 256
# A departure costs as much as this many of the shortest lines.
DEPARTURE_COST: Final = 6
# The most departures in one turn, after which no more channels are read: as many as one listener accepts.
MAX_DEPARTURES: Final = 128
# The most bytes that a command may take in the log for each byte that was sent: six bytes, one of which is
# text, become 26. So under pressure, no more is read than the rest of a member's credit allows.
MAX_GROWTH: Final = 5
# The most bytes read in all from a connection that broke: no system's receive buffer holds more.
MAX_BROKEN_BYTES: Final = 32 * 1024 * 1024
# The most channels without a member that are read in one turn. A read takes some 20 µs.
MAX_STRANGER_READS: Final = 128
# The most of these that may use TLS: they shake hands, and a step takes 6 ms with a key of 4,096 bits.
MAX_HANDSHAKES: Final = 4
# The most of these that are read before the memory that is left is checked again. Where there are many, the
# share of each is a few KiB.
MAX_UNCHECKED_READS: Final = 16
# Seconds without accepting when memory is low, or after an error such as too few descriptors: the listeners
# would stay ready, and the loop would spin.
ACCEPT_PAUSE: Final = 0.5
# If a wait takes this many seconds longer than it should, or a turn takes this many seconds, the process was
# stopped.
MAX_LATENESS: Final = 1.0
# With a short heartbeat, this share of it is used instead, because a PING that was sent before the stop has
# not been answered.
LATENESS_SHARE: Final = 0.5
# The longest timeout of one select, in seconds: it does not accept arbitrarily large ones.
MAX_SELECT_SECONDS: Final = 3600.0


class Loop:
    """The event loop: its turns and its clock.

    Args:
        config: the settings of the server.
        selector: waits for sockets.
        clock: returns the time in seconds, and never goes back.
        log: the shared log.
        handler: is called with connections, lines and their ends.

    Attributes:
        now: the time of this turn, without the time in which the process was stopped.
        channels: all connections by descriptor, from accept to close.
        timers: the deadlines.
        acceptor: the sockets that are listened on.
        pace: decides which channels wait for which.
        sender: sends.
        reader: reads.
        is_stopping: no connections are accepted any more.
    """

    def __init__(
        self,
        config: Config,
        selector: selectors.BaseSelector,
        clock: Callable[[], float],
        log: Log,
        handler: Handler,
    ) -> None:
        self.now = clock()
        self.channels: dict[int, Channel] = {}
        self.timers = Timers()
        self.acceptor = Acceptor(selector)
        late = LateClients(self.timers, config.slow_timeout, handler.on_slow)
        self.pace = Pace(log, self.channels, config.max_backlog, late)
        self.sender = Sender(
            selector=selector,
            channels=self.channels,
            log=log,
            pace=self.pace,
            timers=self.timers,
            disconnector=handler,
        )
        self.reader = Reader(log, handler, self.pace, self.sender)
        self._selector = selector
        self._clock = clock
        self._log = log
        self._handler = handler
        self._max_lateness = min(MAX_LATENESS, config.heartbeat * LATENESS_SHARE or MAX_LATENESS)
        # Seconds in which the process was stopped, in all.
        self._lost = 0.0
        self.is_stopping = False
        self._released_some = False
        self._accept_pause: Timeout[None] = self.timers.timeout(
            ACCEPT_PAUSE, lambda _: self.acceptor.resume()
        )

    def run(self) -> None:
        """Take turns until ``stop`` was called and all channels are closed."""
        self.now = self._clock() - self._lost
        while self.channels or not self.is_stopping:
            self.turn()

    def stop(self) -> None:
        """Stop accepting, and let ``run`` return when all channels are closed."""
        self.is_stopping = True
        self._accept_pause.stop(None)

    def close(self) -> None:
        """Close every socket and the selector. Closing twice is allowed."""
        self.acceptor.close()
        for channel in self.channels.values():
            channel.sock.close()
        self.channels.clear()
        self._selector.close()

    def pause_accepting(self) -> None:
        """Accept no connections for a while; the kernel keeps those that arrive."""
        self.acceptor.pause()
        if not self.is_stopping:
            self._accept_pause.start_once(None, self.now)

    def on_readable(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the loop when ``sock`` is readable: this is how signals arrive."""
        self._selector.register(sock, selectors.EVENT_READ, callback)

    def add(self, channel: Channel) -> None:
        """Take charge of a connection."""
        self.channels[channel.sock.fileno()] = channel

    def turn(self) -> None:
        """Take one turn; the module's docstring lists the steps."""
        ready = self._wait()
        reader, sender, pace = self.reader, self.sender, self.pace
        reader.begin(len(ready), self.now)
        self._dispatch(ready)
        if sender.broken or reader.draining:
            reader.drain()
        if self.now >= self.timers.nearest:
            self.timers.expire(self.now)
        if self.acceptor.ready and not self.is_stopping:
            self._accept()
        self._handler.settle()
        sender.flush_all()
        if sender.finished or self.is_stopping:
            self._close_finished()
        self._released_some = False
        if pace.waiting or pace.congested or pace.is_under_pressure or self._log.held > pace.pressure_bytes:
            self._release()

    def _dispatch(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        """Handle the events of a turn."""
        reader = self.reader
        strangers = []
        for key, events in ready:
            channel = key.data
            if not isinstance(channel, Channel):
                channel()
                continue
            # ``can_read``, without the call.
            state = channel.state
            if (
                events & selectors.EVENT_READ
                and channel.waits_for is None
                and state is not ChannelState.JOINING
            ):
                if state in STRANGERS or (state is ChannelState.CLOSING and channel.is_handshaking):
                    strangers.append(channel)
                elif reader.departures < MAX_DEPARTURES:
                    reader.read(channel, reader.tls_share if channel.tls else reader.share)
            if events & selectors.EVENT_WRITE:
                self.sender.flush(channel)
        if strangers or reader.put_off:
            reader.read_strangers(strangers)

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, and take time in which the process was stopped out of the clock.

        A turn counts for at most ``max_lateness``, because the process may have been stopped during it. It
        does count for that much, because time must advance however busy the loop is.
        """
        begin = self._clock()
        patience = self._patience(begin)
        ready = self._selector.select(patience)
        end = self._clock()
        lost = max(begin - self._lost - self.now - self._max_lateness, 0)
        if patience is not None and end - begin - patience > self._max_lateness:
            lost += end - begin
        self.now = end - self._lost - lost
        if lost:
            self._lost += lost
            self._handler.on_lost_time(lost)
        return ready

    def _patience(self, begin: float) -> float | None:
        """Return how many seconds a select that begins now may wait; None for any time."""
        reader, sender = self.reader, self.sender
        if self._handler.is_unsettled or self._released_some:
            return 0
        if reader.short.paused or reader.long.paused or sender.broken or sender.finished:
            return 0
        if reader.draining and reader.can_drain:
            return 0
        nearest = self.timers.nearest
        if nearest == math.inf:
            return None
        return min(max(nearest + self._lost - begin, 0), MAX_SELECT_SECONDS)

    def _accept(self) -> None:
        for sock, peer, _ in self.acceptor.accept():
            self._handler.on_connection(sock, peer)
        if self.acceptor.paused:
            self.pause_accepting()

    def _close_finished(self) -> None:
        if self.is_stopping:
            self.acceptor.close()
        for channel in self.sender.take_finished():
            self._handler.on_closed(channel)
            self.sender.forget(channel)
            self.reader.forget(channel)
            self.pace.close(channel)
            del self.channels[channel.sock.fileno()]
            channel.cursor.discard()
            channel.sock.close()

    def _release(self) -> None:
        """Resume the channels that need not wait any more; the next turn decides what must then wait."""
        released = self.pace.update(self.now)
        for channel in released:
            self.reader.handle(channel)
            self.sender.watch(channel)
        self._released_some = bool(released)
        if released:
            self.sender.flush_all()


class Lane:
    """The lines of one kind, short or long.

    Attributes:
        spent: what this turn has spent on them.
        paused: the channels whose next line is one of them and waits for the next turn, in the order in which
            they continue.
    """

    def __init__(self) -> None:
        self.spent = 0
        self.paused: dict[Channel, None] = {}


class Reader:
    """Reads channels and passes their lines to the handler, in bounded amounts per turn.

    Args:
        log: the shared log, which cuts lines and logs commands.
        handler: handles the lines.
        pace: decides which channels wait.
        sender: is told which TLS channels may have output.

    Attributes:
        share: the bytes to read from each ready channel in this turn.
        tls_share: the same for TLS channels.
        budget: the bytes that a turn reads in all.
        departures: how many channels have departed in this turn; one that costs much counts as several.
        draining: the channels whose connection broke, each with the bytes that may still be read from it.
        put_off: the strangers that were not read although they were ready, oldest first.
        short, long: the lanes of short and of long lines.
    """

    def __init__(self, log: Log, handler: Handler, pace: Pace, sender: Sender) -> None:
        self.share = MIN_READ_BYTES
        self.tls_share = MIN_TLS_READ_BYTES
        self.budget = MAX_TURN_BYTES
        self.departures = 0
        self.put_off: list[Channel] = []
        self.draining: dict[Channel, int] = {}
        self.short = Lane()
        self.long = Lane()
        self._log = log
        self._handler = handler
        self._pace = pace
        self._sender = sender
        self._now = 0.0
        # What each channel may spend in this turn.
        self._cost_share = MAX_COST

    def set_clients(self, count: int) -> None:
        """Adapt what a turn reads to the number of clients."""
        self.budget = MAX_READ_BYTES if count >= MANY_CLIENTS else MAX_TURN_BYTES

    @property
    def can_drain(self) -> bool:
        """Whether a broken channel can be read now. O(broken channels)."""
        return any(channel.can_read for channel in self.draining)

    def begin(self, ready: int, now: float) -> None:
        """Divide a turn among the ready channels, and resume those that had to stop in the last one."""
        # While commands wait, input has to be kept, so only as much is read as lets other lines through.
        budget = 0 if self._pace.is_holding else self.budget
        share = budget // (ready or 1)
        self.share = max(share, MIN_READ_BYTES)
        self.tls_share = max(share, MIN_TLS_READ_BYTES)
        sharing = ready + len(self.short.paused) + len(self.long.paused)
        self._cost_share = max(MAX_COST // (sharing or 1), MIN_COST)
        self.short.spent = self.long.spent = self.departures = 0
        self._now = now
        # Long lines go first: channels with a short one may have a long one behind it, and have waited less.
        for lane in (self.long, self.short):
            if lane.paused:
                self._resume(lane)

    def charge(self, cost: int) -> None:
        """Count work that costs as much as this many of the shortest lines against this turn."""
        self.short.spent += cost

    def charge_departure(self, cost: int) -> None:
        """Count a departure against this turn; ``cost`` is what it costs more than others."""
        self.departures += 1 + cost // DEPARTURE_COST
        self.charge(DEPARTURE_COST + cost)

    def read(self, channel: Channel, size: int) -> int:
        """Read once and handle the input; return how many bytes it was, 0 if no more can be read now."""
        if self._pace.is_under_pressure:
            size = min(size, max(self._pace.credit(channel) // MAX_GROWTH, MIN_READ_BYTES))
        try:
            tls = channel.tls
            count = tls.receive(size) if tls else channel.cursor.read(size)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._handler.on_end(channel, error.strerror or "connection lost")
            return 0
        finally:
            if channel.tls:
                self._sender.touch(channel)  # the handshake may have output, or be over
        if not count:
            self._handler.on_end(channel, "connection closed")
            return 0
        channel.heard_at = self._now
        self.handle(channel)
        if channel.tls and channel.tls.ended:  # no event follows; the input before it counts
            self.draining.setdefault(channel, MAX_BROKEN_BYTES)
        return count

    def handle(self, channel: Channel) -> None:
        """Handle a channel's input, up to its share of this turn; the rest is kept."""
        left = self._cost_share
        pace, cursor = self._pace, channel.cursor
        try:
            while channel.state is not ChannelState.JOINING:
                in_batches = self._handler.collects or pace.is_under_pressure
                if in_batches and pace.may_log(channel) and (batch := cursor.collect()):
                    self._handler.on_batch(channel, batch)
                line = cursor.next_line(logs=not in_batches)
                if line is None:
                    return
                cost = 1 + len(line) // BYTES_PER_UNIT
                lane = self.long if cost > MIN_COST else self.short
                blocker: Blocker = Wait.TURN
                if left > 0 and lane.spent < MAX_COST:
                    left -= cost
                    lane.spent += cost
                    blocker = self._handler.on_line(channel, line)
                if blocker is not None:
                    self._wait(channel, blocker, lane)
                    break
            cursor.keep()
        except RemoteProtocolError as error:
            self._handler.depart(channel, Departure(error.code, error.text))
        except MemoryError:
            self._handler.depart(channel, NO_MEMORY)

    def drain(self) -> None:
        """Continue to read what clients sent before their connection broke; after that they depart."""
        for channel in self._sender.take_broken():
            self.draining.setdefault(channel, MAX_BROKEN_BYTES)
        for channel, left in list(self.draining.items()):
            if self.departures >= MAX_DEPARTURES:
                break
            if not channel.can_read:
                continue
            # Before the end of its handshake, a channel has sent nothing that counts.
            has_ended = channel.is_going or channel.is_handshaking
            count = 0 if has_ended else self.read(channel, self.share)
            if 0 < count < left:
                self.draining[channel] = left - count
            else:
                self.draining.pop(channel, None)
                self._handler.on_end(channel, "connection lost")

    def read_strangers(self, strangers: list[Channel]) -> None:
        """Read some of these channels, which have not joined: those of each address that have waited longest.

        Addresses take turns, so a flood from one of them does not delay handshakes from another.
        Some of them may have departed, and go on with their TLS handshake until they are shut down.
        """
        order = {channel: place for place, channel in enumerate(self.put_off)}
        strangers.sort(key=lambda channel: order.get(channel, len(order)))
        if len(strangers) > MAX_HANDSHAKES:
            strangers = _in_turn(strangers)
        self.put_off = []
        reads = handshakes = 0
        for channel in strangers:
            if reads % MAX_UNCHECKED_READS == 0 and not self._handler.has_memory():
                self.put_off = []
                return
            is_over = reads == MAX_STRANGER_READS or self.departures >= MAX_DEPARTURES
            if is_over or (channel.tls and handshakes == MAX_HANDSHAKES):
                self.put_off.append(channel)
                continue
            reads += 1
            handshakes += channel.tls is not None
            self.read(channel, MIN_READ_BYTES if channel.tls else self.share)

    def forget(self, channel: Channel) -> None:
        """Note that a channel is closed."""
        self.draining.pop(channel, None)
        self.short.paused.pop(channel, None)
        self.long.paused.pop(channel, None)

    def _wait(self, channel: Channel, blocker: Blocker, lane: Lane) -> None:
        """Put back the line that is being handled. It waits, and so does everything sent after it."""
        channel.cursor.unread()
        if blocker is Wait.TURN:
            channel.waits_for = blocker
            lane.paused[channel] = None
        else:
            self._pace.wait(channel, blocker)
            self._sender.watch(channel)

    def _resume(self, lane: Lane) -> None:
        """Continue with the channels of a lane, as far as this turn may spend more on it."""
        for channel in list(lane.paused):
            if lane.spent >= MAX_COST:
                break
            del lane.paused[channel]
            if channel.waits_for is Wait.TURN:  # it has not departed meanwhile
                channel.waits_for = None
                self.handle(channel)


def _in_turn(channels: list[Channel]) -> list[Channel]:
    """Return these channels with the first of each address first, then the second of each, and so on."""
    counts: Counter[str] = Counter()
    places = {}
    for channel in channels:
        places[channel] = counts[channel.host]
        counts[channel.host] += 1
    return sorted(channels, key=places.__getitem__)
