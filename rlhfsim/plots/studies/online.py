"""Figure: regret of online RLHF with linear rewards against comparisons."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import Look, looks
from rlhfsim.plots.panels import caption, curve, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("online_curves",)

_MISSED, _COVERED = "missed direction", "covered"
#: What is shown with both anchors.
_ANCHORED = ("enhancer", "iterated DPO")
_CUMULATIVE = "cumulative_regularized_regret"


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the six panels."""
    every = tables[TABLES[0]]
    names = every["learner"].drop_duplicates()
    # Together, so that no two of them look the same.
    styles = looks(names)
    anchors = {name: look for name, look in styles.items() if name.startswith(_ANCHORED)}
    plain = {name: look for name, look in styles.items() if "," not in name}
    some = int(every["n"].max())
    made = panels(layout, 6, per_row=2, ratio=0.72)
    shown = (
        ("a", _MISSED, 0, "regret", plain, "no offline data"),
        ("b", _MISSED, some, "regret", plain, f"{some} offline comparisons"),
        ("c", _MISSED, 0, _CUMULATIVE, plain, "no offline data"),
        ("d", _MISSED, 0, "regret", anchors, "fixed and moving anchor"),
        ("e", _COVERED, 0, "regret", plain, "no offline data"),
        ("f", _COVERED, 0, _CUMULATIVE, plain, "no offline data"),
    )
    for axes, (letter, instance, n, metric, drawn, title) in zip(made.axes, shown, strict=True):
        rows = every[(every["instance"] == instance) & (every["n"] == n)]
        _panel(axes, rows, metric, drawn)
        told = "regret" if metric == "regret" else "cumulative reg. regret"
        axes.set(xlabel="comparisons", ylabel=told)
        panel_letter(axes, letter, f"{instance}, {title}")
    legend(made, layout)
    return made.figure


def _panel(axes: Axes, rows: pd.DataFrame, metric: str, styles: dict[str, Look]) -> None:
    for name, look in styles.items():
        own = rows[rows["learner"] == name].sort_values("comparisons")
        # On a logarithmic axis a band that reaches 0 would have no lower edge to draw.
        low = own[f"{metric}_low"].where(own[f"{metric}_low"] > 0, own[metric])
        curve(axes, own["comparisons"], own[metric], look, low=low, high=own[f"{metric}_high"])
    log_axis(axes, "both")


def _caption(tables: Tables) -> str:
    every = tables[TABLES[0]]
    count = int(every["count"].iloc[0])
    return caption(
        "Online RLHF with linear rewards: regret of the policy after so many comparisons (a, b, d, "
        "e), and the sum over rounds of what the main agent lost to the regularized optimum (c, "
        "f).  The first response of a comparison is of the main agent, the second of the "
        "exploration that is named; on 'missed direction' the reference plays the best responses "
        "once in 3000 times.  In (d) the last policy takes the place of the reference in every "
        "round ('moving'), with one comparison a round or with 50 ('batches')",
        varies="comparisons, exploration, offline data, anchor and instance",
        seeds=f"{count} environments for each point, one run each",
        interval="95% Student interval of the mean; its lower part is left out where it reaches 0",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
