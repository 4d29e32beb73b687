"""Those who cannot keep up (docs/design.md), spoken to the real program: who waits, who goes, what is kept.

Nothing is timed by sleeping: a ``pump`` lets clients send and read for as long as anything moves.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rankserver.wire import protocol
from tests.support.rawclient import READ_SIZE, RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

Connect = Callable[[ServerProcess], RawClient]
Join = Callable[..., list[RawClient]]
Serve = Callable[..., ServerProcess]

KIB = 1024
MIB = 1024 * KIB
BACKLOG = MIB
SLOW = 1.0  # seconds, where somebody is to go
NEVER = 60.0  # seconds, where nobody is
QUIET = 0.3  # seconds in which nothing moves: everybody waits
ROOM = 12 * MIB  # what a server may need beside the backlog: two turns' growth, its buffers, and Python's
GOODBYE = b"BYE slow read too slowly for %g seconds\n" % SLOW
ALLOWED = str(BACKLOG)
LINE = 1000
SLACK = 2.0  # seconds that a busy machine may be late


class Peer:
    """A client that sends and reads what it can when it is pumped.

    Args:
        client: it joined.
        data: what it has to send.
        reads: bytes that it is willing to read; add to it.
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


def pump(*peers: Peer, quiet: float = 0, until: bytes = b"") -> float:
    """Let these send and read until nothing moves for ``quiet`` seconds, or the first has got ``until``.

    Args:
        peers: who sends and reads.
        quiet: by default so long that everybody waits, but with ``until`` as long as anything may take.
        until: what the first is to get, if that is the end.

    Returns:
        The longest time in seconds in which the first got nothing, the quiet at the end not counted.
    """
    quiet = quiet or (BOUND if until else QUIET)
    last = time.monotonic()
    longest = 0.0
    while True:
        with selectors.DefaultSelector() as selector:
            for peer in peers:
                if peer.interest:
                    selector.register(peer.sock, peer.interest, peer)
            ready = selector.select(quiet) if selector.get_map() else []
        if not ready:
            return longest
        for key, events in ready:
            pieces = len(peers[0].pieces)
            key.data.move(events)
            if len(peers[0].pieces) > pieces:
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()
        if until and until in b"".join(peers[0].pieces[-2:]):
            return longest


def commands(count: int, size: int = LINE) -> bytes:
    return b"".join(b"CMD %06d %s\n" % (n, b"x" * (size - 12)) for n in range(count))


def numbers(stream: bytes, rank: int) -> list[int]:
    """Return the numbers of the commands of one rank in a stream, in its order."""
    words = (line.split(maxsplit=4) for line in stream.splitlines() if line.startswith(b"CMD "))
    return [int(word[3]) for word in words if int(word[2]) == rank]


def seqs(stream: bytes) -> list[int]:
    verbs = (b"CMD ", b"ASK ", b"JOIN ", b"LEFT ")
    return [int(line.split()[1]) for line in stream.splitlines() if line.startswith(verbs)]


def memory(server: ServerProcess, what: str = "VmRSS") -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(what)).split()[1]) * KIB


def cpu_seconds(server: ServerProcess) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def bounded(server: ServerProcess, most: int = BACKLOG + ROOM) -> Iterator[None]:
    """Check that the server never needs more than so many bytes beyond what it has now."""
    before = memory(server)
    yield
    assert memory(server, "VmHWM") - before < most


@contextlib.contextmanager
def idle(server: ServerProcess, seconds: float = 0.4) -> Iterator[None]:
    """Check that the server hardly runs in the time of the body, which is to take at least ``seconds``."""
    before, started = cpu_seconds(server), time.monotonic()
    yield
    took = time.monotonic() - started
    assert took >= seconds
    assert cpu_seconds(server) - before < took / 4


def hold(*peers: Peer) -> None:
    """Let these send until they have to wait."""
    pump(*peers)
    assert any(peer.to_send for peer in peers)


