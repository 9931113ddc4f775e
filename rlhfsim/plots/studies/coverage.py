"""Figure: regret against the coverage of the comparator, and against that of all policies."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import GREY, looks
from rlhfsim.plots.panels import caption, curves, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("coverage_regret",)


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the two panels."""
    table = tables[TABLES[0]]
    made = panels(layout, 2, per_row=2, ratio=0.78, sharey="all")
    for axes, varies, column, letter, title in zip(
        made.axes, ("comparator", "all policies"), ("comparator", "all_policies"), "ab",
        ("the comparator's coverage", "coverage of all policies"), strict=True,
    ):  # fmt: skip
        _panel(axes, table[table["varies"] == varies].sort_values(column), column)
        panel_letter(axes, letter, title)
    made.axes[0].set(xlabel=r"$C^{\pi^*}$", ylabel=r"regret at the best $\beta$")
    made.axes[1].set(xlabel=r"$\max_\pi\, C^\pi$")
    if not made.as_asked:
        made.axes[1].set(ylabel=r"regret at the best $\beta$")
    legend(made, layout)
    return made.figure


def _panel(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    # On a logarithmic axis a band that reaches 0 would have no lower edge to draw.
    low = rows["regret_low"].where(rows["regret_low"] > 0, rows["regret"])
    curves(axes, rows.assign(low=low), x=column, y="regret", by="learner",
           looks=looks(rows["learner"].unique()), low="low", high="regret_high")  # fmt: skip
    bounds = rows.drop_duplicates(column)
    for name, dashes, label in (
        ("single_policy_bound", (0, (1, 1)), r"bound by $C^{\pi^*}$"),
        ("all_policy_bound", (0, (5, 2, 1, 2)), r"bound by $\max_\pi C^\pi$"),
    ):
        axes.plot(bounds[column], bounds[name], color=GREY, linestyle=dashes, label=label,
                  linewidth=0.9)  # fmt: skip
    log_axis(axes, "both")


def _caption(tables: Tables) -> str:
    table = tables[TABLES[0]]
    count = int(table["environments"].iloc[0])
    return caption(
        "Regret at the best beta against the coverage of the comparator, with that of all policies "
        "held (a), and against that of all policies, with that of the comparator held (b); dashed: "
        "bounds that hold with probability 0.95, of chi-squared at its own beta and of a greedy "
        "policy. beta is chosen on the other half of the environments",
        varies="either coverage, and the learner",
        seeds=f"{count} environments for each point, each with "
        f"{int(table['count'].iloc[0]) // count} datasets",
        interval="95% Student interval of the mean over environments; its lower part is left out "
        "where it reaches 0",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
