"""What the C core costs under bursts of commands, one part at a time; run by ``make microbench``.

``benchmarks/load.py`` measures the whole server. These tell which part of it a change made faster.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from rankserver.clist import Client, Log

MAX_LINE: Final = 65_536
BURST: Final = 1_000  # commands


class Ranks:
    """A log and its ranked clients, each with a socket whose other end is read by nobody but ``drain``."""

    def __init__(self, stack: ExitStack, count: int) -> None:
        """Make ``count`` clients."""
        self.log = stack.enter_context(Log(MAX_LINE))
        pairs = [socket.socketpair() for _ in range(count)]
        for ours, theirs in pairs:
            stack.enter_context(closing(ours))
            stack.enter_context(closing(theirs))
        self.peers = [theirs for _, theirs in pairs]
        self.clients = [self.join(ours.fileno()) for ours, _ in pairs]

    def join(self, fd: int) -> Client:
        """Add a client with the lowest rank."""
        client = self.log.open(fd)
        self.log.join(client)
        return client

    def skip(self) -> None:
        """Count all that waits as sent, without sending it."""
        for client in self.clients:
            while spans := self.log.peek(client):
                self.log.advance(client, sum(map(len, spans)))

    def drain(self) -> None:
        """Read what was sent."""
        for peer in self.peers:
            peer.recv(1 << 20)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close at the end of a benchmark what it opened."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("size", [16, 64, 1024])
def test_feed(benchmark: BenchmarkFixture, stack: ExitStack, size: int) -> None:
    """Cut, check, stamp and log a burst that came in one piece."""
    ranks = Ranks(stack, 1)
    burst = b"CMD %s\n" % (b"x" * size) * BURST
    benchmark.extra_info["commands"] = BURST
    benchmark.pedantic(
        ranks.log.feed, (ranks.clients[0], burst), setup=ranks.skip, rounds=200, warmup_rounds=10
    )


@pytest.mark.parametrize("count", [1, 10, 100])
def test_flush(benchmark: BenchmarkFixture, stack: ExitStack, count: int) -> None:
    """Send a burst to all clients."""
    ranks = Ranks(stack, count)

    def setup() -> None:
        ranks.log.feed(ranks.clients[0], b"CMD %s\n" % (b"x" * 64) * BURST)

    def flush() -> None:
        ranks.log.flush_all()

    def teardown() -> None:
        ranks.drain()

    benchmark.extra_info["deliveries"] = BURST * count
    benchmark.pedantic(flush, setup=setup, teardown=teardown, rounds=50, warmup_rounds=3)


@pytest.mark.parametrize("count", [10, 1_000, 100_000])
def test_leave_and_reassign(benchmark: BenchmarkFixture, count: int) -> None:
    """Let a client leave from anywhere in the list, and number all ranks anew."""
    with Log(MAX_LINE) as log:
        clients = [log.open(-1) for _ in range(count)]
        for client in clients:
            log.join(client)
        choose = random.Random(0)

        def leave_and_join() -> None:
            place = choose.randrange(count)
            log.discard(clients[place])
            clients[place] = log.open(-1)
            log.join(clients[place])
            log.rank(clients[-1])

        benchmark(leave_and_join)


def test_append(benchmark: BenchmarkFixture) -> None:
    """Log one frame from Python, as for an ASK."""
    with Log(MAX_LINE) as log:
        benchmark(log.append, b"ASK", b"0 uptime")
