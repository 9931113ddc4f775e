"""Figure: regret against beta and against gamma, for mixed regularization."""

from __future__ import annotations

from matplotlib.figure import Figure

from rlhfsim.plots.looks import looks
from rlhfsim.plots.panels import caption, curve, curves, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("gamma_curves", "gamma_best")


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the two panels."""
    every, best = (tables[name] for name in TABLES)
    made = panels(layout, 2, per_row=2, ratio=0.8)
    left, right = made.axes
    named = every[every["route"] == "optimum"].assign(name=lambda t: [_name(g) for g in t["gamma"]])
    regularized, routes = list(named["name"].unique()), [_route(r) for r in best["route"].unique()]
    # One cycle for both panels: no look means two things.
    styles = looks([*regularized, *routes])
    curves(left, named, x="beta", y="regret", by="name", looks={n: styles[n] for n in regularized},
           low="regret_low", high="regret_high", markers=4)  # fmt: skip
    for route, own in best.groupby("route", sort=False):
        some = own[own["gamma"] > 0].sort_values("gamma")
        curve(right, some["gamma"], some["regret"], styles[_route(str(route))],
              low=some["regret_low"], high=some["regret_high"])  # fmt: skip
    for axes in made.axes:
        log_axis(axes, "x")
    left.set(xlabel=r"$\beta$ (reward units)", ylabel="regret (reward units)")
    right.set(xlabel=r"$\gamma$", ylabel=r"regret at the best $\beta$")
    panel_letter(left, "a", "optimum")
    panel_letter(right, "b", "optimum and training")
    legend(made, layout)
    return made.figure


def _route(route: str) -> str:
    return "optimum" if route == "optimum" else f"trained, {route}"


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
