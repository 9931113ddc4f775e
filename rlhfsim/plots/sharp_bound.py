"""Figure: regret against the sharp chi-squared bound."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rlhfsim.plots import style
from rlhfsim.plots.spec import FigureSpec, Tables

TABLES = ("sharp_bound",)

#: Regrets below this are left out of the logarithmic plot, as the caption says.
SMALLEST_REGRET = 1e-6
CAPTION = (
    "Regret against the right side of the sharp chi-squared bound; one dot per instance, the "
    "diagonal is equality. (a) The chi-squared-regularized policy stays below it on random and "
    "adversarial instances and reaches it on the equality cases. (b) The KL-regularized policy, "
    "held against the same bound on the same instances. Instances with a regret below 1e-6, "
    "negative ones included, are not shown."
)


def draw(tables: Tables) -> Figure:
    """Return the two-panel scatter."""
    table = tables[TABLES[0]]
    table = table[table["regret"] > SMALLEST_REGRET]
    with style.styled():
        figure = style.new_figure(2.9)
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        limits = np.array([0.5 * table["regret"].min(), 2.0 * table["bound"].max()])
        for axes, letter, method in zip(panels, "ab", ("chi2", "KL"), strict=True):
            rows = table[table["method"] == method]
            for kind, colour, marker in (
                ("random", "#56B4E9" if method == "chi2" else "#E69F00", "."),
                ("adversarial", style.COLOURS[method], "."),
                ("equality", "#000000", "+"),
            ):
                points = rows[rows["kind"] == kind]
                if len(points):
                    axes.plot(
                        points["bound"], points["regret"], marker, color=colour, markersize=3,
                        markeredgewidth=0.5, linestyle="none", rasterized=True,
                        label=f"{kind} ({len(points)})",
                    )  # fmt: skip
            axes.plot(limits, limits, color=style.GREY, linewidth=0.8, label="regret = bound")
            axes.set(xscale="log", yscale="log", xlabel="bound (reward units)")
            axes.legend(loc="upper left", markerscale=2)
            style.panel_letter(axes, letter, f"{style.LABELS[method]}-regularized")
        panels[0].set_ylabel("regret (reward units)")
    return figure


FIGURE = FigureSpec(TABLES, CAPTION, draw)
