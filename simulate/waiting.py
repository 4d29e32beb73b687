"""Who waits for whom in a run, for how long in all, and whether it is the right one.

The accounts are kept from what clients have sent and read and from where cursors are, not from what the
server has counted.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import rankserver.credits
import rankserver.lateness
import rankserver.pace
import rankserver.server
from rankserver.channel import Channel, ChannelState, Wait
from simulate.client import SimClient, client_of
from simulate.truth import LoggedCommand, Violation

if TYPE_CHECKING:
    from simulate.run import Run

# Seconds in which the process was stopped without the server noticing it.
WAIT_SLACK: Final = 1.1
# Seconds that a few turns take, until a client that is late is dropped.
TURN_SLACK: Final = 0.1
# Seconds between two reads of a client for which others wait, at most: a sample of their lateness is a turn.
READING_PERIOD: Final = rankserver.lateness.MAX_SAMPLE_INTERVAL
# How many times the least rate a client must take to be dropped in no case: rounding takes some of it.
MIN_MARGIN: Final = 1.05
# The most bytes that a simulated client's answer is charged as, besides those of its detail.
MAX_ANSWER_CHARGE: Final = rankserver.server.ANSWER_BYTES + 16
# How many times the bytes of a short command are charged at most, compared with those that it has in the log.
MAX_OVERCHARGE: Final = 3


class _Account:
    """What one client has cost the others.

    Attributes:
        excess: a lower bound of its lateness and of the surplus that it may have had: the time that others
            have waited for it, less what it has taken and what is forgiven.
        lateness: an upper bound of its lateness: as the server counts it, but with less mercy.
    """

    def __init__(self, taken: int, timeout: float) -> None:
        self.excess = 0.0
        self.lateness = 0.0
        self._surplus = 0.0
        self._taken = taken
        # Seconds of lateness that are forgiven in each second without lateness.
        self._mercy = timeout / rankserver.lateness.FORGIVENESS_PERIOD

    def advance(self, seconds: float, taken: int, *, must: bool, may: bool, is_excused: bool) -> None:
        """Let time go by.

        Args:
            seconds: for how long.
            taken: how many bytes the client has read in all.
            must: others waited for the client, beyond doubt.
            may: others waited for it, perhaps.
            is_excused: what the client has read counts.
        """
        bounds = rankserver.lateness
        paid = (taken - self._taken) / bounds.MIN_RATE
        self._taken = taken
        self.excess = max(self.excess + seconds * must - paid - seconds * self._mercy, 0.0)
        covered = self._surplus + paid if is_excused else 0.0
        late = max(seconds * may - covered, 0.0)
        self._surplus = min(max(covered - seconds * may, 0.0), bounds.MAX_SURPLUS)
        self.lateness = max(self.lateness - (seconds - late) * self._mercy, 0.0) + late


class Waiting:
    """The waits of one run.

    Attributes:
        askers: the clients that have an ASK in the log, so that unread answers may be queued for them.
    """

    def __init__(self, run: Run) -> None:
        self.askers: set[SimClient] = set()
        self._run = run
        self._server = run.server
        self._config = run.scenario.config
        self._accounts: dict[SimClient, _Account] = {}
        # The clients that others have waited for since the last turn, beyond doubt and perhaps.
        self._must: set[SimClient] = set()
        self._may: set[SimClient] = set()
        # The clients that are so far behind that they are late whatever they read, and those that ever were.
        self._far: set[SimClient] = set()
        self._were_far: set[SimClient] = set()
        self._now = run.clock.running
        # Since the pressure began: the members that were there, and what each client has logged since.
        self._entitled: set[SimClient] | None = None
        self._spent: Counter[SimClient] = Counter()
        # What each client logged in the turn in which the pressure began, some of it before.
        self._spent_at_first: Counter[SimClient] = Counter()
        self._seq = 0

    def check_turn(self) -> None:
        """Check the waits as of the end of a turn."""
        self.advance()
        self._note_waits()
        self._count_commands()
        for channel in self._server.loop.pace.waiting:
            self._check_wait(channel)

    def check_slow(self, client: SimClient) -> None:
        """Check that a client that is dropped as slow has made others wait for long enough.

        One that takes ``MIN_RATE`` whenever others wait for it may stay, unless it was far behind.
        """
        self.advance()
        account = self._accounts.get(client)
        lateness = account.lateness if account else 0.0
        if lateness < self._config.slow_timeout - self._slack:
            raise Violation(f"{client} is dropped as slow after {lateness:g} seconds of lateness at most")
        keeps_up = client.link.takes(MIN_MARGIN * rankserver.lateness.MIN_RATE, READING_PERIOD)
        if keeps_up and client not in self._were_far:
            raise Violation(f"{client} takes what it must, and is dropped as slow")

    def advance(self) -> None:
        """Account for the time since this was last called."""
        clock = self._run.clock
        seconds, self._now = clock.running - self._now, clock.running
        timeout = self._config.slow_timeout
        limit = timeout + rankserver.lateness.MAX_SURPLUS + self._slack
        for client in self._may:
            self._accounts.setdefault(client, _Account(client.link.taken, timeout))
        for client, account in self._accounts.items():
            account.advance(
                seconds,
                client.link.taken,
                must=client in self._must,
                may=client in self._may,
                is_excused=client not in self._far,
            )
            if account.excess > limit and client in self._must:
                raise Violation(f"others have waited {account.excess:g} seconds too long for {client}")

    @property
    def _slack(self) -> float:
        """How many seconds the server may be wrong."""
        return WAIT_SLACK if self._run.clock.stopped else TURN_SLACK

    def _note_waits(self) -> None:
        """Note for whom others wait now."""
        loop, log = self._server.loop, self._server.state.log
        pace, most = loop.pace, self._config.max_backlog
        over = {client_of(loop.channels[fd]) for fd in log.behind(most)}
        behind = {client_of(loop.channels[fd]) for fd in log.behind(most // 2)}
        self._far = {client_of(loop.channels[fd]) for fd in log.behind(rankserver.pace.MAX_EXCESS * most)}
        self._were_far |= self._far
        waits = any(channel.waits_for is Wait.BACKLOG for channel in pace.waiting)
        congested = {
            client_of(channel)
            for channel in loop.channels.values()
            if channel.state is ChannelState.JOINED
            and channel.cursor.queued() > rankserver.pace.MAX_PRIVATE_BYTES
        }
        self._must = congested | ((over or behind) if waits and pace.is_under_pressure else set())
        self._may = congested | self._far | (behind if waits else set())

    def _count_commands(self) -> None:
        """Check that no member logs more than its credit while there is pressure."""
        logged = self._logged()
        if not self._server.loop.pace.is_under_pressure:
            self._entitled = None
            return
        if self._entitled is None:
            self._entitled = set(self._run.truth.roster)
            self._spent.clear()
            self._spent_at_first = logged
            return
        self._spent += logged
        for client in self._spent:
            if self._spent[client] > self._credit(client) + self._credit_slack():
                raise Violation(f"{client} logs {self._spent[client]} bytes under pressure")
        newcomers = self._spent.keys() - self._entitled
        if self._spent_by_newcomers() > self._newcomers_credit() + len(newcomers) * self._credit_slack():
            raise Violation(f"newcomers log {self._spent_by_newcomers()} bytes under pressure")

    def _logged(self) -> Counter[SimClient]:
        """Return how many bytes each client has logged since this was last called."""
        truth, logged = self._run.truth, Counter[SimClient]()
        first, self._seq = self._seq + 1, len(truth.frames) - 1
        for seq in range(first, self._seq + 1):
            meaning = truth.meaning[seq]
            if isinstance(meaning, LoggedCommand):
                logged[meaning.sender] += len(truth.frames[seq]) + 1
                if meaning.wants_answer:
                    self.askers.add(meaning.sender)
        return logged

    def _check_wait(self, channel: Channel) -> None:
        """Check that a channel has a reason to wait."""
        client, blocker, pace = client_of(channel), channel.waits_for, self._server.loop.pace
        if blocker is Wait.BACKLOG and pace.is_under_pressure and not pace.is_holding:
            spent = self._spent[client] + self._spent_at_first[client]
            has_credit = MAX_OVERCHARGE * spent < self._credit(client)
            if client not in (self._entitled or set()):
                has_credit &= MAX_OVERCHARGE * self._spent_by_newcomers() < self._newcomers_credit()
            if has_credit and self._entitled is not None:
                raise Violation(f"{client} waits, and has logged {spent} bytes")
        elif isinstance(blocker, Channel) and blocker is not channel:
            limit = min(
                rankserver.credits.MAX_UNREAD_ANSWERS, self._config.max_backlog // self._config.capacity
            )
            expected = client.expected
            if expected.answers * MAX_ANSWER_CHARGE + expected.answer_bytes < limit:
                raise Violation(f"an answer of {client} waits for {client_of(blocker)}, and it gave few")

    def _credit(self, client: SimClient) -> int:
        """Return the credit of a member."""
        each = self._credit_of_each()
        return each if client in (self._entitled or ()) else rankserver.credits.MAX_NEWCOMER_CREDIT

    def _credit_of_each(self) -> int:
        """Return the credit of a member that was there when the pressure began."""
        share = self._config.max_backlog // 4 // max(len(self._entitled or ()), 1)
        return max(share, rankserver.credits.MIN_CREDIT)

    def _newcomers_credit(self) -> int:
        """Return the credit of all members together that have joined since the pressure began."""
        share = self._config.max_backlog // 4 // rankserver.credits.NEWCOMERS_SHARE
        return max(share, self._credit_of_each())

    def _spent_by_newcomers(self) -> int:
        """Return what those members have logged, with those that have departed."""
        entitled = self._entitled or set()
        return sum(size for client, size in self._spent.items() if client not in entitled)

    def _credit_slack(self) -> int:
        """Return how many bytes may exceed a credit: what a client had sent when it was used up."""
        return 4 * (min(self._run.scenario.read_bytes, 4096) + 2 * self._config.max_line)
