"""Figure: regret of chiPO and its rivals, and how often chiPO is better."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhfsim.plots.looks import Look, look
from rlhfsim.plots.panels import caption, panel_letter, panels, reference_line
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("rivals_scores", "rivals_pairs")

_SHORT = {"pessimistic-likelihood": "pessimism"}


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the two panels."""
    scores, pairs = (tables[name] for name in TABLES)
    # Sixteen rows of names: panels one above the other need more than their usual height.
    extra = 0.25 * layout.base if layout.per_row(2) == 1 else 0.0
    made = panels(layout, 2, per_row=2, ratio=1.05, extra=extra)
    left, right = made.axes
    order = list(scores["policies"].unique())
    _dots(left, scores.rename(columns={"iqm": "x", "iqm_low": "low", "iqm_high": "high"}), order)
    left.set_xlabel("interquartile mean of the regret")
    measured = {"improvement": "x", "improvement_low": "low", "improvement_high": "high"}
    _dots(right, pairs.rename(columns={**measured, "rival": "learner"}), order)
    reference_line(right, "as often better as worse", x=0.5)
    right.set_xlabel(r"probability that $\chi$PO is better")
    right.set_xlim(0.0, 1.0)
    panel_letter(left, "a", "regret")
    panel_letter(right, "b", r"$\chi$PO against each")
    return made.figure


def _dots(axes: Axes, table: pd.DataFrame, order: list[str]) -> None:
    """Draw one row for each learner, the classes of policies one below the other."""
    places, names, heads = [], [], []
    row = 0.0
    for policies in order:
        some = table[table["policies"] == policies]
        if some.empty:
            continue
        heads.append((row, policies))
        row += 1.0
        for _, entry in some.iterrows():
            style = look(entry["learner"])
            _dot(axes, entry, row, style)
            places.append(row)
            names.append(_SHORT.get(entry["learner"], style.label))
            row += 1.0
    for place, policies in heads:
        places.append(place)
        names.append("all policies:" if policies == "all" else f"{policies}:")
    ranked = np.argsort(places)
    axes.set_yticks([places[k] for k in ranked], [names[k] for k in ranked])
    axes.set_ylim(row - 0.3, -0.7)


def _dot(axes: Axes, entry: pd.Series, place: float, style: Look) -> None:
    axes.errorbar(
        [entry["x"]], [place], fmt=style.marker, color=style.colour, capsize=1.5, elinewidth=0.8,
        xerr=[[max(0.0, entry["x"] - entry["low"])], [max(0.0, entry["high"] - entry["x"])]],
        label=f"_{style.label}, {entry['policies']}",
    )  # fmt: skip


def _caption(tables: Tables) -> str:
    scores, pairs = (tables[name] for name in TABLES)
    return caption(
        "Regret of chiPO and its rivals at a beta that other environments chose (a), and the "
        "probability that chiPO has the lower regret on the same environment and data, ties one "
        "half (b); over all policies, and over the regularized optima of the same 16 rewards (the "
        "truth and 15 copies with noise, whose ranges are mostly larger) at "
        "the learner's beta; over all policies chiPO, DPO and RLHF with chi-squared are told the "
        "range of the reward, which RPO and IPO have no use for; pessimism is that over the "
        "likelihood-ratio set of the rewards; RPO's eta is 0.05",
        varies="the learner and the class of policies",
        seeds=f"{int(scores['count'].iloc[0])} environments for each point, one dataset each",
        interval="95% BCa bootstrap interval of the interquartile mean (a), Clopper-Pearson, 95% "
        f"for all {len(pairs)} together (b)",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
