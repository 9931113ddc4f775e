"""One look for every figure: sizes in inches, colours, markers, fonts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlhfsim.files import atomic_path

#: Text width of a two-column page, in inches.
FULL_WIDTH = 6.75

#: Okabe-Ito colours (safe for colour-blind readers); line styles tell methods apart in grey.
COLOURS = {"KL": "#D55E00", "chi2": "#0072B2", "mixed": "#009E73", "best-of-N": "#000000"}
LINES = {"KL": "-", "chi2": "--", "mixed": "-.", "best-of-N": ":"}
MARKERS = {"KL": "o", "chi2": "s", "mixed": "^", "best-of-N": "x"}
LABELS = {
    "KL": "KL",
    "chi2": r"$\chi^2$",
    "mixed": r"$\chi^2 + \mathrm{KL}$",
    "best-of-N": "best-of-$N$",
}
GREY = "#777777"

_SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "rlhfsim",
    "savefig.dpi": 300,
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the look within a block, and leave the caller's settings alone."""
    look: dict[Any, Any] = {**mpl.rcParamsDefault, **_SETTINGS}
    look["backend"] = mpl.rcParams["backend"]
    with mpl.rc_context(look):
        yield


def new_figure(height: float, width: float = FULL_WIDTH) -> Figure:
    """Return an empty figure of the given size in inches, without pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel_letter(axes: Axes, letter: str, title: str) -> None:
    """Put `(a) title` above the left edge of a panel."""
    axes.set_title(f"({letter}) {title}", loc="left")


def _settle(figure: Figure) -> None:
    """Lay the figure out once: the layout is solved again at every save otherwise."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem.pdf` and `stem.png` atomically, free of dates; return their paths."""
    paths = []
    with styled():
        _settle(figure)
    for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {"Software": None})):
        path = stem.with_suffix(suffix)
        with styled(), atomic_path(path) as temporary:
            figure.savefig(temporary, metadata=metadata)
        paths.append(path)
    return paths


def to_svg(figure: Figure) -> str:
    """Return the figure as an inline `<svg>` element."""
    buffer = BytesIO()
    with styled():
        _settle(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue().decode()
    return text[text.index("<svg") :]
