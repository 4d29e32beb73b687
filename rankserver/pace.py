"""Pace: which clients must wait for which, so that memory stays bounded and nothing is dropped.

Theory of operation. A client that sends faster than others read must be slowed down, and the only way that
loses nothing is to stop reading from it: TCP then slows it down. The client that causes the delay should bear
it, so what each client adds to a queue is counted while that queue is long. Two things can pile up:

- the *log*. While some client is more than half of ``max_backlog`` bytes behind, there is *pressure*: each
  member has a credit, and one that has logged more than that since the pressure began waits
  (``Wait.BACKLOG``) until it ends. So a member that floods is slowed down to what others read, and one that
  sends little does not notice. All credits together are a quarter of ``max_backlog``, or more if there are
  very many members. The last quarter is for what a turn adds before the pressure is noticed, and for what one
  read logs beyond a credit. If some client is more than ``max_backlog`` behind nevertheless, all commands
  wait (*hold*). Answers, heartbeats, joins and leaves continue, because they let clients catch up.
- the *private frames* of one client, which is *congested* while more than ``MAX_PRIVATE_BYTES`` of them are
  queued. Its own lines then wait, because they may add more. Answers to it do not wait, because that would
  also delay everything that the answerer sent after them: they are queued, and charged to the answerer. Only
  an answerer with many bytes queued for congested askers waits with its next answer to one of them.

Lines wait before anything is proposed; an input that was proposed never waits. All conditions are evaluated
at the end of each turn, from what is queued then. ``credits`` counts what each client has added, and
``lateness`` drops clients that make others wait because they take too little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rankserver.channel import Blocker, Channel, Wait
from rankserver.clist import Log
from rankserver.credits import Credits, UnreadAnswers
from rankserver.lateness import LateClients

# The most bytes of private frames that are queued for one client before its own lines wait. A mebibyte holds
# the answers of ten thousand clients to one ASK, and is little beside what the systems between the two
# buffer.
MAX_PRIVATE_BYTES: Final = 1024 * 1024
# A client that is more than this many times ``max_backlog`` behind is late, however much it takes. Joins and
# leaves do not wait, so without this a crowd that comes and goes could make the log grow without bound.
MAX_EXCESS: Final = 2


class Pace:
    """The channels whose next line waits for other channels, and the channels that they wait for.

    Args:
        log: the shared log.
        channels: all channels, by descriptor.
        max_backlog: bytes of the log that may be kept for a client before all commands wait.
        late: drops channels that make others wait for too long.

    Attributes:
        pressure_bytes: bytes of the log that may be kept for a client before there is pressure.
        is_under_pressure: members have limited credit, because a client is that far behind.
        is_holding: all commands wait. There is pressure as well.
        congested: the channels with too many private frames queued. Only methods change it.
        waiting: the channels whose next line waits, in the order in which they began to wait. Only methods
            change it. ``Channel.waits_for`` says what each waits for.
    """

    def __init__(
        self, log: Log, channels: Mapping[int, Channel], max_backlog: int, late: LateClients
    ) -> None:
        self.pressure_bytes = max_backlog // 2
        self.is_under_pressure = False
        self.is_holding = False
        self.congested: dict[Channel, None] = {}
        self.waiting: dict[Channel, None] = {}
        self._max_backlog = max_backlog
        self._log = log
        self._channels = channels
        self._late = late
        self._credits = Credits(max_backlog // 4)
        self._answers = UnreadAnswers(max_backlog)

    # --- while lines are handled ---

    def may_log(self, channel: Channel) -> bool:
        """Tell whether a member's commands may be logged now. O(1)."""
        return not self.is_under_pressure or self.credit(channel) > 0

    def credit(self, channel: Channel) -> int:
        """Return how many bytes a member may log before it must wait, under pressure. O(1)."""
        return 0 if self.is_holding else self._credits.left(channel)

    def charge(self, channel: Channel, size: int) -> None:
        """Note that a member has logged ``size`` bytes under pressure. O(1)."""
        self._credits.charge(channel, size)

    def is_congested(self, channel: Channel) -> bool:
        """Tell whether too much is queued for this client alone. O(1)."""
        return channel in self.congested

    def mark_congested(self, channel: Channel) -> None:
        """Note that more than ``MAX_PRIVATE_BYTES`` are queued for the channel of a member. O(1)."""
        self.congested[channel] = None

    def may_answer(self, answerer: Channel, asker: Channel, size: int) -> bool:
        """Tell whether an answer of ``size`` bytes may be queued for a congested asker, and charge it."""
        return self._answers.admit(answerer, asker, size, self._log.count)

    def wait(self, channel: Channel, blocker: Blocker) -> None:
        """Let the channel's next line wait until ``update`` returns it. O(1)."""
        channel.waits_for = blocker
        self.waiting[channel] = None

    # --- the life of a channel ---

    def admit(self, channel: Channel) -> None:
        """Note that a channel has become that of a member. O(1)."""
        if self.is_under_pressure:
            self._credits.admit(channel)

    def forget(self, channel: Channel) -> None:
        """Forget a channel that departs: it neither waits nor is congested. O(congested channels)."""
        channel.waits_for = None
        self.waiting.pop(channel, None)
        self.congested.pop(channel, None)
        self._answers.settle(channel)
        self._answers.forget(channel)
        self._credits.forget(channel)
        self._late.stop(channel)

    def close(self, channel: Channel) -> None:
        """Forget a channel that is closed: until then, others may wait for what it is still sent. O(1)."""
        self._late.forget(channel)

    # --- at the end of a turn ---

    def update(self, now: float) -> list[Channel]:
        """Decide which channels must wait from now on. O(1) if none must or had to, else O(clients).

        Returns:
            The channels that need not wait any more, in the order in which they began to wait.
        """
        is_late = self._log.held > self.pressure_bytes
        if not (is_late or self.is_under_pressure or self.congested or self.waiting):
            return []
        was_under_pressure = self.is_under_pressure
        self.is_under_pressure = bool(self._behind(self.pressure_bytes))
        self.is_holding = self.is_under_pressure and bool(self._behind(self._max_backlog))
        if self.is_under_pressure and not was_under_pressure:
            self._credits.begin(self._log.count)
        for channel in [one for one in self.congested if one.cursor.queued() <= MAX_PRIVATE_BYTES]:
            del self.congested[channel]
            self._answers.settle(channel)
        released = self._release()
        self._late.update(self._awaited(), now)
        return released

    def _behind(self, size: int) -> list[Channel]:
        """Return the channels for which more than ``size`` bytes of the log are kept."""
        if self._log.held <= size:
            return []
        return [self._channels[fd] for fd in self._log.behind(size)]

    def _release(self) -> list[Channel]:
        relieved = self._answers.take_relieved()
        released = [
            channel for channel in self.waiting if channel in relieved or not self._must_wait(channel)
        ]
        for channel in released:
            del self.waiting[channel]
            channel.waits_for = None
        return released

    def _must_wait(self, channel: Channel) -> bool:
        blocker = channel.waits_for
        return not self.may_log(channel) if blocker is Wait.BACKLOG else blocker in self.congested

    def _awaited(self) -> dict[Channel, bool]:
        """Return the channels that make others wait, each with whether what it takes excuses it."""
        awaited = dict.fromkeys(self.congested, True)
        waiting = [channel for channel in self.waiting if channel.waits_for is Wait.BACKLOG]
        if waiting:
            is_held_alone = all(self._credits.left(channel) > 0 for channel in waiting)
            size = self._max_backlog if is_held_alone else self.pressure_bytes
            awaited.update(dict.fromkeys(self._behind(size), True))
        awaited.update(dict.fromkeys(self._behind(MAX_EXCESS * self._max_backlog), False))
        return awaited
