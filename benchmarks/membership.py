"""Measure joining, the memory of idle clients, leaving at once, and what idle clients cost in CPU time.

Every client derives its rank from the frames that it gets, and all ranks are checked: against the order of
joining, and against the server's own roster. The clients live in the load generator, a process of its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import harness
from harness import BenchmarkError, Places, Program, RankServer

if TYPE_CHECKING:
    from collections.abc import Sequence

# What the server promises; see --require.
MIN_JOINS: Final = 2_000  # per second
MAX_MEMORY: Final = 2_048  # bytes of an idle client
MAX_LEAVE: Final = 2.0  # seconds
MAX_IDLE: Final = 0.02  # seconds of CPU: some ticks of the clock that the kernel accounts by
SETTLE_MS: Final = 500  # after the last JOIN, for the server to give back what it can
SEED: Final = 1  # of the choice of those that leave, so that a run can be repeated
FIRST: Final = 10  # clients that join before memory is measured, so that what all share is not counted


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code: 1 if a rank was wrong or it cannot run."""
    return harness.run("membership.py", _parser().parse_args(argv), _measure, _show)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add, number = parser.add_argument, harness.number
    add("--clients", type=number(2), default=8000, metavar="N", help="that join (default: 8000)")
    add("--leave", type=number(1), metavar="L", help="how many leave at once (default: half of them)")
    add("--idle", type=number(1), default=1000, metavar="N", help="that sit idle (default: 1000)")
    add("--idle-seconds", type=number(1), default=5, metavar="S", help="for so long (default: 5)")
    add("--require", action="store_true", help="fail if one of the promises does not hold")
    add("--json", action="store_true", help="print one JSON document")
    return parser


# --- measuring --------------------------------------------------------------------------------


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    harness.build()
    clients, leave = options.clients, options.leave or options.clients // 2
    if leave >= clients:
        raise BenchmarkError(f"{leave} of {clients} clients cannot leave: nobody would know")
    harness.raise_descriptor_limit(max(clients + FIRST, options.idle))
    places = Places.choose()
    with harness.bar(2, "membership") as bar:
        result = _join_and_leave(clients, leave, places)
        bar.update()
        result["idle"] = _idle(options.idle, options.idle_seconds, places)
        bar.update()
    if options.require:
        result["unmet"] = _unmet(result)
    return result


def _unmet(result: dict[str, Any]) -> list[str]:
    joins, memory = result["join"]["joins_per_second"], result["memory"]["bytes_per_client"]
    leave, idle = result["leave"]["seconds"], result["idle"]["server_cpu"]
    promises = [
        (joins >= MIN_JOINS, f"{joins:,.0f} joins/s, {MIN_JOINS:,} are required"),
        (memory <= MAX_MEMORY, f"{memory:,.0f} bytes per client, {MAX_MEMORY:,} are allowed"),
        (leave <= MAX_LEAVE, f"{leave:.2f} s until all knew their ranks, {MAX_LEAVE:g} are allowed"),
        (idle <= MAX_IDLE, f"{idle:.3f} s of CPU while idle, {MAX_IDLE:g} are allowed"),
    ]
    return [sentence for holds, sentence in promises if not holds]


def _members(server: RankServer, places: Places) -> Program:
    numbers = [server.address.port, server.pid, int(places.spin)]
    command = [str(harness.PROGRAM), "members", server.address.host, *map(str, numbers)]
    members = Program("the generator", command, places.generator)
    members.event()
    return members


def _join_and_leave(clients: int, leave: int, places: Places) -> dict[str, Any]:
    with RankServer(clients + FIRST, cpu=places.sender) as server, _members(server, places) as members:
        members.ask(f"join {FIRST}")
        members.ask(f"idle {SETTLE_MS}")
        before = _memory(server.pid)
        join = members.ask(f"join {clients}")
        members.ask("settle")
        members.ask(f"idle {SETTLE_MS}")
        memory = _memory(server.pid) - before
        members.ask("roster")
        drop = members.ask(f"drop {leave} {SEED}")
        members.ask("roster")
    del join["event"], drop["event"]
    join["joins_per_second"] = clients / join["seconds"]
    return {"join": join, "memory": {"bytes": memory, "bytes_per_client": memory / clients}, "leave": drop}


def _idle(clients: int, seconds: int, places: Places) -> dict[str, Any]:
    with RankServer(clients, cpu=places.sender) as server, _members(server, places) as members:
        members.ask(f"join {clients}")
        members.ask("settle")
        members.ask(f"idle {SETTLE_MS}")
        idle = members.ask(f"idle {seconds * 1000}")
    del idle["event"]
    return {"clients": clients, **idle}


def _memory(pid: int) -> int:
    """Return the bytes of memory that are the process's own or its share: its PSS, from proc(5)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError("the kernel does not tell the server's memory (/proc/PID/smaps_rollup)")


# --- showing ----------------------------------------------------------------------------------


def _show(result: dict[str, Any]) -> None:
    join, memory, leave, idle = (result[key] for key in ("join", "memory", "leave", "idle"))
    print(
        f"join     {join['joins_per_second']:,.0f} clients/s: {join['clients']:,} one after the other",
        end=" ",
    )
    print(f"in {join['seconds']:.2f} s{_cpu(join)}")
    print(f"memory   {memory['bytes_per_client']:,.0f} bytes of the server per idle client")
    print(
        f"leave    {leave['seconds']:.3f} s until each of {leave['survivors']:,} knew its new rank", end=" "
    )
    print(f"after {leave['clients']:,} left at once, {leave['closing']:.3f} s for closing them", end="")
    print(f" included{_cpu(leave)}")
    print(f"idle     {idle['server_cpu'] * 1e3:.2f} ms of CPU in {idle['seconds']:.1f} s", end=" ")
    print(f"with {idle['clients']:,} clients")
    print("verified every client's own idea of its rank is right, and the server's roster agrees")


def _cpu(event: dict[str, Any]) -> str:
    return f" (CPU: server {event['server_cpu']:.2f} s, generator {event['generator_cpu']:.2f} s)"


if __name__ == "__main__":
    sys.exit(main())
