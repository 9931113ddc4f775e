"""Figure: regret against the noise of labels and against the spread of raters, and its split."""

from __future__ import annotations

from matplotlib.figure import Figure

from rlhfsim.plots.looks import looks
from rlhfsim.plots.panels import caption, curves, legend, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("noise_best",)

_LEARNERS = ("rlhf-kl", "rlhf-chi2", "rlhf-mixed", "ipo", "cdpo", "rpo")
_PANELS = (
    ("a", "noise", "regret", r"regret at the best $\beta$"),
    ("b", "noise", "untuned", r"regret at the $\beta$ of clean labels"),
    ("c", "noise", "bias", r"bias at the best $\beta$"),
    ("d", "raters", "regret", r"regret at the best $\beta$"),
)


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the four panels."""
    best = tables[TABLES[0]].sort_values("level")
    made = panels(layout, 4, per_row=2, ratio=0.66, extra=0.2)
    styles = looks(_LEARNERS)
    for axes, (letter, varies, metric, title) in zip(made.axes, _PANELS, strict=True):
        rows = best[best["varies"] == varies]
        curves(axes, rows, x="level", y=metric, by="learner", looks=styles,
               low=f"{metric}_low", high=f"{metric}_high")  # fmt: skip
        axes.set_ylabel("reward units")
        if varies == "noise":
            axes.set_xlabel("share of labels flipped")
        else:
            axes.set_xscale("log", base=2)
            levels = sorted(rows["level"].unique())
            axes.set_xticks(levels, [f"{level:g}" for level in levels])
            axes.set_xlabel(r"spread $s$ of temperatures $1/s$, $s$")
        panel_letter(axes, letter, title)
    legend(made, layout)
    return made.figure


def _caption(tables: Tables) -> str:
    best = tables[TABLES[0]]
    return caption(
        "Regret against the share of flipped labels, at the best beta (a) and at the beta that is "
        "best for clean labels (b); the bias in (a), which is the regret of the same learner on "
        "expected counts (c); regret with two raters of temperatures 1/s and s, against s (d)",
        varies="the law of labels, and the learner",
        seeds=f"{int(best['count'].iloc[0])} environments with a dataset each",
        interval="95% Student interval of the mean; in (a) and (d) at a beta that the other half "
        "of the environments chose",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
