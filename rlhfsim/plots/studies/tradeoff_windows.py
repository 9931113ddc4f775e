"""Figure: the best beta of every learner, the window around it, and the regret there."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rlhfsim.plots.looks import GREY, Look, looks
from rlhfsim.plots.panels import caption, log_axis, one_panel
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("tradeoff_best",)


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return one row for each learner, the least regret on top."""
    table = tables[TABLES[0]].sort_values("regret", ascending=False)
    # A row is 1.35 lines high; the axis labels need another three lines.
    height = (1.35 * len(table) + 4.0) * layout.base / 72.0
    made = one_panel(layout, height)
    axes = made.axes[0]
    styles = looks(table["learner"])
    for place, (_, row) in enumerate(table.iterrows()):
        style = styles[row["learner"]]
        axes.plot([row["window_low"], row["window_high"]], [place, place], color=style.colour,
                  linewidth=2.4, alpha=0.55, solid_capstyle="butt",
                  label=f"_{row['learner']} window")  # fmt: skip
        axes.plot([row["beta"]], [place], color=style.colour, marker=style.marker,
                  linestyle="none", label=f"_{row['learner']}")  # fmt: skip
        axes.annotate(
            f"{row['regret']:.3f}", (1.02, place), xycoords=("axes fraction", "data"),
            va="center", fontsize=layout.base - 1.0, annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(np.arange(len(table)), [_label(r, styles) for _, r in table.iterrows()])
    axes.set(xlabel=r"$\beta$ (reward units)", ylim=(-0.8, len(table) - 0.2))
    axes.annotate("regret", (1.02, len(table) - 0.2), xycoords=("axes fraction", "data"),
                  va="bottom", fontsize=layout.base - 1.0, annotation_clip=False)  # fmt: skip
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.4)
    axes.set_axisbelow(True)
    log_axis(axes, "x")
    return made.figure


def _label(row: pd.Series, styles: dict[str, Look]) -> str:
    label = styles[row["learner"]].label
    return f"{label}*" if row["told"] else label


def _caption(tables: Tables) -> str:
    table = tables[TABLES[0]]
    return caption(
        "The best beta of each learner (marker), the betas at which its mean regret is within 10% "
        "of the least (bar, cut at the ends of the grid), and its regret at a beta chosen on the "
        "other half of the environments (right).  A star marks learners that are told more than "
        "preferences: demonstrations, features or a class that holds the truth, the range",
        varies="the learner and beta",
        seeds=f"{int(table['environments'].iloc[0])} environments, one dataset of each",
        interval=None,
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
