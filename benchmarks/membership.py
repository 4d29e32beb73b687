"""Measure joins, the memory and CPU time of idle clients, and simultaneous leaves.

Every client derives its rank from the frames that it gets, and all ranks are checked against the order of
joining and against the server's roster. The clients live in the load generator, which is a separate process.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import harness
from harness import ROOT, BenchmarkError, Ceiling, Generator, LoopbackServer, Places, Program
from sources import BurstSource
from targets import MAX_HALF, MAX_MEMORY, MIN_JOINS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# The CPU seconds that idle clients may cost: a few ticks of the kernel's accounting clock.
MAX_IDLE: Final = 0.02

# Milliseconds after the last JOIN during which the allocator may still give memory back to the kernel.
SETTLE_MS: Final = 500

# The seed for choosing the clients that leave, so that a run can be repeated.
SEED: Final = 1

# Clients that join before memory is first measured, so that memory shared by all clients is not counted.
FIRST: Final = 10

# Besides one client and half of all, this many leave at once.
MANY: Final = 100

# The bytes of the text that the ceiling sends, which makes its frame about as long as a LEFT.
SMALL: Final = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code: 1 if a rank was wrong or it cannot run."""
    return harness.run("membership.py", _parser().parse_args(argv), _measure, _show)


def _parser() -> argparse.ArgumentParser:
    parser = harness.parser(__doc__)
    add, number = parser.add_argument, harness.number
    add("--clients", type=number(2), default=8000, metavar="N", help="clients that join (default: 8000)")
    add("--leave", type=number(1), metavar="L", help="clients that leave at once (default: half of them)")
    add("--idle", type=number(1), default=1000, metavar="N", help="clients that sit idle (default: 1000)")
    add(
        "--idle-seconds",
        type=number(1),
        default=5,
        metavar="S",
        help="seconds for which they do (default: 5)",
    )
    add("--require", action="store_true", help="fail if a figure exceeds its limit")
    return parser


# --- measuring --------------------------------------------------------------------------------


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    harness.build()
    clients, leave = options.clients, options.leave or options.clients // 2
    if leave >= clients:
        raise BenchmarkError(f"{leave} of {clients} clients cannot leave: at least one must stay to be told")
    harness.raise_descriptor_limit(max(clients + FIRST, options.idle))
    places = Places.choose()
    with harness.bar(2, "membership") as bar:
        result = join_and_leave(clients, leave, places)
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
        (leave <= MAX_HALF, f"{leave:.2f} s until all knew their ranks, {MAX_HALF:g} are allowed"),
        (idle <= MAX_IDLE, f"{idle:.3f} s of CPU while idle, {MAX_IDLE:g} are allowed"),
    ]
    return [sentence for holds, sentence in promises if not holds]


def _members(server: LoopbackServer, places: Places) -> Program:
    numbers = [server.address.port, server.pid, int(places.spin)]
    command = [str(harness.PROGRAM), "members", server.address.host, *map(str, numbers)]
    members = Program("the generator", command, places.generator)
    with members.starting():
        members.event()
    return members


def join_and_leave(clients: int, leave: int, places: Places, tree: Path = ROOT) -> dict[str, Any]:
    """Let ``clients`` join the server of source tree ``tree``, and drop ``leave`` of them at once."""
    with (
        LoopbackServer(clients + FIRST, cpu=places.sender, tree=tree) as server,
        _members(server, places) as members,
    ):
        join = _join(members, server.pid, clients)
        members.ask("roster")
        drop = members.ask(f"drop {leave} {SEED}")
        members.ask("roster")
    del drop["event"]
    bytes_ = join.pop("memory")
    return {"join": join, "memory": {"bytes": bytes_, "bytes_per_client": bytes_ / clients}, "leave": drop}


def _join(members: Program, pid: int, clients: int) -> harness.Event:
    """Join with FIRST clients, then with ``clients`` more; return the cost of the latter."""
    members.ask(f"join {FIRST}")
    members.ask(f"idle {SETTLE_MS}")
    before = memory(pid)
    join = members.ask(f"join {clients}")
    members.ask("settle")
    members.ask(f"idle {SETTLE_MS}")
    del join["event"]
    join["joins_per_second"] = clients / join["seconds"]
    join["memory"] = memory(pid) - before
    return join


def _idle(clients: int, seconds: int, places: Places) -> dict[str, Any]:
    with LoopbackServer(clients, cpu=places.sender) as server, _members(server, places) as members:
        members.ask(f"join {clients}")
        members.ask("settle")
        members.ask(f"idle {SETTLE_MS}")
        idle = members.ask(f"idle {seconds * 1000}")
    del idle["event"]
    return {"clients": clients, **idle}


def memory(pid: int) -> int:
    """Return the proportional set size (PSS) of a process in bytes, see proc(5).

    Raises:
        BenchmarkError: if the process has ended, or the kernel does not report its PSS.
    """
    path = Path(f"/proc/{pid}/smaps_rollup")
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise BenchmarkError(f"cannot read a server's memory: {error}") from error
    for line in lines:
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError(f"the kernel does not report a server's memory in {path}")


# --- rounds, for a comparison -----------------------------------------------------------------


@contextmanager
def one_send(clients: int, places: Places) -> Iterator[Callable[[], float]]:
    """Yield a function that lets the ceiling send one small frame to each survivor of a leave.

    The function returns the seconds until the last receiver has the frame. The ceiling has one receiver for
    each client that remains when one leaves, and all stay connected.
    """
    survivors = clients + FIRST - 1
    with (
        Ceiling(survivors, 1, SMALL, places.sender) as ceiling,
        Generator(
            ceiling.address,
            proto="ceiling",
            # One more survivor is the sender, which triggers the ceiling and receives the frame as well.
            receivers=survivors - 1,
            senders=1,
            size=SMALL,
            pid=ceiling.pid,
            places=places,
        ) as generator,
    ):
        source = BurstSource(generator, ceiling)
        yield lambda: source.burst(1).seconds


def one_round(
    clients: int, send: Callable[[], float], singles: int, sitting: float, places: Places
) -> harness.Event:
    """Let ``clients`` join a new server, sit idle for ``sitting`` seconds, and let some of them leave.

    One client leaves and comes back ``singles`` times, and each time ``send`` (see ``one_send``) lets the
    ceiling send once; the median counts.
    """
    with LoopbackServer(clients + FIRST, cpu=places.sender) as server, _members(server, places) as members:
        join = _join(members, server.pid, clients)
        idle = members.ask(f"idle {int(sitting * 1000)}")
        ones, sends = [], []
        for seed in range(singles):
            ones.append(_leave_and_return(members, 1, seed))
            sends.append(send())
        leave = {"1": median(ones)}
        if clients > MANY:
            leave["100"] = _leave_and_return(members, MANY, SEED)
        leave["half"] = _leave_and_return(members, clients // 2, SEED)
        members.ask("roster")
    return {
        "joins_per_second": join["joins_per_second"],
        "memory_per_client": join["memory"] / clients,
        "leave": leave,
        "ceiling_one": median(sends),
        "join_cpu": join["server_cpu"],
        "idle_cpu_per_second": idle["server_cpu"] / idle["seconds"],
    }


def _leave_and_return(members: Program, count: int, seed: int) -> float:
    """Replace ``count`` clients, which leave at once; return the seconds until all knew of the leave."""
    drop = members.ask(f"drop {count} {seed}")
    members.ask(f"join {count}")
    members.ask("settle")
    return float(drop["seconds"])


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
