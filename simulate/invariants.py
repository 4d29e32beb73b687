"""What must hold in a run: between any two turns, when somebody is let go, at rest, and in the end.

They look into the server, and at what has become of the clients. What a client can tell by the frames that it
gets is checked in ``client``, what is logged in ``truth``, and how descriptors are used in ``kernel``.
"""

from __future__ import annotations

import selectors
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import rankserver.pace
from rankserver.channel import NO_MEMORY, Channel, ChannelState, Departure, Wait
from rankserver.clist import Log
from rankserver.farewell import MAX_CLOSE_TIMEOUT
from rankserver.membership import MIN_JOIN_WAIT
from rankserver.timers import Timeout
from simulate.client import Manner, SimClient, client_of
from simulate.kernel import LISTENER, SIGNALS, ffi, lib
from simulate.truth import Violation

if TYPE_CHECKING:
    from simulate.run import Run

# Seconds that the server may not have noticed as lost.
WAIT_SLACK: Final = 1.1
# Seconds in which what a client sent may not have been read: readiness may be told a few turns late.
JUST_NOW: Final = 0.01
# Bytes of private frames that one line or the loop may add for a client: a roster and some frames.
PRIVATE_SLACK: Final = 2500
# Heartbeats after which a member that says nothing must be gone, with the time until its silence is noticed.
SILENT_HEARTBEATS: Final = 3
# Turns between two checks of the heartbeat, whose whole heap is looked at.
HEARTBEAT_TURNS: Final = 8
# The states in which the channel of a member is.
MEMBER_STATES: Final = (ChannelState.JOINED, ChannelState.LEAVING)


