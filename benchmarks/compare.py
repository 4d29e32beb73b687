"""Measure rankserver beside its alternatives, and beside what the machine can do at most.

All installed peers do the same work for the same generator and take turns, so that other load on the machine
affects all of them alike. ``plan.py`` decides what is measured, ``grid.py`` measures it, and ``report.py``
writes the results page.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import harness
import machine
import plan
import report
import targets
from grid import Comparison, ProgressBar, Settings
from harness import Places
from measurements import OURS, PLACE, Measurements
from peers import PEERS
from plan import Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peers import PeerServer

FOLDER: Final = harness.ROOT / "benchmarks"

# The file that holds the measurements so far while a run goes on.
PART: Final = "compare.json.part"

# Descriptors that a server needs besides its connections.
SPARE: Final = 200

FULL: Final[dict[str, Any]] = {
    "receivers": plan.RECEIVERS,
    "sizes": plan.SIZES,
    "members": plan.MEMBERS,
    "rounds": 5,
}
QUICK: Final[dict[str, Any]] = {"receivers": (1, 10), "sizes": (64,), "members": (50,), "rounds": 2}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit code: 1 if it cannot go on, or if a required target is not met."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.quick and options.output is None:
        parser.error(
            "--quick would replace the results by meaningless figures: name another folder with --output"
        )
    options.output = options.output or FOLDER
    for name, value in _defaults(options).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return harness.run("compare.py", options, _measure, _show)


def _parser() -> argparse.ArgumentParser:
    parser = harness.parser(__doc__)
    add, smallest = parser.add_argument, harness.MIN_COMMAND_BYTES
    keys = [peer.key for peer in PEERS]
    add(
        "--receivers",
        type=_numbers(1),
        metavar="N,...",
        help=f"numbers of receivers (default: {_listed(plan.RECEIVERS)})",
    )
    add(
        "--sizes",
        type=_numbers(smallest),
        metavar="B,...",
        help=f"bytes of a command (default: {_listed(plan.SIZES)})",
    )
    add(
        "--members",
        type=_numbers(2),
        metavar="N,...",
        help=f"clients that join and leave (default: {_listed(plan.MEMBERS)})",
    )
    add(
        "--peers",
        type=_some(keys),
        metavar="KEY,...",
        help=f"measure these beside rankserver: {_listed(keys)} (default: all that are installed)",
    )
    add(
        "--parts",
        type=_some(plan.PARTS),
        metavar="PART,...",
        help=f"measure these parts: {_listed(plan.PARTS)} (default: all)",
    )
    add("--rounds", type=harness.number(1), metavar="R", help="rounds of each measurement (default: 5)")
    add("--output", type=Path, metavar="DIR", help="write the results here (default: benchmarks/)")
    add("--resume", action="store_true", help="continue an interrupted run with the same arguments")
    add("--quick", action="store_true", help="check in seconds that it works; the figures mean nothing")
    add("--require", action="store_true", help="fail if a target is not met")
    return parser


def _defaults(options: argparse.Namespace) -> dict[str, Any]:
    usual = QUICK if options.quick else FULL
    return usual | {"peers": tuple(peer.key for peer in PEERS), "parts": plan.PARTS}


def _numbers(low: int) -> Callable[[str], tuple[int, ...]]:
    number = harness.number(low)
    return lambda text: tuple(number(part) for part in text.split(","))


def _some(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {_listed(known)}")
        return names

    return parse


def _listed(values: Sequence[object]) -> str:
    return ",".join(map(str, values))


# --- measuring --------------------------------------------------------------------------------


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    harness.build()
    harness.raise_descriptor_limit(_connections(options) + SPARE)
    options.output.mkdir(parents=True, exist_ok=True)
    versions = {peer.key: peer.version() for peer in PEERS}
    settings = Settings(
        plan.points(options.receivers, options.sizes, options.parts),
        options.members if "membership" in options.parts else (),
        [peer for peer in PEERS if _skipped(peer, options, versions) is None],
        Timing.quick(options.rounds) if options.quick else Timing(options.rounds),
        Places.choose(),
    )
    run = Comparison(settings, _head(options, settings.places, versions), options.output / PART)
    if options.resume:
        run.resume()
    seconds = run.seconds()
    _announce(run.result, seconds)
    with ProgressBar(seconds) as progress:
        result = run.run(progress)
    measured = Measurements.of_run(result)
    report.write(measured, options.output)
    run.finish()
    unmet = _own_losses(result)
    if options.require:
        unmet += [report.sentence(target) for target in targets.check(measured) if not target.met]
    return result | {"unmet": unmet} if unmet else result


def _own_losses(result: dict[str, Any]) -> list[str]:
    """Return the places where this server lost something or failed, which make a run fail."""
    return [
        f"rankserver, {point['receivers']:,} receivers, {point['size']:,} bytes: {lost}"
        for point in result["points"]
        if (lost := point["sources"][OURS]["lost"])
    ]


def _connections(options: argparse.Namespace) -> int:
    """Return how many connections one process may have."""
    crowds = (2 * count for count in options.receivers if count in plan.EVERYONE)
    most: int = max(*options.receivers, *crowds, *options.members)
    return most


def _skipped(peer: PeerServer, options: argparse.Namespace, versions: dict[str, str | None]) -> str | None:
    """Return why a peer is not measured, or None if it is."""
    if peer.key != OURS and peer.key not in options.peers:
        return "not asked for"
    return None if versions[peer.key] else "not installed"


def _head(options: argparse.Namespace, places: Places, versions: dict[str, str | None]) -> dict[str, Any]:
    """Return the result without any measurement."""
    peers = [
        {
            "key": peer.key,
            "name": peer.name,
            "version": versions[peer.key],
            "settings": peer.settings,
            "install": peer.install,
            "skipped": _skipped(peer, options, versions),
        }
        for peer in PEERS
    ]
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "seconds": 0.0,
        "command": _command(options),
        "commit": machine.commit(),
        "resumed": False,
        "machine": machine.facts(places),
        "peers": peers,
        "rounds": options.rounds,
    }


def _command(options: argparse.Namespace) -> str:
    """Return the command line that repeats this run."""
    words = ["python", "benchmarks/compare.py"]
    for name, value in _defaults(options).items():
        chosen = getattr(options, name)
        if chosen != value:
            words.append(f"--{name} {chosen if isinstance(chosen, int) else _listed(chosen)}")
    return " ".join([*words, "--quick"] if options.quick else words)


def _announce(result: dict[str, Any], seconds: float) -> None:
    """Announce on standard error what will be measured, and how long it will take."""
    for peer in result["peers"]:
        if peer["skipped"] == "not installed":
            print(f"{peer['name']} is skipped: it is not installed ({peer['install']})", file=sys.stderr)
    names = ", ".join(peer["name"] for peer in result["peers"] if not peer["skipped"])
    duration = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
    print(f"measuring {names}: about {duration}", file=sys.stderr)


# --- showing ----------------------------------------------------------------------------------


def _show(result: dict[str, Any]) -> None:
    measured = Measurements.of_run(result)
    for (senders, size, receivers), multiples in measured.multiples.throughput.groupby(PLACE[:-1]):
        who = "clients that all send" if senders == "every" else "receivers"
        medians = multiples.groupby("peer").median().dropna().drop(OURS, errors="ignore")
        listed = ", ".join(f"{value:.3g} x {peer}" for peer, value in medians.items())
        print(f"{receivers:>6,} {who}, {size:,} bytes: {listed or 'no other was measured'}")
    found = targets.check(measured)
    for target in found:
        if target.met is not None:
            print(f"{'met' if target.met else 'NOT MET':<8} {report.sentence(target)}")
    states = [target.met for target in found]
    print(f"{states.count(True)} of {len(found)} targets are met, {states.count(None)} were not measured")


if __name__ == "__main__":
    sys.exit(main())
