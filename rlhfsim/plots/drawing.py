"""A drawn figure: saved in any format, with its numbers and caption beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rlhfsim.files import atomic_path, write_text
from rlhfsim.plots.numbers import plotted_numbers
from rlhfsim.plots.pgf import to_pgf
from rlhfsim.plots.venues import Layout, styled

#: Formats of `Drawing.save`.
FORMATS = ("pdf", "png", "svg", "pgf")

#: What would make two files of the same figure differ.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}


@dataclass(frozen=True)
class Drawing:
    """A figure laid out for a width, and its caption.

    Saving the same tables again gives the same bytes: files hold no date and no random name.
    """

    figure: Figure
    layout: Layout
    caption: str

    def __post_init__(self) -> None:
        # The layout would be solved again, to slightly other numbers, at every save otherwise.
        with styled(self.layout):
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    def save(self, stem: Path, formats: Sequence[str] = ("pdf", "png")) -> list[Path]:
        """Write the figure, `stem.csv` with the plotted numbers and `stem.txt` with the caption.

        Parameters
        ----------
        stem : Path
            Path without a suffix; every file is written atomically.
        formats : sequence of "pdf", "png", "svg" or "pgf"
            Fonts are embedded (PDF, type 42), turned into paths (SVG), drawn at 300 dpi (PNG), or
            left to the document that inputs the file (PGF).  None needs TeX.

        Returns
        -------
        list of Path

        Raises
        ------
        ValueError
            If a format is not one of these, or none is given.
        """
        check_formats(formats)
        paths = [self._write(stem, name) for name in dict.fromkeys(formats)]
        numbers = stem.with_name(f"{stem.name}.csv")
        with atomic_path(numbers) as temporary:
            plotted_numbers(self.figure).to_csv(temporary, index=False, float_format="%.17g")
        text = stem.with_name(f"{stem.name}.txt")
        write_text(text, self.caption + "\n")
        return [*paths, numbers, text]

    def _write(self, stem: Path, name: str) -> Path:
        path = stem.with_name(f"{stem.name}.{name}")
        with styled(self.layout):
            if name == "pgf":
                write_text(path, to_pgf(self.figure))
                return path
            with atomic_path(path) as temporary:
                self.figure.savefig(temporary, format=name, metadata=_METADATA[name])
        return path

    def svg(self) -> str:
        """Return the figure as an inline `<svg>` element."""
        buffer = BytesIO()
        with styled(self.layout):
            self.figure.savefig(buffer, format="svg", metadata=_METADATA["svg"])
        text = buffer.getvalue().decode()
        return text[text.index("<svg") :]


def check_formats(formats: Sequence[str]) -> None:
    """Raise a ValueError unless `formats` are some of `FORMATS`."""
    if not formats:
        raise ValueError(f"formats is empty; it must hold some of {', '.join(FORMATS)}")
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"formats has {name!r}; it must be one of {', '.join(FORMATS)}")
