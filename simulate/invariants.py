"""What must hold in a run: between any two turns, when a connection departs, at rest, and at the end.

These invariants compare the inside of the server with the clients. ``view`` and ``expectations`` check what
a client can tell from the frames that it gets, ``truth`` what is logged, and ``kernel`` how descriptors are
used.
"""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING, Final, cast

import rankserver.credits
import rankserver.loop
import rankserver.pace
from rankserver.channel import NO_MEMORY, STRANGERS, Channel, ChannelState, Departure, Wait
from rankserver.clist import Log
from rankserver.members import NOBODY
from rankserver.membership import MIN_JOIN_WAIT
from rankserver.timers import Timeout
from simulate.client import LATE, Manner, SimClient, client_of
from simulate.kernel import SIGNALS, TCP_LISTENER, UNIX_LISTENER, ffi, lib
from simulate.truth import Violation
from simulate.waiting import WAIT_SLACK, Waiting

if TYPE_CHECKING:
    from simulate.run import Run

# Seconds in which a client's input may not have been read: readiness may be reported a few turns late.
JUST_NOW: Final = 0.01
# Bytes of private frames that one line, or the loop, may add for a client besides what an answer contains: a
# roster and some frames.
PRIVATE_SLACK: Final = 1200
# Heartbeats of silence before which no member may be taken for dead: two, less a stop that went unnoticed.
MIN_SILENT_HEARTBEATS: Final = 1.5
# Heartbeats of silence after which no member may be left: two, and the time until the silence is noticed.
MAX_SILENT_HEARTBEATS: Final = 3
# Turns between two thorough checks, which cost more than those after each turn.
THOROUGH_TURNS: Final = 4
# The states that the channel of a member can be in.
MEMBER_STATES: Final = (ChannelState.JOINED, ChannelState.LEAVING)


