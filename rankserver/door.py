"""The door: how many strangers may be here, how many connections come from an address, whose tokens count.

Pure bookkeeping: it reads no socket and no clock, and closes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from rankserver.channel import Channel
from rankserver.tokens import NO_TOKEN, Holder, Tokens
from rankserver.wire import frames

# Connections that have not joined may be open at a time, however few clients are accepted: enough for a small
# fleet that comes back at once.
MIN_STRANGERS: Final = 64


def max_strangers(capacity: int) -> int:
    """Return how many connections that have not joined may be open at a time."""
    return max(MIN_STRANGERS, capacity)


class Door:
    """The connections that have not joined, called strangers, and the addresses of all.

    Args:
        capacity: how many clients are accepted; the same number of strangers may be here, or
            ``MIN_STRANGERS``.
        max_per_address: connections that one address may have, 0 for any number. Unix sockets do not count.
        tokens: who may join; None for everybody.
    """

    def __init__(self, capacity: int, max_per_address: int, tokens: Tokens | None) -> None:
        self.tokens = tokens
        self.max_strangers = max_strangers(capacity)
        self.max_per_address = max_per_address
        # Those whose HELLO has not been accepted, oldest first.
        self._waiting: dict[Channel, None] = {}
        # Those that were told to go and are not closed yet, oldest first.
        self._refused: dict[Channel, None] = {}
        self._hosts: Counter[str] = Counter()

    def enter(self, channel: Channel) -> None:
        """Note a connection that was accepted. O(1)."""
        self._waiting[channel] = None
        self._hosts[channel.host] += 1

    def is_crowded(self, channel: Channel) -> bool:
        """Tell whether this connection is one too many from its address. O(1)."""
        return bool(channel.host) and 0 < self.max_per_address < self._hosts[channel.host]

    def excess(self) -> Channel | None:
        """Return the stranger that must go if there are too many, else None. O(1).

        Those that were refused and are still here go first, then the one that has waited longest: a client
        that speaks at once is in before others push it out.
        """
        if self.strangers <= self.max_strangers:
            return None
        return next(iter(self._refused or self._waiting))

    def forget(self, channel: Channel) -> None:
        """Note that the connection is no stranger any more, or closed at the end of this turn. O(1)."""
        self._waiting.pop(channel, None)
        self._refused.pop(channel, None)

    def refuse(self, channel: Channel) -> None:
        """Note that the connection, which has not joined, must go. O(1)."""
        self._waiting.pop(channel, None)
        self._refused[channel] = None

    def leave(self, channel: Channel) -> None:
        """Note that the connection is closed. O(1)."""
        self.forget(channel)
        self._hosts[channel.host] -= 1
        if not self._hosts[channel.host]:
            del self._hosts[channel.host]

    def holder(self, hello: frames.Hello) -> Holder | str:
        """Return whose token this HELLO has, or what is wrong with it. O(1)."""
        if self.tokens is None:
            return NO_TOKEN
        if hello.token is None:
            return "a token is needed"
        return self.tokens.holder(hello.token) or "the token is not accepted"

    @property
    def strangers(self) -> int:
        """How many connections are open that have not joined."""
        return len(self._waiting) + len(self._refused)
