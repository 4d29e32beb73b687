"""Rows: clients that read slowly or not at all, and clients that send faster than others read."""

from __future__ import annotations

import json
import selectors
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.abuse import subjects
from tests.abuse.clients import (
    MAX_WAIT,
    SMALL_BUFFER,
    Checker,
    Follower,
    LineClient,
    crowd,
    pass_time,
    read_all,
)
from tests.abuse.flow import Consumer, Producer, Pump
from tests.abuse.outcome import MIB, RowOutcome, latency, mebibytes, milliseconds
from tests.abuse.probe import probing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness import HostPort, ServerProgram

    from tests.abuse.subjects import Subject

# The default of --max-backlog: the bytes that may wait for the slowest client.
BACKLOG: Final = 64 * MIB

# The bytes of memory allowed for everything but the backlog.
MAX_SLACK: Final = 16 * MIB

# Seconds for slow readers to get their backlog, in small segments.
MAX_CATCH_UP: Final = 120.0

# Seconds between two checks.
LOOK: Final = 0.05

# Seconds between two measurements of memory.
SAMPLE: Final = 0.1

# The bytes of one read or send.
MAX_PART: Final = 16_384


def slow_readers(
    subject: Subject, readers: int = 1000, commands: int = 1000, pause: float = 0.012
) -> RowOutcome:
    """Send commands to very many slow readers, and measure how long a fast reader waits."""
    outcome = RowOutcome()
    expected = [b"#%d " % number + b"x" * 1000 for number in range(commands)]
    with (
        subject.start(readers + 8) as server,
        LineClient(subject, server.address, hello=subject.sending) as sender,
        Checker(subject, server.address) as fast,
        crowd(readers, lambda _: Checker(subject, server.address, receive_buffer=SMALL_BUFFER)) as slow,
    ):
        sender.join()
        fast.join()
        for member in (fast, *slow):
            member.expected = expected
        before = subjects.memory(server.pid)
        times = []
        for number, text in enumerate(expected):
            begin = time.perf_counter()
            sender.command(text)
            fast.until(lambda count=number + 1: fast.got >= count, "get a command")  # type: ignore[misc]
            times.append(time.perf_counter() - begin)
            slow[number % readers].read(512)
            pass_time(server, pause)
            if number % 100 == 0:
                _catch_up(sender)
        growth = subjects.memory(server.pid) - before
        read_all([sender, *slow], lambda: all(member.got >= commands for member in slow), MAX_CATCH_UP)
        lost = sum(commands - member.got for member in slow)
        wrong = any(member.wrong for member in (fast, *slow))
        gone = sum(member.ended for member in slow)
    outcome.check_latency("the fast one's", times)
    outcome.check(not lost, f"the slow ones lost {lost:,} commands")
    outcome.check(not wrong, "somebody got something else")
    outcome.check(growth <= MAX_SLACK, f"{mebibytes(growth)} of memory")
    outcome.figure = (
        f"fast one's {latency(times)}; slow ones lost {_share(lost, commands * readers)}, {gone} dropped; "
        f"memory {growth / MIB:+.1f} MiB"
    )
    return outcome


def _catch_up(sender: LineClient) -> None:
    """Read what a sender has received, without waiting."""
    with selectors.DefaultSelector() as selector:
        selector.register(sender.sock, selectors.EVENT_READ)
        while selector.select(0) and sender.read():
            sender.texts.clear()


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%} ({part:,})" if part else "nothing"


