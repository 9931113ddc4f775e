"""Figure: regret against the number of demonstrations, of clones by response and by token."""

from __future__ import annotations

from matplotlib.figure import Figure

from rlhfsim.plots.looks import BLACK, GREY, VERMILLION, Look
from rlhfsim.plots.panels import caption, curves, legend, log_axis, panel_letter, panels
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("demonstrations_curves",)

_WITHOUT = "no demonstrations"

_LOOKS = {
    "clone, by response": Look(BLACK, ":", "x", "clone, by response"),
    "clone, by token": Look(BLACK, "-", "o", "clone, by token"),
    "with preferences, by response": Look(VERMILLION, "-.", "s", "with preferences, by response"),
    "with preferences, by token": Look(VERMILLION, "--", "^", "with preferences, by token"),
}


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return a panel for each number of preferences."""
    every = tables[TABLES[0]]
    sizes = list(every["n"].unique())
    made = panels(layout, len(sizes), per_row=2, ratio=0.85, sharey="row")
    for axes, n, letter in zip(made.axes, sizes, "abcdef", strict=False):
        rows = every[every["n"] == n]
        curves(axes, rows, x="shown", y="regret", by="learner", looks=_LOOKS,
               low="regret_low", high="regret_high")  # fmt: skip
        shown = sorted(rows.loc[rows["learner"] != _WITHOUT, "shown"].unique())
        alone = rows[rows["learner"] == _WITHOUT]["regret"]
        if len(alone):
            axes.plot([shown[0], shown[-1]], [float(alone.iloc[0])] * 2, color=GREY, linewidth=0.9,
                      linestyle=(0, (8, 2)), label="preferences alone")  # fmt: skip
        last = rows[rows["learner"] == "clone, by token"].sort_values("shown")
        start = 0.5 * float(last["regret"].iloc[len(last) // 2])
        later = last["shown"].to_numpy()[len(last) // 2 :]
        axes.plot(later, start * later[0] / later, color=GREY, linewidth=0.9,
                  linestyle=(0, (1, 1)), label=r"$1/N_E$")  # fmt: skip
        log_axis(axes)
        axes.set(xlabel=r"$N_E$", ylabel="regret (reward units)")
        panel_letter(axes, letter, f"$n = {int(n):,}$ preferences")
    legend(made, layout)
    return made.figure


def _caption(tables: Tables) -> str:
    every = tables[TABLES[0]]
    return caption(
        "Regret of behavior cloning and of demonstration-regularized RLHF (beta = 1) against the "
        "number of demonstrations of an optimal expert, who always writes the same response of six "
        "tokens.  Clones are smoothed over responses or over the next token at each prefix",
        varies="the number of demonstrations, the number of preferences, and how it is cloned",
        seeds=f"{int(every['count'].iloc[0])} datasets, each of an environment of its own",
        interval="95% Student interval of the mean",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
