"""Figure: regret against the noise of labels and against the spread of raters, and its split."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import looks
from rlhfsim.plots.panels import caption, curves, legend, panel_letter, panels, reference_line
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("noise_best", "noise_against_kl")

_LEARNERS = ("rlhf-kl", "rlhf-chi2", "rlhf-mixed", "ipo", "cdpo", "rpo")


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the four panels."""
    best, against = (tables[name].sort_values("level") for name in TABLES)
    made = panels(layout, 4, per_row=2, ratio=0.66, extra=0.2)
    noise, raters = (best[best["varies"] == name] for name in ("noise", "raters"))
    first, second, third, last = made.axes
    _draw(first, noise, "regret", "regret")
    _draw(second, against[against["varies"] == "noise"], "difference", "regret less that of KL")
    reference_line(second, "KL", y=0.0)
    _draw(third, noise, "bias", "bias of the regret")
    _draw(last, raters, "regret", "regret")
    for axes in (first, second, third):
        axes.set_xlabel("share of labels flipped")
    last.set_xscale("log", base=2)
    levels = sorted(raters["level"].unique())
    last.set_xticks(levels, [f"{level:g}" for level in levels])
    last.set_xlabel(r"spread $s$ of temperatures $1/s$, $s$")
    for axes, letter in zip(made.axes, "abc", strict=False):
        panel_letter(axes, letter, "noise")
    panel_letter(last, "d", "two raters")
    legend(made, layout)
    return made.figure


def _draw(axes: Axes, rows: pd.DataFrame, metric: str, label: str) -> None:
    ends = ("low", "high") if metric == "difference" else (f"{metric}_low", f"{metric}_high")
    curves(axes, rows, x="level", y=metric, by="learner", looks=looks(_LEARNERS),
           low=ends[0], high=ends[1])  # fmt: skip
    axes.set_ylabel(label)


def _caption(tables: Tables) -> str:
    best = tables[TABLES[0]]
    return caption(
        "Regret at the best beta against the share of flipped labels (a), less that of KL on the "
        "same data (b), and its bias, which is the regret of the same learner on expected counts "
        "(c); regret with two raters of temperatures 1/s and s, against s (d)",
        varies="the law of labels, and the learner",
        seeds=f"{int(best['count'].iloc[0])} environments with a dataset each",
        interval="95% Student interval of the mean; in (a), (b) and (d) at a beta that the other "
        "half of the environments chose",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
