"""Figures: each module draws from saved tables and computes nothing.

`FIGURES` maps the name of a figure, which is the name of its file, to its `FigureSpec`.  A figure
is `spec.draw(tables, layout).save(stem, formats)`; `layout_for("icml", "column")` is the width,
font and size of a venue, for which panels are re-laid.  Beside every figure lie the numbers it
shows (CSV) and its caption.
"""

from rlhfsim.plots import inequalities, overoptimization, proposition_a1, sharp_bound
from rlhfsim.plots.drawing import FORMATS, Drawing
from rlhfsim.plots.looks import LOOKS, Look, looks
from rlhfsim.plots.panels import caption
from rlhfsim.plots.spec import FigureSpec
from rlhfsim.plots.studies import STUDY_FIGURES
from rlhfsim.plots.venues import VENUES, Layout, layout_for

FIGURES: dict[str, FigureSpec] = {
    "proposition_a1": proposition_a1.FIGURE,
    "sharp_bound": sharp_bound.FIGURE,
    "overoptimization_random": overoptimization.RANDOM,
    "overoptimization_table": overoptimization.TABLE,
    "inequalities": inequalities.FIGURE,
    **STUDY_FIGURES,
}

__all__ = [
    "FIGURES",
    "FORMATS",
    "LOOKS",
    "VENUES",
    "Drawing",
    "FigureSpec",
    "Layout",
    "Look",
    "caption",
    "layout_for",
    "looks",
]
