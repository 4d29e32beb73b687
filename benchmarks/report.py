"""Write the results of a comparison: the page RESULTS.md, its plots, and the JSON.

The text is in ``RESULTS.template.md``. The tables, made here, and the plots, made in ``plots.py``, depend on
the measurements alone, so ``python benchmarks/report.py FOLDER`` can write the page again.
"""

from __future__ import annotations

import argparse
import sys
from math import floor, log10
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import plots
import targets
from measurements import OURS, PLACE, Measurements
from plan import MAIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from targets import Target

TEMPLATE: Final = Path(__file__).with_name("RESULTS.template.md")
PAGE: Final = "RESULTS.md"
DATA: Final = "compare.json"
PLOTS: Final = "results"

NOT_MEASURED: Final = "Not measured."

# Marks behind a value, which the page explains: the peer lost something, did not keep up with the pace, or
# the generator was so busy that it is the bottleneck.
LOST: Final = " †"
LATE: Final = " §"
SATURATED: Final = " ¶"

# The pace counts as kept if at least this share of it was achieved, and the generator as the bottleneck if it
# was busy for at least this share of the time.
MIN_SHARE: Final = 0.95

# The columns of latencies, and of the points at which every client sends.
LATENCY: Final = {
    f"{title}: {name}": f"{load} {value}"
    for load, title in (("idle", "idle"), ("half", "half load"))
    for name, value in (("commands/s", "rate"), ("p50", "p50"), ("p99", "p99"), ("p99.9", "p999"))
}
EVERYONE: Final = {
    "commands each": "commands",
    "million deliveries/s": "throughput",
    "ours, as a multiple": "multiple",
    "ms to the last": "milliseconds",
    "CPU s per million": "cpu",
    "peak MiB": "memory",
}

# The columns of membership, and the factors that convert the values to their units.
MEMBERSHIP: Final = {
    "joins/s": ("joins_per_second", 1),
    "bytes each": ("memory_per_client", 1),
    "1 left: ms": ("one_leaves", 1e3),
    "100 left: ms": ("hundred_leave", 1e3),
    "half left: ms": ("half_leave", 1e3),
    "ceiling, one send to each: ms": ("ceiling_one", 1e3),
    "1 left, as a multiple of that": ("one_in_sends", 1),
    "idle: CPU ms per s": ("idle_cpu_per_second", 1e3),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and the plots again from the JSON of a run; return the exit code."""
    parser = argparse.ArgumentParser(description="Write RESULTS.md and its plots again from a compare.json.")
    parser.add_argument("folder", type=Path, help="holds compare.json, and receives the page and the plots")
    folder = parser.parse_args(argv).folder
    try:
        measured = Measurements.parse((folder / DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
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
    commits = (*about.get("earlier_commits", ()), about.get("commit"))
    texts = {name: plain(about.get(name)) for name in ("date", "command", "rounds")}
    texts |= {
        "minutes": number(about["seconds"] / 60, 2),
        "commits": ", ".join(f"`{plain(commit)}`" for commit in commits),
        "control": plain(about["machine"]["congestion_control"]),
        "headline": _headline(measured),
        "verdict": _verdict(found),
        "targets": _targets(found),
        "throughput": _by_size(measured, measured.rounds.throughput),
        "faster": _by_size(measured, measured.multiples.throughput),
        "cpu": _by_size(measured, measured.rounds.cpu),
        "memory": _by_size(measured, measured.rounds.memory),
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
    if values.isna().all():
        return "-"
    middle, low, high = map(number, (values.median(), values.min(), values.max()))
    return middle if low == high else f"{middle}<br><sub>{low} to {high}</sub>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return a table whose first ``words`` columns hold words and the others numbers."""
    line = [":---"] * words + ["---:"] * (len(header) - words)
    lines = [f"| {' | '.join(row)} |" for row in (header, line, *rows)]
    return "\n".join(lines) if rows else NOT_MEASURED


def plain(value: object) -> str:
    """Return a program's output escaped, so that it stays in its cell and is not taken for Markdown."""
    text = "unknown" if value is None else " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")


