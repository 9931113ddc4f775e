"""Figure: regret and its bias against the features that a class keeps."""

from __future__ import annotations

from matplotlib.figure import Figure

from rlhfsim.plots.looks import looks
from rlhfsim.plots.panels import caption, curves, legend, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("misspecification_best",)

_LEARNERS = ("rlhf-kl", "rlhf-chi2", "rlhf-mixed", "ipo", "cdpo", "rpo")


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the two panels."""
    best = tables[TABLES[0]]
    made = panels(layout, 2, per_row=2, ratio=0.85, extra=0.1, sharey="row")
    kept = sorted(best["features"].unique())
    for axes, metric in zip(made.axes, ("regret", "bias"), strict=True):
        curves(axes, best, x="features", y=metric, by="learner", looks=looks(_LEARNERS),
               low=f"{metric}_low", high=f"{metric}_high")  # fmt: skip
        axes.set(xlabel="features kept", xticks=kept)
    made.axes[0].set_ylabel("reward units")
    if not made.as_asked:
        made.axes[1].set_ylabel("reward units")
    panel_letter(made.axes[0], "a", r"regret at the best $\beta$")
    panel_letter(made.axes[1], "b", "its bias: what more data leave")
    made.label_outer()
    legend(made, layout)
    return made.figure


def _caption(tables: Tables) -> str:
    best = tables[TABLES[0]]
    return caption(
        f"Regret at the best beta of classes that keep some of the {best['features'].max()} "
        "features of the true reward (a), and the part of it that is bias: the regret of the same "
        "learner on expected counts (b)",
        varies="the features kept, and the learner",
        seeds=f"{int(best['count'].iloc[0])} environments with a dataset each",
        interval="95% Student interval of the mean; in (a) at a beta that the other half of the "
        "environments chose",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
