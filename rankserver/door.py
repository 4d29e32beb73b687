"""Who may come in: how many wait to say HELLO, how many come from one address, and with which token.

Pure bookkeeping: it reads no socket and no clock, and closes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from rankserver import frames
from rankserver.channel import Channel
from rankserver.tokens import Holder, Tokens

LEAST_WAITING: Final = 64  # connections that may shake hands at a time, for however few clients
NO_TOKEN: Final = Holder("", 0)


class Door:
    """The connections that have not joined, and the addresses of all.

    Args:
        capacity: how many clients are accepted: as many may shake hands at a time, or ``LEAST_WAITING``.
        max_per_address: connections that one address may have, 0 for any number. Unix sockets do not count.
        tokens: who may join; None for everybody.
    """

    def __init__(self, capacity: int, max_per_address: int, tokens: Tokens | None) -> None:
        self.tokens = tokens
        self.max_waiting = max(LEAST_WAITING, capacity)
        self.max_per_address = max_per_address
        self._waiting: dict[Channel, None] = {}  # oldest first
        self._hosts: Counter[str] = Counter()

    def enter(self, channel: Channel) -> None:
        """Note a connection that was accepted. O(1)."""
        self._waiting[channel] = None
        self._hosts[channel.host] += 1

    def is_crowded(self, channel: Channel) -> bool:
        """Tell whether this connection is one too many from its address. O(1)."""
        return bool(channel.host) and 0 < self.max_per_address < self._hosts[channel.host]

    def one_too_many(self) -> Channel | None:
        """Return the connection that has waited longest if too many wait, else None. O(1).

        Who speaks at once is in before others push it out; who holds a place and says nothing goes first.
        """
        return next(iter(self._waiting)) if len(self._waiting) > self.max_waiting else None

    def pass_on(self, channel: Channel) -> None:
        """Note that the connection waits no more: it has joined, or goes. Again does no harm. O(1)."""
        self._waiting.pop(channel, None)

    def leave(self, channel: Channel) -> None:
        """Note that the connection is closed. O(1)."""
        self.pass_on(channel)
        self._hosts[channel.host] -= 1
        if not self._hosts[channel.host]:
            del self._hosts[channel.host]

    def holder(self, hello: frames.Hello) -> Holder | str:
        """Return who says this HELLO, or what is wrong with its token. O(tokens)."""
        if self.tokens is None:
            return NO_TOKEN
        if hello.token is None:
            return "a token is needed"
        return self.tokens.holder(hello.token) or "the token is not accepted"

    @property
    def waiting(self) -> int:
        """How many connections have not joined."""
        return len(self._waiting)
