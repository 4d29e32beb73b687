"""A stepped server whose clients read and send as much as a test tells them to, and never wait."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Final

from rankserver.channel import ChannelState
from rankserver.inputs import Input
from rankserver.pace import MAX_PRIVATE_BYTES
from tests.support.tls_peer import TlsSocket
from tests.support.turns import READ_SIZE, SteppedClient, SteppedServer

# Seconds between two steps.
STEP: Final = 0.1
# The turns that the server takes in a step: one to read, one to resume those that waited, and one for what
# that has freed.
TURNS: Final = 3
# The size of a socket's buffer, so that few bytes are on their way.
SOCKET_BYTES: Final = 8 * 1024
# The most bytes by which the log may exceed its bound, because what was read at once is logged at once.
TURN_SLACK: Final = 1024 * 1024


class CollectingOrder:
    """An order whose inputs count later: when they are asked for."""

    def __init__(self, apply: Callable[[Input], None]) -> None:
        self.collects = True
        self.apply = apply
        self._proposed: list[Input] = []
        self.propose = self._proposed.append

    def ready(self) -> Iterable[Input]:
        while self._proposed:
            yield self._proposed.pop(0)


class FloodPeer:
    """A client that sends what its socket takes, and reads as much as it is told to.

    Attributes:
        channel: the server's side.
        received: what it has received, decrypted.
    """

    def __init__(self, client: SteppedClient, context: ssl.SSLContext | None) -> None:
        self.channel = client.channel
        self.received = bytearray()
        self._sock = client.sock
        self._tls = TlsSocket(client.sock, context) if context else None
        self._outbox = b""

    def shakes_hands(self) -> bool:
        """Continue the TLS handshake, if there is one; return whether it is over."""
        if self._tls is None or self._tls._shakes_hands():
            return True
        with contextlib.suppress(BlockingIOError):
            self._tls._incoming.write(self._sock.recv(READ_SIZE))
        return False

    def send(self, data: bytes) -> None:
        """Send what the socket takes now; ``push`` sends the rest."""
        self._outbox += self._tls.encrypted(data) if self._tls else data
        self.push()

    def push(self) -> None:
        with contextlib.suppress(OSError):
            while self._outbox:
                self._outbox = self._outbox[self._sock.send(self._outbox) :]

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken."""
        return len(self._outbox)

    def read(self, size: int = READ_SIZE) -> int:
        """Read at most ``size`` bytes from the socket; return how many there were."""
        data = b""
        with contextlib.suppress(OSError):
            while len(data) < size and (more := self._sock.recv(size - len(data))):
                data += more
        self.received += self._decrypted(self._tls, data) if self._tls else data
        return len(data)

    @property
    def is_gone(self) -> bool:
        return self.channel.is_going

    def _decrypted(self, over: TlsSocket, data: bytes) -> bytes:
        over._incoming.write(data)
        over._received = b""
        with contextlib.suppress(OSError):
            over._decrypt()
        return over._received


class FloodScene:
    """A server and its peers, of which the highest rank came first.

    Args:
        stepped: the server.
        max_backlog: its limit.
        context: for clients with TLS; None for plain ones.

    Attributes:
        pace: the server's.
        logged: how many bytes were logged since the first step.
    """

    def __init__(
        self, stepped: SteppedServer, max_backlog: int, context: ssl.SSLContext | None = None
    ) -> None:
        self.stepped = stepped
        self.pace = stepped.loop.pace
        self.logged = 0
        self._max_backlog = max_backlog
        self._context = context
        self._peers: list[FloodPeer] = []
        self._steps = 0
        self._log = stepped.log.retain()

    @property
    def seconds(self) -> float:
        """Seconds since the first step."""
        return self._steps * STEP

    def join(self, count: int = 1) -> list[FloodPeer]:
        return [self._join() for _ in range(count)]

    def _join(self) -> FloodPeer:
        client = self.stepped.connect("127.0.0.1:4711" if self._context else "unix:")
        client.channel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        peer = FloodPeer(client, self._context)
        while not peer.shakes_hands():
            self.stepped.turn()
        peer.send(b"HELLO\n")
        self.stepped.until(lambda: client.state() is ChannelState.JOINED)
        self._peers.append(peer)
        return peer

    def let_read(self, peer: FloodPeer, size: int) -> None:
        """Let a client read this many bytes, or all that there are, in turns that take no time."""
        while size and (count := peer.read(min(size, SOCKET_BYTES))):
            size -= count
            self.stepped.turn()

    def step(self, *prompt: FloodPeer) -> None:
        """Let time go by and the server take its turns; then check what it keeps.

        Each ``prompt`` member reads everything and gives a command, which must be logged in this step.
        """
        self._steps += 1
        text = b"CMD step %d of %%d\n" % self._steps
        for number, peer in enumerate(prompt):
            peer.send(text % number)
        self.stepped.selector.now += STEP
        for _ in range(TURNS):
            for peer in self._peers:
                peer.push()
            self.stepped.turn()
            for peer in prompt:
                peer.read()
        logged = self._read_log()
        self.logged += len(logged)
        for number, peer in enumerate(prompt):
            assert (text % number)[3:] in logged, (self._steps, peer.channel.waits_for)
        self.check_memory()

    def _read_log(self) -> bytes:
        logged = bytearray()
        while pieces := self._log.peek():
            before = len(logged)
            for piece in pieces:
                logged += piece
            self._log.advance(len(logged) - before)
        return bytes(logged)

    def check_memory(self) -> None:
        assert self.stepped.log.held <= self._max_backlog + TURN_SLACK
        queued = [channel.cursor.queued() for channel in self.stepped.loop.channels.values()]
        assert sum(queued) <= len(queued) * (MAX_PRIVATE_BYTES + 1024) + self._max_backlog
