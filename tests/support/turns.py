"""A server in the test's own thread: the test tells it when to take a turn, and sets its clock.

Its clients are socket pairs, so bytes sent on one side are at once there on the other: nothing waits, and the
test decides what each turn finds.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from rankserver.channel import Channel, ChannelState
from rankserver.config import Config
from rankserver.server import Server
from rankserver.tokens import Holder, Tokens
from rankserver.wire import protocol
from tests.support.tls_peer import TlsSocket

READ_SIZE: Final = 1 << 20
# The initial time of a test's clock, which is far from any deadline.
START: Final = 1000.0


class ManualSelector(selectors.DefaultSelector):
    """A selector that never waits, and its clock.

    Attributes:
        now: the time that the clock shows.
        stopped: seconds that the next select lasts although nothing comes, as if the process were stopped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.stopped = 0.0

    def clock(self) -> float:
        return self.now

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        del timeout
        self.now += self.stopped
        self.stopped = 0.0
        return super().select(0)


class SteppedClient:
    """One end of a connection to the server; the other is ``channel``."""

    def __init__(self, sock: socket.socket, channel: Channel) -> None:
        self.sock = sock
        self.channel = channel

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def received(self, size: int = READ_SIZE) -> bytes:
        """Return what has come since the last call, at most ``size`` bytes, without waiting."""
        with contextlib.suppress(BlockingIOError):
            return self.sock.recv(size)
        return b""

    def state(self) -> ChannelState:
        """Return the current state of the connection."""
        return self.channel.state


class SteppedServer:
    """A server and its clients; a context manager, which checks the core's invariants at the end.

    Args:
        capacity: the number of clients that it accepts.
        tokens: the accepted tokens; None if clients need none.
        make: a function that makes the server; by default it makes a plain one.
        options: further settings.
    """

    def __init__(
        self,
        capacity: int = 16,
        tokens: Tokens | None = None,
        make: Callable[..., Server] = Server,
        **options: Any,
    ) -> None:
        self.selector = ManualSelector()
        config = Config(capacity, **options)
        self.server = make(config, tokens, selector=self.selector, clock=self.selector.clock)
        self.loop = self.server.loop
        self.state = self.server.state
        self.log = self.server.state.log
        self.clients: list[SteppedClient] = []

    def __enter__(self) -> SteppedServer:
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            self.log.check()
        finally:
            self.close()

    def close(self) -> None:
        self.server.close()
        for client in self.clients:
            client.sock.close()

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.loop.turn()

    def until(self, has_happened: Callable[[], object]) -> None:
        """Take turns until ``has_happened()`` is true, which must be within a few turns."""
        for _ in range(1000):
            if has_happened():
                return
            self.turn()
        raise AssertionError("it does not happen")

    def wait(self, seconds: float, step: float = 0.1) -> None:
        """Let time go by, with a turn after each step; a longer step would be taken for a stop."""
        end = self.selector.now + seconds
        while self.selector.now < end:
            self.selector.now = min(self.selector.now + step, end)
            self.turn()

    def connect(self, peer: str = "unix:", sent: bytes = b"") -> SteppedClient:
        """Connect a client that has sent something before it is accepted, if anything."""
        ours, theirs = socket.socketpair()
        theirs.sendall(sent)
        ours.setblocking(False)
        theirs.setblocking(False)
        fd = ours.fileno()
        self.server.on_connection(ours, peer)
        client = SteppedClient(theirs, self.loop.channels[fd])
        self.clients.append(client)
        return client

    def join(self, hello: bytes = b"HELLO\n") -> SteppedClient:
        """Connect a client, and take turns until it has joined."""
        client = self.connect()
        client.send(hello)
        self.until(lambda: client.state() is ChannelState.JOINED)
        return client


class SteppedTlsClient:
    """A TLS client in the server's thread, whose handshake is done."""

    def __init__(self, stepped: SteppedServer, context: ssl.SSLContext) -> None:
        client = stepped.connect("127.0.0.1:4711")
        self.channel: Channel = client.channel
        self.sock = TlsSocket(client.sock, context)
        while not self.sock._shakes_hands():
            stepped.turn()
            with contextlib.suppress(BlockingIOError):
                self.sock._incoming.write(self.sock.plain.recv(READ_SIZE))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def received(self) -> bytes:
        received = b""
        with contextlib.suppress(BlockingIOError):
            while more := self.sock.recv(READ_SIZE):
                received += more
        return received

    def state(self) -> ChannelState:
        """Return the current state of the connection."""
        return self.channel.state


def tokens_by_class(*classes: int) -> Tokens:
    """Return a token for each class; ``of-3`` is the token of class 3."""
    return Tokens({sha256(b"of-%d" % number).digest(): Holder(f"t{number}", number) for number in classes})


def hello(rank_class: int) -> bytes:
    """Return the HELLO with the token of a class."""
    return protocol.hello(token=f"of-{rank_class}")
