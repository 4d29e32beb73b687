"""Credits: how much each client may still add to what others have not read.

Each bound is divided among the members, so that a member which has used up its share waits, and the others do
not notice. This is pure bookkeeping: nothing here reads a socket or a clock. ``pace`` decides when the bounds
apply.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from rankserver.channel import Channel

# The least number of bytes that a member may log while there is pressure, however many members share the
# backlog: enough for one line of the default maximum, or for thousands of short commands.
MIN_CREDIT: Final = 64 * 1024
# The most bytes that a member may log if it joined while there was pressure: hundreds of short commands. This
# is little, because a client could reconnect to get it again.
MAX_NEWCOMER_CREDIT: Final = 16 * 1024
# All newcomers together may log at most this part of what the other members may, or the credit of one member
# if that is more.
NEWCOMERS_SHARE: Final = 4
# The most bytes of a member's answers that are queued for congested askers. An asker may have a thousand open
# asks, and short answers to all of them take a quarter of this.
MAX_UNREAD_ANSWERS: Final = 256 * 1024


class Credits:
    """What each member may log while there is pressure.

    Members that join while there is pressure have a small credit each, and a bound together: otherwise a
    client could reconnect to get more.

    Args:
        total: the bytes that are divided among the members.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._each = MIN_CREDIT
        # What each member has logged since the pressure began.
        self._spent: Counter[Channel] = Counter()
        # Those that have joined since, and what all of them have logged, with those that have departed.
        self._newcomers: set[Channel] = set()
        self._spent_by_newcomers = 0

    def begin(self, members: int) -> None:
        """Give each of the members its credit. O(what was spent before)."""
        self._each = max(self._total // max(members, 1), MIN_CREDIT)
        self._spent.clear()
        self._newcomers.clear()
        self._spent_by_newcomers = 0

    def admit(self, channel: Channel) -> None:
        """Note that a member has joined since the pressure began. O(1)."""
        self._newcomers.add(channel)

    def charge(self, channel: Channel, size: int) -> None:
        """Note that a member has logged ``size`` bytes. O(1)."""
        self._spent[channel] += size
        if channel in self._newcomers:
            self._spent_by_newcomers += size

    def left(self, channel: Channel) -> int:
        """Return how many bytes a member may still log; 0 or less if it must wait. O(1)."""
        if channel not in self._newcomers:
            return self._each - self._spent[channel]
        together = max(self._each, self._total // NEWCOMERS_SHARE) - self._spent_by_newcomers
        return min(MAX_NEWCOMER_CREDIT - self._spent[channel], together)

    def forget(self, channel: Channel) -> None:
        """Forget a member that departs. O(1)."""
        self._spent.pop(channel, None)
        self._newcomers.discard(channel)


class UnreadAnswers:
    """The answers that are queued for congested askers, charged to those who gave them.

    Args:
        total: the most bytes of them in all.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        # By asker and answerer, and by answerer alone.
        self._queued: dict[Channel, Counter[Channel]] = {}
        self._charged: Counter[Channel] = Counter()
        self._relieved: set[Channel] = set()

    def admit(self, answerer: Channel, asker: Channel, size: int, members: int) -> bool:
        """Charge an answer of ``size`` bytes to its answerer, or return False if it must wait. O(1)."""
        if self._charged[answerer] + size > min(MAX_UNREAD_ANSWERS, self._total // max(members, 1)):
            return False
        self._queued.setdefault(asker, Counter())[answerer] += size
        self._charged[answerer] += size
        return True

    def settle(self, asker: Channel) -> None:
        """Note that an asker is no longer congested, or departs. O(those who answered it)."""
        for answerer, size in self._queued.pop(asker, Counter()).items():
            self._charged[answerer] -= size
            if not self._charged[answerer]:
                del self._charged[answerer]
            self._relieved.add(answerer)

    def forget(self, answerer: Channel) -> None:
        """Forget an answerer that departs. O(congested askers)."""
        self._relieved.discard(answerer)
        if self._charged.pop(answerer, 0):
            for queued in self._queued.values():
                queued.pop(answerer, None)

    def take_relieved(self) -> set[Channel]:
        """Return the answerers some of whose charges have gone since the last call."""
        relieved, self._relieved = self._relieved, set()
        return relieved
