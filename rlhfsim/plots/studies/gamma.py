"""Figure: regret against beta and against gamma, for mixed regularization."""

from __future__ import annotations

from matplotlib.figure import Figure

from rlhfsim.plots.looks import looks
from rlhfsim.plots.panels import caption, curve, curves, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("gamma_curves", "gamma_best")


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the two panels."""
    every, best = (tables[name] for name in TABLES)
    made = panels(layout, 2, per_row=2, ratio=0.75)
    left, right = made.axes
    steps = [name for name in every["learner"].unique() if not name.startswith("chiPO")]
    curves(left, every, x="beta", y="regret", by="learner", looks=looks(steps),
           low="regret_low", high="regret_high", markers=0)  # fmt: skip
    log_axis(left, "x")
    left.set(xlabel=r"$\beta$ (reward units)", ylabel="regret (reward units)")
    styles = looks(["rlhf-mixed", "chipo"])
    for name, style in zip((False, True), styles.values(), strict=True):
        some = best[(best["direct"] == name) & (best["gamma"] > 0)].sort_values("gamma")
        curve(right, some["gamma"], some["regret"], style,
              low=some["regret_low"], high=some["regret_high"])  # fmt: skip
    log_axis(right, "x")
    right.set(xlabel=r"$\gamma$", ylabel=r"regret at the best $\beta$")
    panel_letter(left, "a", "RLHF")
    panel_letter(right, "b", "two-step and direct")
    legend(made, layout)
    return made.figure


def _caption(tables: Tables) -> str:
    count = int(tables[TABLES[0]]["count"].iloc[0])
    return caption(
        "Regret of regularization with chi2 + gamma KL, against beta (a), and at the best beta "
        "against gamma (b), by RLHF and by chiPO",
        varies="beta, gamma and the method",
        seeds=f"{count} pairs of environment and dataset for each point",
        interval="95% Student interval of the mean",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
