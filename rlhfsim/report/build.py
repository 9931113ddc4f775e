"""From a folder of saved results to its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rlhfsim.files import write_text
from rlhfsim.findings import load_results
from rlhfsim.plots import FIGURES
from rlhfsim.plots.spec import FigureSpec
from rlhfsim.report.page import render

#: Name of the page in its folder.
REPORT = "report.html"


def build_report(
    folder: Path,
    *,
    figures: Mapping[str, FigureSpec] = FIGURES,
    drawn: Mapping[str, str] | None = None,
) -> Path:
    """Write `report.html` from what a results folder holds, and return its path.

    Parameters
    ----------
    folder : Path
        With `results.json` and `tables/`; see `rlhfsim.findings.save_results`.
    figures : mapping of names to FigureSpec
        Those that the tables allow are in the page.
    drawn : mapping of names to str, optional
        Figures that are drawn already, as SVG; drawn from the tables by default.

    Raises
    ------
    ValueError
        If the folder holds no results, or not what they list.
    """
    saved = load_results(folder)
    tables = {name: table for result in saved.results for name, table in result.tables.items()}
    if drawn is None:
        drawn = {
            name: spec.draw(tables).svg() for name, spec in figures.items() if spec.possible(tables)
        }
    path = folder / REPORT
    write_text(path, render(saved, figures, drawn))
    return path
