"""Measure how fast commands reach every client, and verify that none is lost, doubled or out of order.

It starts the real server, or uses the one at ``--connect``, and a load generator in its own process. With
``--ceiling``, bursts of the server alternate with bursts of a program that only sends prepared bytes, and the
ratio is printed: the server's share of what the machine can do at most.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import harness
from harness import Ceiling, Generator, HostPort, LoopbackServer, Places
from sources import CHUNKS, TRIALS, BurstSource, choose_chunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sources import CommandBurst

# Seconds of the paced phase that measures the latency.
PACED_SECONDS: Final = 5

# Bursts that the generator reads without verifying, to see how busy reading alone keeps it.
DRAIN_BURSTS: Final = 3

# A program that is busy for at least this share of the time is the bottleneck.
MIN_SATURATED: Final = 0.95


@dataclass(frozen=True)
class RequestedLoad:
    """The requested load."""

    clients: int
    commands: int
    size: int
    senders: int
    bursts: int
    rate: int

    @property
    def receivers(self) -> int:
        """The number of receivers that count: a sender's own stream counts only if there are no others."""
        return self.clients or self.senders


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code: 1 if anything was lost or the benchmark cannot run."""
    return harness.run("load.py", _parser().parse_args(argv), _measure, _show)


def _parser() -> argparse.ArgumentParser:
    parser = harness.parser(__doc__)
    add, number, smallest = parser.add_argument, harness.number, harness.MIN_COMMAND_BYTES
    add("--clients", type=number(0), default=100, metavar="N", help="clients that receive (default: 100)")
    add(
        "--commands",
        type=number(1),
        default=100_000,
        metavar="M",
        help="commands in a burst (default: 100000)",
    )
    add("--size", type=number(smallest), default=64, metavar="B", help="bytes of a command (default: 64)")
    add("--senders", type=number(1), default=1, metavar="K", help="clients that send (default: 1)")
    add(
        "--bursts",
        type=number(1),
        default=7,
        metavar="X",
        help="bursts, of which the median counts (default: 7)",
    )
    add(
        "--rate",
        type=number(0),
        default=100,
        metavar="R",
        help="commands/s for the latency; 0: none (default: 100)",
    )
    add("--ceiling", action="store_true", help="compare with a program that only sends prepared bytes")
    add("--require", type=float, metavar="R", help="fail below R times the ceiling (implies --ceiling)")
    add("--connect", metavar="HOST:PORT", help="measure this server instead of starting one")
    add("--max-backlog", type=number(1), metavar="B", help="the server's --max-backlog, in bytes")
    return parser


# --- measuring --------------------------------------------------------------------------------


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    load = RequestedLoad(
        options.clients, options.commands, options.size, options.senders, options.bursts, options.rate
    )
    harness.build()
    harness.raise_descriptor_limit(load.clients + load.senders)
    places = Places.choose()
    with ExitStack() as stack:
        address, pid = _target(options, load, places, stack)
        result: dict[str, Any] = {"load": asdict(load), "one_client": _one_client(load, address, pid, places)}
        server = BurstSource(stack.enter_context(_generator(load, address, pid, places)))
        ceiling = _ceiling(load, places, stack) if options.ceiling or options.require else None
        result |= _throughput(load, server, ceiling)
        if ceiling:
            result["drain"] = _drain(load, ceiling)
        if load.rate:
            result["latency"] = _latency(load, server)
    if options.require and result["ratio"]["median"] < options.require:
        result["unmet"] = [
            f"{result['ratio']['median']:.3f} of the ceiling, {options.require:g} are required"
        ]
    return result


def _target(
    options: argparse.Namespace, load: RequestedLoad, places: Places, stack: ExitStack
) -> tuple[HostPort, int]:
    """Return the address of the server, started if necessary, and its process id or 0."""
    if options.connect:
        return HostPort.parse(options.connect), 0
    extra = ["--max-backlog", str(options.max_backlog)] if options.max_backlog else []
    server = stack.enter_context(LoopbackServer(load.clients + load.senders, extra, places.sender))
    return server.address, server.pid


def _generator(
    load: RequestedLoad, address: HostPort, pid: int, places: Places, proto: str = "rank"
) -> Generator:
    return Generator(
        address,
        proto=proto,
        receivers=load.clients,
        senders=load.senders,
        size=load.size,
        pid=pid,
        places=places,
    )


def _ceiling(load: RequestedLoad, places: Places, stack: ExitStack) -> BurstSource:
    sockets = load.clients + load.senders
    ceiling = stack.enter_context(Ceiling(sockets, load.senders, load.size, places.sender))
    generator = _generator(load, ceiling.address, ceiling.pid, places, "ceiling")
    source = BurstSource(stack.enter_context(generator), ceiling)
    with harness.bar(TRIALS * len(CHUNKS), "tuning the ceiling") as bar:
        choose_chunk(source, load.commands, done=bar.update)
    return source


def _one_client(load: RequestedLoad, address: HostPort, pid: int, places: Places) -> dict[str, Any]:
    """Measure how many commands per second a single client can send and have confirmed."""
    alone = RequestedLoad(0, load.commands, load.size, 1, load.bursts, 0)
    with _generator(alone, address, pid, places) as generator:
        source = BurstSource(generator)
        source.burst(load.commands)
        return _summary(alone, [source.burst(load.commands) for _ in range(load.bursts)])


def _throughput(load: RequestedLoad, server: BurstSource, ceiling: BurstSource | None) -> dict[str, Any]:
    """Run the bursts, alternating between the server and the ceiling, if any: machines are noisy."""
    sources = [server, ceiling] if ceiling else [server]
    runs: list[list[CommandBurst]] = [[] for _ in sources]
    with harness.bar(load.bursts * len(sources), "bursts") as bar:
        for source in sources:
            # A warm-up, in which buffers grow and memory is touched.
            source.burst(load.commands)
        for number in range(load.bursts):
            for which in range(len(sources))[:: 1 if number % 2 else -1]:
                runs[which].append(sources[which].burst(load.commands))
                bar.update()
    result: dict[str, Any] = {"server": _summary(load, runs[0])}
    if ceiling:
        ratios = [ours.rate / theirs.rate for ours, theirs in zip(*runs, strict=True)]
        result["ceiling"] = _summary(load, runs[1]) | {"chunk": ceiling.chunk}
        result["ratio"] = {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
    return result


def _summary(load: RequestedLoad, bursts: Sequence[CommandBurst]) -> dict[str, Any]:
    rates = [burst.rate for burst in bursts]
    # Bytes of one command as it is broadcast.
    size = bursts[-1].stream_bytes / load.commands
    busy = median(burst.sender_cpu / burst.seconds for burst in bursts)
    return {
        "commands_per_second": median(rates),
        "deliveries_per_second": median(rates) * load.receivers,
        "deliveries_per_second_min": min(rates) * load.receivers,
        "deliveries_per_second_max": max(rates) * load.receivers,
        "megabytes_per_second": median(rates) * load.receivers * size / 1e6,
        # Unknown if this program did not start the server.
        "sender_busy": busy or None,
        "sender_cpu_per_million": _cpu_per_million(load, bursts) or None,
        "generator_busy": median(burst.generator_cpu / burst.seconds for burst in bursts),
        "bursts": [asdict(burst) for burst in bursts],
    }


def _cpu_per_million(load: RequestedLoad, bursts: Sequence[CommandBurst]) -> float:
    """Return the sender's CPU seconds per million deliveries, which is steady even on a busy machine."""
    return median(burst.sender_cpu / burst.commands for burst in bursts) * 1e6 / load.receivers