def small(client: RawClient) -> RawClient:
    """Let little be on the way to a client."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
    return client


# --- producers and consumers ------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_producers_wait_for_a_slow_consumer_and_nothing_is_lost_or_kept(
    serve: Serve, join: Join, tmp_path: Path, transport: str
) -> None:
    unix = tmp_path / "socket" if transport == "unix" else None
    server = serve(8, "--max-backlog", ALLOWED, "--slow-timeout", str(NEVER), unix=unix)
    clients = join(server, "a", "b", "slow")
    count = 24_000
    one, other = (Peer(client, commands(count)) for client in clients[:2])
    slow = Peer(small(clients[2]), reads=0)
    rounds = 0
    with bounded(server):
        while one.to_send or other.to_send or slow.reads == 0:
            pump(slow, one, other, quiet=0.02)
            slow.reads = MIB
            rounds += 1
        slow.reads = 1 << 40
        pump(slow, one, other)
    assert rounds > 3, "the producers were not faster"
    assert one.received == other.received == slow.received
    assert numbers(slow.received, 0) == numbers(slow.received, 1) == list(range(count))
    assert seqs(slow.received) == list(range(4, 4 + 2 * count))


def test_a_client_that_is_slow_but_keeps_up_after_each_pause_is_never_dropped(
    serve: Serve, join: Join
) -> None:
    server = serve(8, "--max-backlog", str(256 * KIB), "--slow-timeout", "0.7")
    first, second = join(server, "producer", "slow")
    producer, slow = Peer(first, commands(24_000)), Peer(small(second), reads=0)
    spells = 0
    while producer.to_send:
        pump(producer, slow, quiet=0.1)
        spells += bool(producer.to_send)
        slow.reads = MIB
    slow.reads = 1 << 40
    pump(producer, slow)
    assert spells * 0.1 > 0.7
    assert producer.received == slow.received
    assert numbers(slow.received, 0) == list(range(24_000))
    assert b"slow" not in producer.received


@pytest.mark.parametrize("size", [LINE, 60_000])
@pytest.mark.parametrize("slow_ones", [1, 2])
def test_who_never_reads_is_dropped_after_a_while_and_the_others_go_on_at_once(
    serve: Serve, join: Join, size: int, slow_ones: int
) -> None:
    server = serve(8, "--max-backlog", ALLOWED, "--slow-timeout", str(SLOW))
    first, second, *others = join(server, "producer", "consumer", "slow", "slow-too")[: 2 + slow_ones]
    count = 24 * MIB // size
    producer, consumer = Peer(first, commands(count, size)), Peer(second)
    slow = [Peer(small(client), reads=0) for client in others]
    with bounded(server):
        longest = pump(consumer, producer, quiet=SLOW + SLACK, until=b"\nLEFT ")
        for peer in slow:
            peer.reads = 1 << 40  # now that it is too late
        longest = max(longest, pump(consumer, producer, *slow, until=b" 0 %06d " % (count - 1)))
        pump(consumer)
    assert numbers(consumer.received, 0) == list(range(count))
    assert consumer.received.count(b"LEFT ") == 1, "those who were slow together go together"
    assert SLOW / 2 < longest < SLOW + SLACK, "they wait once, and for so long"
    for peer in slow:
        pump(peer, quiet=BOUND)
        *lines, goodbye = peer.received.splitlines(keepends=True)
        assert goodbye == GOODBYE
        log = b"".join(line for line in lines if not line.startswith(b"JOIN "))
        assert log in consumer.received, "what it got is the log, to the end of a frame"


def test_after_a_slow_one_is_dropped_the_next_command_takes_no_longer_than_ever(
    serve: Serve, join: Join
) -> None:
    server = serve(8, "--max-backlog", ALLOWED, "--slow-timeout", str(SLOW))
    first, second, third = join(server, "producer", "consumer", "slow")
    small(third)
    producer, consumer = Peer(first, commands(40_000)), Peer(second)
    pump(consumer, producer, quiet=SLOW + SLACK, until=b"LEFT ")
    at_drop = len(producer.to_send)
    assert at_drop > 10 * MIB
    started = time.monotonic()
    longest = pump(consumer, producer)
    assert not producer.to_send
    assert longest < SLOW / 2, "nobody waits a second time"
    assert time.monotonic() - started < BOUND / 2


def test_nobody_runs_while_everybody_waits(serve: Serve, join: Join) -> None:
    server = serve(8, "--max-backlog", ALLOWED, "--slow-timeout", str(NEVER))
    first, second, third, fourth = join(server, "producer", "gone", "gone-too", "slow")
    small(fourth)
    producer = Peer(first, commands(20_000))
    gone, reset = (Peer(client, commands(20_000)) for client in (second, third))
    hold(producer, gone, reset)
    gone.client.close()
    reset.client.abort()
    with idle(server):
        pump(producer, quiet=0.4)


def test_a_server_that_was_stopped_for_long_gives_the_slow_as_much_time_as_before(
    serve: Serve, join: Join
) -> None:
    server = serve(8, "--max-backlog", ALLOWED, "--slow-timeout", "1")
    first, second = join(server, "producer", "slow")
    producer, slow = Peer(first, commands(20_000)), Peer(small(second), reads=0)
    hold(producer, slow)
    with server.paused():
        assert not select.select([first.sock], [], [], 2.5)[0]
    slow.reads = 1 << 40
    pump(slow, producer)
    assert numbers(slow.received, 0) == list(range(20_000))


# --- who is gone while it waits ---------------------------------------------------------------


@pytest.mark.parametrize("reads", [True, False])
def test_a_producer_that_goes_while_it_waits_loses_no_line_that_was_taken(
    serve: Serve, join: Join, tmp_path: Path, *, reads: bool
) -> None:
    # What was sent through a Unix socket is there whatever follows; it is reset if what came is not read.
    server = serve(8, "--max-backlog", ALLOWED, "--slow-timeout", str(SLOW), unix=tmp_path / "socket")
    first, second, third = join(server, "producer", "consumer", "slow")
    producer, consumer = Peer(first, commands(20_000)), Peer(second)
    if not reads:
        pump(consumer, producer)  # in the end it has nothing to read, but a frame
        third.send(b"CMD 0 unread\n")
        pump(consumer)
    else:
        hold(consumer, producer)
    sent = (20_000 * LINE - len(producer.to_send)) // LINE
    producer.client.close()
    pump(consumer, quiet=SLOW + SLACK, until=b" 0 %06d " % (sent - 1))
    pump(consumer)
    assert numbers(consumer.received, 0) == list(range(sent))
    assert consumer.received.splitlines()[-1].startswith(b"LEFT "), "it has its rank until all is logged"


def test_who_waits_for_itself_and_is_gone_loses_no_line_and_lets_nobody_wait(
    serve: Serve, join: Join, tmp_path: Path
) -> None:
    server = serve(8, "--max-backlog", ALLOWED, "--slow-timeout", str(NEVER), unix=tmp_path / "socket")
    first, second = join(server, "producer", "consumer")
    producer, consumer = Peer(first, commands(20_000), reads=0), Peer(second)
    hold(consumer, producer)
    sent = (20_000 * LINE - len(producer.to_send)) // LINE
    producer.client.close()
    pump(consumer, quiet=SLACK, until=b" 0 %06d " % (sent - 1))
    pump(consumer)
    assert numbers(consumer.received, 0) == list(range(sent))
    assert consumer.received.splitlines()[-1].startswith(b"LEFT ")


def test_a_connection_that_is_gone_lets_nobody_wait_though_it_reads_nothing_more(
    serve: Serve, join: Join
) -> None:
    server = serve(8, "--max-backlog", ALLOWED, "--slow-timeout", str(NEVER))
    first, second, third = join(server, "producer", "consumer", "slow")
    producer, consumer = Peer(first, commands(20_000)), Peer(second)
    small(third)
    hold(consumer, producer)
    third.abort()
    pump(consumer, producer)
    assert numbers(consumer.received, 0) == list(range(20_000))


# --- what goes on meanwhile -------------------------------------------------------------------


def test_answers_heartbeats_joins_and_leaves_go_on_while_commands_wait(
    serve: Serve, join: Join, connect: Connect
) -> None:
    server = serve(8, "--max-backlog", ALLOWED, "--slow-timeout", "5", "--heartbeat", "1.5")
    asker, executor, first, second = join(server, "asker", "executor", "producer", "slow")
    asker.send(b"ASK what\n" * 100)
    asks = [int(line.split()[1]) for line in executor.settle() if line.startswith(b"ASK ")]
    small(second)
    producer = Peer(first, commands(20_000))
    readers = [Peer(asker), Peer(executor)]
    hold(producer, *readers)
    held_at = time.monotonic()
    answered = 0
    while time.monotonic() - held_at < 4:  # longer than two heartbeats
        second.send(b"PONG\n")  # it is there, and reads nothing
        executor.send(b"PONG\nRES %d ok\n" % asks[answered])
        asker.send(b"PONG\n")
        pump(readers[0], quiet=BOUND, until=b"RES %d 1 executor ok\n" % asks[answered])
        answered += 1
        with contextlib.closing(connect(server)) as newcomer:
            assert newcomer.hello()["rank"] == 4
        pump(*readers, producer, quiet=0.1)
    assert producer.to_send, "commands did not wait"
    assert answered >= 3
    pump(readers[1], readers[0], producer, quiet=1 + SLACK, until=b" 2 019999 ")
    received = readers[1].received
    assert numbers(received, 2) == list(range(20_000)), "who waits is not silent"
    assert b"BYE" not in received
    assert seqs(received) == list(range(seqs(received)[0], seqs(received)[-1] + 1))


def test_the_server_stops_while_everybody_waits(serve: Serve, join: Join) -> None:
    server = serve(8, "--max-backlog", ALLOWED, "--slow-timeout", str(NEVER))
    first, second, third = join(server, "producer", "consumer", "slow")
    small(third)
    producer, consumer = Peer(first, commands(20_000)), Peer(second)
    hold(consumer, producer)
    server.process.send_signal(signal.SIGTERM)
    pump(consumer, producer, quiet=BOUND)
    got = numbers(consumer.received, 0)
    assert got == list(range(len(got)))
    for peer in (producer, consumer):
        assert peer.received.endswith(b"BYE shutdown the server is stopping\n")
        peer.client.close()
    slow = Peer(third)
    pump(slow, quiet=BOUND)
    assert server.wait() == 0
    assert numbers(slow.received, 0) == got[: len(numbers(slow.received, 0))]


# --- who does not read what is for it alone ---------------------------------------------------


def answers(asks: list[int], size: int = 50_000) -> bytes:
    return b"".join(protocol.result(seq, "ok", {"out": "z" * size}) for seq in asks)


def ask(asker: RawClient, executor: RawClient, count: int) -> list[int]:
    asker.send(b"ASK what\n" * count)
    return [int(line.split()[1]) for line in executor.lines(count)]


def test_an_asker_that_reads_late_lets_those_wait_who_answer_it_and_gets_all(
    serve: Serve, join: Join
) -> None:
    server = serve(8, "--slow-timeout", str(NEVER))
    asker, executor, other = join(server, "asker", "executor", "other")
    small(asker)
    asks = ask(asker, executor, 400)
    data = answers(asks)
    busy = Peer(executor, data + b"CMD after\n")
    with bounded(server, ROOM):
        hold(busy)
        other.send(b"CMD meanwhile\n")
        pump(busy)
        assert b" 2 meanwhile\n" in busy.received
        late = Peer(asker)
        pump(late, busy, until=b" 1 after\n")
    lines = [line for line in late.received.splitlines() if line.startswith(b"RES ")]
    assert [int(line.split()[1]) for line in lines] == asks
    assert late.received.rindex(b"RES ") < late.received.rindex(b"CMD ")
    assert other.settle()[-1].endswith(b" 1 after")


def test_an_asker_that_does_not_read_is_dropped_and_who_answers_it_goes_on(serve: Serve, join: Join) -> None:
    server = serve(8, "--slow-timeout", str(SLOW))
    asker, executor, other = join(server, "asker", "executor", "other")
    small(asker)
    asks = ask(asker, executor, 400)
    busy = Peer(executor, answers(asks) + b"CMD after\n")
    started = time.monotonic()
    with bounded(server, ROOM):
        pump(busy, quiet=SLOW + SLACK, until=b" after\n")
    assert SLOW / 2 < time.monotonic() - started < SLOW + 2 * SLACK
    assert b"ERR" not in busy.received, "an answer to who has left is dropped"
    lines = [line for line in other.settle() if not line.startswith(b"ASK ")]
    assert lines == [b"LEFT 404 0", b"CMD 405 0 after"]
    gone = Peer(asker)
    pump(gone, quiet=BOUND)
    assert gone.received.endswith(b"\n" + GOODBYE)


@pytest.mark.parametrize(
    "line",
    [b"WHO\n", b"PING %s\n" % (b"x" * 500), b"NONSENSE %s\n" % (b"x" * 80)],
    ids=["who", "ping", "err"],
)
def test_a_flood_of_whoever_does_not_read_the_answers_costs_it_its_place_and_nobody_memory(
    serve: Serve, join: Join, tmp_path: Path, line: bytes
) -> None:
    server = serve(
        8, "--slow-timeout", str(SLOW), unix=tmp_path / "socket"
    )  # it takes 200 KiB, and never more
    sender, other, third = join(server, "x" * 60 + "a", "x" * 60 + "b", "x" * 60 + "c")
    flood = Peer(third, line * 40_000, reads=0)
    with bounded(server, ROOM):
        pump(flood)
        sender.send(b"CMD meanwhile\n")
        assert other.line().endswith(b" 0 meanwhile")
        pump(flood, quiet=SLOW + SLACK)
    assert other.line().startswith(b"LEFT ")
    flood.reads = 1 << 40
    pump(flood, quiet=BOUND)
    assert flood.received.endswith(b"\n" + GOODBYE)


def test_of_two_who_answer_each_other_without_reading_one_goes_and_the_other_goes_on(
    serve: Serve, join: Join
) -> None:
    server = serve(8, "--slow-timeout", str(SLOW))
    one, other, witness = join(server, "one", "other", "witness")
    first = ask(one, other, 300)
    one.settle()
    other.send(b"ASK what\n" * 300)
    second = [int(line.split()[1]) for line in one.lines(300)]
    other.settle()
    witness.settle()
    peers = [Peer(small(one), answers(second), reads=0), Peer(small(other), answers(first), reads=0)]
    with bounded(server, ROOM):
        hold(*peers)
        with idle(server, 0.2):
            pump(*peers, quiet=0.2)
    gone = int(witness.expect(b"LEFT 604 ").split()[2])
    left = peers[1 - gone]
    left.reads = 1 << 40
    pump(left, quiet=SLOW + SLACK, until=b"\nLEFT 604 %d\n" % gone)
    pump(left)
    assert not left.to_send
    assert left.client.settle() == []


def test_who_reads_slowly_but_steadily_is_not_taken_for_dead(
    serve: Serve, join: Join, connect: Connect
) -> None:
    heartbeat = 0.8
    server = serve(2, "--heartbeat", str(heartbeat), "--max-backlog", str(32 * MIB))
    producer = join(server, "producer")[0]
    consumer = connect(server)
    consumer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
    consumer.hello("consumer")
    lines = 4 * MIB // LINE
    producer.send(b"".join(b"CMD %d\n" % number + b"CMD %s\n" % (b"x" * LINE) for number in range(lines)))
    begin = time.monotonic()
    received = bytearray()

    def receive() -> bytes:
        data = consumer.sock.recv(64 * KIB)
        assert data, bytes(received[-200:])
        received.extend(data)
        return bytes(received[-80 * KIB :])

    last = b" %d\n" % (lines - 1)
    while last not in receive() or b"\nPING\n" not in received:
        # Its pace: what the system has taken for it, some 3 MiB, takes longer than two heartbeats to read.
        select.select([], [], [], 0.05)
        producer.send(b"PONG\n")
        if b"\nPING\n" in received[-65 * KIB :]:
            consumer.send(b"PONG\n")
    assert time.monotonic() - begin > 3 * heartbeat
    consumer.send(b"PING here\n")
    while b"\nPONG here\n" not in receive():
        pass
    assert b"\nBYE " not in received


def test_who_reads_and_does_not_answer_a_ping_is_given_up(serve: Serve, join: Join) -> None:
    talker, mute = join(serve(2, "--heartbeat", "0.2"), "talker", "mute")
    mute.sock.setblocking(False)
    received = b""
    while b"\nBYE timeout " not in received:
        talker.send(b"CMD x\n")
        if select.select([mute.sock], [], [], BOUND)[0]:
            received += mute.sock.recv(64 * KIB)
    assert b"\nPING\n" in received
