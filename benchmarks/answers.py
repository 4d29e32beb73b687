"""Measure how fast a thousand clients' answers to one command reach the client that asked.

The real server is started with an asker and many connections that all answer each ASK at once. The time runs
from sending the first answer until the asker has the last. In the first run the asker is a bare socket that
only reads, which gives the rate that the server *relays*. In the second it is the real client, writing to a
pipe, which gives the rate that is *shown*.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import harness
from harness import BenchmarkError, HostPort, LoopbackServer, Places, Program

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

# The seed of the order in which answers are sent, so that a run can be repeated.
SEED: Final = 1

# After this many seconds without a line, missing answers count as lost.
MAX_SILENCE: Final = 10.0

# The bare asker's receive buffer in bytes: room for all answers while it does not read.
RECEIVE_BUFFER: Final = 256 * 1024

# Seconds between two polls of what the client prints. Waking up for each line would cost CPU time.
POLL_SECONDS: Final = 0.0005

# Warm-up asks, which are verified but not timed: they touch memory and let the interpreter specialise its
# code.
WARM_UPS: Final = 2

# The number of missing or wrong lines that an error quotes.
MAX_SHOWN: Final = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code: 1 if an answer was lost or it was too slow."""
    return harness.run("answers.py", _parser().parse_args(argv), _measure, _show)


def _parser() -> argparse.ArgumentParser:
    parser = harness.parser(__doc__)
    add, number = parser.add_argument, harness.number
    add("--clients", type=number(1), default=1000, metavar="N", help="clients that answer (default: 1000)")
    add(
        "--asks",
        type=number(1),
        default=15,
        metavar="X",
        help="asks, of which the median counts (default: 15)",
    )
    add("--require", type=number(1), metavar="N", help="fail if fewer than N answers/s are shown")
    return parser


# --- the asker and those that answer ----------------------------------------------------------


class Reply(NamedTuple):
    """What one client answers to an ASK."""

    seq: int
    rank: int
    name: str
    out: str

    @property
    def detail(self) -> str:
        """The JSON of the answer."""
        return f'{{"code":0,"out":"{self.out}","ms":3}}'

    @property
    def frame(self) -> bytes:
        """What the client sends."""
        return f"RES {self.seq} ok {self.detail}\n".encode()

    @property
    def relayed(self) -> str:
        """What the asker is sent."""
        return f"RES {self.seq} {self.rank} {self.name} ok {self.detail}"

    @property
    def shown(self) -> str:
        """What the asker's client prints."""
        return f"#{self.seq} rank {self.rank} {self.name} | {self.out}"


class Asker(Protocol):
    """The highest-ranked client. The benchmark times its ``wait``.

    Attributes:
        pid: the process that runs it and whose CPU time is measured; 0 for this process.
    """

    pid: int

    def ask(self, text: str) -> None:
        """Send an ASK."""

    def wait(self, seq: int, count: int) -> list[str]:
        """Wait for ``count`` answers, and return the lines that came since the ASK."""

    def check(self, lines: list[str], replies: list[Reply]) -> None:
        """Check that each answer came once, and from the right client.

        Raises:
            BenchmarkError: if not.
        """


class AnswerClient:
    """A client's connection, read line by line."""

    def __init__(self, address: HostPort, name: str) -> None:
        """Connect, and say HELLO; ``joined`` waits for the rank."""
        self.name = name
        self.rank = -1
        self._begun = b""
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._sock.settimeout(MAX_SILENCE)
        self._sock.connect(address)
        self.send(f'HELLO {{"name":"{name}"}}\n'.encode())

    def close(self) -> None:
        """Close it."""
        self._sock.close()

    def send(self, frame: bytes) -> None:
        """Send a frame in one system call: it is so short that a socket whose peer reads always has room."""
        os.write(self._sock.fileno(), frame)

    def read(self) -> list[str]:
        """Receive once, and return the complete lines.

        Raises:
            BenchmarkError: if nothing comes.
        """
        try:
            data = self._sock.recv(RECEIVE_BUFFER)
        except TimeoutError:
            raise BenchmarkError(f"the server is silent to {self.name}") from None
        if not data:
            raise BenchmarkError(f"the server closed the connection of {self.name}")
        *lines, self._begun = (self._begun + data).split(b"\n")
        return [line.decode() for line in lines]

    def joined(self) -> None:
        """Wait for the WELCOME and store the rank in it. Clients that join later rank lower."""
        self.rank = int(self._find("WELCOME ").partition('"rank":')[2].partition(",")[0])

    def hear(self, text: str) -> int:
        """Wait for the ASK with ``text``, and return its seq."""
        while True:
            line = self._find("ASK ")
            _, seq, _, asked = line.split(" ", 3)
            if asked == text:
                return int(seq)

    def _find(self, start: str) -> str:
        while True:
            for line in self.read():
                if line.startswith(start):
                    return line


