"""Clients that cannot keep up (docs/design.md): which ones wait, which are dropped, and what is kept.

These tests drive the real server. The duration of waits is tested with an injected clock, in ``unit/server``.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rankserver.wire import protocol
from tests.support.pumping import PumpedClient, exchange, finish, move, pump
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

Connect = Callable[[ServerProcess], RawClient]
Join = Callable[..., list[RawClient]]
Serve = Callable[..., ServerProcess]

KIB = 1024
MIB = 1024 * KIB
BACKLOG = MIB
# The option that sets this backlog.
ALLOWED = ("--max-backlog", str(BACKLOG))
# Seconds until a slow client is dropped, in tests that wait for that.
SLOW = 1.0
# The option for this time, and one for tests in which nobody may be dropped.
SOON = ("--slow-timeout", str(SLOW))
NEVER = ("--slow-timeout", "1000")
# Bytes that a server may need besides the backlog: the growth in two turns, its buffers, and Python's.
ROOM = 12 * MIB
GOODBYE = b"BYE slow read too slowly for %g seconds\n" % SLOW
# Bytes of one command, as its sender writes it.
LINE = 1000


def commands(count: int, size: int = LINE) -> bytes:
    return b"".join(b"CMD %06d %s\n" % (n, b"x" * (size - 12)) for n in range(count))


def numbers(stream: bytes, rank: int) -> list[int]:
    """Return the numbers of the commands of one rank in a stream, in order."""
    words = (line.split(maxsplit=4) for line in stream.splitlines() if line.startswith(b"CMD "))
    return [int(word[3]) for word in words if int(word[2]) == rank]


def seqs(stream: bytes) -> list[int]:
    verbs = (b"CMD ", b"ASK ", b"JOIN ", b"LEFT ")
    return [int(line.split()[1]) for line in stream.splitlines() if line.startswith(verbs)]


@contextlib.contextmanager
def bounded(server: ServerProcess, room: int = BACKLOG + ROOM) -> Iterator[None]:
    """Check that the server's memory grows by no more than ``room`` bytes during the block."""
    before = server.memory()
    yield
    assert server.peak_memory() - before < room


def hold(server: ServerProcess, *peers: PumpedClient) -> None:
    """Let these clients send until they have to wait."""
    pump(server, *peers)
    assert any(peer.to_send for peer in peers)


