"""The gallery of a README: small pictures of all figures, drawn from result folders.

Usage: python -m rlhfsim.plots.gallery README.md RESULTS [RESULTS ...]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rlhfsim.files import atomic_path, read_parquet, write_text
from rlhfsim.findings import load_results
from rlhfsim.notation import pretty
from rlhfsim.plots import FIGURES
from rlhfsim.plots.drawing import Drawing
from rlhfsim.plots.looks import GREY, PALETTE
from rlhfsim.plots.spec import FigureSpec
from rlhfsim.plots.venues import Layout, styled

#: Lines of the README between which the gallery stands.
BEGIN, END = "<!-- gallery: begin -->", "<!-- gallery: end -->"

_DOTS_PER_INCH = 120

#: Colours of a picture, as many as a palette of PNG holds, and how many of them, the most frequent,
#: are kept as they are whatever they are.
_COLOURS, _FREQUENT = 256, 64


def write_gallery(
    readme: Path,
    folders: Sequence[Path],
    *,
    images: Path | None = None,
    figures: Mapping[str, FigureSpec] = FIGURES,
) -> list[Path]:
    """Draw every figure that the folders' tables allow, and put them all into a README.

    Above the figure of a study stand its question and its answer, from `results.json`.

    Parameters
    ----------
    readme : Path
        A Markdown file with the lines `BEGIN` and `END`; what is between them is replaced.
    folders : sequence of Path
        Results folders, with `tables/`.
    images : Path, optional
        Folder of the pictures; by default `figures/gallery` beside the README.
    figures : mapping of names to FigureSpec

    Returns
    -------
    list of Path
        The pictures, PNGs of some ten kilobytes.

    Raises
    ------
    ValueError
        If the README lacks the lines, or the folders hold no figure's tables.
    """
    before, after = _around(readme)
    tables = {
        path.stem: path
        for folder in folders
        for path in sorted((folder / "tables").glob("*.parquet"))
    }
    answers = {name: text for folder in folders for name, text in _answers(folder).items()}
    images = readme.parent / "figures" / "gallery" if images is None else images
    written, entries = [], []
    for name, spec in figures.items():
        if not set(spec.tables) <= set(tables):
            continue
        read = {table: read_parquet(tables[table]).to_pandas() for table in spec.tables}
        if not spec.applies(read):
            continue
        images.mkdir(parents=True, exist_ok=True)
        path = images / f"{name}.png"
        drawing = spec.draw(read, Layout(width=6.75))
        _write_small(drawing, path)
        written.append(path)
        entry = _entry(name, drawing.caption, os.path.relpath(path, readme.parent))
        entries.append(answers.get(name, "") + entry)
    if not written:
        where = ", ".join(map(str, folders)) or "no folder"
        raise ValueError(f"folders hold the tables of no figure: {where}")
    write_text(readme, f"{before}{BEGIN}\n\n" + "\n\n".join(entries) + f"\n\n{END}{after}")
    return written


def _around(readme: Path) -> tuple[str, str]:
    """Return what stands before and after the gallery."""
    text = readme.read_text(encoding="utf-8")
    for mark in (BEGIN, END):
        if text.count(mark) != 1:
            raise ValueError(
                f"{readme} has {text.count(mark)} times {mark!r}; it must have it once"
            )
    before, rest = text.split(BEGIN)
    if END not in rest:
        raise ValueError(f"{readme} has {END!r} before {BEGIN!r}")
    return before, rest.split(END)[1]


def _answers(folder: Path) -> dict[str, str]:
    """Return question and answer of the results in a folder, by the figure's name."""
    try:
        saved = load_results(folder)
    except ValueError:
        return {}
    return {
        result.name.replace(
            "-", "_"
        ): f"**{_escaped(result.question)}** {_escaped(result.answer)}\n\n"
        for result in saved.results
        if result.answer
    }


def _escaped(text: str) -> str:
    # Stars and underscores would be emphasis.
    return pretty(text).replace("*", r"\*").replace("_", r"\_")


def _entry(name: str, caption: str, path: str) -> str:
    words = pretty(caption)
    # A bracket would end the description of the picture.
    plain = words.split(". ")[0].replace("[", "(").replace("]", ")")
    return f"![{plain}]({Path(path).as_posix()})\n\n`{name}`: {_escaped(caption)}"


def _write_small(drawing: Drawing, path: Path) -> None:
    """Write a PNG with a palette, a fraction of the bytes."""
    buffer = BytesIO()
    with styled(drawing.layout):
        drawing.figure.savefig(
            buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None}
        )
    with Image.open(buffer) as picture, atomic_path(path) as temporary:
        _with_palette(picture.convert("RGB")).save(temporary, format="PNG", optimize=True)


def _with_palette(picture: Image.Image) -> Image.Image:
    """Return a picture of at most `_COLOURS` colours; those that mean something are exact.

    These are the colours of the looks, however few their pixels, and the most frequent ones, such
    as fills.  Only the others, mostly edges of letters and lines, become the nearest that is kept:
    a palette of averages makes two methods with thin lines one colour.
    """
    pixels = np.asarray(picture)
    # One number for each colour is sorted faster than three.
    codes = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    found, which, counts = np.unique(codes, return_inverse=True, return_counts=True)
    looked = [int(colour[1:], 16) for colour in (*PALETTE, GREY)]
    frequent = found[np.argsort(-counts, kind="stable")[:_FREQUENT]]
    exact = np.union1d(np.intersect1d(looked, found), frequent)
    averages = np.array(
        picture.quantize(_COLOURS - exact.size, dither=Image.Dither.NONE).getpalette()
    )
    kept = np.concatenate([_channels(exact), averages.reshape(-1, 3)])[:_COLOURS]
    distances = np.stack([((_channels(found) - colour) ** 2).sum(axis=1) for colour in kept])
    # Of equals the first, so that whatever is exact stays itself.
    nearest = distances.argmin(axis=0).astype(np.uint8)
    flat = Image.fromarray(nearest[which].reshape(codes.shape))
    flat.putpalette(kept.astype(np.uint8).tobytes())
    return flat


def _channels(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; bad input is one line on stderr and exit code 2."""
    if len(arguments) < 2:
        print((__doc__ or "").splitlines()[-1], file=sys.stderr)  # noqa: T201
        return 2
    try:
        for path in write_gallery(Path(arguments[0]), [Path(a) for a in arguments[1:]]):
            print(path)  # noqa: T201
    except (ValueError, OSError) as error:
        print("gallery: error:", " ".join(str(error).split()), file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
