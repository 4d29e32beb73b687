"""Benchmarks of the C core under bursts of commands, one part at a time; run by ``make microbench``.

``benchmarks/load.py`` measures the whole server; these show which part a change made faster. Where a
benchmark says that one operation is 1,000 commands, microseconds are nanoseconds per command, and thousands
of operations per second are millions of commands per second.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from rankserver.clist import MAX_READ_BYTES, Cursor, Flushed, Log

MAX_LINE: Final = 65_536
# Commands in one operation.
BURST: Final = 1_000
ROUNDS: Final = 1_000
# Rounds before those that are measured.
WARM_UP: Final = 10
# Flushes over all receivers and rounds: the more receivers, the fewer rounds.
FLUSHES: Final = 100_000
OTHER_DESCRIPTORS: Final = 100


class SocketClients:
    """A log and its members, each with a cursor, whose sockets only ``drain`` reads.

    They are Unix sockets, the cheapest of the kernel's, so that the core's share of the time is large.
    """

    def __init__(self, stack: ExitStack, count: int) -> None:
        """Connect ``count`` clients, until the stack is closed."""
        self.log = stack.enter_context(Log(MAX_LINE))
        self.peers: list[socket.socket] = []
        self.cursors: list[Cursor] = []
        self.buffer = bytearray(1 << 20)
        self.waiting = b""
        for member in range(count):
            ours, theirs = (stack.enter_context(closing(end)) for end in socket.socketpair())
            self.cursors.append(join(self.log, member, ours.fileno()))
            self.peers.append(theirs)

    def feed(self, commands: int) -> None:
        """Drain all clients, and log this many commands of the first."""
        self.drain()
        first = self.log.seq + 1
        feed(self.cursors[0], line_of(64) * commands)
        self.waiting = b"".join(frame_of(seq, 64) for seq in range(first, first + commands))

    def drain(self) -> None:
        """Read what each client was sent, and assert that it equals what was logged."""
        if self.waiting:
            for peer in self.peers:
                size = peer.recv_into(self.buffer, len(self.waiting), socket.MSG_WAITALL)
                assert size == len(self.waiting)
                assert self.buffer.startswith(self.waiting)


def join(log: Log, member: int, fd: int) -> Cursor:
    """Add a member, and return a cursor that is attached to it."""
    log.join(member)
    cursor = log.open(fd)
    cursor.attach(member)
    return cursor


def feed(cursor: Cursor, commands: bytes) -> None:
    """Log what a client sent, which must be commands only."""
    cursor.take(commands)
    assert cursor.next_line(logs=True) is None


def line_of(size: int) -> bytes:
    """Return a command of ``size`` bytes as a client sends it."""
    return b"CMD %s\n" % (b"x" * size)


def frame_of(seq: int, size: int) -> bytes:
    """Return the log frame of that command if the client of rank 0 sent it."""
    return b"CMD %d 0 %s\n" % (seq, b"x" * size)


def need_descriptors(needed: int) -> None:
    """Raise the limit of open files if necessary; skip the benchmark if that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != hard < needed:
        pytest.skip(f"needs {needed} descriptors, the limit is {hard} (ulimit -Hn)")
    if resource.RLIM_INFINITY != soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Return a stack that is closed at the end of the benchmark."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("size", [16, 64, 1_024, 16_384])
def test_feed(benchmark: BenchmarkFixture, stack: ExitStack, size: int) -> None:
    """Cut, check, stamp and log commands, in pieces of whole lines of the size that the server reads.

    Before the next piece, each one is marked as sent, without being sent.
    """
    log = stack.enter_context(Log(MAX_LINE))
    cursor = join(log, 0, -1)
    at_once = min(BURST, MAX_READ_BYTES // len(line_of(size)))
    pieces = [line_of(size) * min(at_once, BURST - fed) for fed in range(0, BURST, at_once)]

    def feed_pieces() -> None:
        for piece in pieces:
            feed(cursor, piece)
            cursor.advance(cursor.lag())
            # There is nothing to send, but the log may now reuse its memory.
            log.flush_all()

    benchmark.group = f"feed {BURST:,} commands"
    benchmark.pedantic(feed_pieces, rounds=ROUNDS, warmup_rounds=WARM_UP)
    seq = log.seq
    assert seq >= BURST
    assert seq % BURST == 0
    feed(cursor, line_of(size) * 2)
    assert b"".join(cursor.peek()) == frame_of(seq + 1, size) + frame_of(seq + 2, size)


def test_append(benchmark: BenchmarkFixture) -> None:
    """Log one frame from Python, as for an ASK."""
    with Log(MAX_LINE) as log:
        benchmark.group = "append one frame to the log"
        last = benchmark.pedantic(log.append, (b"ASK", b"0 uptime"), rounds=100, iterations=1_000)
        assert last == log.seq > 0


@pytest.mark.parametrize("commands", [1, BURST])
def test_flush_one(benchmark: BenchmarkFixture, stack: ExitStack, commands: int) -> None:
    """Send one client its backlog."""
    clients = SocketClients(stack, 1)
    only = clients.cursors[0]

    def setup() -> None:
        clients.feed(commands)

    benchmark.group = f"flush, commands waiting: {commands:5,}"
    done = benchmark.pedantic(only.flush, setup=setup, rounds=ROUNDS, warmup_rounds=WARM_UP)
    assert done is Flushed.DONE
    clients.drain()


@pytest.mark.parametrize("receivers", [1, 10, 100, 1_000], ids="to-{}".format)
@pytest.mark.parametrize("commands", [1, BURST])
def test_flush_all(benchmark: BenchmarkFixture, stack: ExitStack, commands: int, receivers: int) -> None:
    """Send all clients their backlogs."""
    need_descriptors(2 * receivers + OTHER_DESCRIPTORS)
    clients = SocketClients(stack, receivers)

    def setup() -> None:
        clients.feed(commands)

    benchmark.group = f"flush, commands waiting: {commands:5,}"
    rounds = min(ROUNDS, FLUSHES // receivers)
    named = benchmark.pedantic(clients.log.flush_all, setup=setup, rounds=rounds, warmup_rounds=WARM_UP)
    assert named == ([], [])
    clients.drain()
