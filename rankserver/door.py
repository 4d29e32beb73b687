"""Who may come in: how many strangers are here, how many connections come from one address, and which tokens.

Pure bookkeeping: it reads no socket and no clock, and closes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from rankserver.channel import Channel
from rankserver.tokens import NO_TOKEN, Holder, Tokens
from rankserver.wire import frames

LEAST_STRANGERS: Final = 64  # connections that have not joined at a time, for however few clients


def most_strangers(capacity: int) -> int:
    """Return how many connections that have not joined may be open at a time."""
    return max(LEAST_STRANGERS, capacity)


class Door:
    """The connections that have not joined, the strangers, and the addresses of all.

    Args:
        capacity: how many clients are accepted: as many may be here as strangers, or ``LEAST_STRANGERS``.
        max_per_address: connections that one address may have, 0 for any number. Unix sockets do not count.
        tokens: who may join; None for everybody.
    """

    def __init__(self, capacity: int, max_per_address: int, tokens: Tokens | None) -> None:
        self.tokens = tokens
        self.max_strangers = most_strangers(capacity)
        self.max_per_address = max_per_address
        self._waiting: dict[Channel, None] = {}  # for their HELLO to come and be accepted; oldest first
        self._refused: dict[Channel, None] = {}  # told so, and not closed yet; oldest first
        self._hosts: Counter[str] = Counter()

    def enter(self, channel: Channel) -> None:
        """Note a connection that was accepted. O(1)."""
        self._waiting[channel] = None
        self._hosts[channel.host] += 1

    def is_crowded(self, channel: Channel) -> bool:
        """Tell whether this connection is one too many from its address. O(1)."""
        return bool(channel.host) and 0 < self.max_per_address < self._hosts[channel.host]

    def one_too_many(self) -> Channel | None:
        """Return the stranger that is to be closed if there are too many, else None. O(1).

        Who was refused and is still here goes first, then who has waited longest: who speaks at once is in
        before others push it out.
        """
        if self.strangers <= self.max_strangers:
            return None
        return next(iter(self._refused or self._waiting))

    def pass_on(self, channel: Channel) -> None:
        """Note that the connection is no stranger any more, or closed at the end of this turn. O(1)."""
        self._waiting.pop(channel, None)
        self._refused.pop(channel, None)

    def refuse(self, channel: Channel) -> None:
        """Note that the connection, which has not joined, is to go. O(1)."""
        self._waiting.pop(channel, None)
        self._refused[channel] = None

    def leave(self, channel: Channel) -> None:
        """Note that the connection is closed. O(1)."""
        self.pass_on(channel)
        self._hosts[channel.host] -= 1
        if not self._hosts[channel.host]:
            del self._hosts[channel.host]

    def holder(self, hello: frames.Hello) -> Holder | str:
        """Return who says this HELLO, or what is wrong with its token. O(1)."""
        if self.tokens is None:
            return NO_TOKEN
        if hello.token is None:
            return "a token is needed"
        return self.tokens.holder(hello.token) or "the token is not accepted"

    @property
    def strangers(self) -> int:
        """How many connections are open that have not joined."""
        return len(self._waiting) + len(self._refused)
