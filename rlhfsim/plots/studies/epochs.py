"""Figure: regret and log-likelihoods of direct methods against epochs."""

from __future__ import annotations

from matplotlib.figure import Figure

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

TABLES = ("epochs_curves",)


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the three panels."""
    every = tables[TABLES[0]]
    made = panels(layout, 3, per_row=2, ratio=0.75)
    styles = looks(every["loss"].unique())
    first, second = every["beta"].unique()[:2]
    shown = (
        ("a", first, "regret", "regret (reward units)"),
        ("b", second, "regret", "regret (reward units)"),
        ("c", first, "chosen_logp", r"mean $\log\,\pi/\pi_{\mathrm{ref}}$ of chosen"),
    )
    for axes, (letter, beta, metric, label) in zip(made.axes, shown, strict=True):
        curves(axes, every[every["beta"] == beta], x="epochs", y=metric, by="loss", looks=styles,
               low=f"{metric}_low", high=f"{metric}_high")  # fmt: skip
        log_axis(axes, "x")
        axes.set(xlabel="epochs (steps on all rows)", ylabel=label)
        what = "regret" if metric == "regret" else "chosen responses"
        panel_letter(axes, letter, rf"{what}, $\beta = {beta:g}$")
    reference_line(made.axes[2], "reference", y=0.0)
    legend(made, layout)
    return made.figure


def _caption(tables: Tables) -> str:
    every = tables[TABLES[0]]
    count, beta = int(every["count"].iloc[0]), every["beta"].iloc[0]
    return caption(
        "Gradient descent from the reference on direct losses: regret (a, b), and by how much the "
        f"log-probability of the chosen responses differs from the reference's at beta = {beta:g} "
        "(c)",
        varies="epochs, the loss and beta",
        seeds=f"{count} datasets of one instance for each point",
        interval="95% Student interval of the mean",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
