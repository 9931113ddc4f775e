"""Figures: gold and proxy reward along the path of each method, one figure per instance."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rlhfsim.plots import style
from rlhfsim.plots.spec import FigureSpec, Tables

TABLES = ("overoptimization_curves", "overoptimization_peaks")
CAPTION = (
    "Overoptimization on the {instance} instance: gain in gold reward (top) and in proxy reward "
    "(bottom, in standard deviations under the reference) over the reference, against sqrt(KL) "
    "(left) and against C - 1 (right). Every policy is exact. Markers: the peak of each path. "
    "Grey: best-of-N placed at the usual formula log N - (N-1)/N instead of its KL."
)


def draw(tables: Tables, instance: str) -> Figure:
    """Return the 2 x 2 figure of one instance."""
    curves, peaks = (tables[name][tables[name]["instance"] == instance] for name in TABLES)
    with style.styled():
        figure = style.new_figure(4.0)
        panels = figure.subplots(2, 2, sharex="col", sharey="row")
        for row, height in enumerate(("gold", "proxy")):
            for method, points in curves.groupby("method", sort=False):
                name = str(method)
                look = {"color": style.COLOURS[name], "linestyle": style.LINES[name]}
                coverage = points["concentrability"] - 1.0
                shown = coverage > 1e-4
                panels[row, 0].plot(
                    points["sqrt_kl"], points[height], label=style.LABELS[name], **look
                )
                panels[row, 1].plot(coverage[shown], points[height][shown], **look)
                if name == "best-of-N":
                    panels[row, 0].plot(
                        np.sqrt(points["kl_formula"]), points[height], color=style.GREY,
                        linewidth=0.8, label="best-of-$N$, formula",
                    )  # fmt: skip
            for peak in peaks.itertuples():
                dot = {
                    "color": style.COLOURS[str(peak.method)],
                    "marker": style.MARKERS[str(peak.method)],
                    "markersize": 4,
                }
                value = getattr(peak, height)
                panels[row, 0].plot(np.sqrt(peak.kl), value, **dot)
                panels[row, 1].plot(peak.concentrability - 1.0, value, **dot)
            panels[row, 0].axhline(0.0, color=style.GREY, linewidth=0.5)
            panels[row, 1].axhline(0.0, color=style.GREY, linewidth=0.5)
        panels[0, 0].set_ylabel("gold gain (reward units)")
        panels[1, 0].set_ylabel("proxy gain (s.d.)")
        panels[1, 0].set_xlabel(r"$\sqrt{\mathrm{KL}(\pi\,\|\,\pi_{\mathrm{ref}})}$ (nats$^{1/2}$)")
        panels[1, 1].set(xscale="log", xlabel=r"$C^\pi - 1$")
        panels[1, 0].legend(loc="lower right")
        for axes, letter, title in zip(
            panels.flat,
            "abcd",
            (f"{y} against {x}" for y in ("gold", "proxy") for x in ("KL", "coverage")),
            strict=True,
        ):
            style.panel_letter(axes, letter, title)
    return figure


def _spec(instance: str) -> FigureSpec:
    return FigureSpec(
        tables=TABLES,
        caption=CAPTION.format(instance=instance),
        draw=lambda tables: draw(tables, instance),
        applies=lambda tables: bool((tables[TABLES[0]]["instance"] == instance).any()),
    )


RANDOM, TABLE = _spec("random"), _spec("table")
