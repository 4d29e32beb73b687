"""Draw the plots of the results page as SVG: the medians of the rounds, with a line for each peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from measurements import CEILING, OURS
from plan import MAIN_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from measurements import Measurements

# In inches: the width of a page, so that text is not scaled, and the height of a row of panels.
WIDTH: Final = 9.0
HEIGHT: Final = 3.2

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


def draw(measured: Measurements, folder: Path) -> None:
    """Write all plots, of the points with one sender."""
    rounds = measured.rounds[measured.rounds.index.get_level_values("senders") == "one"]
    sizes = {f"{size:,} bytes": of_size for size, of_size in rounds.groupby("size")}
    main = sizes.get(f"{MAIN_SIZE} bytes", rounds.iloc[:0])
    throughput = {size: it.throughput for size, it in sizes.items()}
    cost = {size: it.cpu * 1e3 for size, it in sizes.items()}
    latency = {
        f"{quantile}, {load}, {MAIN_SIZE} bytes": main[f"{load} {quantile}"]
        for load in ("idle", "half")
        for quantile in ("p50", "p99")
    }
    _write(folder / "throughput.svg", "Million deliveries per second, over receivers", throughput)
    _write(folder / "latency.svg", "ms until the last receiver has a command, over receivers", latency)
    _write(folder / "cost.svg", "Nanoseconds of the server's CPU per delivery, over receivers", cost)


def _write(path: Path, title: str, panels: dict[str, pd.Series[Any]]) -> None:
    """Write panels, two per row, with one legend below; without any values, remove the file."""
    path.unlink(missing_ok=True)
    panels = {name: values.dropna() for name, values in panels.items() if values.notna().any()}
    if not panels:
        return
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT * rows), layout="constrained")
        figure.suptitle(title, fontweight="bold")
        legend: dict[str, Any] = {}
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes, (name, values) in zip(grid, panels.items(), strict=False):
            _plot(axes, values)
            axes.set_title(name)
            handles, labels = axes.get_legend_handles_labels()
            legend |= dict(zip(labels, handles, strict=True))
        figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _plot(axes: Axes, values: pd.Series[Any]) -> None:
    """Draw the medians of each peer over the receivers, on logarithmic axes."""
    medians = values.groupby(["receivers", "peer"]).median().unstack("peer")
    medians = medians[[peer for peer in COLOURS if peer in medians]]
    medians.plot(ax=axes, loglog=True, style={CEILING: "--"}, marker=".", color=COLOURS, legend=False)
    axes.set_xlabel("")
    axes.xaxis.set_major_locator(FixedLocator(medians.index))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
