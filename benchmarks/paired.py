"""Compare the servers of two source trees, in pairs, by the figures of load.py, membership.py and answers.py.

Only the server differs: the load generator and the client of this tree drive both. Each round measures both
right after each other, in alternating order, and ratios are taken within a round, so that a machine that
is slow for a while slows down both.

    python benchmarks/paired.py BEFORE [AFTER]
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import answers
import harness
import machine
import membership
import plan
from harness import BenchmarkError, Ceiling, Generator, LoopbackServer, Places
from sources import BurstSource, choose_chunk

if TYPE_CHECKING:
    from collections.abc import Sequence

TREES: Final = ("before", "after")
RECEIVERS: Final = (1, 10, 100, 1_000)

# Bursts of each tree in a round, of which the median counts.
BURSTS: Final = 5

# The paced phase: the rate of an idle server in the comparison, and long enough that 10 commands lie beyond
# the p99.
LATENCY_RECEIVERS: Final = 10
LATENCY_RATE: Final = 250
LATENCY_SECONDS: Final = 4

# The defaults of membership.py and answers.py.
MEMBERS: Final = 8_000
ANSWERING: Final = 1_000
ASKS: Final = 15

# --quick divides all these numbers by this.
QUICK: Final = 50

# The figures of one tree in one round, by name.
Figures = dict[str, float]


class TreePair(NamedTuple):
    """The two trees, and how they are compared."""

    trees: dict[str, Path]
    places: Places
    # All numbers of commands and clients are divided by this.
    share: int


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two trees; return the exit code: 1 if anything was lost or the comparison cannot run."""
    parser = harness.parser(__doc__)
    parser.add_argument("before", type=_tree, help="source tree of the first server")
    parser.add_argument(
        "after",
        type=_tree,
        nargs="?",
        default=harness.ROOT,
        help="source tree of the second (default: this tree)",
    )
    parser.add_argument(
        "--rounds", type=harness.number(1), default=5, metavar="R", help="rounds (default: 5)"
    )
    parser.add_argument("--quick", action="store_true", help="check that it works; the figures mean nothing")
    return harness.run("paired.py", parser.parse_args(argv), _measure, _show)


def _tree(text: str) -> Path:
    tree = Path(text).resolve()
    if not (tree / "rankserver").is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no source tree: it has no folder rankserver")
    return tree


# --- measuring --------------------------------------------------------------------------------


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    harness.build()
    harness.raise_descriptor_limit(MEMBERS + membership.FIRST)
    trees = dict(zip(TREES, (options.before, options.after), strict=True))
    pair = TreePair(trees, Places.choose(), QUICK if options.quick else 1)
    rounds: list[dict[str, Figures]] = []
    with harness.bar(options.rounds, "rounds") as bar:
        for number in range(options.rounds):
            rounds.append(_round(pair, number))
            bar.update()
    return {
        "trees": {which: f"{tree} ({machine.commit(tree)})" for which, tree in trees.items()},
        "rounds": rounds,
    }


def _round(pair: TreePair, number: int) -> dict[str, Figures]:
    """Return the figures of each tree; the number of the round decides which tree comes first."""
    figures: dict[str, Figures] = {which: {} for which in TREES}
    for receivers in RECEIVERS:
        for which, found in _load(pair, receivers, number).items():
            figures[which] |= found
    for measure in (_latency, _membership, _answers):
        for which in plan.order(TREES, number):
            figures[which] |= measure(pair.trees[which], pair)
    return figures


