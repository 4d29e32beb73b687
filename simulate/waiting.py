"""Who waits for whom in a run, for how long in all, and whether it is the right one.

The accounts are kept from what clients have sent and read and from where cursors are, not from what the
server has counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import rankserver.credits
import rankserver.lateness
import rankserver.pace
from rankserver.channel import Channel, ChannelState, Wait
from simulate.client import SimClient, client_of
from simulate.truth import Sent, Violation

if TYPE_CHECKING:
    from simulate.run import Run

# Seconds in which the process was stopped without the server noticing it.
WAIT_SLACK: Final = 1.1
# Seconds that a few turns take, until a client that is late is dropped.
TURN_SLACK: Final = 0.1
# The most bytes that a simulated client's answer is charged as.
MAX_ANSWER_CHARGE: Final = 70
# How many times the bytes of a short command are charged at most, compared with those that it has in the log.
MAX_OVERCHARGE: Final = 3


class _Account:
    """What one client has cost the others.

    Attributes:
        excess: a lower bound of its lateness and of the surplus that it may have had: the time that others
            have waited for it, less what it has taken and what is forgiven.
        lateness: an upper bound of its lateness: as the server counts it, but with less mercy.
    """

    def __init__(self, taken: int) -> None:
        self.excess = 0.0
        self.lateness = 0.0
        self._surplus = 0.0
        self._taken = taken

    def advance(self, seconds: float, taken: int, timeout: float, *, must: bool, may: bool) -> None:
        """Let time go by.

        Args:
            seconds: for how long.
            taken: how many bytes the client has read in all.
            timeout: the server's limit.
            must: others waited for the client, beyond doubt.
            may: others waited for it, perhaps.
        """
        bounds = rankserver.lateness
        paid = (taken - self._taken) / bounds.MIN_RATE
        self._taken = taken
        mercy = timeout / bounds.FORGIVENESS_PERIOD
        self.excess = max(self.excess + seconds * must - paid - seconds * mercy, 0.0)
        covered = self._surplus + paid
        late = max(seconds * may - covered, 0.0)
        self._surplus = min(max(covered - seconds * may, 0.0), bounds.MAX_SURPLUS)
        self.lateness = max(self.lateness - (seconds - late) * mercy, 0.0) + late


class Waiting:
    """The waits of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._server = run.server
        self._config = run.scenario.config
        self._accounts: dict[SimClient, _Account] = {}
        # The clients that others have waited for since the last turn, beyond doubt and perhaps.
        self._must: set[SimClient] = set()
        self._may: set[SimClient] = set()
        self._now = run.running
        # Since the pressure began: the members that were there, and what each client has logged since.
        self._entitled: set[SimClient] | None = None
        self._spent: dict[SimClient, int] = {}
        self._seq = 0

    def check_turn(self) -> None:
        """Check the waits as of the end of a turn."""
        self.advance()
        self._note_waits()
        self._count_commands()
        for channel in self._server.loop.pace.waiting:
            self._check_wait(channel)

    def check_slow(self, client: SimClient) -> None:
        """Check that a client that is dropped as slow has made others wait for long enough."""
        self.advance()
        account = self._accounts.get(client)
        lateness = account.lateness if account else 0.0
        if lateness < self._config.slow_timeout - WAIT_SLACK:
            raise Violation(f"{client} is dropped as slow after {lateness:g} seconds of lateness at most")

    def advance(self) -> None:
        """Account for the time since this was last called."""
        seconds, self._now = self._run.running - self._now, self._run.running
        timeout = self._config.slow_timeout
        slack = WAIT_SLACK if self._run.stopped else TURN_SLACK
        limit = timeout + rankserver.lateness.MAX_SURPLUS + slack
        for client in self._may:
            self._accounts.setdefault(client, _Account(client.taken))
        for client, account in self._accounts.items():
            must, may = client in self._must, client in self._may
            account.advance(seconds, client.taken, timeout, must=must, may=may)
            if account.excess > limit and must:
                raise Violation(f"others have waited {account.excess:g} seconds too long for {client}")

    def _note_waits(self) -> None:
        """Note for whom others wait now."""
        loop, log = self._server.loop, self._server.state.log
        pace, most = loop.pace, self._config.max_backlog
        over = {client_of(loop.channels[fd]) for fd in log.behind(most)}
        behind = {client_of(loop.channels[fd]) for fd in log.behind(most // 2)}
        far = {client_of(loop.channels[fd]) for fd in log.behind(rankserver.pace.MAX_EXCESS * most)}
        waits = any(channel.waits_for is Wait.BACKLOG for channel in pace.waiting)
        congested = {
            client_of(channel)
            for channel in loop.channels.values()
            if channel.state is ChannelState.JOINED
            and channel.cursor.queued() > rankserver.pace.MAX_PRIVATE_BYTES
        }
        self._must = congested | ((over or behind) if waits and pace.is_under_pressure else set())
        self._may = congested | far | (behind if waits else set())

    def _count_commands(self) -> None:
        """Check that no member logs more than its credit while there is pressure."""
        truth, pace = self._run.truth, self._server.loop.pace
        first, self._seq = self._seq + 1, len(truth.frames) - 1
        if not pace.is_under_pressure:
            self._entitled = None
            return
        if self._entitled is None:
            self._entitled = set(truth.roster)
            self._spent.clear()
            return
        for seq in range(first, self._seq + 1):
            meaning = truth.meaning[seq]
            if isinstance(meaning, Sent):
                size = len(truth.frames[seq]) + 1
                self._spent[meaning.sender] = self._spent.get(meaning.sender, 0) + size
        for client in self._spent:
            if self._spent_by(client) > self._credit() + self._slack(client):
                raise Violation(f"{client} logs {self._spent[client]} bytes under pressure")

    def _check_wait(self, channel: Channel) -> None:
        """Check that a channel has a reason to wait."""
        client, blocker, pace = client_of(channel), channel.waits_for, self._server.loop.pace
        if blocker is Wait.BACKLOG and pace.is_under_pressure and not pace.is_holding:
            if MAX_OVERCHARGE * self._spent_by(client) < self._credit() and self._entitled is not None:
                raise Violation(f"{client} waits, and has logged {self._spent_by(client)} bytes")
        elif isinstance(blocker, Channel) and blocker is not channel:
            limit = min(
                rankserver.credits.MAX_UNREAD_ANSWERS,
                self._config.max_backlog // max(len(self._run.truth.roster), 1),
            )
            if client.answers * MAX_ANSWER_CHARGE < limit:
                raise Violation(f"an answer of {client} waits for {client_of(blocker)}, and it gave few")

    def _credit(self) -> int:
        """Return the credit of one member."""
        return max(
            self._config.max_backlog // 4 // max(len(self._entitled or ()), 1), rankserver.credits.MIN_CREDIT
        )

    def _spent_by(self, client: SimClient) -> int:
        """Return what was charged to the same credit as this client's commands."""
        entitled = self._entitled or set()
        if client in entitled:
            return self._spent.get(client, 0)
        return sum(size for other, size in self._spent.items() if other not in entitled)

    def _slack(self, client: SimClient) -> int:
        """Return how many bytes may exceed a credit: what each client had sent when it was used up."""
        one = 4 * (min(self._run.scenario.read_bytes, 4096) + 2 * self._config.max_line)
        newcomers = len(self._spent.keys() - (self._entitled or set()))
        return one if client in (self._entitled or ()) else one * newcomers
