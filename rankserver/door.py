"""The door: limits on strangers and on connections from one address, and the check of tokens.

Strangers are the connections that have not joined. When there are too many, one must be closed, and the
choice decides what a flood of connections can do to clients that arrive meanwhile:

 - Strangers that were refused go first, since nothing more comes of them.
 - Those that have sent nothing yet go before those that have begun: a flood that only connects pushes out no
   handshake in progress. But a quarter of the places is theirs, because every client has sent nothing at
   first, and a flood of begun handshakes must not keep others from beginning theirs.
 - Of either kind, those from the most crowded address go first: a flood from one address costs the others
   nothing. Of these, the oldest goes first.

This is pure bookkeeping: it reads no socket and no clock, and closes nothing. The caller of ``excess`` must
tell it if a silent stranger has sent something meanwhile. A flood calls these methods, so each of them is
O(1), except ``everybody``.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from typing import Final

from rankserver.channel import Channel
from rankserver.tokens import NO_TOKEN, Holder, Tokens
from rankserver.wire import frames

# The least number of strangers that may be open at a time, even if the capacity is smaller: enough for a
# small fleet that reconnects at once.
MIN_STRANGERS: Final = 64
# One of this many places for strangers is kept for those that have sent nothing. That is enough for newcomers
# to begin, while most places are for handshakes in progress.
SILENT_SHARE: Final = 4
# The least number of connections that one address may have by default, even if the capacity is smaller: many
# clients may share one address (NAT), and each may be connected twice while it reconnects.
MIN_PER_ADDRESS: Final = 1024


def max_strangers(capacity: int) -> int:
    """Return how many connections that have not joined may be open at a time."""
    return max(MIN_STRANGERS, capacity)


class AddressCrowd:
    """Connections by address; finds the oldest one from the most crowded address. Every method is O(1)."""

    def __init__(self) -> None:
        # The connections of each address, oldest first.
        self._channels: dict[str, OrderedDict[Channel, None]] = {}
        # The addresses that have each number of connections.
        self._hosts: defaultdict[int, OrderedDict[str, None]] = defaultdict(OrderedDict)
        # How many connections the most crowded address has, and how many there are in all.
        self._most = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Channel]:
        """Yield all connections. O(n)."""
        return (channel for channels in self._channels.values() for channel in channels)

    def __contains__(self, channel: Channel) -> bool:
        return channel in self._channels.get(channel.host, ())

    def add(self, channel: Channel) -> None:
        """Add a connection that is not in it."""
        host = channel.host
        channels = self._channels.setdefault(host, OrderedDict())
        channels[channel] = None
        self._count += 1
        self._move(host, len(channels) - 1, len(channels))

    def remove(self, channel: Channel) -> bool:
        """Remove a connection; return whether it was in it."""
        if channel not in self:
            return False
        host = channel.host
        channels = self._channels[host]
        del channels[channel]
        if not channels:
            del self._channels[host]
        self._count -= 1
        self._move(host, len(channels) + 1, len(channels))
        return True

    def first(self) -> Channel:
        """Return the oldest connection from the most crowded address.

        There must be one. Of addresses that are equally crowded, the first that became so counts.
        """
        host = next(iter(self._hosts[self._most]))
        return next(iter(self._channels[host]))

    def _move(self, host: str, before: int, after: int) -> None:
        """Note that an address has one connection more or less than before."""
        if before:
            hosts = self._hosts[before]
            del hosts[host]
            if not hosts:
                del self._hosts[before]
        if after:
            self._hosts[after][host] = None
        if after > self._most or self._most not in self._hosts:
            self._most = after


class Door:
    """The strangers, and how many connections come from each address.

    Args:
        capacity: the most clients that are accepted. It limits the strangers as well; see ``max_strangers``.
        max_per_address: the most connections from one address; 0 for no limit, None for the default, which
            is the capacity or more. Unix sockets do not count.
        tokens: the accepted tokens; None if clients need none.

    Attributes:
        strangers: how many strangers there are, refused ones included. Only methods change it.
    """

    def __init__(self, capacity: int, max_per_address: int | None, tokens: Tokens | None) -> None:
        self.tokens = tokens
        self.max_strangers = max_strangers(capacity)
        self.max_per_address = max(MIN_PER_ADDRESS, capacity) if max_per_address is None else max_per_address
        # The strangers whose HELLO was not accepted: those that have sent nothing, and those that have begun.
        self._silent = AddressCrowd()
        self._begun = AddressCrowd()
        # The strangers that were refused and are not closed yet, oldest first.
        self._refused: OrderedDict[Channel, None] = OrderedDict()
        # Kept as a number, because each turn asks for it.
        self.strangers = 0
        # How many connections there are from each address, members included.
        self._hosts: Counter[str] = Counter()

    def enter(self, channel: Channel) -> None:
        """Add a connection that was accepted."""
        self._silent.add(channel)
        self.strangers += 1
        self._hosts[channel.host] += 1

    def is_silent(self, channel: Channel) -> bool:
        """Tell whether this is a stranger that was not refused, and that is not known to have begun."""
        return channel in self._silent

    def begin(self, channel: Channel) -> None:
        """Note that a stranger has sent what a client sends first. Does nothing for other connections."""
        if self._silent.remove(channel):
            self._begun.add(channel)

    def is_crowded(self, channel: Channel) -> bool:
        """Tell whether this connection is one too many from its address."""
        if not self.max_per_address:
            return False
        return bool(channel.host) and self._hosts[channel.host] > self.max_per_address

    def excess(self) -> Channel | None:
        """Return the stranger to close if there are too many, else None. The module's docstring says which.

        If it ``is_silent`` and has sent something after all, call ``begin`` with it, and ask again.
        """
        if self.strangers <= self.max_strangers:
            return None
        if self._refused:
            return next(iter(self._refused))
        is_silent = len(self._silent) > self.max_strangers // SILENT_SHARE
        return (self._silent if is_silent else self._begun).first()

    def forget(self, channel: Channel) -> None:
        """Stop counting a stranger, which has joined or is closed at the end of this turn."""
        was_waiting = self._silent.remove(channel) or self._begun.remove(channel)
        if was_waiting or channel in self._refused:
            self._refused.pop(channel, None)
            self.strangers -= 1

    def refuse(self, channel: Channel) -> None:
        """Note that a stranger was refused."""
        self.forget(channel)
        self._refused[channel] = None
        self.strangers += 1

    def leave(self, channel: Channel) -> None:
        """Remove a connection that is closed."""
        self.forget(channel)
        host = channel.host
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]

    def holder(self, hello: frames.Hello) -> Holder | str:
        """Return the holder of the HELLO's token, or the reason why the HELLO is refused."""
        if self.tokens is None:
            return NO_TOKEN
        if hello.token is None:
            return "a token is needed"
        return self.tokens.holder(hello.token) or "the token is not accepted"

    def everybody(self) -> list[Channel]:
        """Return all strangers. O(n)."""
        return [*self._refused, *self._silent, *self._begun]