def _load(pair: TreePair, receivers: int, number: int) -> dict[str, Figures]:
    """Run bursts of both servers and of the ceiling in turn; all of them stay connected."""
    point = plan.Point(everyone=False, receivers=receivers, size=plan.MAIN_SIZE)
    commands = plan.max_commands(point, plan.Timing(1)) // pair.share
    with ExitStack() as stack:
        sources = {which: _server(tree, receivers, pair.places, stack) for which, tree in pair.trees.items()}
        sources["ceiling"] = _ceiling(receivers, commands, pair.places, stack)
        rates: dict[str, list[float]] = {which: [] for which in sources}
        for source in sources.values():
            # A warm-up, in which buffers grow and memory is touched.
            source.burst(commands)
        for burst in range(BURSTS):
            for which in plan.order(list(sources), number + burst):
                rates[which].append(sources[which].burst(commands).rate * receivers)
    return {which: _rates(receivers, rates[which], rates["ceiling"]) for which in TREES}


def _rates(receivers: int, ours: Sequence[float], ceiling: Sequence[float]) -> Figures:
    name = f"{receivers:,} receiver{'s' if receivers > 1 else ''}"
    return {
        f"{name}: million deliveries/s": median(ours) / 1e6,
        f"{name}: of the ceiling": median(rate / top for rate, top in zip(ours, ceiling, strict=True)),
    }


def _server(tree: Path, receivers: int, places: Places, stack: ExitStack) -> BurstSource:
    server = stack.enter_context(LoopbackServer(receivers + 1, cpu=places.sender, tree=tree))
    return BurstSource(stack.enter_context(_generator(server, "rank", receivers, places)))


def _ceiling(receivers: int, commands: int, places: Places, stack: ExitStack) -> BurstSource:
    ceiling = stack.enter_context(Ceiling(receivers + 1, 1, plan.MAIN_SIZE, places.sender))
    generator = stack.enter_context(_generator(ceiling, "ceiling", receivers, places))
    source = BurstSource(generator, ceiling)
    choose_chunk(source, commands, trials=1)
    return source


def _generator(server: harness.ServerProgram, proto: str, receivers: int, places: Places) -> Generator:
    return Generator(
        server.address,
        proto=proto,
        receivers=receivers,
        senders=1,
        size=plan.MAIN_SIZE,
        pid=server.pid,
        places=places,
    )


def _latency(tree: Path, pair: TreePair) -> Figures:
    with ExitStack() as stack:
        source = _server(tree, LATENCY_RECEIVERS, pair.places, stack)
        paced = source.pace(max(LATENCY_RATE * LATENCY_SECONDS // pair.share, 1), LATENCY_RATE)
    what = f"a lone command to {LATENCY_RECEIVERS} receivers: µs"
    return {f"{what}, {quantile}": paced[quantile] for quantile in ("p50", "p99")}


def _membership(tree: Path, pair: TreePair) -> Figures:
    clients = MEMBERS // pair.share
    found = membership.join_and_leave(clients, clients // 2, pair.places, tree)
    return {
        "joins/s": found["join"]["joins_per_second"],
        "bytes per idle client": found["memory"]["bytes_per_client"],
    }


def _answers(tree: Path, pair: TreePair) -> Figures:
    found = answers.measure(ANSWERING // pair.share, max(ASKS // pair.share, 1), tree)
    return {f"answers/s, {what}": found[what]["answers_per_second"] for what in ("relayed", "shown")}


# --- showing ----------------------------------------------------------------------------------


def _show(result: dict[str, Any]) -> None:
    rounds = result["rounds"]
    for which, tree in result["trees"].items():
        print(f"{which:<7} {tree}")
    print(f"\n{f'medians of {len(rounds)}':44} {'before':>10} {'after':>10}   after/before (of the pairs)")
    for name in rounds[0]["before"]:
        before, after = ([figures[which][name] for figures in rounds] for which in TREES)
        print(f"{name:44} {_number(median(before)):>10} {_number(median(after)):>10}", end="   ")
        print(ratio(before, after))


def ratio(before: Sequence[float], after: Sequence[float]) -> str:
    """Return the median, the lowest and the highest ratio of the pairs, as text."""
    if not all(before):
        raise BenchmarkError("a figure of the first tree is 0, so nothing can be compared with it")
    ratios = [new / old for old, new in zip(before, after, strict=True)]
    return f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
