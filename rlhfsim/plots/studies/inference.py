"""Figure: gain against the number of draws, where it peaks, and regrets at tuned parameters."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import BLACK, GREY, Look, look
from rlhfsim.plots.panels import (
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

TABLES = ("inference_curves", "inference_peaks", "inference_tuned")

#: The strength at which a method's gain is shown.
_SHOWN = {"best-of-n": 0.0, "soft-best-of-n": 0.1, "inference-time-pessimism": 0.003}


def _looks() -> dict[str, Look]:
    """Return the looks; one colour for each method, which stand together in every panel."""
    return {
        "best-of-n": replace(look("best-of-n"), dashes="-"),
        "soft-best-of-n": replace(look("rlhf-kl"), label="soft best-of-$N$"),
        "inference-time-pessimism": replace(look("rlhf-chi2"), label="pessimism"),
    }


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the four panels."""
    every, peaks, tuned = (tables[name] for name in TABLES)
    made = panels(layout, 4, per_row=2, ratio=0.72, extra=0.15)
    coverages = sorted(every["coverage"].unique())
    styles = _looks()
    for axes, letter, coverage in zip(made.axes, "ab", (coverages[1], coverages[-2]), strict=False):
        _gains(axes, every[every["coverage"] == coverage], styles)
        panel_letter(axes, letter, rf"$C^{{\pi^\star}} = {coverage:g}$")
    _peaks(made.axes[2], peaks[peaks["method"] == "best-of-n"].sort_values("coverage"), styles)
    panel_letter(made.axes[2], "c", "best-of-$N$")
    _regrets(made.axes[3], tuned, styles)
    panel_letter(made.axes[3], "d", "tuned")
    legend(made, layout)
    return made.figure


def _gains(axes: Axes, rows: pd.DataFrame, styles: dict[str, Look]) -> None:
    for method, strength in _SHOWN.items():
        own = rows[(rows["method"] == method) & (rows["strength"] == strength)]
        own = own.sort_values("draws")
        curve(axes, own["draws"], own["gain"], styles[method], markers=6,
              low=own["gain_low"], high=own["gain_high"])  # fmt: skip
    limit = rows[(rows["method"] == "rlhf-chi2")
                 & (rows["strength"] == _SHOWN["inference-time-pessimism"])]  # fmt: skip
    reference_line(axes, "chi2 at the same beta", y=float(limit["gain"].iloc[0]))
    log_axis(axes, "x", ticks=4)
    axes.set(xlabel="draws $N$", ylabel="gain (reward units)")


def _peaks(axes: Axes, best: pd.DataFrame, styles: dict[str, Look]) -> None:
    style = replace(styles["best-of-n"], label="_peak")
    axes.vlines(
        best["coverage"], best["peak_low"], best["peak_high"], color=BLACK, linewidth=1.0,
        label="_peak",
    )  # fmt: skip
    curve(axes, best["coverage"], best["peak"], style)
    axes.plot(best["coverage"], best["coverage"], ":", color=GREY, linewidth=0.8, label="_N = C")
    log_axis(axes, "both", ticks=4)
    axes.set(xlabel=r"$C^{\pi^\star}$", ylabel="$N$ of the largest gain")


def _regrets(axes: Axes, tuned: pd.DataFrame, styles: dict[str, Look]) -> None:
    most = replace(styles["best-of-n"], dashes=":", label="best-of-$N$, largest $N$")
    shown = (
        ("best-of-n", "with the draws", styles["best-of-n"]),
        ("best-of-n", "most draws", most),
        ("soft-best-of-n", "with the draws", styles["soft-best-of-n"]),
        ("inference-time-pessimism", "most draws", styles["inference-time-pessimism"]),
    )
    for method, chosen, style in shown:
        own = tuned[(tuned["method"] == method) & (tuned["chosen"] == chosen)]
        own = own.sort_values("coverage")
        curve(axes, own["coverage"], own["regret"], style,
              low=own["regret_low"], high=own["regret_high"])  # fmt: skip
    log_axis(axes, "x", ticks=4)
    axes.set(xlabel=r"$C^{\pi^\star}$", ylabel="regret (reward units)", ylim=(0.0, None))


def _caption(tables: Tables) -> str:
    count = int(tables[TABLES[0]]["count"].iloc[0])
    soft, pessimism = _SHOWN["soft-best-of-n"], _SHOWN["inference-time-pessimism"]
    return caption(
        f"Gain of best-of-N, soft best-of-N (temperature {soft:g}) and chi-squared pessimism (beta "
        f"{pessimism:g}; grey: RLHF with chi-squared at the same beta) by a learned reward (a, b); "
        "the N of the largest gain of best-of-N, dotted N = C (c); regret at parameters that other "
        "environments chose, of pessimism at the largest N (d)",
        varies="the draws N, the coverage of the best response and the method",
        seeds=f"{count} environments with one dataset each for each point",
        interval="95% Student interval of the mean, and in (c) of the percentile bootstrap",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
