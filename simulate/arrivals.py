"""Who connects in a run: how each client behaves and reads, what it begins with, and how it is connected."""

from __future__ import annotations

import socket
from typing import Any, Final

import rankserver.lateness
from simulate import expensive
from simulate.client import Manner, SimClient
from simulate.kernel import SimListener
from simulate.link import Link, TlsLink
from simulate.reading import AtOnce, Lumps, Never, Reading, Steadily
from simulate.scenario import World
from simulate.truth import Truth

# The manners that those of clients are drawn from.
MANNERS: Final = (Manner.PROMPT,) * 9 + (Manner.SLOW,) * 3 + (Manner.LINKED,) * 3 + tuple(Manner)
# What a client sends that does not begin with HELLO, or with a wrong one.
STRANGE_BEGINNINGS: Final = (b"CMD x", b"\xff", b"HELLO {", b"y" * 3000, b'HELLO {"name":"\\n"}')
# Seconds for which a slow link has room: more than there are between two times that its client reads while
# others wait for it.
LINK_SECONDS: Final = 1.2
# Bytes of the longest line that leave room for the rest of a HELLO.
HELLO_ROOM: Final = 120


class Arrivals:
    """The listeners of a run, and the clients that connect to them.

    Args:
        world: what surrounds the server.
        truth: what was logged so far.

    Attributes:
        listeners: where they connect.
    """

    def __init__(self, world: World, truth: Truth) -> None:
        self.listeners = [SimListener(world.rng, socket.AF_INET)]
        if world.scenario.has_unix:
            self.listeners.append(SimListener(world.rng, socket.AF_UNIX))
        self._world = world
        self._rng = world.rng
        self._scenario = world.scenario
        self._truth = truth

    @property
    def is_open(self) -> bool:
        """Whether the server still listens."""
        return not self.listeners[0].is_closed

    def connect(self, number: int) -> SimClient:
        """Return a new client, which has connected."""
        rng = self._rng
        manner = rng.choice(MANNERS)
        rank_class = rng.randrange(self._scenario.classes) if self._scenario.classes else 0
        room = rng.choice((20, 200, 2000, 100_000))
        listener = rng.choice(self.listeners)
        uses_tls = self._scenario.has_tls and listener.family == socket.AF_INET
        # Some strangers speak plain text to a server that expects TLS.
        is_lost = uses_tls and manner is Manner.STRANGE and rng.random() < 0.5
        kind = TlsLink if uses_tls and not is_lost else Link
        reading = self._reading(manner)
        if manner is Manner.LINKED:
            room = max(room, int(LINK_SECONDS * reading.rate))
        link = kind(room, reading, self._world.clock)
        client = SimClient(number, manner, rank_class, link, self._truth)
        client.understands = not is_lost
        client.expected.max_asks = self._scenario.max_asks
        client.expected.orphans_are_forgotten = self._scenario.max_orphans < 100
        client.expected.counts_late = self._scenario.collects
        listener.waiting.append(client)
        self._begin(client)
        link.push(rng.choice((1, 20, 500)))
        how = f"{type(link).__name__} over {listener.family.name}"
        self._world.trace.say(f"{client} connects, class {rank_class}, room {room}, {how}")
        return client

    def _reading(self, manner: Manner) -> Reading:
        rng = self._rng
        if manner in (Manner.LUMPY, Manner.FLOODING, Manner.ASKING):
            return Lumps(rng.choice((0.05, 0.5, 2.0, 4.0, 6.0)), rng.choice((1, 300, 5000, 50_000)))
        if manner is Manner.LINKED:
            floor = rankserver.lateness.MIN_RATE
            return Steadily(rng.choice((100, 1000, 10_000, 0.9 * floor, 1.1 * floor, 1.1 * floor)))
        if manner in (Manner.SLOW, Manner.NEVER):
            return Never()
        return AtOnce()

    def _begin(self, client: SimClient) -> None:
        """Compose what a client begins with."""
        rng = self._rng
        if client.manner is Manner.STRANGE:
            client.link.say(self._strange_beginning())
        elif client.manner is not Manner.SILENT:
            fields: dict[str, Any] = {"name": f"n{client.number}"} if rng.random() < 0.7 else {}
            if self._scenario.classes and rng.random() < 0.95:
                fields["token"] = f"token{client.rank_class}"
            client.hello(fields)

    def _strange_beginning(self) -> bytes:
        rng = self._rng
        if rng.random() < 0.5:
            return rng.choice(STRANGE_BEGINNINGS)
        size = self._scenario.config.max_line - HELLO_ROOM
        while True:
            text, is_valid = expensive.value(rng, rng.randrange(size // 2, size))
            if not is_valid:
                return b'HELLO {"a":%s}' % text.encode()
