"""Figure: the duality gap against data for two coverages, and against iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import BLACK, DOTTED, GREY, LOOKS, Look
from rlhfsim.plots.panels import (
    caption,
    curve,
    legend,
    log_axis,
    panel_letter,
    panels,
    reference_line,
)
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("games_learning", "games_iterations")

#: What no method that treats prompts alike and keeps to the reference can do better than without
#: the deciding pairs.
_FLOOR = 0.6


#: Learners that take the look of one of the list.
_AS = {
    "minimax winner": "minimax-winner", "KL Nash": "nash", "self-play": "self-play",
    "Nash-MD": "nash-md", "iterative chiPO": "iterative-chipo", "RLHF, KL": "rlhf-kl",
}  # fmt: skip


def _look(name: str) -> Look:
    if name in _AS:
        return replace(LOOKS[_AS[name]], label=name)
    return Look(BLACK, DOTTED, "v", name)


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the three panels."""
    learning, iterations = (tables[name] for name in TABLES)
    styles = {name: _look(name) for name in learning["learner"].unique()}
    made = panels(layout, 3, per_row=3, ratio=0.95)
    titles = [str(name) for name in learning["instance"].unique()]
    for axes, instance, letter in zip(made.axes, titles, "ab", strict=False):
        _draw(axes, learning[learning["instance"] == instance], "n", styles)
        axes.set(xlabel=r"$n$", ylabel="duality gap")
        panel_letter(axes, letter, instance)
    _rate(made.axes[0], learning[learning["instance"] == titles[0]])
    reference_line(made.axes[1], "lower bound", y=_FLOOR)
    last = made.axes[2]
    _draw(last, iterations, "iterations", styles)
    last.set(xlabel="iterations", ylabel="duality gap")
    panel_letter(last, "c", "most data, unilateral")
    _same_heights(made.axes)
    legend(made, layout)
    return made.figure


def _draw(axes: Axes, rows: pd.DataFrame, x: str, styles: dict[str, Look]) -> None:
    for name, look in styles.items():
        own = rows[rows["learner"] == name].sort_values(x)
        if len(own):
            # On a logarithmic axis a band that reaches 0 would have no lower edge to draw.
            low = own["gap_low"].where(own["gap_low"] > 0, own["gap"])
            curve(axes, own[x], own["gap"], look, low=low, high=own["gap_high"])
    log_axis(axes, "both")


def _same_heights(every: Sequence[Axes]) -> None:
    """Give all panels the same range, so that a gap is as high in each."""
    ends = [axes.get_ylim() for axes in every]
    for axes in every:
        axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))


def _rate(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw `n^(-1/2)`, below the lowest point on the left."""
    sizes = np.sort(rows["n"].unique()).astype(float)
    first = 0.7 * float(rows[rows["n"] == sizes[0]]["gap"].min())
    axes.plot(sizes, first * (sizes / sizes[0]) ** -0.5, color=GREY, linewidth=0.9,
              linestyle=(0, (1, 1)), label=r"$n^{-1/2}$")  # fmt: skip


def _caption(tables: Tables) -> str:
    learning, iterations = (tables[name] for name in TABLES)
    return caption(
        "Two cycles that tie and a response that decides between them: duality gap against the "
        "number of preferences n where the reference has the deciding response (a), and where it "
        "covers the minimax winner only, with the lower bound 0.6 for methods that treat prompts "
        "alike and keep to the reference (b); against "
        f"iterations at n = {int(learning['n'].max())} in the setting of (a) (c)",
        varies="n, the coverage, the learner and iterations; regularized equilibria and RLHF are "
        "at a beta that the other half of the datasets chose",
        seeds=f"{int(iterations['count'].iloc[0])} datasets for each point",
        interval="95% Student interval of the mean; its lower part is left out where it reaches 0",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
