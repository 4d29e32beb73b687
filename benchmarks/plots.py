"""Draw the plots of the results page as SVG: the medians of the rounds, with a line for each peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from measurements import CEILING
from plan import MAIN_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from measurements import Measurements

# In inches: the width of a page, so that text is not scaled, and the height of a row of panels.
WIDTH: Final = 9.0
HEIGHT: Final = 3.2

# Keep text as text, give the same bytes for the same measurements, and use the ten colours of Tableau that
# colour-blind readers can tell apart.
STYLE: Final[Any] = [
    "tableau-colorblind10",
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "rankserver",
        "font.size": 9,
        "axes.grid": True,
        "grid.color": "#e4e4e4",
    },
]


def draw(measured: Measurements, folder: Path) -> None:
    """Write all plots, of the points with one sender."""
    rounds = measured.rounds[measured.rounds.index.get_level_values("senders") == "one"]
    medians = rounds.groupby(["size", "receivers", "peer"]).median().unstack("peer")
    # Every panel has the same columns, so that a peer has the same colour in all.
    medians = medians.reindex(columns=[peer["key"] for peer in measured.about["peers"]], level="peer")
    sizes = {f"{size:,} bytes": of_size.droplevel("size") for size, of_size in medians.groupby("size")}
    throughput = {size: it["throughput"] for size, it in sizes.items()}
    cost = {size: it["cpu"] * 1e3 for size, it in sizes.items()}
    latency = {
        f"{quantile}, {load}, {size}": sizes[size][f"{load} {quantile}"]
        for size in sizes.keys() & {f"{MAIN_SIZE} bytes"}
        for load in ("idle", "half")
        for quantile in ("p50", "p99")
    }
    _write(folder / "throughput.svg", "Million deliveries per second, over receivers", throughput)
    _write(folder / "latency.svg", "ms until the last receiver has a command, over receivers", latency)
    _write(folder / "cost.svg", "Nanoseconds of the server's CPU per delivery, over receivers", cost)


def _write(path: Path, title: str, panels: dict[str, pd.DataFrame]) -> None:
    """Write panels, two per row, with one legend below; without any values, remove the file."""
    path.unlink(missing_ok=True)
    panels = {name: lines for name, lines in panels.items() if lines.notna().any(axis=None)}
    if not panels:
        return
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    with style.context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT * rows), layout="constrained")
        figure.suptitle(title, fontweight="bold")
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes, (name, lines) in zip(grid, panels.items(), strict=False):
            _plot(axes, name, lines)
        figure.legend(
            *grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False
        )
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _plot(axes: Axes, title: str, lines: pd.DataFrame) -> None:
    """Draw a line for each peer over the receivers, on logarithmic axes."""
    lines.plot(ax=axes, title=title, loglog=True, style={CEILING: "--"}, marker=".", legend=False, xlabel="")
    axes.xaxis.set_major_locator(FixedLocator(lines.index))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
