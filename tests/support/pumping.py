"""Clients that send and read only while a test pumps them, so that the test decides which are slow.

``pump`` does not rely on time to see that all wait: it goes on until no client can move and the server
sleeps.
"""

from __future__ import annotations

import selectors
import time
from typing import Final

from tests.support.rawclient import READ_SIZE, RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

# Seconds without any movement: longer than TCP delays an acknowledgement or a probe of a full window.
QUIET: Final = 0.3


class PumpedClient:
    """A client that sends and reads as much as it can when it is pumped.

    Args:
        client: the client, which has joined.
        data: the bytes that it sends.
        reads: the number of bytes that it is willing to read; tests add to it.
    """

    def __init__(self, client: RawClient, data: bytes = b"", reads: int = 1 << 40) -> None:
        self.client = client
        self.sock = client.sock
        self.to_send = memoryview(data)
        self.reads = reads
        self.pieces: list[bytes] = []
        self.ended = False

    @property
    def received(self) -> bytes:
        self.pieces = [b"".join(self.pieces)]
        return self.pieces[0]

    @property
    def interest(self) -> int:
        if self.ended:
            return 0
        return selectors.EVENT_READ * (self.reads > 0) | selectors.EVENT_WRITE * bool(self.to_send)

    def move(self, events: int) -> None:
        self.sock.setblocking(False)
        try:
            if events & selectors.EVENT_READ:
                data = self.sock.recv(min(self.reads, READ_SIZE))
                self.reads -= len(data)
                self.pieces.append(data)
                self.ended = not data
            if events & selectors.EVENT_WRITE:
                self.to_send = self.to_send[self.sock.send(self.to_send) :]
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        finally:
            self.sock.settimeout(BOUND)


def move(peers: tuple[PumpedClient, ...], seconds: float) -> bool:
    """Let each of these send and read once when any can; return whether one could in ``seconds``."""
    with selectors.DefaultSelector() as selector:
        for peer in peers:
            if peer.interest:
                selector.register(peer.sock, peer.interest, peer)
        ready = selector.select(seconds) if selector.get_map() else []
    for key, events in ready:
        key.data.move(events)
    return bool(ready)


def pump(server: ServerProcess, *peers: PumpedClient, quiet: float = QUIET) -> None:
    """Let these send and read until none can and the server has slept for ``quiet`` seconds."""
    deadline = time.monotonic() + BOUND
    while True:
        naps = server.naps()
        if move(peers, quiet):
            deadline = time.monotonic() + BOUND
        elif naps is not None and naps == server.naps():
            return
        assert time.monotonic() < deadline, "nothing moves, but the server does not rest"


def exchange(*peers: PumpedClient, until: bytes) -> None:
    """Let these send and read until the first of them has received ``until``."""
    while until not in b"".join(peers[0].pieces[-2:]):
        assert move(peers, BOUND), f"{until!r} never comes"


def finish(*peers: PumpedClient) -> None:
    """Let these send and read until the server has ended all their connections."""
    while any(not peer.ended for peer in peers):
        assert move(peers, BOUND), "the server does not end a connection"
