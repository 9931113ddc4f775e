"""Figure: how far the practical links are from chiPO's, and their regret, against beta."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.figure import Figure

from rlhfsim.plots.looks import looks
from rlhfsim.plots.panels import (
    caption,
    curves,
    legend,
    log_axis,
    panel_letter,
    panels,
    reference_line,
)
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("practical_link_curves",)

_METHODS = ("chipo", "dpo")
_LINKS = {
    "alpha 1, gamma 0.1": r"$\alpha = 1,\ \gamma = 0.1$",
    "alpha 1/4, gamma 1": r"$\alpha = 1/4,\ \gamma = 1$",
    "alpha 1/4, gamma 0.1": r"$\alpha = 1/4,\ \gamma = 0.1$",
}


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the three panels."""
    every = tables[TABLES[0]]
    made = panels(layout, 3, per_row=2, ratio=0.75)
    styles = looks([*_METHODS, *_LINKS])
    styles |= {name: replace(styles[name], label=label) for name, label in _LINKS.items()}
    others = {name: style for name, style in styles.items() if name != "chipo"}
    shown = (
        ("a", "policy", "apart", others, r"TV from $\chi$PO"),
        ("b", "regret", "regret", styles, "regret (reward units)"),
        ("c", "paired difference of regrets", "gap", others, r"regret less $\chi$PO's"),
    )
    for axes, (letter, title, metric, chosen, label) in zip(made.axes, shown, strict=True):
        curves(axes, every, x="beta", y=metric, by="learner", looks=chosen,
               low=f"{metric}_low", high=f"{metric}_high", markers=6)  # fmt: skip
        log_axis(axes, "x")
        axes.set(xlabel=r"$\beta$ (reward units)", ylabel=label)
        panel_letter(axes, letter, title)
    made.axes[0].set_ylim(bottom=0.0)
    reference_line(made.axes[2], "chiPO", y=0.0)
    legend(made, layout)
    return made.figure


def _caption(tables: Tables) -> str:
    count = int(tables[TABLES[0]]["count"].iloc[0])
    return caption(
        "Total variation (TV) from the policy of chiPO at the same beta and the same data (a), "
        "regret (b), and regret less chiPO's (c), of chiPO with the practical link "
        "exp(clip(alpha log w)) + gamma log w and of DPO; alpha = gamma = 1 is chiPO itself",
        varies="beta, alpha and gamma",
        seeds=f"{count} datasets of one instance for each point",
        interval="95% Student interval of the mean",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
