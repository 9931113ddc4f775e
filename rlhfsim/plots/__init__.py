"""Figures: each module draws from saved tables and computes nothing.

`FIGURES` maps the name of a figure, which is the name of its file, to its `FigureSpec`.
"""

from rlhfsim.plots import inequalities, overoptimization, proposition_a1, sharp_bound
from rlhfsim.plots.spec import FigureSpec

FIGURES: dict[str, FigureSpec] = {
    "proposition_a1": proposition_a1.FIGURE,
    "sharp_bound": sharp_bound.FIGURE,
    "overoptimization_random": overoptimization.RANDOM,
    "overoptimization_table": overoptimization.TABLE,
    "inequalities": inequalities.FIGURE,
}

__all__ = ["FIGURES", "FigureSpec"]
