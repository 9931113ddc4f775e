r"""Figures as PGF, to be `\input` into a LaTeX document, written without any TeX.

matplotlib's own PGF writer runs LaTeX to measure every text.  Here texts are measured as
matplotlib draws them; the document's font is a little narrower or wider, so labels are anchored
where they are aligned and only the space around them is approximate.
"""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.backends.backend_pgf import RendererPgf
from matplotlib.figure import Figure

from rlhfsim.notation import escape_latex

_HEADER = r"""%% Put \usepackage{pgf} into the preamble, and \input this file in a figure.
\begingroup
\makeatletter
\providecommand{\mathdefault}[1]{#1}
\begin{pgfpicture}
"""
_FOOTER = r"""\end{pgfpicture}
\makeatother
\endgroup
"""

#: Markers that one picture may have: LaTeX's default memory holds some thousands.
MOST_MARKERS = 2000

_HORIZONTAL = {"left": "left", "right": "right", "center": ""}
_VERTICAL = {"top": "top", "bottom": "bottom", "baseline": "base", "center": ""}


def to_pgf(figure: Figure) -> str:
    """Return the figure as a `pgfpicture`, in the fonts of the document that inputs it.

    Raises
    ------
    ValueError
        For a figure with more than `MOST_MARKERS` markers or a raster image.
    """
    body = StringIO()
    width, height = figure.get_size_inches()
    body.write(_HEADER)
    body.write(
        rf"\pgfpathrectangle{{\pgfpointorigin}}{{\pgfqpoint{{{width:f}in}}{{{height:f}in}}}}%"
        "\n\\pgfusepath{use as bounding box, clip}%\n"
    )
    figure.draw(_Renderer(figure, body))
    body.write(_FOOTER)
    return body.getvalue()


class _Renderer(RendererPgf):
    """matplotlib's PGF renderer with texts measured and written without LaTeX."""

    def __init__(self, figure: Figure, file: StringIO) -> None:
        super().__init__(figure, file)  # type: ignore[no-untyped-call]
        width, height = figure.get_size_inches() * figure.dpi
        self._measure: Any = RendererAgg(width, height, figure.dpi)  # type: ignore[no-untyped-call]
        self._markers = 0

    def get_text_width_height_descent(
        self, s: str, prop: Any, ismath: Any
    ) -> tuple[float, float, float]:
        """Return the extent of a text as matplotlib itself would draw it, in pixels."""
        width, height, descent = self._measure.get_text_width_height_descent(s, prop, ismath)
        return width, height, descent

    def draw_markers(
        self, gc: Any, marker_path: Any, marker_trans: Any, path: Any, trans: Any,
        rgbFace: Any = None,
    ) -> None:  # fmt: skip
        """Draw the marker at each vertex, up to the number that LaTeX can hold."""
        self._markers += len(path.vertices)
        if self._markers > MOST_MARKERS:
            raise ValueError(
                f"the figure has more than {MOST_MARKERS} markers, which LaTeX has no memory for; "
                "save it as PDF"
            )
        super().draw_markers(gc, marker_path, marker_trans, path, trans, rgbFace)  # type: ignore[no-untyped-call]

    def draw_image(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: a picture would need a file of its own beside the PGF."""
        raise ValueError("the figure holds a raster image, which PGF cannot; save it as PDF")

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float,
        ismath: Any = False, mtext: Any = None,
    ) -> None:  # fmt: skip
        """Write a text, anchored where matplotlib aligns it."""
        place = [f"x={x / self.dpi:f}in", f"y={y / self.dpi:f}in", "left", "base"]
        anchored = angle == 0 or (mtext is not None and mtext.get_rotation_mode() == "anchor")
        if mtext is not None and anchored and mtext.get_verticalalignment() in _VERTICAL:
            at = mtext.get_transform().transform(mtext.get_unitless_position())
            place = [
                f"x={at[0] / self.dpi:f}in",
                f"y={at[1] / self.dpi:f}in",
                _HORIZONTAL[mtext.get_horizontalalignment()],
                _VERTICAL[mtext.get_verticalalignment()],
            ]
        if angle != 0:
            place.append(f"rotate={angle:f}")
        red, green, blue = gc.get_rgb()[:3]
        size = prop.get_size_in_points()
        bold = r"\bfseries" if prop.get_weight() in {"bold", "semibold", "heavy"} else ""
        self.fh.write(
            rf"\begin{{pgfscope}}\definecolor{{textcolor}}{{rgb}}{{{red:f},{green:f},{blue:f}}}%"
            "\n"
            rf"\pgftext[{','.join(part for part in place if part)}]"
            rf"{{\color{{textcolor}}\fontsize{{{size:f}}}{{{1.2 * size:f}}}{bold}\selectfont "
            rf"{to_tex(s)}}}%"
            "\n\\end{pgfscope}%\n"
        )


#: What mathtext knows under other names than LaTeX, or has built in where LaTeX needs a package.
_IN_MATH = {"\N{MINUS SIGN}": "-", "×": r"\times ", r"\|": r"\Vert "}


def to_tex(text: str) -> str:
    r"""Return a matplotlib text as LaTeX: formulas between dollars as they are, the rest escaped.

    >>> to_tex("n < 5 %: $\mathdefault{10^{2}}$")
    'n \\ensuremath{<} 5 \\%: $\\mathdefault{10^{2}}$'
    """
    parts = re.split(r"(?<!\\)\$", text)
    if len(parts) % 2 == 0:  # an odd dollar: no formula at all, as matplotlib sees it
        return escape_latex(text)
    return "".join(f"${_math(p)}$" if k % 2 else escape_latex(p) for k, p in enumerate(parts))


def _math(text: str) -> str:
    for symbol, command in _IN_MATH.items():
        text = text.replace(symbol, command)
    return text