def producers(
    subject: Subject, seconds: float = 60, pace: float = 2 * MIB, backlog: int = BACKLOG, size: int = 1000
) -> RowOutcome:
    """Let three clients send at full speed to three that read ``pace`` bytes a second each."""
    outcome = RowOutcome()
    options = [] if backlog == BACKLOG else ["--max-backlog", str(backlog)]
    with (
        subject.start(8, rankserver=options) as server,
        crowd(3, lambda _: LineClient(subject, server.address, hello=subject.sending)) as senders,
        crowd(3, lambda _: Consumer(subject, server.address)) as consumers,
    ):
        sending = [Producer(client, number, size) for number, client in enumerate(senders)]
        for consumer in consumers:
            consumer.follow(sending)
        before = subjects.memory(server.pid)
        begin = time.perf_counter()
        samples = list(_produce(server, sending, consumers, seconds, pace))
        lasted = time.perf_counter() - begin
        sent = [producer.sent for producer in sending]
        _finish(sending, consumers)
        lost = sum(sum(sent) - sum(consumer.counts) for consumer in consumers)
        dropped = sum(consumer.ended for consumer in consumers)
        wrong = any(consumer.wrong for consumer in consumers)
    first, second = max(samples[: len(samples) // 2]), max(samples[len(samples) // 2 :])
    outcome.check(not lost, f"{lost:,} of {3 * sum(sent):,} commands are lost")
    outcome.check(not wrong, "a command came out of order, or changed")
    outcome.check(second - before <= backlog + MAX_SLACK, f"{mebibytes(second)} of memory")
    outcome.check(second - first <= MAX_SLACK, f"memory grew from {mebibytes(first)} to {mebibytes(second)}")
    outcome.figure = (
        f"{sum(sent):,} commands, lost {_share(lost, 3 * sum(sent))}; {dropped} of 3 consumers dropped"
        + (f", all after {lasted:.1f} s" if lasted < seconds else "")
        + f"; memory {mebibytes(first)} at most in the first half, {mebibytes(second)} in the second"
    )
    return outcome


def _produce(
    server: ServerProgram, sending: list[Producer], consumers: list[Consumer], seconds: float, pace: float
) -> Iterator[int]:
    """Send and read, and yield the server's memory in bytes ten times a second."""
    begin = sampled = time.monotonic()
    # Bytes that each consumer has read.
    read = 0
    with Pump(sending) as pump:
        while (now := time.monotonic()) < begin + seconds and not all(one.ended for one in consumers):
            pump.turn()
            part = int((now - begin) * pace) - read
            if part >= MAX_PART:
                read += part
                for consumer in consumers:
                    consumer.read_now(part)
            if now - sampled >= SAMPLE:
                sampled = now
                yield subjects.memory(server.pid)
    yield subjects.memory(server.pid)
    yield subjects.memory(server.pid)


def _finish(sending: list[Producer], consumers: list[Consumer]) -> None:
    """Complete the commands that were begun, and read everything that is still to come."""
    total = [producer.sent for producer in sending]
    deadline = time.monotonic() + MAX_WAIT
    with Pump(sending, consumers) as pump:
        pump.more = False
        while not all(one.ended or one.counts == total for one in consumers) and time.monotonic() < deadline:
            pump.turn()


class _Flow(NamedTuple):
    """The course of a time in which one client sent to another at full speed."""

    # Bytes per second that the reader got.
    rate: float
    # The longest time, in seconds, in which the reader got nothing.
    longest: float
    # The server's peak memory in bytes.
    most: int
    seconds: float
    # Whether it ended because ``over()`` was true.
    is_over: bool


def never_reads(
    subject: Subject,
    timeout: float = 5,
    backlog: int = BACKLOG,
    after: float = 2,
    least: float = 1 / 3,
) -> RowOutcome:
    """Let one client never read while another sends at full speed, and measure the effect on a third.

    The third one's rate is measured for ``after`` seconds before and after that; the second rate must be at
    least ``least`` times the first.
    """
    outcome = RowOutcome()
    patience = timeout + 15
    options = ["--slow-timeout", str(timeout), "--max-backlog", str(backlog)]
    with (
        subject.start(8, rankserver=options) as server,
        LineClient(subject, server.address, hello=subject.sending) as client,
        Consumer(subject, server.address) as reader,
    ):
        client.join()
        reader.join()
        sender = Producer(client, 0, 16_000)
        reader.follow([sender])
        before = _flow(server, sender, reader, after)
        with LineClient(subject, server.address, receive_buffer=SMALL_BUFFER) as stuck:
            stuck.join()
            count = subjects.descriptors(server.pid)
            beside = _flow(server, sender, reader, patience, lambda: subjects.descriptors(server.pid) < count)
        then = _flow(server, sender, reader, after)
        lost = reader.wrong or reader.ended
        end = ", and was dropped" if reader.ended else ", and lost commands" if reader.wrong else ""
    rates = f"{before.rate / MIB:.0f} MiB/s before it, {then.rate / MIB:.0f} after"
    outcome.check(beside.is_over, f"it was not dropped within {patience:g} s")
    outcome.check_time(beside.longest <= timeout + 1, f"another one waited for {beside.longest:.1f} s")
    outcome.check(not lost, "the one that reads lost something")
    outcome.check_time(then.rate >= before.rate * least, rates)
    outcome.check(beside.most <= backlog + 2 * MAX_SLACK, f"{mebibytes(beside.most)} of memory")
    outcome.figure = (
        (f"closed after {beside.seconds:.1f} s" if beside.is_over else f"still open after {patience:g} s")
        + f"; the reader waited {milliseconds(beside.longest)} at most{end}"
        + f"; {rates}; memory {mebibytes(beside.most)}"
    )
    return outcome


def _flow(
    server: ServerProgram,
    sender: Producer,
    reader: Consumer,
    seconds: float,
    over: Callable[[], bool] = lambda: False,
) -> _Flow:
    """Send and read for this many seconds, or until ``over()``."""
    begin = last = looked = time.monotonic()
    first = count = reader.counts[0]
    longest, most, is_over = 0.0, 0, False
    with Pump([sender], [reader]) as pump:
        while (now := time.monotonic()) < begin + seconds and not is_over and not reader.ended:
            pump.turn()
            longest = max(longest, now - last)
            if reader.counts[0] > count:
                count, last = reader.counts[0], now
            if now - looked > LOOK:
                looked, is_over = now, over()
                most = max(most, subjects.memory(server.pid))
    lasted = time.monotonic() - begin
    return _Flow((count - first) * sender.size / lasted, longest, most, lasted, is_over)


class _Executor(Follower):
    """A client that answers each ASK with a long text."""

    answer = b""

    def __init__(self, address: HostPort, name: str) -> None:
        super().__init__(address, name)
        self._waiting: deque[bytes] = deque()

    def take(self, lines: list[bytes]) -> None:
        for line in lines:
            if line.startswith(b"ASK "):
                self._waiting.append(b"RES %s ok %s\n" % (line.split(b" ", 2)[1], self.answer))
        super().take(lines)
        self.push()

    def push(self) -> None:
        """Send as much of the answers as the server takes."""
        with suppress(BlockingIOError):
            while self._waiting:
                sent = self.sock.send(self._waiting[0])
                rest = self._waiting.popleft()[sent:]
                if rest:
                    self._waiting.appendleft(rest)


def asker(
    subject: Subject,
    asks: int = 400,
    executors: int = 8,
    timeout: float = 5,
    size: int = 30_000,
) -> RowOutcome:
    """Let one client keep asking without ever reading the answers, which are long."""
    outcome = RowOutcome()
    with (
        subject.start(16, rankserver=["--slow-timeout", str(timeout)]) as server,
        Follower(server.address, "asker", receive_buffer=SMALL_BUFFER) as careless,
    ):
        careless.join()
        with crowd(executors, lambda number: _Executor(server.address, f"e{number}")) as others:
            for other in others:
                other.sock.setblocking(False)
                other.answer = json.dumps({"out": "x" * size}).encode()
            before = most = subjects.memory(server.pid)
            with probing(subject, server.address) as probe:
                careless.send(b"".join(b"ASK #%d\n" % number for number in range(asks)))
                begin = time.monotonic()
                while min(other.me for other in others) and time.monotonic() < begin + timeout + 10:
                    read_all(others, lambda: False, LOOK)
                    for other in others:
                        other.push()
                    most = max(most, subjects.memory(server.pid))
                seconds = time.monotonic() - begin
                dropped = not min(other.me for other in others)
    outcome.check(dropped, f"it was not dropped within {seconds:.1f} s")
    outcome.check(most - before <= MAX_SLACK, f"{mebibytes(most - before)} more memory")
    outcome.check_latency("others'", probe.times)
    outcome.figure = (
        f"{executors * asks * size / MIB:.0f} MiB of answers; dropped after {seconds:.1f} s; "
        f"memory +{mebibytes(most - before)}; others' {latency(probe.times)}"
    )
    return outcome
