"""Figure: regret against the range of the reward, and what theory says of its growth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rlhfsim.plots.looks import GREY, looks
from rlhfsim.plots.panels import caption, curves, legend, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("reward_range_regret", "reward_range_slopes")

_LEARNERS = ("rlhf-chi2", "rlhf-mixed", "chipo-clipped", "dpo")
_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_PREDICTED = {
    "Theorem 3.1": (":", r"$R_{\max} e^{2 R_{\max}}$"),
    "sharp bound": ("--", r"$1/\sigma'(R_{\max})$"),
    "Fisher information": ("-", "Fisher information"),
}


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the two panels."""
    regret, slopes = (tables[name] for name in TABLES)
    made = panels(layout, 2, per_row=2, ratio=0.8, extra=0.1)
    left, right = made.axes
    styles = looks(_LEARNERS)
    hard, typical = (regret[regret["family"] == name] for name in ("hard", "typical"))
    curves(left, hard, x="r_max", y="regret", by="learner", looks=styles,
           low="regret_low", high="regret_high")  # fmt: skip
    _predictions(left, hard, slopes)
    left.set(xlabel=r"$R_{\max}$", ylabel="regret at the worst gap", yscale="log")
    left.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    left.yaxis.set_minor_locator(NullLocator())
    curves(right, typical, x="r_max", y="relative", by="learner", looks=styles,
           low="relative_low", high="relative_high")  # fmt: skip
    right.set(xlabel=r"$R_{\max}$", ylabel=r"regret$\,/\,R_{\max}$", ylim=(0.0, None))
    panel_letter(left, "a", "hardest gap")
    panel_letter(right, "b", "random instances")
    legend(made, layout)
    return made.figure


def _predictions(axes: Axes, hard: pd.DataFrame, slopes: pd.DataFrame) -> None:
    """Draw the exponents of theory as straight lines from where chi-squared starts."""
    start = hard[hard["learner"] == "rlhf-chi2"].sort_values("r_max").iloc[0]
    top = 4.0 * float(hard["regret_high"].max())
    growth = slopes[slopes["quantity"] == "regret"].set_index("learner")["slope"]
    for name, (dashes, label) in _PREDICTED.items():
        r = np.linspace(start["r_max"], float(hard["r_max"].max()), 50)
        line = start["regret"] * np.exp(growth[name] * (r - start["r_max"]))
        inside = line <= top
        axes.plot(r[inside], line[inside], dashes, color=GREY, linewidth=0.8, label=label)


def _caption(tables: Tables) -> str:
    regret = tables[TABLES[0]]
    hard, typical = (
        int(regret.loc[regret["family"] == name, "count"].iloc[0]) for name in ("hard", "typical")
    )
    return caption(
        "Regret against the range of the true reward, at a beta that other datasets chose: two "
        "good responses that are mostly compared with one that is R_max worse, at the gap between "
        "them that is worst (a), and regret over R_max on random instances (b); grey lines have "
        "the mean exponents of theory",
        varies="R_max and the learner; n and the comparator's coverage are fixed",
        seeds=f"{hard} datasets for each point (a), {typical} environments (b)",
        interval="95% Student interval of the mean",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
