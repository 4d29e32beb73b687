"""Measure how long a command takes while another client floods the server with lines that it must answer.

Commands from one client of the real server to another are timed, while further clients are idle: first
without other load, then under a flood of each kind. A flood comes from its own process, which repeats one
line as fast as the server takes it, and reads every answer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import select
import socket
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import harness
import latency
from answers import AnswerClient
from harness import BenchmarkError, HostPort, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection as Pipe

# The line that each flood repeats. No command has the seq of the RES, so the server answers with an error.
FLOODS: Final = {"ping": b"PING flood\n", "res": b"RES 4000000000 ok\n", "who": b"WHO\n"}
# Seconds between two commands.
PAUSE: Final = 0.002
# Seconds within which a flood must have begun.
START_TIMEOUT: Final = 10.0
# Bytes of one send or receive of a flood.
CHUNK: Final = 64 * 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code: 1 if commands took too long."""
    return harness.run("fairness.py", _parser().parse_args(argv), _measure, _show)


def _parser() -> argparse.ArgumentParser:
    parser = harness.parser(__doc__)
    add, number = parser.add_argument, harness.number
    add("--clients", type=number(1), default=100, metavar="N", help="idle clients (default: 100)")
    add(
        "--commands",
        type=number(10),
        default=300,
        metavar="N",
        help="commands under each flood (default: 300)",
    )
    add("--require", type=number(1), metavar="MS", help="fail if half of the commands take longer than MS")
    return parser


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        server = stack.enter_context(LoopbackServer(options.clients + 2 + len(FLOODS)))
        sender, receiver, *_ = (
            _join(stack, server.address, f"client-{number}") for number in range(options.clients + 2)
        )
        result: dict[str, Any] = {"idle": latency.summary(_milliseconds(sender, receiver, options.commands))}
        for name, line in FLOODS.items():
            with _flood(server.address, line):
                result[name] = latency.summary(_milliseconds(sender, receiver, options.commands))
    if options.require:
        result["unmet"] = [
            f"half of the commands took {times['p50_ms']:.1f} ms under {name}, {options.require} are allowed"
            for name, times in result.items()
            if times["p50_ms"] > options.require
        ]
    return result


def _join(stack: ExitStack, address: HostPort, name: str) -> AnswerClient:
    connection = stack.enter_context(closing(AnswerClient(address, name)))
    connection.joined()
    return connection


def _milliseconds(sender: AnswerClient, receiver: AnswerClient, commands: int) -> list[float]:
    """Send commands one after another; return how long each took to reach the receiver."""
    times = []
    for number in range(commands):
        time.sleep(PAUSE)
        start = time.perf_counter()
        sender.send(b"CMD %d\n" % number)
        _wait_for(receiver, number)
        times.append((time.perf_counter() - start) * 1000)
        _wait_for(sender, number)
    return times


def _wait_for(connection: AnswerClient, number: int) -> None:
    while not any(line.endswith(f" 0 {number}") for line in connection.read()):
        pass


@contextmanager
def _flood(address: HostPort, line: bytes) -> Iterator[None]:
    """Flood the server from another process for the duration of the block."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_send_for_ever, args=(address, line, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(START_TIMEOUT):
            raise BenchmarkError("the flood does not begin")
        yield
    finally:
        process.kill()
        process.join()


def _send_for_ever(address: HostPort, line: bytes, ready: Pipe) -> None:
    """Join, report to ``ready``, and flood the server until the process is killed."""
    with socket.create_connection(address) as sock:
        sock.sendall(b"HELLO\n")
        while b"WELCOME " not in (data := sock.recv(CHUNK)):
            if not data:
                return
        sock.setblocking(False)
        ready.send(None)
        rest = to_send = line * (CHUNK // len(line))
        while True:
            readable, writable, _ = select.select([sock], [sock], [])
            if readable and not sock.recv(CHUNK):
                return
            if writable:
                rest = rest[sock.send(rest) :] or to_send


def _show(result: dict[str, Any]) -> None:
    for name in ("idle", *FLOODS):
        print(f"{name:<5} {latency.text(result[name])} for a command to reach another client")


if __name__ == "__main__":
    sys.exit(main())
