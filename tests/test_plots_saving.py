"""Figures as files: sizes, fonts, formats, bytes; readable at the width of every venue."""

import re
import shutil
import subprocess
import zlib
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from small_parts import MAIN_FIGURES, small_results, tables_of

from rlhfsim.plots import FIGURES, FORMATS, Layout, layout_for
from rlhfsim.plots.drawing import Drawing
from rlhfsim.plots.panels import panels
from rlhfsim.plots.pgf import MOST_MARKERS, to_pgf, to_tex
from rlhfsim.plots.redraw import redraw
from rlhfsim.plots.venues import styled


@pytest.fixture(scope="module")
def results():
    return small_results()


@pytest.fixture(scope="module")
def tables(results):
    return tables_of(results)


@pytest.fixture(scope="module")
def drawing(tables):
    return FIGURES["proposition_a1"].draw(tables, layout_for("icml", "column"))


@pytest.fixture
def no_programs(monkeypatch, tmp_path):
    """No TeX, nor any other program."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def test_every_format_at_the_width_of_the_venue(drawing, tmp_path, no_programs):
    names = [path.name for path in drawing.save(tmp_path / "f.1", FORMATS)]
    assert names == ["f.1.pdf", "f.1.png", "f.1.svg", "f.1.pgf", "f.1.csv", "f.1.txt"]
    picture = matplotlib.image.imread(tmp_path / "f.1.png")
    assert picture.shape[1] == round(3.25 * 300)
    assert picture[..., :3].std() > 0.05
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", (tmp_path / "f.1.pdf").read_bytes())
    assert float(box[1]) == pytest.approx(3.25 * 72)
    svg = (tmp_path / "f.1.svg").read_text()
    assert re.search(r'width="234(\.0*)?pt"', svg)
    HTMLParser().feed(svg)
    assert "font-family" not in svg  # letters are paths: no font is needed
    assert (tmp_path / "f.1.txt").read_text() == drawing.caption + "\n"
    numbers = pd.read_csv(tmp_path / "f.1.csv")
    assert len(numbers) > 100


def test_fonts_are_embedded_as_truetype(drawing, tmp_path):
    drawing.save(tmp_path / "f", ["pdf"])
    pdf = (tmp_path / "f.pdf").read_bytes()
    fonts = re.findall(rb"<<[^<>]*/Type /Font\b[^<>]*", pdf)
    kinds = {re.search(rb"/Subtype /(\w+)", font)[1] for font in fonts}
    assert kinds <= {b"Type0", b"CIDFontType2", b"TrueType"}
    assert kinds & {b"CIDFontType2", b"TrueType"}
    assert b"Type3" not in pdf
    # Each font's program is in the file, and is TrueType: its first four bytes say so.
    for number in set(re.findall(rb"/FontFile2 (\d+) 0 R", pdf)):
        start = pdf.index(b"\n" + number + b" 0 obj")
        data = pdf[pdf.index(b"stream", start) :].split(b"stream", 1)[1].lstrip(b"\r\n")
        assert zlib.decompressobj().decompress(data)[:4] in (b"\0\1\0\0", b"true")
    families = {re.search(rb"/BaseFont /[A-Z]{6}\+(\w+)", font)[1] for font in fonts}
    assert families
    assert all(family.startswith(b"STIX") for family in families)


def test_type_three_would_be_seen(tmp_path):
    figure = Figure()
    figure.text(0.5, 0.5, "word")
    figure.savefig(tmp_path / "f.pdf")  # as matplotlib does it by default
    assert b"/Type3" in (tmp_path / "f.pdf").read_bytes()


def test_same_tables_same_bytes(tables, drawing, tmp_path):
    again = FIGURES["proposition_a1"].draw(
        {name: table.copy() for name, table in tables.items()}, layout_for("icml", "column")
    )
    for a, b in zip(
        drawing.save(tmp_path / "a", FORMATS), again.save(tmp_path / "b", FORMATS), strict=True
    ):
        assert a.read_bytes() == b.read_bytes()
        assert not re.search(rb"CreationDate|20[23]\d-\d\d-\d\d", a.read_bytes())
    assert drawing.svg() == again.svg()


#: The narrowest, the widest, and the one with the largest letters.
PLACES = [("icml", "column"), ("icml", "full"), ("jmlr", "full")]


def boxes(figure):
    """The extents of all texts that are seen."""
    renderer = figure.canvas.get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    hidden = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if not label.get_visible() or not inside(tick, axis)
    }
    return {
        text: text.get_window_extent(renderer)
        for text in texts
        if text not in hidden and (text.axes is None or text.axes.axison)
    }


def inside(tick, axis):
    low, high = sorted(axis.get_view_interval())
    return low * (1 - 1e-9) - 1e-12 <= tick.get_loc() <= high * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("place", PLACES, ids="-".join)
@pytest.mark.parametrize("name", MAIN_FIGURES)
def test_no_two_texts_overlap_and_none_is_cut(name, place, tables):
    layout = layout_for(*place)
    with styled(layout):
        figure = FIGURES[name].draw(tables, layout).figure
        extents = boxes(figure)
    width, height = figure.get_size_inches() * figure.dpi
    assert figure.get_size_inches()[0] == layout.width
    assert height < 9 * figure.dpi  # a page
    found = list(extents.items())
    assert len(found) > 10
    for k, (text, box) in enumerate(found):
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
        assert text.get_fontsize() >= 7
        for other, second in found[:k]:
            across = min(box.x1, second.x1) - max(box.x0, second.x0)
            up = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert min(across, up) < 1.5, (text, other)


def test_overlap_would_be_seen():
    figure = panels(Layout(), 1, per_row=1).figure
    figure.axes[0].set_axis_off()
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.5, "two")
    with styled():
        figure.draw_without_rendering()
        first, second = boxes(figure).values()
    assert first.overlaps(second)


# ---- PGF -----------------------------------------------------------------------------------------


def test_pgf_is_balanced_and_within_its_picture(drawing, no_programs):
    text = to_pgf(drawing.figure)
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    assert text.count("\\begin{pgfpicture}") == 1
    depth = 0
    for character in re.sub(r"\\[{}%]|%.*", "", text):
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    # Not only ASCII would need a document in UTF-8 and packages for it.
    assert text.isascii()
    # No path of this machine, and no font that the document may lack.
    assert "fontspec" not in text
    assert "/" not in "".join(re.findall(r"\\input.*|Path=.*", text.split("\\begingroup")[1]))


def test_pgf_draws_every_point_of_a_line():
    figure = Figure(figsize=(4.0, 3.0))
    axes = figure.add_axes([0.0, 0.0, 1.0, 1.0])
    axes.set_axis_off()
    axes.set(xlim=(0.0, 4.0), ylim=(0.0, 3.0))
    x, y = [0.5, 1.5, 3.0], [1.0, 2.5, 0.5]
    axes.plot(x, y, color="#0072B2")
    text = to_pgf(figure)
    number = r"([\d.]+)in"
    path = re.findall(rf"\\pgfpath(?:moveto|lineto){{\\pgfqpoint{{{number}}}{{{number}}}}}", text)
    np.testing.assert_allclose(np.array(path[-3:], dtype=float), np.stack([x, y], 1), atol=2e-6)
    assert "{rgb}{0.000000,0.447059,0.698039}" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"(a) $\beta = 10^{-2}$ & 5%", r"(a) $\beta = 10^{-2}$ \& 5\%"),
        ("−0.5 ≤ x", r"\ensuremath{-}0.5 \ensuremath{\le} x"),
        ("$\\mathdefault{−5}$", "$\\mathdefault{-5}$"),
        ("costs 5$ a_b", r"costs 5\$ a\_b"),
        (r"regret × $\log n$", r"regret \ensuremath{\times} $\log n$"),
    ],
)
def test_texts_become_tex(text, expected):
    assert to_tex(text) == expected


def test_pgf_refuses_what_tex_cannot_hold():
    figure = Figure()
    figure.subplots().plot(np.zeros(MOST_MARKERS + 1), "o")
    with pytest.raises(ValueError, match=r"more than 2000 markers.*save it as PDF"):
        to_pgf(figure)
    figure = Figure()
    figure.subplots().imshow(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="raster image"):
        to_pgf(figure)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_pgf_compiles_where_there_is_tex(tables, tmp_path):
    names = [name for name in MAIN_FIGURES if name != "sharp_bound"]
    for name in names:
        FIGURES[name].draw(tables, layout_for("icml", "column")).save(tmp_path / name, ["pgf"])
    inputs = "".join(rf"\input{{{name}.pgf}}\newpage " for name in names)
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{pgf}\begin{document}" + inputs + r"\end{document}"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")


# ---- refusals ------------------------------------------------------------------------------------


def test_bad_formats_are_refused(drawing, tmp_path):
    for formats, message in (
        (["gif"], "formats has 'gif'; it must be one of pdf, png, svg, pgf"),
        ([], "formats is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            drawing.save(tmp_path / "f", formats)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_what_was_there(drawing, tmp_path, monkeypatch):
    (tmp_path / "f.pdf").write_bytes(b"before")

    def broken(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr(drawing.figure, "savefig", broken)
    with pytest.raises(OSError, match="disk is full"):
        drawing.save(tmp_path / "f", ["pdf"])
    assert (tmp_path / "f.pdf").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_drawing_is_laid_out_once(tables):
    made = FIGURES["sharp_bound"].draw(tables, Layout())
    assert isinstance(made, Drawing)
    before = [axes.get_position().bounds for axes in made.figure.axes]
    made.svg()
    assert [axes.get_position().bounds for axes in made.figure.axes] == before


def test_redraw_refuses_before_it_writes(tmp_path):
    with pytest.raises(ValueError, match="width is 'wide'; it must be one of column, full"):
        redraw("sharp_bound", tmp_path, tmp_path / "out", width="wide")
    with pytest.raises(ValueError, match="venue is 'nature'"):
        redraw("sharp_bound", tmp_path, tmp_path / "out", venue="nature")
    assert not (tmp_path / "out").exists()


def test_tables_of_another_version_are_refused_by_name():
    spec = FIGURES["proposition_a1"]
    tables = {name: pd.DataFrame({"other": [1.0]}) for name in spec.tables}
    with pytest.raises(ValueError, match=r"have no column .* another version made them"):
        spec.draw(tables)
