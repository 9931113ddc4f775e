"""Where a figure goes: widths and font sizes of venues, and the settings that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl

from rlhfsim.checks import positive_number

#: Which of a venue's two widths: one column of text, or the whole page.
Width = Literal["column", "full"]
WIDTHS: tuple[Width, ...] = ("column", "full")

#: Width that one panel needs at least, in units of the font size: its labels and four ticks.
_PANEL_EMS = 17.0


@dataclass(frozen=True)
class Venue:
    """Widths of a venue's text in inches, and the font size of its figures in points.

    Source: the venues' templates; the same numbers as in tueplots (`tueplots.figsizes`,
    `tueplots.fontsizes`), whose rule for the font is taken over: one point below that of captions.
    """

    title: str
    column: float
    full: float
    base: float


#: Name -> venue.  All of them set text in a Times-like or Computer Modern serif.
VENUES: dict[str, Venue] = {
    "icml": Venue("ICML", 3.25, 6.75, 8.0),
    "neurips": Venue("NeurIPS", 5.5, 5.5, 9.0),
    "iclr": Venue("ICLR", 5.5, 5.5, 9.0),
    "jmlr": Venue("JMLR", 6.0, 6.0, 9.95),
    "tmlr": Venue("TMLR", 6.5, 6.5, 9.0),
}


@dataclass(frozen=True)
class Layout:
    """How wide a figure is, and how large its letters are.

    Parameters
    ----------
    width : float
        In inches.
    base : float
        Size of titles and axis labels in points; ticks and legends are one point smaller.
    serif : bool
        STIX, which goes with Times, instead of DejaVu Sans.  Both come with matplotlib.

    Raises
    ------
    ValueError
        If `width` or `base` is not positive and finite.
    """

    width: float = 6.75
    base: float = 8.0
    serif: bool = False

    def __post_init__(self) -> None:
        positive_number("width", self.width)
        positive_number("base", self.base)

    def per_row(self, wanted: int) -> int:
        """Return how many panels stand side by side: `wanted`, or as many as are readable."""
        fit = int(self.width * 72.0 / (_PANEL_EMS * self.base))
        return max(1, min(wanted, fit))

    def settings(self) -> dict[str, Any]:
        """Return the `rcParams` of this layout."""
        small = self.base - 1.0
        return {
            "font.family": "serif" if self.serif else "sans-serif",
            "font.serif": ["STIXGeneral"],
            "font.sans-serif": ["DejaVu Sans"],
            "mathtext.fontset": "stix" if self.serif else "dejavusans",
            "font.size": self.base,
            "axes.titlesize": self.base,
            "axes.labelsize": self.base,
            "legend.fontsize": small,
            "xtick.labelsize": small,
            "ytick.labelsize": small,
            "lines.linewidth": 1.2,
            "lines.markersize": 4,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "axes.unicode_minus": True,
            # Type 42 is TrueType, embedded as it is; venues refuse matplotlib's Type 3.
            "pdf.fonttype": 42,
            "ps.fonttype": 42,
            "svg.fonttype": "path",
            "svg.hashsalt": "rlhfsim",
            "savefig.dpi": 300,
        }


#: The layout of the report and of `rlhfsim repro`.
SCREEN = Layout()


def layout_for(venue: str | None = None, width: Width = "full") -> Layout:
    """Return the layout of a figure that is one column or the whole page wide.

    Parameters
    ----------
    venue : str, optional
        A name of `VENUES`; by default that of the report.
    width : "column" or "full"
        Venues with one column of text make no difference.

    Raises
    ------
    ValueError
        If there is no such venue or width.
    """
    if width not in WIDTHS:
        raise ValueError(f"width is {width!r}; it must be one of {', '.join(WIDTHS)}")
    if venue is None:
        return Layout(width=3.25) if width == "column" else SCREEN
    if venue not in VENUES:
        raise ValueError(f"venue is {venue!r}; it must be one of {', '.join(VENUES)}")
    chosen = VENUES[venue]
    return Layout(chosen.column if width == "column" else chosen.full, chosen.base, serif=True)


@contextmanager
def styled(layout: Layout = SCREEN) -> Iterator[None]:
    """Apply the look of a layout within a block, and leave the caller's settings alone."""
    look: dict[Any, Any] = {**mpl.rcParamsDefault, **layout.settings()}
    look["backend"] = mpl.rcParams["backend"]
    with mpl.rc_context(look):
        yield