def _by_peer(measured: Measurements, frame: pd.DataFrame) -> list[list[str]]:
    """Return the rows of a frame indexed by peer, in display order, each with the peer's name in front."""
    peers = [peer for peer in measured.about["peers"] if peer["key"] in frame.index]
    return [[peer["name"], *frame.loc[peer["key"]].fillna("-")] for peer in peers]


# --- the first screen -------------------------------------------------------------------------


def _headline(measured: Measurements) -> str:
    """Return a sentence on the throughput at the main size, at the most receivers up to 1,000."""
    rates = measured.rounds.throughput.groupby(PLACE).median()
    ours = [place for place in rates.index if place[:2] == ("one", MAIN_SIZE) and place[3] == OURS]
    receivers = max((count for _, _, count, _ in ours if count <= 1_000), default=0)
    if not receivers:
        return "Nothing was measured of this server."
    here = ("one", MAIN_SIZE, receivers)
    ratios = measured.multiples.throughput.groupby(PLACE).median()[here].drop(OURS)
    names = {peer["key"]: peer["name"] for peer in measured.about["peers"]}
    listed = ", ".join(f"{number(ratios[key])} times {it}" for key, it in names.items() if key in ratios)
    rate = f"**{number(rates[here][OURS])} million deliveries per second**"
    return f"To {receivers:,} receivers: {rate} of {MAIN_SIZE} bytes; {listed}."


def _verdict(found: Sequence[Target]) -> str:
    """Return how many targets are met, and list those that are not."""
    states = [target.met for target in found]
    counts = f"**{states.count(True)} are met, {states.count(False)} are NOT MET**"
    missed = [f"- {sentence(target)}" for target in found if target.met is False]
    return "\n".join(
        [f"Of {len(found)} targets {counts}, {states.count(None)} were not measured.", "", *missed]
    )


def _targets(found: Sequence[Target]) -> str:
    """Return a row for each target, with a column for each number of receivers or clients."""
    places = sorted({target.place for target in found})
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for it in found:
        text = shown(it) + (" **NOT MET**" if it.met is False else "")
        rows.setdefault((it.what, required(it)), {})[it.place] = text
    cells = [[*what, *(row.get(place, "") for place in places)] for what, row in rows.items()]
    return table(["", "required", *(f"{place:,}" for place in places)], cells, 2)


def sentence(target: Target) -> str:
    """Return a target's measured and required values as a sentence."""
    return f"{target.what}, at {target.place:,}: {shown(target)}; required: {required(target)}"


def required(target: Target) -> str:
    """Return the requirement in words."""
    return f"{target.limit} {'the ceiling' if target.required is None else format(target.required, ',.4g')}"


def shown(target: Target) -> str:
    """Return the measured value, rounded unless that would put it on the other side of the limit."""
    if target.lost or target.value is None:
        return "lost commands" if target.lost else "not measured"
    text = number(target.value)
    if target.holds(float(text.replace(",", ""))) != target.holds(target.value):
        text = str(target.value)
    return f"{text} of {target.peer}" if target.peer else text


def _losses(measured: Measurements) -> str:
    lost = measured.starts[measured.starts.lost.notna()][[*PLACE, "lost"]]
    rows = [[*map(str, place), plain(what)] for *place, what in lost.itertuples(index=False)]
    return table([*PLACE, "what happened"], rows, 5) if rows else "Nobody lost anything."


# --- bursts and paced phases ------------------------------------------------------------------


