"""Figure: gold gain on a judged table, for its proxy and for learned rewards."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from rlhfsim.plots.looks import looks
from rlhfsim.plots.panels import (
    caption,
    curves,
    legend,
    log_axis,
    panel_letter,
    panels,
    reference_line,
)
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("judged_curves", "judged_peaks")

_LEARNERS = ("rlhf-kl", "rlhf-chi2", "rlhf-mixed", "best-of-n")


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the four panels."""
    every, peaks = (tables[name] for name in TABLES)
    made = panels(layout, 4, per_row=2, ratio=0.66, extra=0.2)
    n = _most_lost(peaks)
    shown = (("proxy", 0), ("learned", n))
    for row, (source, size) in enumerate(shown):
        mine = every[(every["source"] == source) & (every["n"] == size)]
        tops = peaks[(peaks["source"] == source) & (peaks["n"] == size)]
        axes = made.axes[row]
        _against(axes, mine, tops, "sqrt_kl")
        axes.set(xlabel=r"$\sqrt{\mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref})}$", ylabel="gold gain")
    third, last = made.axes[2:]
    mine = every[every["source"] == "proxy"]
    _against(third, mine, peaks[peaks["source"] == "proxy"], "concentrability")
    third.set(xlabel=r"concentrability $C^\pi$", xscale="log", ylabel="gold gain")
    third.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    third.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    third.xaxis.set_minor_formatter(NullFormatter())
    learned = peaks[peaks["source"] == "learned"]
    curves(last, learned, x="n", y="gain", by="learner", looks=looks(_LEARNERS),
           low="gain_low", high="gain_high")  # fmt: skip
    reference_line(last, "best policy", y=float(peaks["best_gain"].iloc[0]))
    log_axis(last, "x")
    last.set(xlabel=r"preferences $n$", ylabel="peak gold gain")
    panel_letter(made.axes[0], "a", "the proxy")
    panel_letter(made.axes[1], "b", f"learned, $n$ = {n:,}")
    panel_letter(third, "c", "the proxy")
    panel_letter(last, "d", "learned")
    legend(made, layout)
    return made.figure


def _most_lost(peaks: pd.DataFrame) -> int:
    """Return the n at which KL loses most after its peak; the smallest where none loses."""
    own = peaks[(peaks["source"] == "learned") & (peaks["learner"] == "rlhf-kl")]
    return int(own.sort_values("n").set_index("n")["lost"].idxmax())


def _against(axes: Axes, rows: pd.DataFrame, peaks: pd.DataFrame, x: str) -> None:
    """Draw gold gain along each path, with a large marker at its peak."""
    styles = looks(_LEARNERS)
    reference_line(axes, "reference", y=0.0)
    curves(axes, rows, x=x, y="gain", by="learner", looks=styles, low="gain_low",
           high="gain_high", markers=0)  # fmt: skip
    for name, look in styles.items():
        for _, row in peaks[peaks["learner"] == name].iterrows():
            at = row["kl"] ** 0.5 if x == "sqrt_kl" else row["concentrability"]
            axes.plot(
                [at], [row["largest_mean"]], color=look.colour, marker=look.marker, markersize=6,
                linestyle="none", label=f"_{look.label}, peak", zorder=4,
            )  # fmt: skip


def _caption(tables: Tables) -> str:
    peaks = tables[TABLES[1]]
    seeds = int(peaks.loc[peaks["source"] == "learned", "count"].iloc[0])
    return caption(
        "Gold gain over the reference on a table of judged responses, optimizing its proxy (a, "
        f"against the root of KL; c, against C) and rewards learned from {_most_lost(peaks):,} "
        "preferences (b), each with its peak; gain at the peak against the number of preferences "
        "(d; the line is the best policy)",
        varies="beta or N, the learner, the reward, and n",
        seeds=f"{seeds} datasets for each n (b, d); the proxy needs none (a, c)",
        interval="95% Student interval of the mean; in (d) at a beta or N that the other half of "
        "the datasets chose",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
