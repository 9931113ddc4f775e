"""Figure: regret against n at the best beta, on two kinds of instances, and the slopes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import GREY, LOOKS, Look, looks
from rlhfsim.plots.panels import caption, curve, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("rate_regret", "rate_slopes")

#: Learners that take the look of another.
_AS = {
    "KL, linear reward": "rlhf-kl", "chi2, linear reward": "rlhf-chi2",
    "chi2 + KL, linear reward": "rlhf-mixed",
}  # fmt: skip

#: Learners over finite classes, shown only where no others learn: a few hundred preferences tell a
#: class apart, and what regret is left is that of the least beta.
_FINITE = ("rlhf-kl", "rlhf-chi2", "rlhf-mixed", "pessimistic-likelihood", "dpo-finite")

#: Exponent and name of the reference lines.
_RATES = ((-0.5, r"$n^{-1/2}$", (0, (1, 1))), (-1.0, r"$n^{-1}$", (0, (5, 2, 1, 2))))


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return a panel for each instance and schedule."""
    regret, slopes = (tables[name] for name in TABLES)
    instances = list(regret["instance"].unique())
    made = panels(layout, 2 * len(instances), per_row=2, ratio=0.85)
    styles = _styles(list(regret["learner"].unique()))
    titles = {"best": r"best $\beta$ for each $n$", "1/sqrt(n)": r"$\beta \propto n^{-1/2}$"}
    places = [(i, s) for i in instances for s in titles]
    for axes, (instance, schedule), letter in zip(made.axes, places, "abcd", strict=False):
        here = regret["instance"] == instance
        rows = regret[here & (regret["schedule"] == schedule)]
        if rows["learner"].isin(list(_AS)).any():
            rows = rows[~rows["learner"].isin(_FINITE)]
        known = slopes[(slopes["instance"] == instance) & (slopes["schedule"] == schedule)]
        _panel(axes, rows[rows["learner"].isin(known["learner"])], styles)
        # Named once, by the last panel: so they come last in the legend.
        _references(axes, "" if axes is made.axes[-1] else "_")
        panel_letter(axes, letter, f"{instance}, {titles[schedule]}")
        axes.set(xlabel=r"$n$", ylabel="regret")
    legend(made, layout)
    return made.figure


def _styles(names: list[str]) -> dict[str, Look]:
    found = looks(names)
    return {name: LOOKS[_AS[name]] if name in _AS else found[name] for name in names}


def _panel(axes: Axes, rows: pd.DataFrame, styles: dict[str, Look]) -> None:
    for name, own in rows.groupby("learner", sort=False):
        # On a logarithmic axis a band that reaches 0 would have no lower edge to draw.
        low = own["regret_low"].where(own["regret_low"] > 0, own["regret"])
        curve(axes, own["n"], own["regret"], styles[str(name)], low=low, high=own["regret_high"])
    log_axis(axes, "both")


def _references(axes: Axes, prefix: str) -> None:
    """Draw the two rates, from above the highest point on the left."""
    drawn = [np.asarray(line.get_xydata()) for line in axes.get_lines()]
    if not drawn:
        return
    points = np.concatenate(drawn)
    sizes = np.unique(points[:, 0])
    first = 1.5 * float(points[points[:, 0] == sizes[0], 1].max())
    for power, label, dashes in _RATES:
        axes.plot(sizes, first * (sizes / sizes[0]) ** power, color=GREY, linewidth=0.9,
                  linestyle=dashes, label=prefix + label)  # fmt: skip


def _caption(tables: Tables) -> str:
    regret = tables[TABLES[0]]
    told = [
        f"{int(own['count'].iloc[0])} on {name}"
        for name, own in regret.groupby("instance", sort=False)
    ]
    return caption(
        "Regret against the number of preferences n, at the best beta for each n and at beta as "
        "1/sqrt(n).  beta is chosen on the other half of the datasets; on Proposition A.1 the "
        "instance changes with n and the class of rewards has two members.  On random environments "
        "KL, chi2 and chi2 + KL have linear rewards, and finite classes are left out",
        varies="n, the schedule of beta, the instance and the learner",
        seeds=f"{' and '.join(told)} datasets for each point, each of an environment of its own",
        interval="95% Student interval of the mean; its lower part is left out where it reaches 0",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