class Invariants:
    """The invariants of one run, with what they remember from turn to turn."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.server = run.server
        self.truth = run.truth
        self.scenario = run.scenario
        # Since when a JOIN has waited for other frames.
        self._lazy_since: float | None = None
        # How many commands were logged by the end of the last turn, if commands had to wait then.
        self._held_at: int | None = None
        # What this turn has spent on long lines and on short ones, by whether they are long.
        self._spent = {False: 0, True: 0}
        # When the last HELLO that was handled had arrived, by whether it was long, and how many there were.
        self._hello_at = {False: 0, True: 0}
        self._hellos = 0
        self._waiting = Waiting(run)

    def check_turn(self) -> None:
        """Check what must hold between any two turns. The truth must know everything that was logged."""
        truth, log = self.truth, self.server.state.log
        self._spent = {False: 0, True: 0}
        if wrong := lib.sim_misuse():
            raise Violation(ffi.string(wrong).decode())
        log.check()
        members = [client_of(cast("Channel", member.channel)) for member in self.server.state.roster]
        if members != list(truth.roster) or log.seq != len(truth.frames) - 1:
            raise Violation(f"the core ranks {members} at {log.seq}; by the log it is {truth.roster}")
        if len(members) > self.scenario.config.capacity:
            raise Violation(f"{len(members)} clients, more than the capacity")
        for key in self.run.selector.keys.values():
            if key.fileobj.fileno() != key.fd:
                raise Violation(f"descriptor {key.fd} is closed and registered")
        self.run.world.meter.check_turn()
        self._check_channels()
        self._check_bounds(log)
        self._check_door()
        self._check_waiting()
        self._waiting.check_turn()
        if self.run.turns % THOROUGH_TURNS == 0:
            for channel in self.server.loop.channels.values():
                self._check_state(channel)
            self._check_heartbeat()

    def _check_channels(self) -> None:
        loop, registered = self.server.loop, self.run.selector.keys
        joins_wait = loop.sender._deferred_frames > 0
        for fd, channel in loop.channels.items():
            client = client_of(channel)
            if channel.sock.fileno() != fd:
                raise Violation(f"{client} is kept, and descriptor {fd} is closed")
            if channel.interest != (registered[fd].events if fd in registered else 0):
                raise Violation(f"{client} is registered for other than {channel.interest}")
            if channel.state is ChannelState.JOINED and channel.waits_for is None:
                self._check_waits_for_input(channel)
            may_wait = joins_wait or channel.state is ChannelState.JOINING
            if not may_wait and not client.link.conn.reset and not channel.wants_write:
                self._check_all_sent(channel)

    def _check_door(self) -> None:
        """Check that the door knows all strangers, that they are few, and none if memory is low."""
        door, channels = self.server._reception.door, self.server.loop.channels.values()
        waiting = {channel for channel in channels if channel.state in STRANGERS}
        if {*door._silent, *door._begun} != waiting:
            raise Violation(f"{waiting} have not joined, and the door has {door.everybody()}")
        if door.strangers != len(door.everybody()):
            raise Violation(f"the door counts {door.strangers} strangers, and has {door.everybody()}")
        if door.strangers > door.max_strangers:
            raise Violation(f"{door.strangers} strangers, more than {door.max_strangers}")
        # With TLS, what has arrived and was not received counts as well.
        if any(channel.heard_at == 0 and not channel.tls for channel in door._begun):
            raise Violation("a client that has sent nothing counts as begun")
        if self.run.reserve.was_low and waiting:
            raise Violation(f"{waiting} are still connected, and memory is low")

    def _check_state(self, channel: Channel) -> None:
        is_member = self.server.state.roster.by_id.get(channel.member.id) is channel.member
        if (channel.state in MEMBER_STATES) != (is_member and channel.member.channel is channel):
            raise Violation(f"{client_of(channel)} is {channel.state}, and its member {channel.member}")
        self._check_waits(channel)
        self._check_private(channel)
        self._check_cut(channel)

    def _check_waits_for_input(self, channel: Channel) -> None:
        loop = self.server.loop
        is_broken = channel in loop.reader.draining or channel in loop.sender.broken
        if not channel.interest & selectors.EVENT_READ and not channel.at_eof and not is_broken:
            raise Violation(f"the input of {client_of(channel)} is not watched")

    def _check_waits(self, channel: Channel) -> None:
        """Check that a channel that waits is among those that will be resumed."""
        loop, blocker = self.server.loop, channel.waits_for
        is_paused = channel in (loop.reader.short.paused | loop.reader.long.paused) and blocker is Wait.TURN
        is_waiting = channel in loop.pace.waiting
        if is_waiting != (blocker is not None and blocker is not Wait.TURN):
            raise Violation(f"{client_of(channel)} waits for {blocker}, and pace has something else")
        if blocker is Wait.TURN and not is_paused:
            raise Violation(f"{client_of(channel)} waits for its turn, which does not come")
        if channel in loop.pace.congested and channel.state is not ChannelState.JOINED:
            raise Violation(f"others wait for {client_of(channel)}, which has departed")

    def _check_private(self, channel: Channel) -> None:
        """Check that the private frames of a member hardly exceed what congests it, and unread answers."""
        queued, config = channel.cursor.queued(), self.scenario.config
        most = rankserver.pace.MAX_PRIVATE_BYTES + PRIVATE_SLACK + config.max_line
        if client_of(channel) in self._waiting.askers:
            most += min(rankserver.credits.MAX_UNREAD_ANSWERS * config.capacity, config.max_backlog)
        if queued > most and channel.state is ChannelState.JOINED:
            raise Violation(f"{queued} bytes of private frames wait for {client_of(channel)}")

    def _check_cut(self, channel: Channel) -> None:
        """Check that a member that left and was cut has one begun frame and its BYE to get, at most."""
        client, is_closing = client_of(channel), channel.state is ChannelState.CLOSING
        if client.code not in ("slow", "memory") or not is_closing or channel.member is NOBODY:
            return
        owed = b"".join(channel.cursor.peek()).count(b"\n")
        if owed > 1 + (client.code == "slow"):
            raise Violation(f"{client} must be cut, and has {owed} frames to get")

    def _check_all_sent(self, channel: Channel) -> None:
        """Check that no output is held back from a client that would take it."""
        if channel.tls and not channel.tls._is_open:
            return  # before the end of the handshake, only the handshake is sent
        if lag := channel.cursor.lag():
            raise Violation(f"{lag} bytes for {client_of(channel)} wait for nothing")

    def _check_waiting(self) -> None:
        """Check that no JOIN waits for longer than it may, and that no command is logged in a hold."""
        loop, now = self.server.loop, self.run.clock.running
        if not loop.sender._deferred_frames:
            self._lazy_since = None
        elif self._lazy_since is None:
            self._lazy_since = now
        elif now > self._lazy_since + MIN_JOIN_WAIT + WAIT_SLACK:
            raise Violation("a JOIN waits, and is not sent")
        held, self._held_at = self._held_at, self.truth.commands if loop.pace.is_holding else None
        if self._held_at is not None and held not in (None, self._held_at):
            raise Violation(f"{self._held_at - (held or 0)} commands are logged, while all wait")

    def _check_heartbeat(self) -> None:
        """Check that the heartbeat has one entry for each member, and counts stale ones correctly."""
        heartbeat = self.server.heartbeat
        if not heartbeat.seconds:
            return
        channels = self.server.loop.channels.values()
        joined = {channel for channel in channels if channel.state is ChannelState.JOINED}
        heard = [channel for _, _, channel in heartbeat._heap if channel.state is ChannelState.JOINED]
        if len(heard) != len(joined) or set(heard) != joined:
            raise Violation(f"the heartbeat listens for {heard}, and {joined} have joined")
        if len(heartbeat) != len(joined):
            raise Violation(f"the heartbeat counts {len(heartbeat)} channels, and it has {len(joined)}")

    def _check_bounds(self, log: Log) -> None:
        most = self.scenario.config.max_backlog + 3 * self.scenario.block_bytes + self._growth()
        if log.held > most:
            raise Violation(f"{log.held} bytes of the log are held, more than {most}")

    def _growth(self) -> int:
        """Return how many bytes one turn may log: each byte that is read or was kept, several times."""
        many = self.scenario.config.capacity
        one = min(self.scenario.read_bytes, 4000) + 2 * self.scenario.config.max_line
        return 5 * many * one + 4000

    def check_line(self, channel: Channel, line: bytes) -> None:
        """Check that a turn handles a line only while it may spend more on lines of its kind."""
        cost = 1 + len(line) // rankserver.loop.BYTES_PER_UNIT
        is_long = cost > rankserver.loop.MIN_COST
        if self._spent[is_long] >= rankserver.loop.MAX_COST:
            raise Violation(f"lines that cost {self._spent[is_long]} were handled, and another one is")
        self._spent[is_long] += cost
        if channel.state is ChannelState.HANDSHAKE:
            self._check_hello(client_of(channel), is_long)

    def _check_hello(self, client: SimClient, is_long: bool) -> None:
        """Check that a HELLO is handled before those of its kind that have arrived later."""
        arrived = int(client.link.conn.mark_tick)
        if 0 < arrived < self._hello_at[is_long]:
            raise Violation(f"the HELLO of {client} was overtaken by another one")
        self._hello_at[is_long] = max(self._hello_at[is_long], arrived)
        self._hellos += 1
        client.hello_number = self._hellos

    def check_departure(self, channel: Channel, departure: Departure) -> None:
        """Check that the server may disconnect a client for the reason that it gives."""
        client, code = client_of(channel), departure.code
        if not code:
            self._check_ended(client, departure)
        elif code == "slow":
            if client.manner not in LATE:
                raise Violation(f"{client} reads at once, and departs: {departure.reason}")
            self._waiting.check_slow(client)
        elif code in ("proto", "too-long"):
            if client.manner not in (Manner.STRANGE, Manner.ROGUE):
                raise Violation(f"{client} keeps to the protocol, and departs: {departure.reason}")
        elif code == "timeout" and channel.state is ChannelState.JOINED:
            silent = self.run.clock.running - client.link.heard
            if JUST_NOW < silent < MIN_SILENT_HEARTBEATS * self.scenario.config.heartbeat:
                raise Violation(
                    f"{client} was silent for {silent:g} seconds, and departs: {departure.reason}"
                )

    def _check_ended(self, client: SimClient, departure: Departure) -> None:
        if departure == NO_MEMORY:
            scenario = self.scenario
            has_faults = scenario.memory_faults or scenario.handler_faults or self.run.reserve.was_low
            if not has_faults or self.run.calm_since is not None:
                raise Violation(f"{client} departs for lack of memory, and there was enough")
        elif client.understands and not (client.link.has_left or client.link.conn.reset):
            raise Violation(f"{client} is still connected, and departs: {departure.reason}")

    def check_rest(self) -> None:
        """Check what must hold once faults are over and nothing moves: all is sent, and nothing is lost."""
        crowd = self.run.crowd
        for listener in crowd.listeners:
            if listener.waiting:
                raise Violation(f"{len(listener.waiting)} connections are not accepted")
        for client in self.truth.roster:
            self._check_member(client)
        for client in crowd.clients:
            self._check_client(client)
        self._check_timers()

    def _check_member(self, client: SimClient) -> None:
        link, seq = client.link, len(self.truth.frames) - 1
        if client.view.seq != seq or client.partial:
            raise Violation(f"{client} is at {client.view.seq} of {seq}, with {client.partial!r}")
        lost = link.fed - link.received
        if link.unsent or lost:
            raise Violation(f"{client} has sent {lost} bytes that were not received")
        if overdue := client.expected.overdue():
            raise Violation(f"{client} did not get {overdue}")
        silent, heartbeat = self.run.clock.running - link.heard, self.scenario.config.heartbeat
        if heartbeat and silent > MAX_SILENT_HEARTBEATS * heartbeat:
            raise Violation(f"{client} was silent for {silent:g} seconds, and is still a member")

    def _check_client(self, client: SimClient) -> None:
        link, expected = client.link, client.expected
        if link.conn.mark_tick and not client.code:
            lost = [command for command in expected.commands if command.end <= link.fed]
            if lost and client.left_seq + (client in self.truth.roster):
                raise Violation(f"{client} ({client.reason}) sent {lost[0]}, and it is not in the log")
        for seq, answers in expected.asked.items():
            if client in self.truth.roster:
                self._check_answers(client, seq, answers)

    def _check_answers(self, client: SimClient, seq: int, answers: dict[int, bool]) -> None:
        for number, came in answers.items():
            other = self.run.crowd.clients[number - 1]
            end = other.expected.answered.get(seq)
            if end is not None and end <= other.link.fed and not came and not other.code:
                raise Violation(f"{client} did not get the answer of {other} to {seq}")

    def _check_timers(self) -> None:
        """Check that no timeout of a closed channel is left."""
        loop = self.server.loop
        for source in loop.timers._sources:
            for item in source if isinstance(source, Timeout) else ():
                if isinstance(item, Channel) and loop.channels.get(item.sock.fileno()) is not item:
                    raise Violation(f"a timeout of {client_of(item)}, which is closed, is running")
        for item in loop.pace._late._lateness:
            if loop.channels.get(item.sock.fileno()) is not item:
                raise Violation(f"the lateness of {client_of(item)}, which is closed, is kept")

    def check_end(self) -> None:
        """Let all clients read to the end, close the server, and check that nothing is left."""
        server = self.server
        if channels := server.loop.channels:
            raise Violation(f"{len(channels)} connections are left in the end")
        for client in self.run.crowd.clients:
            if not client.link.has_ended and client.link.conn.closed:
                client.read(1 << 22)
                client.read(1)
        for client in self.run.crowd.clients:
            was_told = client.bye == "shutdown" or client.link.may_be_cut or self.scenario.memory_faults
            can_be_told = client.understands and client.link.can_be_told
            if client.code == "shutdown" and can_be_told and not was_told:
                raise Violation(f"{client} was not told that the server stops")
            is_waiting = any(client in listener.waiting for listener in self.run.crowd.listeners)
            if not (client.link.conn.closed or is_waiting):
                raise Violation(f"the connection of {client} is open in the end")
        own = (UNIX_LISTENER, TCP_LISTENER, SIGNALS)
        registered = [fd for fd in self.run.selector.keys if fd not in own]
        if registered:
            raise Violation(f"{registered} are registered in the end")
        server.close()
        if not all(listener.is_closed for listener in self.run.crowd.listeners):
            raise Violation("the server still listens")
        if lib.sim_live():
            raise Violation(f"{lib.sim_live()} allocations are left in the end")