def small(client: RawClient) -> RawClient:
    """Shrink the buffers on the way to a client."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
    return client


# --- producers and consumers ------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_producers_wait_for_a_slow_consumer_and_nothing_is_lost(
    serve: Serve, join: Join, tmp_path: Path, transport: str
) -> None:
    unix = tmp_path / "socket" if transport == "unix" else None
    server = serve(8, *ALLOWED, *NEVER, unix=unix)
    clients = join(server, "a", "b", "slow")
    count = 24_000
    one, other = (PumpedClient(client, commands(count)) for client in clients[:2])
    slow = PumpedClient(small(clients[2]), reads=0)
    rounds = 0
    with bounded(server):
        while one.to_send or other.to_send:
            pump(server, slow, one, other, quiet=0.02)
            slow.reads = MIB
            rounds += 1
        slow.reads = 1 << 40
        pump(server, slow, one, other)
    assert rounds > 3, "the producers were not faster"
    assert one.received == other.received == slow.received
    assert numbers(slow.received, 0) == numbers(slow.received, 1) == list(range(count))
    assert seqs(slow.received) == list(range(4, 4 + 2 * count))


def test_a_slow_client_that_catches_up_after_each_pause_stays(serve: Serve, join: Join) -> None:
    patience, pause = 1.5, 0.1
    server = serve(8, "--max-backlog", str(256 * KIB), "--slow-timeout", str(patience))
    first, second = join(server, "producer", "slow")
    producer, slow = PumpedClient(first, commands(24_000)), PumpedClient(small(second), reads=0)
    pauses = 0
    while producer.to_send:
        pump(server, producer, slow, quiet=pause)
        pauses += bool(producer.to_send)
        slow.reads = 3 * MIB // 4
    slow.reads = 1 << 40
    pump(server, producer, slow)
    assert pauses * pause > patience, "its pauses were not too long in all"
    assert producer.received == slow.received
    assert numbers(slow.received, 0) == list(range(24_000))
    assert b"slow" not in producer.received


@pytest.mark.parametrize("size", [LINE, 60_000])
@pytest.mark.parametrize("slow_ones", [1, 2])
def test_clients_that_never_read_are_dropped_and_others_go_on(
    serve: Serve, join: Join, size: int, slow_ones: int
) -> None:
    server = serve(8, *ALLOWED, *SOON)
    first, second, *others = join(server, "producer", "consumer", "slow", "slow-too")[: 2 + slow_ones]
    count = 24 * MIB // size
    producer, consumer = PumpedClient(first, commands(count, size)), PumpedClient(second)
    slow = [PumpedClient(small(client), reads=0) for client in others]
    with bounded(server):
        exchange(consumer, producer, until=b"\nLEFT ")
        for peer in slow:
            # Now it is too late.
            peer.reads = 1 << 40
        exchange(consumer, producer, *slow, until=b" 0 %06d " % (count - 1))
        pump(server, consumer)
    assert numbers(consumer.received, 0) == list(range(count))
    assert consumer.received.count(b"LEFT ") == 1, "those who were slow together go together"
    finish(*slow)
    for peer in slow:
        *lines, goodbye = peer.received.splitlines(keepends=True)
        assert goodbye == GOODBYE
        log = b"".join(line for line in lines if not line.startswith(b"JOIN "))
        assert log in consumer.received, "what it got is the log, to the end of a frame"


def test_nobody_waits_for_a_dropped_client_that_reads_nothing(serve: Serve, join: Join) -> None:
    server = serve(8, *ALLOWED, *SOON)
    first, second, third = join(server, "producer", "consumer", "slow")
    small(third)
    producer, consumer = PumpedClient(first, commands(40_000)), PumpedClient(second)
    exchange(consumer, producer, until=b"LEFT ")
    assert len(producer.to_send) > 10 * MIB
    pump(server, consumer, producer)
    assert not producer.to_send
    assert numbers(consumer.received, 0) == list(range(40_000))
    assert consumer.received.count(b"LEFT ") == 1


def test_the_server_sleeps_while_everybody_waits(serve: Serve, join: Join) -> None:
    server = serve(8, *ALLOWED, *NEVER)
    first, second, third, fourth = join(server, "producer", "gone", "gone-too", "slow")
    small(fourth)
    producer = PumpedClient(first, commands(20_000))
    gone, reset = (PumpedClient(client, commands(20_000)) for client in (second, third))
    hold(server, producer, gone, reset)
    gone.client.close()
    reset.client.abort()
    server.wait_until_idle(0.4)
    assert producer.to_send


def test_a_long_stop_of_the_server_costs_slow_clients_no_time(serve: Serve, join: Join) -> None:
    server = serve(8, *ALLOWED, "--slow-timeout", "2")
    first, second = join(server, "producer", "slow")
    producer, slow = PumpedClient(first, commands(20_000)), PumpedClient(small(second), reads=0)
    hold(server, producer, slow)
    with server.paused():
        assert not select.select([first.sock], [], [], 3.5)[0]
    slow.reads = 1 << 40
    pump(server, slow, producer)
    assert numbers(slow.received, 0) == list(range(20_000))


# --- clients lost while they wait -------------------------------------------------------------


@pytest.mark.parametrize("reads", [True, False])
def test_a_producer_that_leaves_while_it_waits_loses_no_line(
    serve: Serve, join: Join, tmp_path: Path, *, reads: bool
) -> None:
    # Data sent through a Unix socket arrives whatever follows; the socket is reset if its input is not read.
    server = serve(8, *ALLOWED, *SOON, unix=tmp_path / "socket")
    first, second, third = join(server, "producer", "consumer", "slow")
    producer, consumer = PumpedClient(first, commands(20_000)), PumpedClient(second)
    if not reads:
        # In the end it has only a frame left to read.
        pump(server, consumer, producer)
        third.send(b"CMD 0 unread\n")
        pump(server, consumer)
    else:
        hold(server, consumer, producer)
    sent = (20_000 * LINE - len(producer.to_send)) // LINE
    producer.client.close()
    exchange(consumer, until=b" 0 %06d " % (sent - 1))
    pump(server, consumer)
    assert numbers(consumer.received, 0) == list(range(sent))
    assert consumer.received.splitlines()[-1].startswith(b"LEFT "), "it has its rank until all is logged"


def test_a_lost_client_that_waited_for_itself_loses_no_line(serve: Serve, join: Join, tmp_path: Path) -> None:
    server = serve(8, *ALLOWED, *NEVER, unix=tmp_path / "socket")
    first, second = join(server, "producer", "consumer")
    producer, consumer = PumpedClient(first, commands(20_000), reads=0), PumpedClient(second)
    hold(server, consumer, producer)
    sent = (20_000 * LINE - len(producer.to_send)) // LINE
    producer.client.close()
    pump(server, consumer)
    assert numbers(consumer.received, 0) == list(range(sent))
    assert consumer.received.splitlines()[-1].startswith(b"LEFT ")


def test_nobody_waits_for_a_connection_that_is_gone(serve: Serve, join: Join) -> None:
    server = serve(8, *ALLOWED, *NEVER)
    first, second, third = join(server, "producer", "consumer", "slow")
    producer, consumer = PumpedClient(first, commands(20_000)), PumpedClient(second)
    small(third)
    hold(server, consumer, producer)
    third.abort()
    pump(server, consumer, producer)
    assert numbers(consumer.received, 0) == list(range(20_000))


# --- while commands wait ----------------------------------------------------------------------


def test_everything_else_goes_on_while_commands_wait(serve: Serve, join: Join, connect: Connect) -> None:
    server = serve(8, *ALLOWED, *NEVER, "--heartbeat", "1.5")
    asker, executor, first, second = join(server, "asker", "executor", "producer", "slow")
    asker.send(b"ASK what\n" * 100)
    asks = [int(line.split()[1]) for line in executor.settle() if line.startswith(b"ASK ")]
    producer, slow = PumpedClient(first, commands(20_000)), PumpedClient(small(second), reads=0)
    readers = [PumpedClient(asker), PumpedClient(executor)]
    hold(server, producer, *readers)
    answered = 0
    # The second PING comes after the time in which the first one had to be answered.
    while producer.received.count(b"PING\n") < 2:
        # The client is alive, but reads nothing.
        second.send(b"PONG\n")
        executor.send(b"PONG\nRES %d ok\n" % asks[answered])
        asker.send(b"PONG\n")
        exchange(readers[0], until=b"RES %d 1 executor ok\n" % asks[answered])
        answered += 1
        with contextlib.closing(connect(server)) as newcomer:
            assert newcomer.hello()["rank"] == 4
        pump(server, *readers, producer, quiet=0.1)
    assert producer.to_send, "commands did not wait"
    slow.reads = 1 << 40
    while b" 2 019999 " not in b"".join(readers[1].pieces[-2:]):
        for client in (asker, executor, second):
            client.send(b"PONG\n")
        assert move((readers[1], readers[0], producer, slow), BOUND)
    received = readers[1].received
    assert numbers(received, 2) == list(range(20_000)), "who waits is not silent"
    assert b"BYE" not in received
    assert seqs(received) == list(range(seqs(received)[0], seqs(received)[-1] + 1))


def test_the_server_stops_while_everybody_waits(serve: Serve, join: Join) -> None:
    server = serve(8, *ALLOWED, *NEVER)
    first, second, third = join(server, "producer", "consumer", "slow")
    small(third)
    producer, consumer = PumpedClient(first, commands(20_000)), PumpedClient(second)
    hold(server, consumer, producer)
    server.process.send_signal(signal.SIGTERM)
    finish(consumer, producer)
    got = numbers(consumer.received, 0)
    assert got == list(range(len(got)))
    for peer in (producer, consumer):
        assert peer.received.endswith(b"BYE shutdown the server is stopping\n")
        peer.client.close()
    slow = PumpedClient(third)
    finish(slow)
    assert server.wait() == 0
    assert numbers(slow.received, 0) == got[: len(numbers(slow.received, 0))]


# --- clients that do not read their private frames --------------------------------------------


def answers(asks: list[int], size: int = 50_000) -> bytes:
    return b"".join(protocol.result(seq, "ok", {"out": "z" * size}) for seq in asks)


def ask(asker: RawClient, executor: RawClient, count: int) -> list[int]:
    asker.send(b"ASK what\n" * count)
    return [int(line.split()[1]) for line in executor.lines(count)]


def test_answers_wait_for_an_asker_that_reads_late(serve: Serve, join: Join) -> None:
    server = serve(8, *NEVER)
    asker, executor, other = join(server, "asker", "executor", "other")
    small(asker)
    asks = ask(asker, executor, 400)
    data = answers(asks)
    busy = PumpedClient(executor, data + b"CMD after\n")
    with bounded(server, ROOM):
        hold(server, busy)
        other.send(b"CMD meanwhile\n")
        pump(server, busy)
        assert b" 2 meanwhile\n" in busy.received
        late = PumpedClient(asker)
        exchange(late, busy, until=b" 1 after\n")
    lines = [line for line in late.received.splitlines() if line.startswith(b"RES ")]
    assert [int(line.split()[1]) for line in lines] == asks
    assert late.received.rindex(b"RES ") < late.received.rindex(b"CMD ")
    assert other.settle()[-1].endswith(b" 1 after")


def test_an_asker_that_never_reads_is_dropped(serve: Serve, join: Join) -> None:
    server = serve(8, *SOON)
    asker, executor, other = join(server, "asker", "executor", "other")
    small(asker)
    asks = ask(asker, executor, 400)
    busy = PumpedClient(executor, answers(asks) + b"CMD after\n")
    with bounded(server, ROOM):
        exchange(busy, until=b" after\n")
    assert b"ERR" not in busy.received, "an answer to who has left is dropped"
    lines = [line for line in other.settle() if not line.startswith(b"ASK ")]
    assert lines == [b"LEFT 404 0", b"CMD 405 0 after"]
    gone = PumpedClient(asker)
    finish(gone)
    assert gone.received.endswith(b"\n" + GOODBYE)


@pytest.mark.parametrize(
    "line",
    [b"WHO\n", b"PING %s\n" % (b"x" * 500), b"NONSENSE %s\n" % (b"x" * 80)],
    ids=["who", "ping", "err"],
)
def test_a_flooder_that_reads_no_answers_is_dropped(
    serve: Serve, join: Join, tmp_path: Path, line: bytes
) -> None:
    # A Unix socket holds about 200 KiB, and never more.
    server = serve(8, *SOON, unix=tmp_path / "socket")
    sender, other, third = join(server, "x" * 60 + "a", "x" * 60 + "b", "x" * 60 + "c")
    flood = PumpedClient(third, line * 40_000, reads=0)
    with bounded(server, ROOM):
        pump(server, flood)
        sender.send(b"CMD meanwhile\n")
        assert other.line().endswith(b" 0 meanwhile")
        assert other.line().startswith(b"LEFT ")
    flood.reads = 1 << 40
    finish(flood)
    assert flood.received.endswith(b"\n" + GOODBYE)


def test_unread_frames_between_commands_take_little_memory(serve: Serve, join: Join, tmp_path: Path) -> None:
    server = serve(8, *NEVER, unix=tmp_path / "socket")
    (flooder,) = join(server, "flooder")
    flood = PumpedClient(flooder, b"PING %s\nCMD x\n" % (b"x" * 60) * 40_000, reads=0)
    with bounded(server, ROOM):
        hold(server, flood)


def test_one_of_two_that_answer_each_other_unread_is_dropped(serve: Serve, join: Join) -> None:
    server = serve(8, *SOON)
    one, other, witness = join(server, "one", "other", "witness")
    first = ask(one, other, 300)
    one.settle()
    other.send(b"ASK what\n" * 300)
    second = [int(line.split()[1]) for line in one.lines(300)]
    other.settle()
    witness.settle()
    peers = [
        PumpedClient(small(one), answers(second), reads=0),
        PumpedClient(small(other), answers(first), reads=0),
    ]
    with bounded(server, ROOM):
        hold(server, *peers)
    gone = int(witness.expect(b"LEFT 604 ").split()[2])
    left = peers[1 - gone]
    left.reads = 1 << 40
    exchange(left, until=b"\nLEFT 604 %d\n" % gone)
    pump(server, left)
    assert not left.to_send
    assert left.client.settle() == []


def test_a_slow_but_steady_reader_is_not_taken_for_dead(serve: Serve, join: Join, connect: Connect) -> None:
    # At this pace, it takes longer than two heartbeats to read what the system buffers for it, some 3 MiB.
    heartbeat, pause = 0.8, 0.05
    server = serve(2, "--heartbeat", str(heartbeat), "--max-backlog", str(32 * MIB))
    producer = join(server, "producer")[0]
    consumer = small(connect(server))
    consumer.hello("consumer")
    lines = 4 * MIB // LINE
    producer.send(b"".join(b"CMD %d\n" % number + b"CMD %s\n" % (b"x" * LINE) for number in range(lines)))
    received = bytearray()

    def receive() -> bytes:
        data = consumer.sock.recv(64 * KIB)
        assert data, bytes(received[-200:])
        received.extend(data)
        return bytes(received[-80 * KIB :])

    last = b" %d\n" % (lines - 1)
    pauses = 0
    while last not in receive() or b"\nPING\n" not in received:
        select.select([], [], [], pause)
        pauses += 1
        producer.send(b"PONG\n")
        if b"\nPING\n" in received[-65 * KIB :]:
            consumer.send(b"PONG\n")
    assert pauses * pause > 3 * heartbeat
    consumer.send(b"PING here\n")
    while b"\nPONG here\n" not in receive():
        pass
    assert b"\nBYE " not in received


def test_a_reader_that_answers_no_ping_is_dropped(serve: Serve, join: Join) -> None:
    talker, mute = join(serve(2, "--heartbeat", "0.6"), "talker", "mute")
    mute.sock.setblocking(False)
    received = b""
    while b"\nBYE timeout " not in received:
        talker.send(b"CMD x\n")
        if select.select([mute.sock], [], [], BOUND)[0]:
            received += mute.sock.recv(64 * KIB)
    assert b"\nPING\n" in received