class Bare(AnswerClient):
    """An asker that does nothing but read."""

    pid = 0

    def ask(self, text: str) -> None:
        """Send an ASK, and wait until the server has sent it back."""
        self.send(f"ASK {text}\n".encode())
        self.hear(text)

    def wait(self, seq: int, count: int) -> list[str]:  # noqa: ARG002 - nothing else comes
        """Return ``count`` lines."""
        lines: list[str] = []
        while len(lines) < count:
            lines += self.read()
        return lines

    def check(self, lines: list[str], replies: list[Reply]) -> None:
        """Compare the lines with those that the server must relay."""
        compare(lines, (reply.relayed for reply in replies))


class Shown:
    """The real client as a process: its input is a pipe that stays open, and its output is read here."""

    def __init__(self, address: HostPort) -> None:
        """Start it and wait until it has joined."""
        command = [sys.executable, "-m", "client", f"{address.host}:{address.port}", "--name", "asker"]
        self._program = Program("the client", command)
        self.pid = self._program.pid
        with self._program.starting():
            self._program.line(MAX_SILENCE)

    def close(self) -> None:
        """End it."""
        self._program.close()

    def ask(self, text: str) -> None:
        """Type the text."""
        self._program.tell(text)

    def wait(self, seq: int, count: int) -> list[str]:
        """Return all lines up to the summary of the ask."""
        summary = f"#{seq}: executed by {count} of {count}"
        lines: list[str] = []
        while summary not in lines[-1:]:
            time.sleep(POLL_SECONDS)
            lines += self._program.lines(MAX_SILENCE)
        return lines

    def check(self, lines: list[str], replies: list[Reply]) -> None:
        """Compare the printed answers, if the client prints any, with those that it must show."""
        found = [line for line in lines if is_answer(line, replies[0].seq)]
        if found:
            compare(found, (reply.shown for reply in replies))


def is_answer(line: str, seq: int) -> bool:
    """Return whether the client prints this line for an answer to the ask."""
    return line.startswith(f"#{seq} rank ")


def compare(found: Iterable[str], expected: Iterable[str]) -> None:
    """Check that both hold the same lines the same number of times, in any order.

    Raises:
        BenchmarkError: if they do not; the message quotes some missing and some surplus lines.
    """
    have, want = Counter(found), Counter(expected)
    missing, wrong = list((want - have).elements()), list((have - want).elements())
    if missing or wrong:
        raise BenchmarkError(
            f"{len(missing)} answers are missing, as {missing[:MAX_SHOWN]}, "
            f"and {len(wrong)} wrong or doubled, as {wrong[:MAX_SHOWN]}"
        )


# --- measuring --------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnswerBurst:
    """The costs of the answers to one ASK; times are in seconds."""

    # From before the first answer is sent until the asker has the last.
    seconds: float
    # The part of ``seconds`` until the last answer is sent.
    sending: float
    server_cpu: float
    # CPU time of the asker; a bare asker shares its process with the generator, whose time is then included.
    asker_cpu: float
    # The number of lines that the asker received.
    lines: int


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    result = measure(options.clients, options.asks)
    if options.require and result["shown"]["answers_per_second"] < options.require:
        rate = result["shown"]["answers_per_second"]
        result["unmet"] = [f"{rate:,.0f} answers/s are shown, {options.require:,} are required"]
    return result


def measure(clients: int, asks: int, tree: Path = harness.ROOT) -> dict[str, Any]:
    """Let ``clients`` answer ``asks`` asks on the server of source tree ``tree``, with this tree's client.

    Raises:
        BenchmarkError: an answer was lost or wrong.
    """
    harness.raise_descriptor_limit(clients + 1)
    result: dict[str, Any] = {"clients": clients, "asks": asks}
    for name, start in (("relayed", _bare), ("shown", Shown)):
        with ExitStack() as stack:
            server = stack.enter_context(LoopbackServer(clients + 1, cpu=Places.choose().sender, tree=tree))
            asker = stack.enter_context(closing(start(server.address)))
            connections = list(_connections(clients, server.address, stack))
            bursts = list(_bursts(asker, connections, server.pid, asks))
        result[name] = _summary(bursts, clients)
    return result