class Invariants:
    """The invariants of one run, with what they remember from turn to turn."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.server = run.server
        self.truth = run.truth
        self.scenario = run.scenario
        self._lazy_since: float | None = None  # JOINs wait for company
        self._held_at: int | None = None  # commands in the log, if they have to wait now
        self._behind_since: dict[SimClient, float] = {}  # others wait for these

    def check_turn(self) -> None:
        """Check what must hold between any two turns, when the truth knows all that was logged."""
        truth, log = self.truth, self.server.state.log
        if wrong := lib.sim_misuse():
            raise Violation(ffi.string(wrong).decode())
        log.check()
        members = [client_of(channel) for channel in self._members()]
        if members != list(truth.roster) or log.seq != len(truth.frames) - 1:
            raise Violation(f"the core ranks {members} at {log.seq}; by the log it is {truth.roster}")
        if len(members) > self.scenario.config.capacity:
            raise Violation(f"{len(members)} clients, more than the capacity")
        for key in self.run.selector.keys.values():
            if key.fileobj.fileno() != key.fd:
                raise Violation(f"descriptor {key.fd} is closed and registered")
        for fd, channel in self.server.loop.channels.items():
            self._check_channel(fd, channel)
        self._check_bounds(log)
        self._check_waiting()
        if self.run.turns % HEARTBEAT_TURNS == 0:
            self._check_heartbeat()

    def _members(self) -> Iterator[Channel]:
        """Yield the channels of all members, by rank."""
        for member in self.server.state.roster:
            channel = member.channel
            if channel is None or channel.member is not member:
                raise Violation(f"{member} has the channel {channel}, which is another member's")
            yield channel

    def _check_channel(self, fd: int, channel: Channel) -> None:
        registered = self.run.selector.keys
        if channel.sock.fileno() != fd:
            raise Violation(f"{client_of(channel)} is kept, and descriptor {fd} closed")
        if channel.interest != (registered[fd].events if fd in registered else 0):
            raise Violation(f"{client_of(channel)} is registered for other than {channel.interest}")
        if (channel.state in MEMBER_STATES) != (channel.member in self.server.state.roster.by_id.values()):
            raise Violation(f"{client_of(channel)} is {channel.state}, and its member {channel.member}")
        if channel.state is ChannelState.JOINED and channel.waits_for is None:
            self._check_waits_for_input(channel)
        self._check_waits(channel)
        self._check_private(channel)
        client = client_of(channel)
        is_joining = channel.state is ChannelState.JOINING
        if not client.conn.reset and not channel.wants_write and not is_joining:
            self._check_all_sent(channel)

    def _check_waits_for_input(self, channel: Channel) -> None:
        loop = self.server.loop
        is_broken = channel in loop.reader.draining or channel in loop.sender.broken
        if not channel.interest & selectors.EVENT_READ and not channel.at_eof and not is_broken:
            raise Violation(f"nothing that {client_of(channel)} sends is heard")

    def _check_waits(self, channel: Channel) -> None:
        """Whoever waits is among those who are gone on with."""
        loop, blocker = self.server.loop, channel.waits_for
        is_paused = channel in loop.reader.paused and blocker is Wait.TURN
        is_waiting = channel in loop.pace.waiting
        if is_waiting != (blocker is not None and blocker is not Wait.TURN):
            raise Violation(f"{client_of(channel)} waits for {blocker}, and pace knows other of it")
        if blocker is Wait.TURN and not is_paused:
            raise Violation(f"{client_of(channel)} waits for its turn, which does not come")
        if channel in loop.pace.congested and channel.state is not ChannelState.JOINED:
            raise Violation(f"others wait for {client_of(channel)}, which goes")

    def _check_private(self, channel: Channel) -> None:
        """Not much more is queued for a member alone than it takes for others to wait for it."""
        queued = channel.cursor.queued()
        if (
            queued > rankserver.pace.MAX_PRIVATE_BYTES + PRIVATE_SLACK
            and channel.state is ChannelState.JOINED
        ):
            raise Violation(f"{queued} bytes of private frames wait for {client_of(channel)}")

    def _check_all_sent(self, channel: Channel) -> None:
        """Nothing waits for who would take it but JOINs, and those not long."""
        lag = channel.cursor.lag()
        if lag and not self.server.loop.sender._lazy_frames:
            raise Violation(f"{lag} bytes for {client_of(channel)} wait for nothing")

    def _check_waiting(self) -> None:
        """Nobody waits for longer than the server says: for JOINs, and for who is slow."""
        loop, now = self.server.loop, self.run.running
        if not loop.sender._lazy_frames:
            self._lazy_since = None
        elif self._lazy_since is None:
            self._lazy_since = now
        elif now > self._lazy_since + MIN_JOIN_WAIT + WAIT_SLACK:
            raise Violation("a JOIN waits, and is not sent")
        held, self._held_at = self._held_at, self.truth.commands if loop.pace.is_holding else None
        if self._held_at is None:
            self._behind_since.clear()
            return
        if held not in (None, self._held_at):
            raise Violation(f"{self._held_at - (held or 0)} commands are logged, while all wait")
        config = self.scenario.config
        fds = self.server.state.log.behind(config.max_backlog)
        behind = [client_of(loop.channels[fd]) for fd in fds]
        self._behind_since = {client: self._behind_since.get(client, now) for client in behind}
        for client, since in self._behind_since.items():
            if now > since + config.slow_timeout + MAX_CLOSE_TIMEOUT + WAIT_SLACK:
                raise Violation(f"all wait for {client}, since {now - since:g} seconds")

    def _check_heartbeat(self) -> None:
        """Each member is listened for once, and what its heartbeat thinks is stale is so."""
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
        """Return what one turn may log: each byte that is read or was set aside, several times."""
        many = self.scenario.config.capacity
        one = min(self.scenario.read_bytes, 4000) + 2 * self.scenario.config.max_line
        return 5 * many * one + 4000

    def check_departure(self, channel: Channel, departure: Departure) -> None:
        """Check that the server may let a connection go for the reason that it gives."""
        client, code = client_of(channel), departure.code
        if not code:
            self._check_ended(client, departure)
        elif code == "slow":
            if client.manner not in (Manner.SLOW, Manner.NEVER):
                raise Violation(f"{client} reads at once, and departs: {departure.reason}")
        elif code in ("proto", "too-long"):
            if client.manner not in (Manner.STRANGE, Manner.ROGUE):
                raise Violation(f"{client} keeps to the protocol, and departs: {departure.reason}")
        elif code == "timeout" and channel.state is ChannelState.JOINED:
            silent = self.run.running - client.heard
            if JUST_NOW < silent < self.scenario.config.heartbeat:
                raise Violation(
                    f"{client} was silent for {silent:g} seconds, and departs: {departure.reason}"
                )

    def _check_ended(self, client: SimClient, departure: Departure) -> None:
        if departure == NO_MEMORY:
            if not self.scenario.memory_faults or self.run.calm_since is not None:
                raise Violation(f"{client} departs for lack of memory, and there was enough")
        elif not (client.has_left or client.conn.reset):
            raise Violation(f"{client} is here, and departs: {departure.reason}")

    def check_rest(self) -> None:
        """Check what holds when faults are over and nothing moves: all is sent, and nothing is lost."""
        seq = len(self.truth.frames) - 1
        if self.run.listener.waiting:
            raise Violation(f"{len(self.run.listener.waiting)} connections are not accepted")
        for client in self.truth.roster:
            if client.seq != seq or client.partial:
                raise Violation(f"{client} is at {client.seq} of {seq}, with {client.partial!r}")
            if client.outbox or client.conn.received != client.fed:
                raise Violation(f"{client} was not heard: {client.fed - client.conn.received} bytes")
            if client.expected and not client.is_lax:
                raise Violation(f"{client} did not get {client.expected[0]}")
            silent, heartbeat = self.run.running - client.heard, self.scenario.config.heartbeat
            if heartbeat and silent > SILENT_HEARTBEATS * heartbeat:
                raise Violation(f"{client} was silent for {silent:g} seconds, and is still a member")
        for client in self.run.clients:
            self._check_client(client)
        self._check_timers()

    def _check_client(self, client: SimClient) -> None:
        is_here = client.reason is None
        if client.conn.mark_tick and (is_here or not client.code):
            lost = [command for command in client.commands if command.end <= client.fed]
            if lost and client.left_seq + (client in self.truth.roster):
                raise Violation(f"{client} ({client.reason}) sent {lost[0]}, and it is not in the log")
        for seq, answers in client.asked.items():
            if client in self.truth.roster and self.scenario.max_asks > 100:
                self._check_answers(client, seq, answers)

    def _check_answers(self, client: SimClient, seq: int, answers: dict[int, bool]) -> None:
        for number, came in answers.items():
            other = self.run.clients[number - 1]
            end = other.answered.get(seq)
            if end is not None and end <= other.fed and not came and (other.reason is None or not other.code):
                raise Violation(f"{client} did not get the answer of {other} to {seq}")

    def _check_timers(self) -> None:
        """No timeout is left of who is gone."""
        loop = self.server.loop
        for source in loop.timers._sources:
            for item in source if isinstance(source, Timeout) else ():
                if isinstance(item, Channel) and loop.channels.get(item.sock.fileno()) is not item:
                    raise Violation(f"a timeout of {client_of(item)} goes on, which is gone")

    def check_end(self) -> None:
        """Let all read to the end, close the server, and check that nothing is left."""
        server = self.server
        if channels := server.loop.channels:
            raise Violation(f"{len(channels)} connections are left in the end")
        for client in self.run.clients:
            if not client.has_ended and client.conn.closed:
                client.read(1 << 22)
                client.read(1)
        for client in self.run.clients:
            was_told = client.bye == "shutdown" or client.may_be_cut or self.scenario.memory_faults
            if client.code == "shutdown" and not was_told:
                raise Violation(f"{client} was not told that the server stops")
            if not (client.conn.closed or client in self.run.listener.waiting):
                raise Violation(f"the connection of {client} is open in the end")
        registered = [fd for fd in self.run.selector.keys if fd not in (LISTENER, SIGNALS)]
        if registered:
            raise Violation(f"{registered} are registered in the end")
        server.close()
        if not self.run.listener.is_closed:
            raise Violation("it still listens")
        if lib.sim_live():
            raise Violation(f"{lib.sim_live()} allocations are left in the end")
