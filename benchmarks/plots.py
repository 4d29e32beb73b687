"""The plots of the results page, as SVG: this server and the ceiling stand out, the peers are told apart.

The only module that needs matplotlib (the extra ``bench``). The same result gives the same bytes; the white
background is part of the picture, so that it can be read on a dark page, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from math import log, nan
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import derive
import matplotlib as mpl
import tables
from derive import CEILING, MILLION, OURS, Corner, Result, Spread
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from plan import MAIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

WIDTH: Final = 8.6  # inches of 72 points: about the width of a page, so that text is not scaled
LONG: Final = re.compile(r"(\d\.\d\d)\d+")  # a hundredth of a point is enough for any place
UNTURNED: Final = re.compile(r' transform="rotate\(-0 [^"]*"')
GAP: Final = 0.056  # of the height between two labels at the end of lines
LEGEND_COLUMNS: Final = 5
STYLE: Final[Any] = {  # what is allowed here differs between releases of matplotlib
    "svg.fonttype": "none",  # text stays text: small, and can be searched
    "svg.hashsalt": "rankserver",  # ids that are the same in each run
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "lines.solid_capstyle": "butt",
    "lines.markersize": 5.5,
}


class Look(NamedTuple):
    """How a peer is drawn."""

    colour: str
    marker: str
    width: float = 1.3
    dashes: str = "-"
    order: int = 3


# Colours of Okabe and Ito and of Paul Tol, which the colour-blind can tell apart, and a marker for each.
LOOKS: Final = {
    OURS: Look("#d55e00", "o", 3.0, order=6),
    "redis": Look("#0072b2", "s"),
    "nats": Look("#009e73", "^"),
    "zeromq": Look("#cc79a7", "D"),
    "mosquitto": Look("#999933", "v"),
    "asyncio": Look("#56b4e9", "P"),
    "uvloop": Look("#882255", "X"),
    "threads": Look("#222222", "<"),
    CEILING: Look("#666666", "", 1.8, "--", order=7),
}
OTHER: Final = Look("#000000", "*")
UNLISTED: Final = "_"  # a label that is in no legend
LEAVES: Final = {
    "half": ("half of them leave", LOOKS["threads"]),
    "100": ("100 leave", LOOKS["redis"]),
    "1": ("one leaves", LOOKS[OURS]),
}


Values = Callable[[Any], list[float]]  # of each round


class Line(NamedTuple):
    """What is drawn of one peer."""

    label: str
    look: Look
    points: list[tuple[float, Spread]]


def draw(result: Result) -> dict[str, str]:
    """Return the SVG text of each plot, by file name; none of what was not measured."""
    with mpl.rc_context(STYLE):
        found = {
            "throughput.svg": _throughput(result),
            "sizes.svg": _sizes(result),
            "latency.svg": _latency(result),
            "cost.svg": _cost(result),
            "membership.svg": _membership(result),
        }
        return {name: svg(figure) for name, figure in found.items() if figure is not None}


def svg(figure: Figure) -> str:
    """Return a figure as SVG that says nothing of when or with which version it was drawn."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{_short(line.strip())}\n" for line in text.getvalue().splitlines())


def _short(line: str) -> str:
    """Return a line of SVG without needless decimals and turns; what it says to people stays as it is."""
    head, end, text = line.partition(">")
    return UNTURNED.sub("", LONG.sub(r"\1", head)) + end + text


# --- figures ----------------------------------------------------------------------------------


def _throughput(result: Result) -> Figure | None:
    lines = _lines(result, MAIN_SIZE, derive.throughput, 1 / MILLION)
    title = f"Million deliveries per second, commands of {MAIN_SIZE} bytes, one sender (more is better)"
    return _single(lines, title, (WIDTH, 4.6))


def _cost(result: Result) -> Figure | None:
    lines = _lines(result, MAIN_SIZE, derive.cpu, 1e9)
    title = f"Nanoseconds of the server's CPU per delivery, commands of {MAIN_SIZE} bytes (less is better)"
    return _single(lines, title, (WIDTH, 4.2))


def _single(lines: Sequence[Line], title: str, size: tuple[float, float]) -> Figure | None:
    """Return one pair of axes, with the name of each peer at the end of its line."""
    if not lines:
        return None
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    _plot(axes, lines, "")
    axes.set_xlabel("receivers")
    _title(figure, title)
    _label_ends(axes, lines)
    return figure


def _sizes(result: Result) -> Figure | None:
    panels = [
        (f"{size:,} bytes", lines)
        for size in derive.sizes(result)
        if size != MAIN_SIZE and (lines := _lines(result, size, derive.throughput, 1 / MILLION))
    ]
    return _panels([panels], "Million deliveries per second, over receivers (more is better)", 3.4)


def _latency(result: Result) -> Figure | None:
    rows = [
        [
            (f"{quantile}, {what}", lines)
            for load, what in (("idle", "idle server"), ("half", "half load"))
            if (lines := _lines(result, MAIN_SIZE, _latency_of(load, quantile), 1e3))
        ]
        for quantile in ("p50", "p99")
    ]
    title = f"Milliseconds until the last receiver has a command of {MAIN_SIZE} bytes (less is better)"
    return _panels(rows, title, 6.4)


def _latency_of(load: str, quantile: str) -> Values:
    return lambda it: derive.latency(it, load, quantile)


