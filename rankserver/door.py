"""The door: limits on strangers and on connections from one address, and the check of tokens.

Strangers are the connections that have not joined. This is pure bookkeeping: it reads no socket and no clock,
and closes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from rankserver.channel import Channel
from rankserver.tokens import NO_TOKEN, Holder, Tokens
from rankserver.wire import frames

# The least number of strangers that may be open at a time, even if the capacity is smaller: enough for a
# small fleet that reconnects at once.
MIN_STRANGERS: Final = 64


def max_strangers(capacity: int) -> int:
    """Return how many connections that have not joined may be open at a time."""
    return max(MIN_STRANGERS, capacity)


class Door:
    """The strangers, and how many connections come from each address.

    Args:
        capacity: the most clients that are accepted. It limits the strangers as well; see ``max_strangers``.
        max_per_address: the most connections from one address, 0 for no limit. Unix sockets do not count.
        tokens: the accepted tokens; None if clients need none.
    """

    def __init__(self, capacity: int, max_per_address: int, tokens: Tokens | None) -> None:
        self.tokens = tokens
        self.max_strangers = max_strangers(capacity)
        self.max_per_address = max_per_address
        # The strangers whose HELLO has not been accepted, oldest first.
        self._waiting: dict[Channel, None] = {}
        # The strangers that were refused and are not closed yet, oldest first.
        self._refused: dict[Channel, None] = {}
        self._hosts: Counter[str] = Counter()

    def enter(self, channel: Channel) -> None:
        """Add a connection that was accepted. O(1)."""
        self._waiting[channel] = None
        self._hosts[channel.host] += 1

    def is_crowded(self, channel: Channel) -> bool:
        """Tell whether this connection is one too many from its address. O(1)."""
        if not self.max_per_address:
            return False
        return bool(channel.host) and self._hosts[channel.host] > self.max_per_address

    def excess(self) -> Channel | None:
        """Return the stranger to close if there are too many, else None. O(1).

        The oldest refused one comes first, then the one that has waited longest. So a client that says HELLO
        at once joins before others can push it out.
        """
        if self.strangers <= self.max_strangers:
            return None
        return next(iter(self._refused or self._waiting))

    def forget(self, channel: Channel) -> None:
        """Stop counting a stranger, which has joined or is closed at the end of this turn. O(1)."""
        self._waiting.pop(channel, None)
        self._refused.pop(channel, None)

    def refuse(self, channel: Channel) -> None:
        """Note that a stranger was refused. O(1)."""
        self._waiting.pop(channel, None)
        self._refused[channel] = None

    def leave(self, channel: Channel) -> None:
        """Remove a connection that is closed. O(1)."""
        self.forget(channel)
        host = channel.host
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]

    def holder(self, hello: frames.Hello) -> Holder | str:
        """Return the holder of the HELLO's token, or the reason why the HELLO is refused. O(1)."""
        if self.tokens is None:
            return NO_TOKEN
        if hello.token is None:
            return "a token is needed"
        return self.tokens.holder(hello.token) or "the token is not accepted"

    @property
    def strangers(self) -> int:
        """How many strangers there are, refused ones included."""
        return len(self._waiting) + len(self._refused)
