"""Figure: regret along beta for some learners, and how it splits into bias and error of data."""

from __future__ import annotations

from matplotlib.figure import Figure

from rlhfsim.plots.looks import looks
from rlhfsim.plots.panels import caption, curves, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("tradeoff_curves", "tradeoff_split")

#: Learners of the first panel, told apart in grey; those of the other two.
_SHOWN = ("rlhf-kl", "rlhf-chi2", "rlhf-mixed", "ipo", "rpo", "demonstrations")
_SPLIT = _SHOWN[:3]


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the three panels."""
    every, split = (tables[name] for name in TABLES)
    made = panels(layout, 3, per_row=3, ratio=0.95)
    first, second, third = made.axes
    for axes, table, y, names in (
        (first, every, "regret", _SHOWN), (second, split, "bias", _SPLIT),
        (third, split, "estimation_error", _SPLIT),
    ):  # fmt: skip
        curves(axes, table, x="beta", y=y, by="learner", looks=looks(names), low=f"{y}_low",
               high=f"{y}_high")  # fmt: skip
        log_axis(axes, "x", ticks=5)
        axes.set(xlabel=r"$\beta$ (reward units)")
    first.set(ylabel="regret (reward units)")
    second.set(ylabel="bias")
    third.set(ylabel="estimation error")
    for axes, letter, title in zip(
        made.axes, "abc", ("regret", "bias", "error of the data"), strict=True
    ):
        panel_letter(axes, letter, title)
    legend(made, layout)
    return made.figure


def _caption(tables: Tables) -> str:
    return caption(
        "Regret along the strength of regularization (a), and its parts: that of the same learner "
        "given the expected counts (b), and the rest (c)",
        varies="beta and the learner",
        seeds=f"{int(tables[TABLES[0]]['count'].max())} environments for each point, one dataset "
        "of each",
        interval="95% Student interval of the mean",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
