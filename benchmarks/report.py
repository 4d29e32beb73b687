"""Write what a comparison measured as a page that people can look at: RESULTS.md, its plots, and the JSON.

All of it follows from the result alone, so the page can be written again from ``compare.json``, without
measuring: ``python benchmarks/report.py benchmarks/compare.json``. ``tables`` and ``plots`` make the parts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import derive
import prose
import tables
import targets
from derive import CEILING, OURS, Corner, Result
from plan import MAIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from targets import Target

PAGE: Final = "RESULTS.md"
DATA: Final = "compare.json"
PLOTS: Final = "results"  # the folder of the plots
HEADLINE: Final = (1000, 100, 10, 1)  # receivers: the first that were measured are what the page begins with
ALT: Final = {
    "throughput.svg": "Deliveries per second over receivers, for all peers",
    "sizes.svg": "Deliveries per second over receivers, for the other sizes of a command",
    "latency.svg": "Latency to the last receiver over receivers, idle and at half load",
    "cost.svg": "CPU time of the server per delivery over receivers",
    "membership.svg": "Time after a leave, joins per second and memory over clients",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page again from the JSON of a run, beside it; return the exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("json", type=Path, metavar="FILE", help="the compare.json of a run")
    path = parser.parse_args(argv).json
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"report.py: cannot read {path}: {error}", file=sys.stderr)
        return 1
    write(result, path.parent)
    return 0


def write(result: Result, folder: Path) -> None:
    """Write the page and the JSON into ``folder``, and the plots into a folder in it."""
    drawn = draw(result)
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    for name in ALT:  # none may be left of another run
        (folder / PLOTS / name).unlink(missing_ok=True)
    for name, text in (drawn or {}).items():
        (folder / PLOTS / name).write_text(text, encoding="utf-8")
    (folder / DATA).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(page(result, drawn), encoding="utf-8")


def draw(result: Result) -> dict[str, str] | None:
    """Return the plots by file name, None if matplotlib is not installed."""
    try:
        importlib.import_module("matplotlib")
    except ModuleNotFoundError:
        return None
    drawn: dict[str, str] = importlib.import_module("plots").draw(result)
    return drawn


# --- the page ---------------------------------------------------------------------------------


def page(result: Result, drawn: Mapping[str, str] | None) -> str:
    """Return the page as Markdown; ``drawn`` are the plots that it can show, None if they cannot be drawn."""
    there = drawn or {}
    parts = [
        "# rankserver beside what people use instead",
        _filled(prose.OPENING.format(peers=_and(_rivals(result)))),
        _summary(result, targets.check(result)),
        _plot("throughput.svg", there) if drawn is not None else prose.NO_PLOTS,
        _method(result),
        "## What it must show",
        _required(result),
        *_throughput(result, there),
        *_latency(result, there),
        *_every(result),
        *_cost(result, there),
        *_membership(result, there),
        *_lost_parts(result),
        "## How to read this, and what it does not say",
        prose.READING,
        "## Machine, versions and settings",
        tables.machine(result),
        tables.programs(result),
        "## How to repeat it",
        _repeat(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _plot(name: str, drawn: Mapping[str, str]) -> str:
    return f"![{ALT[name]}]({PLOTS}/{name})" if name in drawn else ""


def _folded(title: str, *parts: str) -> str:
    """Return parts that are shown on a click."""
    return "\n\n".join([f"<details><summary>{title}</summary>", *parts, "</details>"])


# --- the first screen -------------------------------------------------------------------------


def _summary(result: Result, found: Sequence[Target]) -> str:
    sentences = [_headline(result), count(found), *_lost(result), *_skipped(result)]
    return "\n".join(f"- {text}" for text in sentences if text)


def _headline(result: Result) -> str:
    """Return what was measured where most receivers were measured, in one sentence."""
    corners = (Corner("one", count, MAIN_SIZE) for count in HEADLINE)
    for corner in corners:
        rate = derive.Spread.of(derive.throughput(derive.source(result, corner, OURS)))
        if rate is None:
            continue
        listed = _and(_times(result, corner))
        to = tables.counted(corner.receivers, "receiver")
        makes = f"**{tables.number(rate.median / derive.MILLION)} million deliveries per second**"
        return f"To {to}, rankserver makes {makes} of {MAIN_SIZE} bytes{listed and f': {listed}'}."
    return ""


def _times(result: Result, corner: Corner) -> list[str]:
    listed = []
    for key, called in derive.names(result).items():
        ratio = derive.faster(result, corner, key) if key != OURS else None
        if ratio:
            share = tables.number(ratio.median)
            of = "of the **ceiling**, a C program that only sends prepared bytes"
            listed.append(f"{share} {of}" if key == CEILING else f"**{share}** times {called}")
    return listed


def _and(listed: Sequence[str]) -> str:
    """Return a list as people write it."""
    return f"{', '.join(listed[:-1])} and {listed[-1]}" if len(listed) > 1 else "".join(listed)


def _rivals(result: Result) -> list[str]:
    return [called for key, called in derive.names(result).items() if key not in {OURS, CEILING}]


def count(found: Sequence[Target]) -> str:
    """Return how many targets are met, and each that is not."""
    states = [target.met for target in found]
    parts = [f"**{states.count(True)} are met**"]
    parts += [f"**{states.count(False)} are NOT MET**"] if False in states else []
    parts += [f"{states.count(None)} were not measured"] if None in states else []
    listed = "".join(f"\n  - NOT MET: {line}" for line in unmet(found))
    return f"Of {len(found)} targets, {', '.join(parts)}.{listed}"


def unmet(found: Sequence[Target]) -> list[str]:
    """Return each demand that is not met, and what was measured where it is not."""
    missed: dict[tuple[str, str], list[Target]] = {}
    for target in found:
        if target.met is False:
            missed.setdefault((target.what, tables.required(target)), []).append(target)
    return [f"{what}: {_values(there)}, not {required}" for (what, required), there in missed.items()]


def _values(found: Sequence[Target]) -> str:
    who = "client" if found[-1].group == targets.MEMBERSHIP else "receiver"
    where = [*(f"{target.receivers:,}" for target in found[:-1]), tables.counted(found[-1].receivers, who)]
    return _and([f"{tables.measured(it)} at {place}" for it, place in zip(found, where, strict=True)])


def _lost(result: Result) -> list[str]:
    corners = [corner for senders in ("one", "every") for corner in derive.corners(result, senders)]
    there = [found for corner in corners for found in derive.sources(result, corner).items()]
    counts = {
        name: sum(key == which and bool(it["lost"]) for which, it in there)
        for key, name in derive.names(result).items()
    }
    below = f"[below](#{tables.LOST_ANCHOR})"
    return [
        f"{name} **lost commands, or failed**, at {count} of {len(corners)} points: see {below}."
        for name, count in counts.items()
        if count
    ]


def _skipped(result: Result) -> list[str]:
    skipped = [peer for peer in result["peers"] if peer["skipped"]]
    reasons = dict.fromkeys(peer["skipped"] for peer in skipped)
    return [
        f"Skipped, {reason}: {_and([_how(peer) for peer in skipped if peer['skipped'] == reason])}."
        for reason in reasons
    ]


def _how(peer: dict[str, Any]) -> str:
    return f"{peer['name']} (`{peer['install']}` installs it)" if not peer["version"] else peer["name"]


def _method(result: Result) -> str:
    about = result["machine"]
    pinned = about["server_cpu"] is not None and about["generator_cpu"] is not None
    places = prose.PINNED if pinned else prose.SHARED
    text = prose.METHOD.format(
        date=result["date"],
        cpus=tables.processor(result),
        whole=prose.WHOLE[result.get("resumed")],
        congestion_control=tables.plain(about["congestion_control"]),
        places=places.format(**about),
        rounds=tables.counted(result["rounds"], "round"),
    )
    return _filled(text)


def _filled(text: str) -> str:
    """Return a paragraph whose lines are of about the same length again, after numbers were put in."""
    return textwrap.fill(" ".join(text.split()), 106, break_long_words=False, break_on_hyphens=False)


def _required(result: Result) -> str:
    return "\n\n".join([prose.TARGETS, tables.target_tables(targets.check(result)), prose.BEST])


# --- the other parts --------------------------------------------------------------------------


def _throughput(result: Result, drawn: Mapping[str, str]) -> list[str]:
    sizes = derive.sizes(result)
    if not sizes:
        return []
    parts = ["## Throughput", prose.THROUGHPUT, _plot("sizes.svg", drawn)]
    for size in sorted(sizes, key=lambda size: size != MAIN_SIZE):
        parts += [
            f"### Commands of {size:,} bytes",
            f"Million deliveries per second:\n\n{tables.throughput(result, size)}",
            f"Throughput of rankserver as a multiple of each peer's:\n\n{tables.faster(result, size)}",
        ]
    commands = (f"{size:,} bytes:\n\n{tables.commands(result, size)}" for size in sizes)
    generator = (f"{size:,} bytes:\n\n{tables.generator(result, size)}" for size in sizes)
    return [
        *parts,
        _folded("Commands in a burst", prose.FEWER, *commands),
        _folded("How busy the generator was", prose.GENERATOR, *generator),
        _folded("Bytes that a receiver gets for a command", prose.FRAMING, tables.framing(result)),
    ]


def _latency(result: Result, drawn: Mapping[str, str]) -> list[str]:
    corners = [corner for corner in derive.corners(result, "one") if derive.has_latency(result, corner)]
    if not corners:
        return []
    here = [corner for corner in corners if corner.size == MAIN_SIZE]
    others = [corner for corner in corners if corner.size != MAIN_SIZE]
    parts = ["## Latency", prose.LATENCY, _plot("latency.svg", drawn)]
    parts += [f"{_title(corner)}:\n\n{tables.latency(result, corner)}" for corner in here]
    if others:
        parts.append(
            _folded(
                "Other sizes",
                *(f"{_title(corner)}:\n\n{tables.latency(result, corner)}" for corner in others),
            )
        )
    return parts


def _title(corner: Corner) -> str:
    return f"**{tables.counted(corner.receivers, 'receiver')}, {corner.size:,} bytes**"


def _every(result: Result) -> list[str]:
    corners = derive.corners(result, "every")
    if not corners:
        return []
    shown = [
        f"**{corner.receivers:,} clients, {corner.size:,} bytes**:\n\n{tables.every(result, corner)}"
        for corner in corners
    ]
    return ["## Every client a sender", prose.EVERY, *shown]


def _cost(result: Result, drawn: Mapping[str, str]) -> list[str]:
    sizes = derive.sizes(result)
    if not sizes:
        return []
    parts = ["## What a delivery costs the server", _plot("cost.svg", drawn), prose.COST]
    for size in sorted(sizes, key=lambda size: size != MAIN_SIZE):
        both = [
            f"CPU seconds per million deliveries, {size:,} bytes:\n\n{tables.cpu(result, size)}",
            f"Peak memory in MiB, {size:,} bytes:\n\n{tables.memory(result, size)}",
        ]
        parts += both if size == MAIN_SIZE else [_folded(f"Commands of {size:,} bytes", *both)]
    return parts


def _membership(result: Result, drawn: Mapping[str, str]) -> list[str]:
    parts = ["## Clients that come, stay and go", _plot("membership.svg", drawn)]
    if result["membership"]:
        parts += [prose.MEMBERSHIP, tables.membership(result)]
    size = MAIN_SIZE if MAIN_SIZE in derive.sizes(result) else None
    if size and any(count >= tables.CROWD for count in derive.receivers(result, size)):
        parts += [prose.CONNECTIONS, tables.connections(result, size)]
    return parts if any(parts[1:]) else []


def _lost_parts(result: Result) -> list[str]:
    found = tables.lost(result)
    return [f"## {tables.LOST_TITLE}", prose.LOST, found] if found else []


def _repeat(result: Result) -> str:
    minutes = tables.number(result["seconds"] / 60, 2)
    return _filled(prose.REPEAT.format(command=result["command"], minutes=minutes, plots=PLOTS, data=DATA))


if __name__ == "__main__":
    sys.exit(main())
