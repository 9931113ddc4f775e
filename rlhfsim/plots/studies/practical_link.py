"""Figure: how far the practical links are from chiPO's, and their regret, against beta."""

from __future__ import annotations

from matplotlib.figure import Figure

from rlhfsim.plots.looks import looks
from rlhfsim.plots.panels import caption, curves, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("practical_link_curves",)

_NAMES = ("chipo", "dpo", "alpha 1, gamma 0.1", "alpha 1/4, gamma 1", "alpha 1/4, gamma 0.1")


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the two panels."""
    every = tables[TABLES[0]]
    made = panels(layout, 2, per_row=2, ratio=0.75, extra=0.1)
    left, right = made.axes
    styles = looks(_NAMES)
    others = {name: style for name, style in styles.items() if name != "chipo"}
    for axes, metric, shown in ((left, "apart", others), (right, "regret", styles)):
        curves(axes, every, x="beta", y=metric, by="learner", looks=shown,
               low=f"{metric}_low", high=f"{metric}_high", markers=6)  # fmt: skip
        log_axis(axes, "x")
        axes.set_xlabel(r"$\beta$ (reward units)")
        axes.set_ylim(bottom=0.0)
    left.set_ylabel(r"total variation from $\chi$PO")
    right.set_ylabel("regret (reward units)")
    panel_letter(left, "a", "policy")
    panel_letter(right, "b", "regret")
    legend(made, layout)
    return made.figure


def _caption(tables: Tables) -> str:
    count = int(tables[TABLES[0]]["count"].iloc[0])
    return caption(
        "Total variation from the policy of chiPO at the same beta and the same data (a), and "
        "regret (b), of chiPO with the practical link exp(clip(alpha log w)) + gamma log w and of "
        "DPO; alpha = gamma = 1 is chiPO itself",
        varies="beta, alpha and gamma",
        seeds=f"{count} environments for each point, averaged over their datasets",
        interval="95% Student interval of the mean over environments",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
