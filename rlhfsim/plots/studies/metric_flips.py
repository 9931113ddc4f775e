"""Figure: how often each metric ranks a pair of learners the other way than regret does."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rlhfsim.plots.looks import look
from rlhfsim.plots.panels import caption, one_panel, shown
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import Layout

TABLES = ("metric_flips_shares", "metric_flips_overall")

_NAMES = {
    "win_rate": "win\nrate",
    "constrained": "gain −\n0.1 KL",
    "gain_per_kl": "gain\nper KL",
    "fitted_gain": "proxy\ngain",
    "coverage": r"$C^\pi$",
}
_LEARNERS = {"ctrl": "CTRL"}


def plot(tables: Tables, layout: Layout) -> Figure:
    """Return the matrix."""
    shares, _ = (tables[name] for name in TABLES)
    pairs = list(dict.fromkeys(zip(shares["first"], shares["second"], strict=True)))
    metrics = [name for name in _NAMES if (shares["metric"] == name).any()]
    grid = np.full((len(pairs), len(metrics)), np.nan)
    made = one_panel(layout, (len(pairs) * 2.3 + 6.0) * layout.base / 72.0)
    (axes,) = made.axes
    cells = {}
    for _, row in shares.iterrows():
        place = pairs.index((row["first"], row["second"])), metrics.index(row["metric"])
        grid[place] = row["share"]
        cells[place] = (
            f"{100 * row['share']:.0f}\n{100 * row['share_low']:.0f}–{100 * row['share_high']:.0f}"
        )
    image = axes.imshow(
        np.ma.masked_invalid(grid), cmap="Greys", vmin=0.0, vmax=1.0, aspect="auto", label="share"
    )
    small = layout.base - 1.5
    for i, j in np.ndindex(grid.shape):
        axes.text(
            j, i, cells.get((i, j), "–"), ha="center", va="center", fontsize=small,
            linespacing=1.1, color="white" if grid[i, j] > 0.62 else "black",
        )  # fmt: skip
    axes.set_xticks(range(len(metrics)), [_NAMES[name] for name in metrics])
    axes.set_yticks(range(len(pairs)), [f"{_called(a)}, {_called(b)}" for a, b in pairs])
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    for side in axes.spines.values():
        side.set_visible(False)
    bar = made.figure.colorbar(
        image, ax=axes, location="bottom", aspect=40, pad=0.02, fraction=0.05
    )
    bar.set_label("share ranked the other way")
    return made.figure


def _called(learner: str) -> str:
    return _LEARNERS.get(learner, look(learner).label)


def _caption(tables: Tables) -> str:
    shares = tables[TABLES[0]]
    counts = shown(dict(enumerate(shares["decided"])))
    return caption(
        "Share of datasets, in percent, on which a metric ranks two learners the other way than "
        "regret does; below it its interval.  Each learner is at the parameter of least regret on "
        "other environments; a dash stands where learners do not share a fitted reward",
        varies="the pair of learners and the metric; environments of four families",
        seeds=f"{counts} datasets for each cell, one for each environment, ties left out",
        interval="95% Clopper-Pearson interval of the share, cell by cell",
    )


FIGURE = FigureSpec(tables=TABLES, caption=_caption, plot=plot)
