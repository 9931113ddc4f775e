"""Figure: the duality gap against iterations on known games."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rlhfsim.plots.looks import GREY, looks
from rlhfsim.plots.panels import caption, curves, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("self_play_gaps",)

#: Number of responses of the games.
_RESPONSES = 10


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the three panels."""
    every = tables[TABLES[0]].sort_values("iterations", kind="stable")
    every = every.assign(told=[_told(*row) for row in every[["beta", "method"]].to_numpy()])
    made = panels(layout, 3, per_row=3, ratio=0.95, sharey="all")
    styles = looks(every["told"].unique())
    kinds = {"self-play": every["beta"].isna(), "Nash-MD": every["method"] == "Nash-MD",
             "iterative chiPO": every["method"] == "iterative chiPO"}  # fmt: skip
    for axes, (title, chosen), letter in zip(made.axes, kinds.items(), "abc", strict=True):
        curves(axes, every[chosen], x="iterations", y="gap", by="told", looks=styles,
               low="gap_low", high="gap_high")  # fmt: skip
        log_axis(axes, "both")
        axes.set(xlabel="iterations", ylabel="duality gap")
        panel_letter(axes, letter, title)
    sizes = np.sort(every["iterations"].unique())
    bound = np.sqrt(8.0 * np.log(_RESPONSES) / (3.0 * sizes))
    made.axes[0].plot(sizes, bound, color=GREY, linewidth=0.9, linestyle=(0, (1, 1)),
                      label="bound on the average")  # fmt: skip
    made.label_outer()
    legend(made, layout)
    return made.figure


def _told(beta: float, method: str) -> str:
    return method if np.isnan(beta) else rf"$\beta = {beta:g}$"


def _caption(tables: Tables) -> str:
    count = int(tables[TABLES[0]]["count"].iloc[0])
    return caption(
        "Random games of ten responses that are known: duality gap of the average and of the last "
        "policy of self-play, with the bound (8 log Y / (3 T))^(1/2) on the first (a), of the last "
        "policy of Nash-MD (b) and of iterative chiPO (c)",
        varies="iterations, the method and beta",
        seeds=f"{count} games for each point",
        interval="95% Student interval of the mean",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
