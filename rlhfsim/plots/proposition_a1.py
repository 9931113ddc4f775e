"""Figure: regret against beta, and how the best regret falls with n."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import GREY, look
from rlhfsim.plots.panels import caption, curve, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("proposition_a1_curves", "proposition_a1_summary")
CAPTION = caption(
    "Proposition A.1: expected regret over all datasets. (a) Against beta for two sample sizes. "
    "(b) At each method's best beta, against n; dotted: the proved floor under the expected regret "
    "of KL for every beta. (c) Multiplied by the rate of the proposition: KL at its best beta "
    "times log n is bounded away from 0; the others at beta = 1/sqrt n times sqrt n are bounded "
    "above",
    varies="beta (a), the sample size n (b, c), and the regularizer",
    seeds=None,
    interval=None,
)


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the three-panel figure."""
    curves, summary = tables[TABLES[0]], tables[TABLES[1]]
    made = panels(layout, 3, per_row=3, ratio=0.95, extra=0.25)
    left, middle, right = made.axes
    _against_beta(left, curves)
    for method, points in summary.groupby("method", sort=False):
        style = look(str(method))
        curve(middle, points["n"], points["regret"], style, markersize=3)
        if method == "KL":
            scaled = points["regret_log_n"]
        else:
            scaled = points["regret_at_beta_1_over_sqrt_n"] * np.sqrt(points["n"])
        curve(right, points["n"], scaled, style, markersize=3)
    kl = summary[summary["method"] == "KL"]
    floor = kl["kl_floor"] * kl["probability_wrong"]
    middle.plot(kl["n"], floor, color=GREY, linestyle=":", label="KL floor")
    log_axis(middle)
    middle.set(xlabel="$n$", ylabel="expected regret")
    panel_letter(middle, "b", r"at the best $\beta$")
    log_axis(right, "x")
    right.set(ylim=(0, None), xlabel="$n$", ylabel=r"regret × $\log n$ or $\sqrt{n}$")
    panel_letter(right, "c", "times the rate")
    legend(made, layout)
    return made.figure


def _against_beta(axes: Axes, curves: pd.DataFrame) -> None:
    sizes = np.unique(curves["n"])
    shown = sizes[len(sizes) // 3], sizes[-1]
    for n, width in zip(shown, (0.8, 1.6), strict=True):
        for method, points in curves[curves["n"] == n].groupby("method", sort=False):
            curve(
                axes, points["beta"], points["regret"], look(str(method)), markers=0,
                linewidth=width, label=f"_{method}, n = {n}",
            )  # fmt: skip
    log_axis(axes)
    axes.set(xlabel=r"$\beta$", ylabel="expected regret")
    thin, thick = (round(np.log10(n)) for n in shown)
    panel_letter(axes, "a", rf"thin $n=10^{{{thin}}}$, thick $n=10^{{{thick}}}$")


FIGURE = FigureSpec(TABLES, CAPTION, plot)