def _bare(address: HostPort) -> Bare:
    asker = Bare(address, "asker")
    asker.joined()
    return asker


def _connections(clients: int, address: HostPort, stack: ExitStack) -> Iterator[AnswerClient]:
    for number in range(1, clients + 1):
        connection = stack.enter_context(closing(AnswerClient(address, f"web-{number}")))
        connection.joined()
        yield connection


def _bursts(asker: Asker, connections: list[AnswerClient], pid: int, asks: int) -> Iterator[AnswerBurst]:
    order = random.Random(SEED)
    with harness.bar(WARM_UPS + asks, type(asker).__name__.lower()) as bar:
        for number in range(WARM_UPS + asks):
            order.shuffle(connections)
            burst = _burst(asker, connections, f"ask {number}", (pid, asker.pid))
            bar.update()
            if number >= WARM_UPS:
                yield burst


def _burst(asker: Asker, connections: list[AnswerClient], text: str, pids: tuple[int, int]) -> AnswerBurst:
    asker.ask(text)
    seqs = {connection.hear(text) for connection in connections}
    if len(seqs) != 1:
        raise BenchmarkError(f"one ASK came with the seqs {sorted(seqs)}")
    seq = seqs.pop()
    replies = [Reply(seq, each.rank, each.name, f"{text}: done by {each.name}") for each in connections]
    sends = [(each.send, reply.frame) for each, reply in zip(connections, replies, strict=True)]
    before, start = [_cpu_seconds(pid) for pid in pids], time.perf_counter()
    for send, frame in sends:
        send(frame)
    sent = time.perf_counter()
    lines = asker.wait(seq, len(replies))
    end = time.perf_counter()
    server, own = (_cpu_seconds(pid) - cpu for pid, cpu in zip(pids, before, strict=True))
    asker.check(lines, replies)
    return AnswerBurst(
        end - start, sent - start, server, own, sum(1 for line in lines if is_answer(line, seq))
    )


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, 0 for this one, by the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime((~pid << 3) | 2) if pid else time.process_time()


def _summary(bursts: list[AnswerBurst], clients: int) -> dict[str, Any]:
    rates = [clients / burst.seconds for burst in bursts]
    return {
        "answers_per_second": median(rates),
        "answers_per_second_min": min(rates),
        "answers_per_second_max": max(rates),
        "milliseconds": median(burst.seconds for burst in bursts) * 1e3,
        "sending_milliseconds": median(burst.sending for burst in bursts) * 1e3,
        "server_cpu_microseconds": median(burst.server_cpu for burst in bursts) / clients * 1e6,
        "asker_cpu_microseconds": median(burst.asker_cpu for burst in bursts) / clients * 1e6,
        "bursts": [asdict(burst) for burst in bursts],
    }


# --- showing ----------------------------------------------------------------------------------


def _show(result: dict[str, Any]) -> None:
    print(f"{result['clients']:,} clients answer one ASK at once; median of {result['asks']} asks")
    for name, asker in (("relayed", "generator"), ("shown", "client")):
        summary = result[name]
        rate, low, high = (summary[f"answers_per_second{which}"] for which in ("", "_min", "_max"))
        print(f"{name:<9}{rate:,.0f} answers/s ({low:,.0f} to {high:,.0f}),", end=" ")
        print(f"{summary['milliseconds']:.1f} ms;", end=" ")
        print(f"all sent after {summary['sending_milliseconds']:.1f} ms;", end=" ")
        print(f"CPU for each: server {summary['server_cpu_microseconds']:.1f} µs,", end=" ")
        print(f"{asker} {summary['asker_cpu_microseconds']:.1f} µs")
    lines = result["shown"]["bursts"][-1]["lines"]
    how = "and in a line of its own" if lines else "and counted in the summary, without lines of their own"
    print(f"verified each answer came once and from the right client, {how}")


if __name__ == "__main__":
    sys.exit(main())
