"""Building blocks of figures: panels that re-lay themselves, curves with bands, legends, captions.

What is drawn with a label is saved under that label beside the figure (see `numbers`); a label
that begins with an underscore is saved too, but kept out of legends.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from rlhfsim.plots.looks import GREY, Look
from rlhfsim.plots.venues import Layout

Share = Literal["none", "all", "row", "col"]


@dataclass(frozen=True)
class Panels:
    """The panels of one figure, in the order of their letters."""

    figure: Figure
    axes: tuple[Axes, ...]
    #: Whether they stand as they were asked for, or were re-laid for a narrow page.
    as_asked: bool
    #: An empty place in the last row, where the legend goes; None if the rows are full.
    free: Axes | None

    def label_outer(self) -> None:
        """Keep only the outer axis labels, where the panels still share their axes."""
        if self.as_asked:
            for axes in self.axes:
                axes.label_outer()


def one_panel(layout: Layout, height: float) -> Panels:
    """Return a single panel of this height in inches, labels included."""
    figure = _new_figure(layout, height)
    return Panels(figure, (figure.subplots(),), as_asked=True, free=None)


def _new_figure(layout: Layout, height: float) -> Figure:
    """Return an empty figure, without pyplot's global state."""
    figure = Figure(figsize=(layout.width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(
    layout: Layout,
    count: int,
    *,
    per_row: int,
    ratio: float = 0.75,
    extra: float = 0.0,
    sharex: Share = "none",
    sharey: Share = "none",
) -> Panels:
    """Return `count` panels, `per_row` in each row or as many as are readable at this width.

    Parameters
    ----------
    layout : Layout
    count, per_row : int
    ratio : float
        Height over width of a panel, labels included.  Panels on a narrow page, which are wider
        than they would be side by side, are made flatter.
    extra : float
        Inches added below, for a legend.
    sharex, sharey : "none", "all", "row" or "col"
        Dropped, but for "all", where the panels are re-laid.
    """
    across = layout.per_row(per_row)
    rows = -(-count // across)
    as_asked = across == per_row
    height = rows * layout.width / across * (ratio if across > 1 else min(ratio, 0.68)) + extra
    figure = _new_figure(layout, height)
    grid = figure.subplots(
        rows, across, squeeze=False,
        sharex=sharex if as_asked or sharex == "all" else "none",
        sharey=sharey if as_asked or sharey == "all" else "none",
    )  # fmt: skip
    if not as_asked:
        for axes in grid.flat:
            axes.tick_params(labelbottom=True, labelleft=True)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    made, free = tuple(grid.flat[:count]), grid.flat[-1] if count < grid.size else None
    return Panels(figure, made, as_asked, free)


def panel_letter(axes: Axes, letter: str, title: str) -> None:
    """Put `(a) title` above the left edge of a panel."""
    axes.set_title(f"({letter}) {title}", loc="left")


def curve(
    axes: Axes,
    x: Sequence[float] | pd.Series,
    y: Sequence[float] | pd.Series,
    look: Look,
    *,
    low: Sequence[float] | pd.Series | None = None,
    high: Sequence[float] | pd.Series | None = None,
    markers: int | None = None,
    **keywords: Any,
) -> None:
    """Draw one curve in its look, with a band from `low` to `high` where both are given.

    Parameters
    ----------
    markers : int, optional
        Markers drawn at most; all points have one by default, 0 leaves them out.
    keywords
        For `Axes.plot`.
    """
    style = look.line() if markers == 0 else look.marked()
    if markers:
        style["markevery"] = max(1, -(-len(x) // markers))
    label = keywords.get("label", look.label)
    axes.plot(np.asarray(x), np.asarray(y), **{**style, **keywords})
    if low is not None and high is not None:
        axes.fill_between(
            np.asarray(x), np.asarray(low), np.asarray(high), color=look.colour, alpha=0.2,
            linewidth=0, label=f"_{label}",
        )  # fmt: skip


def curves(
    axes: Axes,
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str,
    looks: Mapping[str, Look],
    low: str | None = None,
    high: str | None = None,
    markers: int | None = None,
) -> None:
    """Draw a curve for each value of the column `by`, in the order of `looks`."""
    for name, look in looks.items():
        rows = table[table[by] == name]
        if len(rows):
            curve(
                axes, rows[x], rows[y], look, markers=markers,
                low=None if low is None else rows[low],
                high=None if high is None else rows[high],
            )  # fmt: skip


def reference_line(
    axes: Axes, label: str, *, x: float | None = None, y: float | None = None
) -> None:
    """Draw a thin grey line at x or at y; it is saved under `label`, and in no legend."""
    style: dict[str, Any] = {"color": GREY, "linewidth": 0.6, "label": f"_{label}", "zorder": 1}
    if x is not None:
        axes.axvline(x, **style)
    if y is not None:
        axes.axhline(y, **style)


def log_axis(axes: Axes, which: Literal["x", "y", "both"] = "both", ticks: int = 6) -> None:
    """Make axes logarithmic, with at most `ticks` labels and unlabelled ticks at every decade."""
    for name in "xy" if which == "both" else which:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(base=10.0, numticks=ticks))
        axis.set_minor_locator(LogLocator(base=10.0, subs=(1.0,), numticks=99))
        axis.set_minor_formatter(NullFormatter())


def legend(made: Panels, layout: Layout) -> None:
    """Put one legend, every label of the panels once, into the free place or below them."""
    found: dict[str, Any] = {}
    for panel in made.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    if made.free is not None:
        made.free.legend(list(found.values()), list(found), loc="center", handlelength=2.6)
        return
    letters = max(len(re.sub(r"\\[a-z]+|[${}\\^_]", "", label)) for label in found)
    entry = (0.6 * letters + 4.5) * (layout.base - 1.0) / 72.0
    columns = max(1, min(len(found), int(layout.width / entry)))
    rows = -(-len(found) // columns)
    made.figure.legend(
        list(found.values()), list(found), loc="outside lower center",
        ncols=-(-len(found) // rows), handlelength=2.6, columnspacing=1.4,
    )  # fmt: skip


def shown(groups: Mapping[Hashable, int]) -> str:
    """Return counts as text, `20` where they are all equal and `10 to 20` where not."""
    counts = sorted(set(groups.values()))
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def caption(text: str, *, varies: str, seeds: int | str | None, interval: str | None) -> str:
    """Return a caption that says what varies, how many seeds there are, and which interval.

    Parameters
    ----------
    text : str
        What is shown.
    varies : str
        What differs along the axes and between the curves.
    seeds : int, str or None
        How many per point; None where nothing is sampled.
    interval : str or None
        What bands or bars are, such as "95% bootstrap interval of the mean"; None where there
        are none.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If `text` or `varies` is empty, or an interval is given without seeds.
    """
    for name, part in (("text", text), ("varies", varies)):
        if not part.strip():
            raise ValueError(f"{name} is empty; a caption must say it")
    if seeds is None and interval is not None:
        raise ValueError(f"interval is {interval!r} and seeds is None; exact numbers have none")
    parts = [_sentence(text), _sentence(f"Varied: {varies}")]
    if seeds is None:
        parts.append("Exact: no seeds, no interval.")
    else:
        count = f"{seeds:,}" if isinstance(seeds, int) else seeds
        parts.append(_sentence(f"Seeds: {count}"))
        parts.append("No interval." if interval is None else _sentence(f"Interval: {interval}"))
    return " ".join(parts)


def _sentence(text: str) -> str:
    return " ".join(text.split()).rstrip(".") + "."
