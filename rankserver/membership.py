"""Membership: which joins and leaves are proposed together, and what channels are sent once they count.

All joins of a turn share one JOIN frame and all leaves one LEFT frame, as far as a frame has room for their
ranks. That is decided here, before they are proposed, together with the numbers and names of newcomers.

Memory for one LEFT is set aside; neither commands nor JOINs may use it. If a LEFT cannot be logged even so,
it is retried soon, and its members keep their ranks until then.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from rankserver.channel import NO_MEMORY, Channel, ChannelState, Departure
from rankserver.config import Config
from rankserver.farewell import Farewells
from rankserver.heartbeat import Heartbeat
from rankserver.inputs import Joined, Left, Newcomer
from rankserver.loop import Loop
from rankserver.members import NOBODY, Member
from rankserver.order import Order
from rankserver.state import State
from rankserver.telemetry import Telemetry
from rankserver.timers import Timeout
from rankserver.tokens import Holder
from rankserver.wire import codes, frames, protocol

# The most bytes of one rank in a list of ranks, with its comma: ranks have at most seven digits.
MAX_RANK_BYTES: Final = 8
# Seconds until a LEFT that could not be logged for lack of memory is retried.
RETRY_WAIT: Final = 0.05
# The least number of seconds that a JOIN may wait for other frames before it is sent: sending it costs a
# system call for each client.
MIN_JOIN_WAIT: Final = 0.05
# With many clients, a JOIN may wait this many seconds for each of them. Sending it to one takes some 5 µs, so
# however many there are, sending JOINs takes at most about a quarter of the time.
JOIN_WAIT_PER_CLIENT: Final = 20e-6
# A join costs as much as this many of the shortest lines.
JOIN_COST: Final = 8
# Writing a roster costs as much as one of the shortest lines for each of this many members.
MEMBERS_PER_UNIT: Final = 8
# Random bytes in the name of a session: too many to guess.
SESSION_BYTES: Final = 16


class Parts(Protocol):
    """The parts of the server that membership uses."""

    @property
    def heartbeat(self) -> Heartbeat:
        """Checks members for silence."""

    @property
    def farewells(self) -> Farewells:
        """Sends departing channels the rest of their output."""

    @property
    def telemetry(self) -> Telemetry:
        """Counts and logs members."""

    def depart(self, channel: Channel, departure: Departure) -> None:
        """Disconnect a channel that cannot join, or cannot be welcomed."""

    def unsettle(self) -> None:
        """Settle again, to retry leaves."""


class Applicant(NamedTuple):
    """A channel whose HELLO was accepted and that has not joined yet."""

    channel: Channel
    name: str | None
    holder: Holder


class Membership:
    """The channels that join or leave at the end of this turn.

    Args:
        config: the settings of the server.
        loop: reads from and sends to channels.
        state: the members and the log.
        order: decides when joins and leaves count.
        parts: the other parts of the server.
    """

    def __init__(self, config: Config, loop: Loop, state: State, order: Order, parts: Parts) -> None:
        self._config = config
        self._loop = loop
        self._state = state
        self._order = order
        self._parts = parts
        self._applicants: dict[Channel, Applicant] = {}
        # Those whose join was proposed and does not count yet, by the id that the member will have.
        self._proposed: dict[int, Applicant] = {}
        # The channels that were just welcomed, and may have sent something after their HELLO.
        self._welcomed: list[Channel] = []
        self._leaving: list[Member] = []
        # The number of changes for which the answer to WHO was written, and that answer.
        self._roster: tuple[int, list[bytes]] = (-1, [])
        self._numbers = itertools.count(1)
        self._retry: Timeout[None] = loop.timers.timeout(RETRY_WAIT, lambda _: parts.unsettle())

    def admit(self, channel: Channel, name: str | None, holder: Holder) -> None:
        """Let a channel join at the end of this turn."""
        self._loop.reader.charge(JOIN_COST)
        channel.move(ChannelState.JOINING)
        self._applicants[channel] = Applicant(channel, name, holder)

    def withdraw(self, channel: Channel) -> None:
        """Forget a channel that departs before it has joined."""
        self._applicants.pop(channel, None)

    def leave(self, member: Member) -> None:
        """Let a member leave at the end of this turn. If its channel is cut, drop its output now."""
        channel = member.channel
        if channel is not None and channel.departure is not None and channel.departure.is_cut:
            channel.cursor.cut()
        self._leaving.append(member)

    @property
    def has_changes(self) -> bool:
        """Whether there is something to propose now; leaves that wait for memory are proposed later."""
        return bool(self._applicants or (self._leaving and not self._retry))

    def propose(self) -> None:
        """Propose the leaves and joins of this turn."""
        self._propose_leaves()
        self._propose_joins()

    def resume(self) -> None:
        """Handle what the channels that were just welcomed have sent after their HELLO."""
        welcomed, self._welcomed = self._welcomed, []
        for channel in welcomed:
            self._loop.reader.handle(channel)
            self._loop.sender.watch(channel)  # it was not listened to while it was joining
        # With an order that takes its time, channels stay JOINING over turns, and are not listened to.
        for applicant in self._proposed.values():
            self._loop.sender.watch(applicant.channel)

    def roster(self) -> list[bytes]:
        """Return the answer to WHO. O(members) after a JOIN or LEFT, else O(1)."""
        state = self._state
        if self._roster[0] != state.changes:
            self._loop.reader.charge(state.log.count // MEMBERS_PER_UNIT)
            entries = [
                frames.RosterEntry(rank, member.name, member.rank_class)
                for rank, member in enumerate(state.roster)
            ]
            self._roster = (state.changes, list(protocol.roster(entries, self._config.max_line)))
        return self._roster[1]

    def joined(self, members: Sequence[Member], ranks: Sequence[int]) -> None:
        """Attach the channels of new members, and welcome them."""
        log, loop = self._state.log, self._loop
        loop.sender.defer_flush(1, max(MIN_JOIN_WAIT, log.count * JOIN_WAIT_PER_CLIENT), loop.now)
        here = []
        for member, rank in zip(members, ranks, strict=True):
            applicant = self._proposed.pop(member.id, None)
            if applicant is None:
                continue
            if applicant.channel.is_going:  # it departed before its join counted
                self._leaving.append(member)
                self._parts.unsettle()
            else:
                here.append((member, rank, applicant.channel))
        for member, _, channel in here:
            channel.cursor.attach(member.id)
            loop.sender.attach(channel)
            member.channel, channel.member = channel, member
            channel.move(ChannelState.JOINED)
            self._parts.heartbeat.start(channel, loop.now)
        clients, seq = log.count, log.seq
        for member, rank, channel in here:
            self._parts.telemetry.on_joined(channel, member, rank, clients, loop.now)
            try:
                frame = self._welcome(member, rank, clients, seq)
            except MemoryError:
                self._parts.depart(channel, NO_MEMORY)
            else:
                loop.sender.send(channel, frame)
        self._welcomed += [channel for _, _, channel in here]
        loop.reader.set_clients(log.count)

    def left(self, members: Sequence[Member]) -> None:
        """Begin the farewells of members that have left."""
        for member in members:
            channel = member.channel
            if channel is not None:
                self._loop.sender.detach(channel)
                self._parts.farewells.begin(channel)
                # Neither keeps the other: a cycle would keep the channel's memory until it is collected.
                member.channel, channel.member = None, NOBODY
        self._loop.reader.set_clients(self._state.log.count)

    def _propose_leaves(self) -> None:
        """Propose that members leave, lowest ranks first, so that no LEFT changes the ranks in the next."""
        leaving, self._leaving = self._leaving, []
        if len(leaving) > self._max_ranks:
            leaving.sort(key=self._state.roster.rank, reverse=True)
        while leaving:
            some = leaving[: self._max_ranks]
            try:
                self._state.log.reserve(self._config.max_line)
                self._order.propose(Left(tuple(member.id for member in reversed(some))))
            except MemoryError:
                self._leaving += leaving
                self._retry.start(None, self._loop.now)
                return
            del leaving[: len(some)]

    def _propose_joins(self) -> None:
        """Propose that applicants join as far as there are places, and refuse the others."""
        applicants = list(self._applicants.values())
        free = self._config.capacity - self._state.log.count - len(self._proposed)
        full = Departure(codes.FULL, f"all {self._config.capacity} places are taken")
        for applicant in applicants[free:]:
            self._parts.depart(applicant.channel, full)
        joining = sorted(applicants[:free], key=lambda applicant: applicant.holder.rank_class)
        while joining:
            some = joining[: self._max_ranks]
            del joining[: len(some)]
            self._propose_join(some)

    def _propose_join(self, applicants: Sequence[Applicant]) -> None:
        newcomers = []
        for applicant in applicants:
            number = next(self._numbers)
            holder = applicant.holder
            name = applicant.name or f"c{number}"
            newcomers.append(Newcomer(number, name, holder.rank_class, holder.name))
            self._proposed[number] = applicant
        try:
            self._order.propose(Joined(tuple(newcomers)))
        except MemoryError:
            for newcomer in newcomers:
                self._parts.depart(self._proposed.pop(newcomer.member).channel, NO_MEMORY)
        for applicant in applicants:
            self._applicants.pop(applicant.channel, None)

    def _welcome(self, member: Member, rank: int, clients: int, seq: int) -> bytes:
        frame = frames.WelcomeFrame(
            rank=rank,
            clients=clients,
            seq=seq,
            name=member.name,
            session=secrets.token_urlsafe(SESSION_BYTES),
            heartbeat=self._config.heartbeat,
            rank_class=member.rank_class,
        )
        return protocol.welcome(frame)

    @property
    def _max_ranks(self) -> int:
        """How many ranks one frame has room for."""
        return self._config.max_line // MAX_RANK_BYTES
