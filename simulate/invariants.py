"""What must hold in a run: between any two turns, when somebody is let go, at rest, and in the end.

They look into the server, and at what has become of the clients. What a client can tell by the frames that it
gets is checked in ``client``, what is logged in ``truth``, and how descriptors are used in ``kernel``.
"""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING, Final

import rankserver.loop
from rankserver.channel import Channel, State
from rankserver.clist import Log
from simulate.client import Manner, SimClient, client_of
from simulate.kernel import LISTENER, SIGNALS, ffi, lib
from simulate.truth import Violation

if TYPE_CHECKING:
    from simulate.run import Run

WAIT_SLACK: Final = 1.1  # seconds that the server may not have noticed as lost
JUST_NOW: Final = 0.01  # seconds: readiness may be told a few turns late


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
        truth, log = self.truth, self.server._log
        if wrong := lib.sim_misuse():
            raise Violation(ffi.string(wrong).decode())
        log.check()
        channels = self.server._channels
        members = [client_of(channels[fd]) for fd in log.ranked_fds()]
        if members != list(truth.roster) or log.seq != len(truth.frames) - 1:
            raise Violation(f"the core ranks {members} at {log.seq}; by the log it is {truth.roster}")
        if len(members) > self.scenario.config.capacity:
            raise Violation(f"{len(members)} clients, more than the capacity")
        for key in self.run.selector.keys.values():
            if key.fileobj.fileno() != key.fd:
                raise Violation(f"descriptor {key.fd} is closed and registered")
        self._check_channels(channels, log)
        self._check_bounds(log)
        self._check_waiting()

    def _check_channels(self, channels: dict[int, Channel], log: Log) -> None:
        registered = self.run.selector.keys
        for fd, channel in channels.items():
            if channel.sock.fileno() != fd:
                raise Violation(f"{client_of(channel)} is kept, and descriptor {fd} closed")
            if channel.interest != (registered[fd].events if fd in registered else 0):
                raise Violation(f"{client_of(channel)} is registered for other than {channel.interest}")
            if channel.state is State.JOINED and not channel.paused and not channel.held:
                self._check_waits_for_input(channel)
            client = client_of(channel)
            if not client.conn.reset and not channel.wants_write and channel.state is not State.JOINING:
                self._check_all_sent(channel, log)

    def _check_waits_for_input(self, channel: Channel) -> None:
        broken = self.server._broken
        if not channel.interest & selectors.EVENT_READ and not channel.ended and channel not in broken:
            raise Violation(f"nothing that {client_of(channel)} sends is heard")

    def _check_all_sent(self, channel: Channel, log: Log) -> None:
        """Nothing waits for who would take it but JOINs, and those not long."""
        lazy = self.server._lazy_joins
        if log.lag(channel.client) and not lazy:
            raise Violation(f"{log.lag(channel.client)} bytes for {client_of(channel)} wait for nothing")

    def _check_waiting(self) -> None:
        """Nobody waits for longer than the server says: for JOINs, and for who is slow."""
        server, now = self.server, self.run.running
        if not server._lazy_joins:
            self._lazy_since = None
        elif self._lazy_since is None:
            self._lazy_since = now
        elif now > self._lazy_since + rankserver.loop.JOIN_WAIT + WAIT_SLACK:
            raise Violation("a JOIN waits, and is not sent")
        held, self._held_at = self._held_at, self.truth.commands if server._pace.is_holding else None
        if self._held_at is None:
            self._behind_since.clear()
            return
        if held not in (None, self._held_at):
            raise Violation(f"{self._held_at - (held or 0)} commands are logged, while all wait")
        config = self.scenario.config
        behind = [client_of(server._channels[fd]) for fd in server._log.behind(config.max_backlog)]
        self._behind_since = {client: self._behind_since.get(client, now) for client in behind}
        for client, since in self._behind_since.items():
            if now > since + config.slow_timeout + rankserver.loop.LINGER_MOST + WAIT_SLACK:
                raise Violation(f"all wait for {client}, since {now - since:g} seconds")

    def _check_bounds(self, log: Log) -> None:
        most = self.scenario.config.max_backlog + 3 * self.scenario.block_bytes + self._growth()
        if log.held > most:
            raise Violation(f"{log.held} bytes of the log are held, more than {most}")

    def _growth(self) -> int:
        """Return what one turn may log: each byte that is read or was set aside, several times."""
        many = self.scenario.config.capacity
        one = min(self.scenario.read_bytes, 4000) + 2 * self.scenario.config.max_line
        return 5 * many * one + 4000

    def check_let_go(self, channel: Channel, code: str, why: str) -> None:
        """Check that the server may let a connection go for the reason that it gives."""
        client = client_of(channel)
        if not code:
            self._check_ended(client, why)
        elif code == "slow":
            if client.manner not in (Manner.SLOW, Manner.NEVER):
                raise Violation(f"{client} reads at once, and is let go: {why}")
        elif code in ("proto", "too-long"):
            if client.manner not in (Manner.STRANGE, Manner.ROGUE):
                raise Violation(f"{client} keeps to the protocol, and is let go: {code} {why}")
        elif code == "timeout" and channel.state is State.JOINED:
            silent = self.run.running - client.heard
            if JUST_NOW < silent < self.scenario.config.heartbeat:
                raise Violation(f"{client} was silent for {silent:g} seconds, and is let go: {why}")

    def _check_ended(self, client: SimClient, why: str) -> None:
        if why == rankserver.loop.NO_MEMORY:
            if not self.scenario.memory_faults or self.run.calm_since is not None:
                raise Violation(f"{client} is let go for want of memory, and there was enough")
        elif not (client.has_left or client.conn.reset):
            raise Violation(f"{client} is here, and is let go: {why}")

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
        for timeout in self.server._timers._timeouts:
            for item in timeout:
                if isinstance(item, Channel) and self.server._channels.get(item.fd) is not item:
                    raise Violation(f"a timeout of {client_of(item)} goes on, which is gone")

    def check_end(self) -> None:
        """Let all read to the end, close the server, and check that nothing is left."""
        server = self.server
        if server._channels:
            raise Violation(f"{len(server._channels)} connections are left in the end")
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
