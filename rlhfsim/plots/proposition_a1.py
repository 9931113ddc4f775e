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
    "expected regret of KL for every beta. (c) The same, multiplied by log n for KL "
    "and by sqrt n for the others: bounded away from 0 for KL, bounded above for the others."
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
            rate = "regret_log_n" if name == "KL" else "regret_sqrt_n"
            factor = r"$\log n$" if name == "KL" else r"$\sqrt{n}$"
            right.plot(points["n"], points[rate], label=f"{style.LABELS[name]}: × {factor}", **look)
        kl = summary[summary["method"] == "KL"]
        floor = kl["kl_floor"] * kl["probability_wrong"]
        middle.plot(kl["n"], floor, color=style.GREY, linestyle=":", label="KL floor")
        middle.set(xscale="log", yscale="log", xlabel="$n$", ylabel="expected regret")
        middle.legend()
        style.panel_letter(middle, "b", r"at the best $\beta$")
        right.set(xscale="log", yscale="log", xlabel="$n$", ylabel="scaled expected regret")
        right.legend()
        style.panel_letter(right, "c", "times the rate")
    return figure


FIGURE = FigureSpec(TABLES, CAPTION, draw)
