"""Measure how long a command takes from Enter in one client program to the screen of another.

Commands are typed into one of two real clients of the real server, and the time runs until the other prints
that it executes them: first without other load, then while other clients keep joining and leaving. The time
includes both client programs, the server, and every wake-up between them.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import harness
import latency
from harness import BenchmarkError, LoopbackServer, Program

if TYPE_CHECKING:
    from collections.abc import Sequence

# Seconds between two commands; even a fast typist needs longer.
PAUSE: Final = 0.005

# Seconds between one client that joins and leaves and the next.
CHURN_PAUSE: Final = 0.005

# Seconds after which a missing line counts as lost.
MAX_WAIT: Final = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = harness.parser(__doc__)
    parser.add_argument(
        "--commands", type=harness.number(10), default=300, metavar="N", help="commands (default: 300)"
    )
    return harness.run("interactive.py", parser.parse_args(argv), _measure, _show)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        server = stack.enter_context(LoopbackServer(64))
        above, below = (stack.enter_context(_client(server, name)) for name in ("above", "below"))
        quiet = _milliseconds(above, below, options.commands)
        stop = threading.Event()
        churn = threading.Thread(target=_join_and_leave, args=(server, stop))
        churn.start()
        try:
            busy = _milliseconds(above, below, options.commands)
        finally:
            stop.set()
            churn.join()
    return {"idle": latency.summary(quiet), "joining": latency.summary(busy)}


def _client(server: LoopbackServer, name: str) -> Program:
    address = f"{server.address.host}:{server.address.port}"
    command = [sys.executable, "-m", "client", address, "--name", name, "--delay", "0"]
    client = Program(name, command)
    # The first line says that it has joined, so the next client may join.
    client.line(MAX_WAIT)
    return client


def _milliseconds(above: Program, below: Program, commands: int) -> list[float]:
    """Type commands into ``above``, wait for each at ``below``, and return the times."""
    times = []
    for number in range(commands):
        time.sleep(PAUSE)
        start = time.perf_counter()
        above.tell(f"command {number}")
        while not below.line(MAX_WAIT).startswith("executing "):
            pass
        times.append((time.perf_counter() - start) * 1000)
    return times


def _join_and_leave(server: LoopbackServer, stop: threading.Event) -> None:
    while not stop.wait(CHURN_PAUSE):
        with socket.create_connection(server.address) as sock:
            sock.sendall(b"HELLO\n")
            if not sock.recv(4096):
                raise BenchmarkError("the server closed a connection")


def _show(result: dict[str, Any]) -> None:
    for name, what in (("idle", "nothing else happens"), ("joining", "others join and leave")):
        print(f"{name:<8} {latency.text(result[name])} from Enter to the other screen while {what}")


if __name__ == "__main__":
    sys.exit(main())
