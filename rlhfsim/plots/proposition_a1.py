"""Figure: regret against beta, and how the best regret falls with n."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rlhfsim.plots import style
from rlhfsim.plots.spec import FigureSpec, Tables

TABLES = ("proposition_a1_curves", "proposition_a1_summary")
CAPTION = (
    "Proposition A.1. Expected regret over all datasets, exact. (a) Against beta for two sample "
    "sizes. (b) At each method's best beta, against n; dotted: the proved floor under the "
    "expected regret of KL for every beta. (c) Multiplied by the rate of the "
    "proposition: KL at its best beta times log n is bounded away from 0; the others at "
    "beta = 1/sqrt n times sqrt n are bounded above."
)


def draw(tables: Tables) -> Figure:
    """Return the three-panel figure."""
    curves, summary = tables[TABLES[0]], tables[TABLES[1]]
    with style.styled():
        figure = style.new_figure(2.35)
        left, middle, right = figure.subplots(1, 3)
        sizes = np.unique(curves["n"])
        for n, width in ((sizes[len(sizes) // 3], 0.8), (sizes[-1], 1.6)):
            for method, points in curves[curves["n"] == n].groupby("method", sort=False):
                name = str(method)
                left.plot(
                    points["beta"], points["regret"], color=style.COLOURS[name],
                    linestyle=style.LINES[name], linewidth=width,
                )  # fmt: skip
        left.set(xscale="log", yscale="log", xlabel=r"$\beta$", ylabel="expected regret")
        thin, thick = (round(np.log10(n)) for n in (sizes[len(sizes) // 3], sizes[-1]))
        style.panel_letter(left, "a", rf"thin $n=10^{{{thin}}}$, thick $n=10^{{{thick}}}$")

        for method, points in summary.groupby("method", sort=False):
            name = str(method)
            look = {
                "color": style.COLOURS[name],
                "linestyle": style.LINES[name],
                "marker": style.MARKERS[name],
                "markersize": 3,
            }
            middle.plot(points["n"], points["regret"], label=style.LABELS[name], **look)
            if name == "KL":
                scaled, label = points["regret_log_n"], r"KL, best $\beta$: × $\log n$"
            else:
                scaled = points["regret_at_beta_1_over_sqrt_n"] * np.sqrt(points["n"])
                label = rf"{style.LABELS[name]}, $\beta=1/\sqrt{{n}}$: × $\sqrt{{n}}$"
            right.plot(points["n"], scaled, label=label, **look)
        kl = summary[summary["method"] == "KL"]
        floor = kl["kl_floor"] * kl["probability_wrong"]
        middle.plot(kl["n"], floor, color=style.GREY, linestyle=":", label="KL floor")
        middle.set(xscale="log", yscale="log", xlabel="$n$", ylabel="expected regret")
        middle.legend()
        style.panel_letter(middle, "b", r"at the best $\beta$")
        right.set(xscale="log", ylim=(0, 1.05), xlabel="$n$", ylabel="expected regret × rate")
        right.legend(loc="upper right")
        style.panel_letter(right, "c", "times the rate")
    return figure


FIGURE = FigureSpec(TABLES, CAPTION, draw)
