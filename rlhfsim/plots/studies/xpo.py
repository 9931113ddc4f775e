"""Figure: regret of XPO and iterated DPO against rounds, and how often they find what is hidden."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import GREY, Look, looks
from rlhfsim.plots.panels import caption, curve, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("xpo_regret", "xpo_found")

_REGRET = "cumulative_regularized_regret"
_RANDOM = "random environments"
#: The mass of the panels against rounds, and the rounds of the panel against masses.
_SHOWN, _WITHIN = 1e-4, 1000.0
_RATES = ((1.0, "$T$", (0, (5, 2, 1, 2))), (0.5, r"$\sqrt{T}$", (0, (1, 1))))


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the four panels."""
    regret, found = (tables[name] for name in TABLES)
    made = panels(layout, 4, per_row=2, ratio=0.8)
    styles = looks(regret["learner"].unique())
    shown = found.loc[(found["mass"] - _SHOWN).abs().idxmin(), "instance"]
    for axes, letter, instance in zip(made.axes[:2], "ab", (shown, _RANDOM), strict=True):
        _regrets(axes, regret[regret["instance"] == instance], styles)
        panel_letter(axes, letter, _called(str(instance)))
    _shares(made.axes[2], found[found["instance"] == shown], "rounds", styles)
    made.axes[2].set(xlabel="rounds $T$")
    panel_letter(made.axes[2], "c", "the best of them found")
    within = found.loc[(np.log(found["rounds"] / _WITHIN)).abs().idxmin(), "rounds"]
    some = found[found["rounds"] == within].sort_values("mass")
    _shares(made.axes[3], some, "mass", styles)
    made.axes[3].set(xlabel="reference mass of each rare response")
    panel_letter(made.axes[3], "d", f"the same, within {within:g} rounds")
    legend(made, layout)
    return made.figure


def _called(instance: str) -> str:
    """Return the title of an instance, a mass as a power of ten where it is one."""
    if not instance.startswith("mass "):
        return instance
    mass = float(instance.removeprefix("mass "))
    power = round(math.log10(mass))
    told = f"10^{{{power}}}" if math.isclose(10.0**power, mass) else f"{mass:g}"
    return f"rare responses of mass ${told}$"


def _regrets(axes: Axes, rows: pd.DataFrame, styles: dict[str, Look]) -> None:
    for name, own in rows.groupby("learner", sort=False):
        # On a logarithmic axis a band that reaches 0 would have no lower edge to draw.
        low = own[f"{_REGRET}_low"].where(own[f"{_REGRET}_low"] > 0, own[_REGRET])
        high = own[f"{_REGRET}_high"]
        curve(axes, own["rounds"], own[_REGRET], styles[str(name)], low=low, high=high)
    rounds = np.unique(rows["rounds"])
    first = rows[rows["rounds"] == rounds[0]][_REGRET].max()
    for power, label, dashes in _RATES:
        line = 1.6 * first * (rounds / rounds[0]) ** power
        axes.plot(rounds, line, color=GREY, linewidth=0.9, linestyle=dashes, label=label)
    log_axis(axes, "both")
    axes.set(xlabel="rounds $T$", ylabel="cumulative regularized regret")


def _shares(axes: Axes, rows: pd.DataFrame, x: str, styles: dict[str, Look]) -> None:
    for name, own in rows.groupby("learner", sort=False):
        curve(
            axes, own[x], own["found"], styles[str(name)], low=own["found_low"],
            high=own["found_high"],
        )  # fmt: skip
    log_axis(axes, "x")
    axes.set(ylabel="share of runs", ylim=(-0.03, 1.03))


def _caption(tables: Tables) -> str:
    count = int(tables[TABLES[0]]["count"].iloc[0])
    return caption(
        "XPO and iterated DPO over a finite class that holds the regularized optimum: cumulative "
        "regularized regret where the best of four rare responses is hidden (a) and on random "
        "environments (b), and the share of runs whose last policy plays the best response, "
        "against rounds (c) and against the mass of the rare responses (d).  Pairs are one draw "
        "of the policy and one of the reference, or two of the policy",
        varies="rounds, the mass of the rare responses and the learner",
        seeds=f"{count} runs for each point, on random environments each of its own",
        interval="95%: of the mean by Student, of shares by Clopper and Pearson; lower parts are "
        "left out where they reach 0 on a logarithmic axis",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
