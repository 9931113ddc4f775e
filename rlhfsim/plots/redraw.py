"""One figure again, from the saved tables of a folder, for a venue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhfsim.files import read_parquet
from rlhfsim.plots import FIGURES
from rlhfsim.plots.drawing import check_formats
from rlhfsim.plots.spec import FigureSpec, Tables
from rlhfsim.plots.venues import WIDTHS, layout_for


def redraw(
    name: str,
    results: Path,
    out: Path,
    *,
    venue: str | None = None,
    width: str = "full",
    formats: Sequence[str] = ("pdf", "png"),
    figures: Mapping[str, FigureSpec] = FIGURES,
) -> list[Path]:
    """Draw the figure `name` from `results/tables/` and write it to the folder `out`.

    Parameters
    ----------
    name : str
        A name of `figures`.
    results, out : Path
        Folders; `out` is made where it is missing.
    venue : str, optional
        A name of `rlhfsim.plots.VENUES`; by default the layout of the report.
    width : "column" or "full"
    formats : sequence of str
        Some of `rlhfsim.plots.FORMATS`.
    figures : mapping of names to FigureSpec
        The figures to choose from.

    Returns
    -------
    list of Path
        The files written: each format, the numbers (CSV) and the caption (text).

    Raises
    ------
    ValueError
        For an unknown name, venue, width or format, tables that are missing or hold nothing to
        show, and an `out` that is a file.
    """
    if name not in figures:
        raise ValueError(f"name is {name!r}; it must be one of {', '.join(figures)}")
    spec = figures[name]
    check_formats(formats)
    known = next((w for w in WIDTHS if w == width), None)
    if known is None:
        raise ValueError(f"width is {width!r}; it must be one of {', '.join(WIDTHS)}")
    layout = layout_for(venue, known)
    tables = read_tables(results, spec.tables)
    if not spec.applies(tables):
        raise ValueError(f"{results} holds no data for {name}; run repro with --table")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is not a folder")
    out.mkdir(parents=True, exist_ok=True)
    return spec.draw(tables, layout).save(out / name, formats)


def read_tables(folder: Path, names: Sequence[str]) -> Tables:
    """Return saved tables by name from a results folder's `tables/`."""
    missing = [n for n in names if not (folder / "tables" / f"{n}.parquet").is_file()]
    if missing:
        raise ValueError(f"{folder}/tables/{missing[0]}.parquet does not exist")
    return {name: read_parquet(folder / "tables" / f"{name}.parquet").to_pandas() for name in names}
