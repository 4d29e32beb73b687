"""Write the results of a comparison: the page RESULTS.md, its plots, and the JSON.

The text is in ``RESULTS.template.md``. The tables, made here, and the plots, made in ``plots.py``, depend on
the measurements alone, so ``python benchmarks/report.py FOLDER`` can write the page again.
"""

from __future__ import annotations

import argparse
import sys
from math import floor, log10
from pathlib import Path
from statistics import median
from string import Template
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import plots
import targets
from measurements import OURS, PLACE, Measurements
from plan import MAIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from targets import Target

TEMPLATE: Final = Path(__file__).with_name("RESULTS.template.md")
PAGE: Final = "RESULTS.md"
DATA: Final = "compare.json"
PLOTS: Final = "results"
MIB: Final = 1024 * 1024

# The text behind a target that is met, is not met, or was not measured.
MET: Final = {True: "", False: " **NOT MET**", None: ""}

# Marks behind a value, which the page explains: the peer lost something, did not keep up with the pace, or
# the generator was so busy that it is the bottleneck.
LOST: Final = " †"
LATE: Final = " §"
MIN_ACHIEVED: Final = 0.95
SATURATED: Final = " ¶"
MIN_SATURATED: Final = 0.95

# The columns of membership, and the factors that convert the values to their units.
MEMBERSHIP: Final = {
    "joins/s": ("joins_per_second", 1),
    "bytes each": ("memory_per_client", 1),
    "1 left: ms": ("one_leaves", 1e3),
    "100 left: ms": ("hundred_leave", 1e3),
    "half left: ms": ("half_leave", 1e3),
    "ceiling, one send to each: ms": ("ceiling_one", 1e3),
    "1 left, as a multiple of that": ("one_leaves_in_sends", 1),
    "idle: CPU ms per s": ("idle_cpu_per_second", 1e3),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and the plots of a run again, from its JSON; return the exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="with the compare.json of a run")
    folder = parser.parse_args(argv).folder
    try:
        measured = Measurements.parse((folder / DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"report.py: cannot read {folder / DATA}: {error}", file=sys.stderr)
        return 1
    write(measured, folder)
    return 0


def write(measured: Measurements, folder: Path) -> None:
    """Write the page and the JSON into ``folder``, and the plots into its subfolder."""
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    (folder / DATA).write_text(measured.dump(), encoding="utf-8")
    (folder / PAGE).write_text(page(measured), encoding="utf-8")
    plots.draw(measured, folder / PLOTS)


def page(measured: Measurements) -> str:
    """Return the page as Markdown."""
    about, found = measured.about, targets.check(measured)
    texts = {name: plain(about.get(name)) for name in ("date", "command", "rounds")}
    texts |= {
        "minutes": number(about["seconds"] / 60, 2),
        "commits": ", ".join(
            f"`{plain(it)}`" for it in (*about.get("earlier_commits", ()), about.get("commit"))
        ),
        "control": plain(about["machine"]["congestion_control"]),
        "headline": _headline(measured),
        "verdict": _verdict(found),
        "targets": _targets(found),
        "throughput": _by_receivers(measured, measured.burst("throughput"), 1e-6),
        "faster": _by_receivers(measured, measured.faster(), 1),
        "cpu": _by_receivers(measured, measured.burst("cpu"), 1e6),
        "memory": _by_receivers(measured, measured.burst("memory"), 1 / MIB),
        "latency": _latency(measured),
        "everyone": _everyone(measured),
        "membership": _membership(measured),
        "connections": _connections(measured),
        "losses": _losses(measured),
        "machine": table(["", ""], [[key, plain(it)] for key, it in about["machine"].items()], 2),
        "peers": _peers(about["peers"]),
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(texts)


# --- Markdown ---------------------------------------------------------------------------------


def number(value: float, digits: int = 3) -> str:
    """Return a number with this many significant digits and with thousands separators."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.{max(0, digits - 1 - floor(log10(abs(rounded))))}f}"


def cell(values: pd.Series[Any]) -> str:
    """Return the median of rounds with the lowest and the highest value below it in small print."""
    known = values.dropna().tolist()
    if not known:
        return "-"
    middle, low, high = map(number, (median(known), min(known), max(known)))
    return middle if low == high else f"{middle}<br><sub>{low} to {high}</sub>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return a table whose first ``words`` columns hold words and the others numbers."""
    line = [":---"] * words + ["---:"] * (len(header) - words)
    lines = [f"| {' | '.join(row)} |" for row in (header, line, *rows)]
    return "\n".join(lines) if rows else "Not measured."


def plain(value: object) -> str:
    """Return a program's output escaped, so that it stays in its cell and is not taken for Markdown."""
    text = "unknown" if value is None else " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")


def _names(measured: Measurements) -> dict[str, str]:
    """Return the names of the peers by key, in display order."""
    return {peer["key"]: peer["name"] for peer in measured.about["peers"]}


def _in_order(measured: Measurements, frame: pd.DataFrame) -> list[list[str]]:
    """Return the rows of a frame indexed by peer, in display order, each with the peer's name in front."""
    known = ((key, name) for key, name in _names(measured).items() if key in frame.index)
    return [[name, *frame.loc[key].fillna("-")] for key, name in known]


# --- the first screen -------------------------------------------------------------------------


def _headline(measured: Measurements) -> str:
    """Return a sentence on the throughput at the main size, at the most receivers up to 1,000."""
    bursts = measured.bursts
    main = bursts[(bursts.senders == "one") & (bursts["size"] == MAIN_SIZE) & (bursts.receivers <= 1_000)]
    main = main[main.receivers == main.receivers.max()]
    ours = main[main.peer == OURS]
    if not len(ours):
        return "Nothing was measured of this server."
    ratios = measured.faster()["one", MAIN_SIZE, ours.receivers.max()].groupby("peer").median().drop(OURS)
    listed = ", ".join(
        f"{number(ratios[key])} times {it}" for key, it in _names(measured).items() if key in ratios
    )
    rate = f"**{number(ours.throughput.median() / 1e6)} million deliveries per second**"
    return f"To {ours.receivers.max():,} receivers: {rate} of {MAIN_SIZE} bytes; {listed}."


def _verdict(found: Sequence[Target]) -> str:
    """Return how many targets are met, and list those that are not."""
    states = [target.met for target in found]
    counts = f"**{states.count(True)} are met, {states.count(False)} are NOT MET**"
    missed = [f"- {sentence(it)}" for it in found if it.met is False]
    return "\n".join(
        [f"Of {len(found)} targets {counts}, {states.count(None)} were not measured.", "", *missed]
    )


def _losses(measured: Measurements) -> str:
    lost = measured.starts[measured.starts.lost.notna()]
    rows = [[*map(str, row[:-1]), plain(row[-1])] for row in lost[[*PLACE, "lost"]].to_numpy()]
    return table([*PLACE, "what happened"], rows, 5) if rows else "Nobody lost anything."


def _targets(found: Sequence[Target]) -> str:
    """Return a row for each target, with a column for each number of receivers or clients."""
    cells = pd.DataFrame([[it.what, required(it), it.place, f"{shown(it)}{MET[it.met]}"] for it in found])
    wide = cells.pivot(index=[0, 1], columns=2, values=3).fillna("")
    whats = dict.fromkeys((it.what, required(it)) for it in found)
    return table(["", "required", *(f"{it:,}" for it in wide)], [[*it, *wide.loc[it]] for it in whats], 2)


def sentence(target: Target) -> str:
    """Return a target's measured and required values as a sentence."""
    return f"{target.what}, at {target.place:,}: {shown(target)}; required: {required(target)}"


def required(target: Target) -> str:
    """Return the requirement in words."""
    return f"{target.limit} {'the ceiling' if target.required is None else format(target.required, ',.4g')}"


def shown(target: Target) -> str:
    """Return the measured value with enough digits to show on which side of the limit it is."""
    if target.lost or target.value is None:
        return "lost commands" if target.lost else "not measured"
    texts = [number(target.value, digits) for digits in range(3, 18)]
    right = (
        text for text in texts if target.holds(float(text.replace(",", ""))) == target.holds(target.value)
    )
    return f"{next(right)}{target.peer and f' of {target.peer}'}"


# --- bursts and paced phases ------------------------------------------------------------------


def _by_receivers(measured: Measurements, values: pd.Series[Any], factor: float) -> str:
    """Return a table for each size, with a row for each peer and a column for each number of receivers."""
    cells = (values[values.index.get_level_values("senders") == "one"] * factor).groupby(PLACE).apply(cell)
    parts = []
    for size, of_size in _marked(measured, cells).groupby("size"):
        wide = of_size.droplevel(["senders", "size"]).unstack("receivers")
        header = ["receivers", *(f"{receivers:,}" for receivers in wide)]
        parts.append(f"{size:,} bytes:\n\n{table(header, _in_order(measured, wide))}")
    return "\n\n".join(parts) or "Not measured."


def _marked(measured: Measurements, cells: pd.Series[Any]) -> pd.Series[Any]:
    """Return cells by place, with marks at the end of their first lines."""
    busy = measured.burst("busy").groupby(PLACE).median().reindex(cells.index) >= MIN_SATURATED
    lost = measured.starts.set_index(PLACE).lost.reindex(cells.index).notna()
    marks = busy.map({True: SATURATED, False: ""}) + lost.map({True: LOST, False: ""})
    parts = cells.str.partition("<br>") if len(cells) else None
    return cells if parts is None else parts[0] + marks + parts[1] + parts[2]


def _latency(measured: Measurements) -> str:
    """Return the latencies in milliseconds at each size and number of receivers."""
    columns = {}
    for load, title in (("idle", "idle"), ("half", "half load")):
        short = measured.pace(load, "achieved").groupby(PLACE).median() < MIN_ACHIEVED
        rate = measured.pace(load, "rate").groupby(PLACE).apply(cell)
        columns[f"{title}: commands/s"] = rate + short.map({True: LATE, False: ""})
        for quantile, name in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")):
            columns[f"{title}: {name}"] = (measured.pace(load, quantile) / 1e3).groupby(PLACE).apply(cell)
    columns["ours at that rate: p99"] = (measured.pace("same", "p99") / 1e3).groupby(PLACE).apply(cell)
    columns["as a multiple"] = measured.slower("same", "p99").groupby(PLACE).apply(cell)
    return _by_place(measured, columns, "receivers")


def _everyone(measured: Measurements) -> str:
    """Return the table of the points at which every client sends."""
    bursts = measured.bursts[measured.bursts.senders == "every"]
    by_place = bursts.set_index([*PLACE, "round"])
    orders = by_place.same_order.groupby(PLACE).all().map({True: "same for all", False: "differs"})
    here = measured.faster()
    columns = {
        "order": orders,
        "commands each": (bursts.commands / bursts.receivers)
        .set_axis(by_place.index)
        .groupby(PLACE)
        .apply(cell),
        "million deliveries/s": _marked(measured, (by_place.throughput / 1e6).groupby(PLACE).apply(cell)),
        "ours, as a multiple": here[here.index.isin(by_place.index)].groupby(PLACE).apply(cell),
        "ms to the last": (by_place.seconds * 1e3).groupby(PLACE).apply(cell),
        "CPU s per million": (by_place.cpu * 1e6).groupby(PLACE).apply(cell),
        "peak MiB": (by_place.memory / MIB).groupby(PLACE).apply(cell),
    }
    return _by_place(measured, columns, "clients")


def _by_place(measured: Measurements, columns: dict[str, pd.Series[Any]], who: str) -> str:
    """Return a table for each size and number of receivers, with a row for each peer."""
    parts = []
    for (size, receivers), here in pd.DataFrame(columns).groupby(["size", "receivers"]):
        rows = _in_order(measured, here.droplevel(PLACE[:-1]))
        parts.append(f"**{receivers:,} {who}, {size:,} bytes**:\n\n{table(['', *columns], rows)}")
    return "\n\n".join(parts) or "Not measured."


# --- clients ----------------------------------------------------------------------------------


def _membership(measured: Measurements) -> str:
    """Return the table of joins, memory and leaves by the number of clients."""
    rows = [
        [f"{clients:,}", *(cell(rounds[name] * factor) for name, factor in MEMBERSHIP.values())]
        for clients, rounds in measured.members.groupby("clients")
    ]
    return table(["clients", *MEMBERSHIP], rows)


def _connections(measured: Measurements) -> str:
    """Return the cost of each of 1,000 connections; with fewer, memory would be lost in the noise."""
    starts = measured.starts.set_index(PLACE)
    here = starts[starts.index.droplevel("peer").isin([("one", MAIN_SIZE, 1_000)])].droplevel(PLACE[:-1])
    costs = pd.DataFrame({"KiB each": here.idle_memory / 1_001 / 1024, "joins/s": 1_001 / here.join_seconds})
    return table(["", *costs], _in_order(measured, costs.map(number, na_action="ignore")))


def _peers(peers: Iterable[dict[str, Any]]) -> str:
    rows = []
    for it in peers:
        version = f"{it['skipped']}: `{it['install']}`" if it["skipped"] else plain(it["version"])
        rows.append([it["name"], version, plain(it["settings"])])
    return table(["", "version", "settings that differ from the default, and why"], rows, 3)


if __name__ == "__main__":
    sys.exit(main())
