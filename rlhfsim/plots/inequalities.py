"""Figure: how tight each divergence inequality is, and which are false."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rlhfsim.notation import to_mathtext
from rlhfsim.plots.looks import BLUE, VERMILLION
from rlhfsim.plots.panels import (
    caption,
    legend,
    log_axis,
    one_panel,
    reference_line,
)
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("inequalities",)

#: A page narrower than this many font sizes has no room for the formulas beside the axis.
_NARROW_EMS = 45.0


def _caption(tables: Tables) -> str:
    instances = tables[TABLES[0]]["instances"].max()
    return caption(
        "Left side / right side of each inequality; above 1 it is false. Dots: true inequalities, "
        "at the largest ratio over random instances and a tight witness. Crosses: false ones, at "
        "a simple counterexample",
        varies="the inequality",
        seeds=f"one; the maximum of {instances:,} instances for each, every ratio exact",
        interval=None,
    )


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the dot plot, formulas beside the axis or, on a narrow page, beside the dots."""
    table = tables[TABLES[0]].iloc[::-1].reset_index(drop=True)
    made = one_panel(layout, 0.4 + 0.021 * layout.base * (len(table) + 2))
    (axes,) = made.axes
    false = (table["kind"] == "false").to_numpy()
    height = np.arange(len(table))
    ratio = table["shown_ratio"].to_numpy()
    narrow = layout.width * 72.0 / layout.base < _NARROW_EMS
    reference_line(axes, "equality", x=1.0)
    axes.plot(ratio[~false], height[~false], "o", color=BLUE, markersize=4, label="true")
    axes.plot(ratio[false], height[false], "X", color=VERMILLION, markersize=6, label="false")
    formulas = [to_mathtext(formula) for formula in table["formula"]]
    axes.set_yticks(height, formulas)
    log_axis(axes, "x")
    axes.set(xlim=(0.5, 12.0 * ratio.max()), xlabel="left side / right side")
    middle = np.sqrt(ratio.max())
    for y in height:
        words = [formulas[y]] if narrow else []
        words += [f"{ratio[y]:.5g}"] if false[y] else []
        left = narrow and ratio[y] > middle
        if words:
            axes.annotate(
                ":  ".join(words), (ratio[y], y), xytext=(-6 if left else 6, 0),
                textcoords="offset points", va="center", ha="right" if left else "left",
                fontsize=layout.base - 1.0,
            )  # fmt: skip
    if narrow:
        axes.tick_params(axis="y", left=False, labelleft=False)
        axes.spines["left"].set_visible(False)
    legend(made, layout)
    return made.figure


FIGURE = FigureSpec(TABLES, _caption, plot)
