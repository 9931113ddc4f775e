"""Figure: how tight each divergence inequality is, and which are false."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rlhfsim.notation import to_mathtext
from rlhfsim.plots import style
from rlhfsim.plots.spec import FigureSpec, Tables

TABLES = ("inequalities",)
CAPTION = (
    "Left side / right side of each inequality; above 1 it is false. Dots: true inequalities, at "
    "the largest ratio over random instances and a tight witness. Crosses: false ones, at a simple "
    "counterexample."
)


def draw(tables: Tables) -> Figure:
    """Return the dot plot."""
    table = tables[TABLES[0]].iloc[::-1].reset_index(drop=True)
    with style.styled():
        figure = style.new_figure(3.4)
        axes = figure.subplots()
        false = (table["kind"] == "false").to_numpy()
        height = np.arange(len(table))
        ratio = table["shown_ratio"].to_numpy()
        axes.axvline(1.0, color=style.GREY, linewidth=0.8)
        axes.plot(
            ratio[~false], height[~false], "o", color=style.COLOURS["chi2"], markersize=4,
            label="true",
        )  # fmt: skip
        axes.plot(
            ratio[false], height[false], "X", color=style.COLOURS["KL"], markersize=6, label="false"
        )
        for y in height[false]:
            axes.annotate(
                f"{ratio[y]:.5g}", (ratio[y], y), xytext=(6, 0), textcoords="offset points",
                va="center", fontsize=7,
            )  # fmt: skip
        axes.set_yticks(height, [to_mathtext(formula) for formula in table["formula"]])
        axes.set(xscale="log", xlim=(0.5, 5.0 * ratio.max()))
        axes.set_xlabel("left side / right side")
        axes.legend(loc="center right")
    return figure


FIGURE = FigureSpec(TABLES, CAPTION, draw)
