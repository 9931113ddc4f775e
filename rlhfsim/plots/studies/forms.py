"""Figure: exact overoptimization curves, which form fits best, and how far forms are off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import (
    BLACK,
    DASH_DOT,
    DASHED,
    ORANGE,
    PURPLE,
    SKY,
    SOLID,
    Look,
    looks,
)
from rlhfsim.plots.panels import caption, legend, panel_letter, panels, shown
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("forms_examples", "forms_summary")

#: Forms in the order of the panels, and how they are written there.
_FORMS = {
    "best-of-n": "$d(a-bd)$",
    "RL": r"$d(a-b\log d)$",
    "cubic": "$d(a-bd^2)$",
    "power": "$ad^c-bd^2$",
    "saturating": "$a(1-e^{-bd})$",
    "proportional": "$ad$",
}
_METHODS = ("best-of-n", "rlhf-kl", "rlhf-chi2", "rlhf-mixed")
#: Looks of the forms that are drawn, apart from those of the methods.
_DRAWN = {
    "best-of-n": Look(ORANGE, SOLID, "", _FORMS["best-of-n"]),
    "RL": Look(SKY, DASHED, "", _FORMS["RL"]),
    "power": Look(PURPLE, DASH_DOT, "", _FORMS["power"]),
}


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the four panels."""
    examples, summary = (tables[name] for name in TABLES)
    made = panels(layout, 4, per_row=2, ratio=0.8, extra=0.3)
    styles = looks(_METHODS)
    for axes, letter, method in zip(made.axes, "ab", _METHODS, strict=False):
        _example(axes, examples[examples["learner"] == method])
        panel_letter(axes, letter, styles[method].label)
    _dots(made.axes[2], summary, ("wins", "wins_low", "wins_high"))
    made.axes[2].set(ylabel="share with least AICc", ylim=(-0.02, 1.02))
    panel_letter(made.axes[2], "c", "which form wins")
    _dots(made.axes[3], summary, ("residual", "residual_10", "residual_90"))
    made.axes[3].set(ylabel="largest residual / range", ylim=(0.0, None))
    panel_letter(made.axes[3], "d", "how far forms are off")
    legend(made, layout)
    return made.figure


def _example(axes: Axes, rows: pd.DataFrame) -> None:
    exact = rows[rows["curve"] == "exact"]
    axes.plot(exact["d"], exact["gain"], "o", color=BLACK, markersize=3, label="exact")
    for form, style in _DRAWN.items():
        own = rows[rows["curve"] == form]
        if len(own):
            axes.plot(own["d"], own["gain"], **style.line())
    axes.set(
        xlabel=r"$d = \sqrt{\mathrm{KL}}$ ($\sqrt{\mathrm{nats}}$)", ylabel="gain (reward units)"
    )


def _dots(axes: Axes, summary: pd.DataFrame, names: tuple[str, str, str]) -> None:
    """Draw a dot with its interval for each form and method, methods side by side."""
    middle, low, high = names
    for k, (method, style) in enumerate(looks(_METHODS).items()):
        own = summary[summary["learner"] == method].set_index("form").reindex(list(_FORMS))
        x = np.arange(len(_FORMS)) + 0.18 * (k - 1.5)
        drawn = replace(style, dashes="none")
        axes.vlines(
            x, own[low], own[high], color=style.colour, linewidth=1.0, label=f"_{style.label}"
        )
        axes.plot(x, own[middle], **drawn.marked())
    axes.set_xticks(np.arange(len(_FORMS)), list(_FORMS.values()), rotation=35, ha="right")


def _caption(tables: Tables) -> str:
    summary = tables[TABLES[1]]
    curves = shown(dict(enumerate(summary["curves"])))
    return caption(
        "Gold gain against the distance from the reference: an exact curve of best-of-N (a) and of "
        "KL regularization (b) with three fitted forms; the share of curves on which each form has "
        "the least AICc (c); the median of the largest residual over the range of the gain, bars "
        "from the 10th to the 90th percentile of curves (d)",
        varies="the environment, the method and the form",
        seeds=f"{curves} environments, one dataset each; curves are exact",
        interval="95% Clopper-Pearson interval of the share (c)",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