def _by_size(measured: Measurements, values: pd.Series[Any]) -> str:
    """Return a table for each size, with a row for each peer and a column for each number of receivers."""
    cells = _marked(measured, _cells(values.to_frame("value"), "one").value)
    parts = []
    for size, of_size in cells.groupby("size"):
        wide = of_size.droplevel(["senders", "size"]).unstack("receivers")
        header = ["receivers", *(f"{receivers:,}" for receivers in wide)]
        parts.append(f"{size:,} bytes:\n\n{table(header, _by_peer(measured, wide))}")
    return "\n\n".join(parts) or NOT_MEASURED


def _latency(measured: Measurements) -> str:
    """Return the latencies in milliseconds at each size and number of receivers."""
    values = measured.rounds[[*LATENCY.values(), "same p99"]].assign(multiple=measured.multiples["same p99"])
    values.columns = pd.Index([*LATENCY, "ours at that rate: p99", "as a multiple"])
    cells = _cells(values, "one")
    achieved = measured.rounds.groupby(PLACE).median().reindex(cells.index)
    for load, title in (("idle", "idle"), ("half", "half load")):
        late = achieved[f"{load} achieved"] < MIN_SHARE
        cells[f"{title}: commands/s"] += late.map({True: LATE, False: ""})
    return _by_point(measured, cells, "receivers")


def _everyone(measured: Measurements) -> str:
    """Return the table of the points at which every client sends."""
    values = measured.rounds.assign(multiple=measured.multiples.throughput)[list(EVERYONE.values())]
    cells = _cells(values.set_axis(list(EVERYONE), axis=1), "every")
    cells["million deliveries/s"] = _marked(measured, cells["million deliveries/s"])
    orders = measured.bursts.groupby(PLACE).same_order.all().map({True: "same for all", False: "differs"})
    cells.insert(0, "order", orders.reindex(cells.index))
    return _by_point(measured, cells, "clients")


def _cells(values: pd.DataFrame, senders: str) -> pd.DataFrame:
    """Return the cells of the columns by place, for all places with these senders and with any value."""
    values = values[values.index.get_level_values("senders") == senders].dropna(how="all")
    return values.groupby(PLACE).agg(cell).astype(str)


def _marked(measured: Measurements, cells: pd.Series[Any]) -> pd.Series[Any]:
    """Return cells by place, with marks at the end of their first lines."""
    busy = measured.rounds.busy.groupby(PLACE).median().reindex(cells.index) >= MIN_SHARE
    lost = pd.Series(cells.index.isin(measured.lost), cells.index)
    marks = busy.map({True: SATURATED, False: ""}) + lost.map({True: LOST, False: ""})
    parts = cells.str.partition("<br>").reindex(columns=range(3))
    return parts[0] + marks + parts[1] + parts[2]


def _by_point(measured: Measurements, cells: pd.DataFrame, who: str) -> str:
    """Return a table for each size and number of receivers, with a row for each peer."""
    parts = []
    for (size, receivers), here in cells.groupby(["size", "receivers"]):
        rows = _by_peer(measured, here.droplevel(PLACE[:-1]))
        parts.append(f"**{receivers:,} {who}, {size:,} bytes**:\n\n{table(['', *cells], rows)}")
    return "\n\n".join(parts) or NOT_MEASURED


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
    starts = measured.starts
    starts = starts[(starts.senders == "one") & (starts["size"] == MAIN_SIZE) & (starts.receivers == 1_000)]
    starts = starts.set_index("peer")
    costs = pd.DataFrame(
        {"KiB each": starts.idle_memory / 1_001 / 1024, "joins/s": 1_001 / starts.join_seconds}
    )
    return table(["", *costs], _by_peer(measured, costs.map(number, na_action="ignore")))


def _peers(peers: Sequence[dict[str, Any]]) -> str:
    rows = []
    for it in peers:
        version = f"{it['skipped']}: `{it['install']}`" if it["skipped"] else plain(it["version"])
        rows.append([it["name"], version, plain(it["settings"])])
    return table(["", "version", "settings that differ from the default, and why"], rows, 3)


if __name__ == "__main__":
    sys.exit(main())