def _membership(result: Result) -> Figure | None:
    left = [
        _over_clients(result, Line(*named, []), _leaves_of(which), 1e3) for which, named in LEAVES.items()
    ]
    sends = Line("ceiling: one send to each", LOOKS[CEILING], [])
    left.append(_over_clients(result, sends, _each_of("ceiling_one"), 1e3))
    only = Line(UNLISTED, LOOKS[OURS], [])
    panels = [
        ("ms until the last survivor knows", left),
        ("joins per second", [_over_clients(result, only, _each_of("joins_per_second"), 1)]),
        ("bytes per idle client", [_over_clients(result, only, _each_of("memory_per_client"), 1)]),
    ]
    drawn = [(title, [line for line in lines if line.points]) for title, lines in panels]
    row = [panel for panel in drawn if panel[1]]
    figure = _panels([row], "Clients that join and leave, over clients", 3.5)
    for axes in figure.axes[1:] if figure else ():
        axes.set_yscale("linear")
        axes.set_ylim(0, 1.2 * max(axes.get_ylim()))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return figure


def _over_clients(result: Result, line: Line, values: Values, unit: float) -> Line:
    """Return the line with its points: values of the rounds over the number of clients."""
    counts = sorted({point["clients"] for point in result["membership"]})
    spreads = ((count, Spread.of(values(derive.membership(result, count)))) for count in counts)
    return line._replace(points=[(float(count), spread.scaled(unit)) for count, spread in spreads if spread])


def _leaves_of(which: str) -> Values:
    return lambda rounds: derive.leaves(rounds, which)


def _each_of(key: str) -> Values:
    return lambda rounds: derive.each(rounds, key)


# --- parts of a figure ------------------------------------------------------------------------


def _lines(result: Result, size: int, values: Values, unit: float) -> list[Line]:
    """Return a line over receivers for each peer that was measured at this size."""
    found = []
    for key in derive.names(result):
        points = []
        for count in derive.receivers(result, size):
            measured = derive.source(result, Corner("one", count, size), key)
            spread = Spread.of(values(measured)) if measured else None
            if spread:
                points.append((float(count), spread.scaled(unit)))
        if points:
            found.append(Line(derive.short(key), LOOKS.get(key, OTHER), points))
    return found


def _panels(rows: Sequence[Sequence[tuple[str, Sequence[Line]]]], title: str, height: float) -> Figure | None:
    """Return several pairs of axes with one legend below all."""
    rows = [row for row in rows if row]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(
        len(rows), max(map(len, rows)), squeeze=False, sharey="row" if len(rows) > 1 else False
    )
    for across, row in zip(grid, rows, strict=True):
        for axes, (name, lines) in zip(across, row, strict=False):
            _plot(axes, lines, name)
        for axes in across[len(row) :]:
            axes.set_visible(False)
    handles = {}
    for axes in figure.axes:
        handles.update({text: handle for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)})
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=LEGEND_COLUMNS)
    _title(figure, title)
    return figure


def _title(figure: Figure, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def _plot(axes: Axes, lines: Sequence[Line], title: str) -> None:
    """Draw lines on axes that are logarithmic both ways, with the spread of the rounds as a bar."""
    for line in lines:
        look = line.look
        xs, middles = [x for x, _ in line.points], [spread.median for _, spread in line.points]
        style: dict[str, Any] = {"color": look.colour, "zorder": look.order, "clip_on": False}
        axes.plot(xs, middles, marker=look.marker, lw=look.width, ls=look.dashes, label=line.label, **style)
        xs, ends = _bars(line.points)
        axes.plot(xs, ends, lw=1, alpha=0.6, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted({x for line in lines for x, _ in line.points})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=_steps(lines)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_title(title)


def _count(value: float) -> str:
    """Return a number of receivers, short enough to stand beside the next."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _bars(points: Sequence[tuple[float, Spread]]) -> tuple[list[float], list[float]]:
    """Return one broken line that goes from the lowest to the highest round of each point."""
    xs = [place for x, _ in points for place in (x, x, nan)]
    return xs, [end for _, spread in points for end in (spread.low, spread.high, nan)]


def _steps(lines: Sequence[Line]) -> tuple[float, ...]:
    """Return where ticks are in a decade: more of them if there are few decades."""
    values = [value for line in lines for _, spread in line.points for value in (spread.low, spread.high)]
    return (1, 2, 5) if max(values) < 200 * min(values) else (1,)


def _label_ends(axes: Axes, lines: Sequence[Line]) -> None:
    """Write the name of each line at its right end, none over another, led to by a thin line."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    span = log(high / low)
    ends = sorted(lines, key=lambda line: line.points[-1][1].median)
    wanted = [log(line.points[-1][1].median / low) / span for line in ends]
    for line, place in zip(ends, spread_out(wanted, GAP), strict=True):
        look = line.look
        x, spread = line.points[-1]
        at = (1.045, place)
        axes.annotate(
            f"{line.label} {tables.number(spread.median)}",
            (x, spread.median),
            at,
            textcoords="axes fraction",
            va="center",
            color=look.colour,
            fontweight="bold" if look in {LOOKS[OURS], LOOKS[CEILING]} else "normal",
            arrowprops={"arrowstyle": "-", "color": look.colour, "lw": 0.6, "alpha": 0.6, "shrinkA": 1},
        )
    axes.set_xlim(left, right)


def spread_out(wanted: Sequence[float], gap: float) -> list[float]:
    """Return places at least ``gap`` apart, in the same order, near those that are wanted (ascending)."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + gap) if places else place)
    over = (sum(places) - sum(wanted)) / max(1, len(places))
    return [place - over for place in places]
