"""Figure: divergences charged by response and token by token, on rare paths and random ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import BLUE, GREY, LOOKS, SKY, VERMILLION, Look
from rlhfsim.plots.panels import caption, curves, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("steps_regret", "steps_curves")

_CHI2 = r"$\chi^2$"

#: One colour for each divergence; what is finer has finer dashes.
_LOOKS = {
    "KL, by response": replace(LOOKS["rlhf-kl"], label="KL, by response"),
    "KL, 6 tokens": Look(VERMILLION, (0.0, (1.0, 3.0)), "x", "KL, 6 tokens"),
    "chi2, by response": replace(LOOKS["rlhf-chi2"], label=f"{_CHI2}, by response"),
    "chi2, 2 tokens": Look(SKY, "-.", "^", f"{_CHI2}, 2 tokens"),
    "chi2, 3 tokens": Look(SKY, (0.0, (2.0, 1.0)), "D", f"{_CHI2}, 3 tokens"),
    "chi2, 6 tokens": Look(BLUE, ":", "v", f"{_CHI2}, 6 tokens"),
}


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the three panels."""
    rare, random = (tables[name] for name in TABLES)
    made = panels(layout, 3, per_row=2, ratio=0.8)
    first, second, third = made.axes
    curves(first, rare, x="size", y="regret", by="learner", looks=_LOOKS)
    log_axis(first)
    _rate(first)
    first.set(xlabel=r"$n$ (the rare response has $1/n$)", ylabel="regret (reward units)")
    panel_letter(first, "a", r"rare path, best $\beta$")
    last = random[random["n"] == random["n"].max()]
    for axes, letter, metric, label in (
        (second, "b", "coverage", r"$C^\pi$"),
        (third, "c", "regret", "regret (reward units)"),
    ):
        curves(axes, last, x="beta", y=metric, by="learner", looks=_LOOKS,
               low=f"{metric}_low", high=f"{metric}_high")  # fmt: skip
        log_axis(axes, "both" if metric == "coverage" else "x")
        axes.set(xlabel=r"$\beta$", ylabel=label)
        panel_letter(axes, letter, f"random sequences, $n = {int(last['n'].iloc[0]):,}$")
    legend(made, layout)
    return made.figure


def _rate(axes: Axes) -> None:
    """Draw the rate `n^-1/2` through the first point of chi-squared by response."""
    name = _LOOKS["chi2, by response"].label
    line = next(x for x in axes.get_lines() if x.get_label() == name)
    sizes, regret = (np.asarray(values, dtype=np.float64) for values in line.get_data())
    fallen = 0.6 * regret[0] * (sizes / sizes[0]) ** -0.5
    axes.plot(sizes, fallen, color=GREY, linewidth=0.9, linestyle="--", label=r"$n^{-1/2}$")


def _caption(tables: Tables) -> str:
    random = tables[TABLES[1]]
    return caption(
        "Charging a divergence for whole responses and token by token.  Where an overestimated "
        "response of probability 1/n is equally rare at each of six tokens, regret at the best "
        "beta, exact (a); on random sequences with a tabular reward, the geometric mean of C (b) "
        "and regret (c) at the largest number of preferences.  The two KL curves are one",
        varies="n or beta, the divergence and the number of tokens of a response",
        seeds=f"{int(random['count'].iloc[0])} datasets, each of an environment of its own (b, c)",
        interval="95% Student interval of the mean, of log C in (b)",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
