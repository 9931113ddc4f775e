"""Figure: regret against the sharp chi-squared bound."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rlhfsim.plots.looks import BLACK, GREY, ORANGE, SKY, look
from rlhfsim.plots.panels import caption, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("sharp_bound",)

#: Regrets below this are left out of the logarithmic plot, as the caption says.
SMALLEST_REGRET = 1e-6


def _caption(tables: Tables) -> str:
    table = tables[TABLES[0]]
    counts = table[table["method"] == "chi2"].groupby("kind").size()
    kinds = ", ".join(
        f"{counts[k]:,} {k}" for k in ("random", "adversarial", "equality") if k in counts
    )
    return caption(
        "Regret against the right side of the sharp chi-squared bound; one dot per instance, the "
        "diagonal is equality. (a) The chi-squared-regularized policy stays below it on random "
        "and adversarial instances and reaches it on the equality cases. (b) The KL-regularized "
        "policy, held against the same bound on the same instances. Instances with a regret below "
        "1e-6, negative ones included, are not shown",
        varies="the instance and beta, both drawn at random",
        seeds=f"one, for {kinds} instances; the regret of each is exact",
        interval=None,
    )


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the two-panel scatter."""
    table = tables[TABLES[0]]
    table = table[table["regret"] > SMALLEST_REGRET]
    made = panels(layout, 2, per_row=2, ratio=0.86, sharex="all", sharey="all")
    limits = np.array([0.5 * table["regret"].min(), 2.0 * table["bound"].max()])
    for axes, letter, method in zip(made.axes, "ab", ("chi2", "KL"), strict=True):
        rows = table[table["method"] == method]
        for kind, colour, marker in (
            ("random", SKY if method == "chi2" else ORANGE, "."),
            ("adversarial", look(method).colour, "."),
            ("equality", BLACK, "+"),
        ):
            points = rows[rows["kind"] == kind]
            if len(points):
                axes.plot(
                    points["bound"], points["regret"], marker, color=colour, markersize=3,
                    markeredgewidth=0.5, linestyle="none", rasterized=True,
                    label=f"{kind} ({len(points)})",
                )  # fmt: skip
        axes.plot(limits, limits, color=GREY, linewidth=0.8, label="regret = bound")
        log_axis(axes)
        axes.set(xlabel="bound (reward units)", ylabel="regret (reward units)")
        axes.legend(loc="upper left", markerscale=2)
        panel_letter(axes, letter, f"{look(method).label}-regularized")
    made.label_outer()
    return made.figure


FIGURE = FigureSpec(TABLES, _caption, plot)