def _drain(load: RequestedLoad, ceiling: BurstSource) -> dict[str, Any]:
    """Measure how busy the generator is when it discards what the ceiling sends."""
    return _summary(load, [ceiling.burst(load.commands, "drain") for _ in range(DRAIN_BURSTS)])


def _latency(load: RequestedLoad, server: BurstSource) -> dict[str, Any]:
    commands = load.rate * PACED_SECONDS
    with harness.bar(1, f"{PACED_SECONDS} s at {load.rate} commands/s") as bar:
        event = server.pace(commands, load.rate)
        bar.update()
    return event


# --- showing ----------------------------------------------------------------------------------


def _show(result: dict[str, Any]) -> None:
    load = RequestedLoad(**result["load"])
    print(f"{load.clients} receivers, {load.senders} sending; commands of {load.size} bytes,", end=" ")
    print(f"median of {load.bursts} bursts of {load.commands:,}")
    alone = result["one_client"]["commands_per_second"] / 1e6
    print(f"one client   {alone:.2f} million commands/s, each confirmed to it")
    _show_source("rankserver", result["server"])
    if "ceiling" in result:
        _show_ceiling(result)
    if "latency" in result:
        _show_latency(result["latency"], load)
    print("verified     every receiver got every command once, all in the same order, to the last byte")


def _show_source(name: str, summary: dict[str, Any]) -> None:
    rate, low, high = (summary[f"deliveries_per_second{which}"] / 1e6 for which in ("", "_min", "_max"))
    print(f"{name:12} {rate:.2f} million deliveries/s ({low:.2f} to {high:.2f}),", end=" ")
    print(f"{summary['megabytes_per_second']:,.0f} MB/s", end="")
    if summary["sender_busy"]:
        print(f", {summary['sender_cpu_per_million'] * 1e3:.1f} CPU ns each", end="")
        print(f"; {name} {summary['sender_busy']:.0%} busy", end="")
    print(f", generator {summary['generator_busy']:.0%}")


def _show_ceiling(result: dict[str, Any]) -> None:
    ceiling, ratio = result["ceiling"], result["ratio"]
    _show_source("ceiling", ceiling)
    print(
        f"ratio        {ratio['median']:.2f} of the ceiling (pairs {ratio['min']:.2f} to {ratio['max']:.2f};",
        end=" ",
    )
    print(f"its fastest chunk is {ceiling['chunk'] // 1024} KiB)")
    print(f"generator    {_verdict(ceiling, result['drain'])}")


def _verdict(ceiling: dict[str, Any], drain: dict[str, Any]) -> str:
    """Return a sentence that says whether the generator can drain the ceiling."""
    sender, generator = ceiling["sender_busy"], ceiling["generator_busy"]
    if sender >= MIN_SATURATED:
        verdict = "not the bottleneck"
    elif generator >= MIN_SATURATED:
        verdict = "THE BOTTLENECK: the ceiling may be higher than shown"
    else:
        verdict = "NOT SHOWN: neither side is saturated, so something else keeps the machine busy"
    numbers = f"while the ceiling is {sender:.0%} busy, it is {generator:.0%} busy with verifying"
    return f"{verdict}; {numbers} and {drain['generator_busy']:.0%} with reading alone"


def _show_latency(latency: dict[str, Any], load: RequestedLoad) -> None:
    p50, p99, top, late = (latency[key] / 1e3 for key in ("p50", "p99", "max", "late"))
    print(f"latency      p50 {p50:.3f} ms, p99 {p99:.3f} ms, max {top:.3f} ms", end=" ")
    print(f"until the last of {load.receivers} has it, at {latency['rate']} commands/s", end=" ")
    print(f"(of which the generator's own delay: up to {late:.3f} ms)")


if __name__ == "__main__":
    sys.exit(main())
