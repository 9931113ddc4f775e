"""Figure: regret against beta and against gamma, for mixed regularization."""

from __future__ import annotations

from matplotlib.figure import Figure

from rlhfsim.plots.looks import LOOKS, Look, looks
from rlhfsim.plots.panels import caption, curve, curves, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("gamma_curves", "gamma_best")

#: Methods whose looks the routes take, in the order of the routes.
_STYLES = ("rlhf-mixed", "chipo", "dpo", "rlhf-kl")


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the two panels."""
    every, best = (tables[name] for name in TABLES)
    made = panels(layout, 2, per_row=2, ratio=0.8)
    left, right = made.axes
    named = every[every["route"] == "optimum"].assign(name=lambda t: [_name(g) for g in t["gamma"]])
    curves(left, named, x="beta", y="regret", by="name", looks=looks(named["name"].unique()),
           low="regret_low", high="regret_high", markers=4)  # fmt: skip
    for (route, own), key in zip(best.groupby("route", sort=False), _STYLES, strict=False):
        some = own[own["gamma"] > 0].sort_values("gamma")
        style, label = LOOKS[key], "optimum" if route == "optimum" else f"trained, {route}"
        curve(right, some["gamma"], some["regret"],
              Look(style.colour, style.dashes, style.marker, label),
              low=some["regret_low"], high=some["regret_high"])  # fmt: skip
    for axes in made.axes:
        log_axis(axes, "x")
    left.set(xlabel=r"$\beta$ (reward units)", ylabel="regret (reward units)")
    right.set(xlabel=r"$\gamma$", ylabel=r"regret at the best $\beta$")
    panel_letter(left, "a", "optimum")
    panel_letter(right, "b", "optimum and training")
    legend(made, layout)
    return made.figure


def _name(gamma: float) -> str:
    return r"$\chi^2$" if gamma == 0 else rf"$\chi^2 + {gamma:g}\,\mathrm{{KL}}$"


def _caption(tables: Tables) -> str:
    count = int(tables[TABLES[1]]["count"].iloc[0])
    return caption(
        "Regret of regularization with chi2 + gamma KL: of the optimum, against beta (a); and at "
        "the best beta against gamma, of the optimum and of chiPO after gradient descent from the "
        "reference (b).  beta is chosen on the other half of the environments",
        varies="beta, gamma and the number of steps",
        seeds=f"{count} environments for each point",
        interval="95% Student interval of the mean over environments",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
