"""Figures: gold and proxy reward along the path of each method, one figure per instance."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import GREY, look
from rlhfsim.plots.panels import (
    Panels,
    caption,
    curve,
    legend,
    log_axis,
    panel_letter,
    panels,
    reference_line,
)
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("overoptimization_curves", "overoptimization_peaks")

_ROOT_KL = r"$\sqrt{\mathrm{KL}(\pi\,\|\,\pi_{\mathrm{ref}})}$ (nats$^{1/2}$)"

#: Coverage this close to 1 is left out of the logarithmic axis.
_LEAST_COVERAGE = 1e-4


def _caption(instance: str) -> str:
    return caption(
        f"Overoptimization on the {instance} instance: gain in gold reward (a, b) and in proxy "
        "reward (c, d, in standard deviations under the reference) over the reference, against "
        "sqrt(KL) (a, c) and against C - 1 (b, d). Every policy is exact. Markers: the peak of "
        "each path. Grey: best-of-N placed at the usual formula log N - (N-1)/N instead of its KL",
        varies="beta, or N for best-of-N, along each path, and the method",
        seeds="one instance and one dataset, from which the proxy is learned; exact given them",
        interval=None,
    )


def plot(tables: Tables, layout: Layout, instance: str) -> Figure:
    """Return the four panels of one instance."""
    rows = {name: tables[name][tables[name]["instance"] == instance] for name in TABLES}
    made = panels(
        layout, 4, per_row=2, ratio=0.66, extra=0.25, sharex="col", sharey="row"
    )  # fmt: skip
    for height, (by_kl, by_coverage) in zip(
        ("gold", "proxy"), (made.axes[:2], made.axes[2:]), strict=True
    ):
        for axes in (by_kl, by_coverage):
            reference_line(axes, "reference", y=0.0)
        _paths(by_kl, by_coverage, rows, height)
        unit = "gold gain (reward units)" if height == "gold" else "proxy gain (s.d.)"
        by_kl.set(ylabel=unit, xlabel=_ROOT_KL)
        log_axis(by_coverage, "x")
        by_coverage.set(ylabel=unit, xlabel=r"$C^\pi - 1$")
    _finish(made, layout)
    return made.figure


def _paths(by_kl: Axes, by_coverage: Axes, rows: Tables, height: str) -> None:
    curves, peaks = (rows[name] for name in TABLES)
    for method, points in curves.groupby("method", sort=False):
        style = look(str(method))
        coverage = points["concentrability"] - 1.0
        shown = coverage > _LEAST_COVERAGE
        curve(by_kl, points["sqrt_kl"], points[height], style, markers=0)
        curve(by_coverage, coverage[shown], points[height][shown], style, markers=0)
        if method == "best-of-N":
            by_kl.plot(
                np.sqrt(points["kl_formula"]), points[height], color=GREY, linewidth=0.8,
                label="best-of-$N$, formula",
            )  # fmt: skip
    for peak in peaks.itertuples():
        style = look(str(peak.method))
        for axes, x in ((by_kl, np.sqrt(peak.kl)), (by_coverage, peak.concentrability - 1.0)):
            axes.plot(
                x, getattr(peak, height), color=style.colour, marker=style.marker,
                label=f"_{peak.method}, peak",
            )  # fmt: skip


def _finish(made: Panels, layout: Layout) -> None:
    titles = (f"{y} against {x}" for y in ("gold", "proxy") for x in ("KL", "coverage"))
    for axes, letter, title in zip(made.axes, "abcd", titles, strict=True):
        panel_letter(axes, letter, title)
    made.label_outer()
    legend(made, layout)


def _spec(instance: str) -> FigureSpec:
    return FigureSpec(
        tables=TABLES,
        caption=_caption(instance),
        plot=lambda tables, layout: plot(tables, layout, instance),
        applies=lambda tables: bool((tables[TABLES[0]]["instance"] == instance).any()),
    )


RANDOM, TABLE = _spec("random"), _spec("table")
