"""Draw the plots of the results page as SVG: a line for each peer, with the spread of the rounds as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from measurements import CEILING, OURS
from plan import MAIN_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from measurements import Measurements

# In inches: the width of a page, so that text is not scaled, and the height of a row of panels.
WIDTH: Final = 9.0
HEIGHT: Final = 3.2

# The value axis is logarithmic if the largest value is at least this multiple of the smallest.
MIN_LOGARITHMIC: Final = 5

# Keep text as text, and give the same bytes for the same measurements.
STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rankserver",
    "font.size": 9,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
}

# Colours by Okabe and Ito and by Paul Tol, which colour-blind readers can tell apart.
COLOURS: Final = {
    OURS: "#d55e00",
    "redis": "#0072b2",
    "nats": "#009e73",
    "zeromq": "#cc79a7",
    "mosquitto": "#999933",
    "asyncio": "#56b4e9",
    "uvloop": "#882255",
    "threads": "#222222",
    CEILING: "#666666",
}

# The values of a panel, indexed by line, x and round; keys are panel titles.
Panels = dict[str, pd.Series]


def draw(measured: Measurements, folder: Path) -> None:
    """Write all plots."""
    throughput = _over_receivers(measured.burst("throughput") / 1e6)
    _write(folder / "throughput.svg", "Million deliveries per second, over receivers", throughput)
    latency: Panels = {}
    for load in ("idle", "half"):
        for quantile in ("p50", "p99"):
            panels = _over_receivers(measured.pace(load, quantile) / 1e3)
            latency |= {
                f"{quantile}, {load}, {size}": it for size, it in panels.items() if size == _size(MAIN_SIZE)
            }
    _write(folder / "latency.svg", "ms until the last receiver has a command, over receivers", latency)
    cost = _over_receivers(measured.burst("cpu") * 1e9)
    _write(folder / "cost.svg", "Nanoseconds of the server's CPU per delivery, over receivers", cost)
    _write(folder / "membership.svg", "Clients that join and leave, over clients", _membership(measured))


def _over_receivers(values: pd.Series[Any]) -> Panels:
    """Return a panel for each command size, with one sender."""
    one = values[values.index.get_level_values("senders") == "one"].dropna().droplevel("senders")
    groups = one.groupby("size")
    return {
        _size(size): it.droplevel("size").reorder_levels(["peer", "receivers", "round"])
        for size, it in groups
    }


def _size(size: int) -> str:
    return f"{size:,} bytes"


def _membership(measured: Measurements) -> Panels:
    rounds = measured.members.set_index(["clients", "round"])
    titles = {"half_leave": "half of them leave", "hundred_leave": "100 leave", "one_leaves": "one leaves"}
    titles["ceiling_one"] = CEILING
    leaves = rounds[list(titles)].astype(float).rename(columns=titles) * 1e3
    ours = {"joins per second": "joins_per_second", "bytes per idle client": "memory_per_client"}
    panels = {title: pd.concat({OURS: rounds[name]}) for title, name in ours.items()}
    return {"ms until the last survivor knows": leaves.unstack(["clients", "round"]).dropna()} | panels


def _write(path: Path, title: str, panels: Panels) -> None:
    """Write panels, two or three per row, with one legend below; without panels, remove the file."""
    path.unlink(missing_ok=True)
    panels = {name: values for name, values in panels.items() if len(values)}
    if not panels:
        return
    columns = 3 if len(panels) == 3 else min(len(panels), 2)
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT * rows), layout="constrained")
        figure.suptitle(title, fontweight="bold")
        legend: dict[str, Any] = {}
        for axes, (name, values) in zip(
            figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False
        ):
            _plot(axes, values)
            axes.set_title(name)
            handles, labels = axes.get_legend_handles_labels()
            legend |= dict(zip(labels, handles, strict=True))
        figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _plot(axes: Axes, values: pd.Series[Any]) -> None:
    """Draw a line for each first level of the index over the second."""
    names = set(values.index.get_level_values(0))
    for name in (*(it for it in COLOURS if it in names), *sorted(names - COLOURS.keys())):
        rounds = values[name].groupby(level=0)
        middle = rounds.median()
        spread = (middle - rounds.min(), rounds.max() - middle)
        style: dict[str, Any] = {"label": name, "color": COLOURS.get(name), "elinewidth": 1, "marker": "."}
        style |= {"lw": 2.6 if name == OURS else 1.2, "ls": "--" if name == CEILING else "-"}
        axes.errorbar(middle.index, middle, spread, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(values.index.get_level_values(1)))))
    if values.max() > MIN_LOGARITHMIC * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
