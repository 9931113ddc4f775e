"""The gallery: small pictures and captions, between two lines of a README."""

import re
import subprocess
import sys
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from PIL import Image
from small_parts import MAIN_FIGURES, small_results, tables_of

from rlhfsim.findings import save_results
from rlhfsim.plots.gallery import BEGIN, END, _with_palette, main, write_gallery
from rlhfsim.plots.looks import GREY, PALETTE
from rlhfsim.repro.job import write_tables

TEXT = f"# Title\n\n{BEGIN}\nwhat was there\n{END}\n\n## Rest\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two result folders that share the tables of the small main job."""
    made = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    tables = tables_of(small_results())
    first = {name: tables.pop(name) for name in ("sharp_bound", "inequalities")}
    write_tables(made[0] / "tables", first)
    write_tables(made[1] / "tables", tables)
    return made


def test_gallery_is_written_between_the_lines(folders, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(TEXT)
    paths = write_gallery(readme, folders)
    text = readme.read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\n## Rest\n")
    assert "what was there" not in text
    assert [path.stem for path in paths] == list(MAIN_FIGURES)
    links = re.findall(r"!\[[^\[\]]+\]\((.+?)\)\n\n`(\w+)`: (.+)", text)
    for path, (link, name, words) in zip(paths, links, strict=True):
        assert readme.parent / link == path
        assert name == path.stem
        assert "Varied: " in words
        assert path.stat().st_size < 60_000
        picture = matplotlib.image.imread(path)
        assert picture.shape[1] == 810
        assert picture[..., :3].std() > 0.05
    before = {path: path.read_bytes() for path in (*paths, readme)}
    write_gallery(readme, folders)
    assert {path: path.read_bytes() for path in before} == before


def test_colours_of_looks_survive_exactly(tmp_path):
    # Thin lines of every colour over a wide gradient, which has far more colours than a palette.
    colours = [tuple(bytes.fromhex(colour[1:])) for colour in (*PALETTE, GREY)]
    drawn = np.full((200, 300, 3), 255, dtype=np.uint8)
    drawn[:100, :, 0], drawn[:100, :, 1] = np.arange(300) % 256, np.arange(100)[:, None]
    for k, colour in enumerate(colours[:-1]):
        drawn[110 + 5 * k, :4] = colour
    flat = _with_palette(Image.fromarray(drawn))
    flat.save(tmp_path / "flat.png")
    with Image.open(tmp_path / "flat.png") as saved:
        assert saved.mode == "P"
        shown = np.asarray(saved.convert("RGB"))
    assert np.array_equal(shown[100:], drawn[100:])
    assert np.abs(shown.astype(int) - drawn).max() < 32
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) <= 256
    # Nothing is put into the picture that was not there.
    assert not (shown == colours[-1]).all(axis=2).any()


def test_answers_stand_above_their_figures(folders, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(TEXT)
    (folder := tmp_path / "results").mkdir()
    (result,) = (r for r in small_results() if r.name == "sharp_bound")
    write_tables(folder / "tables", result.tables)
    answered = replace(result, question="Is D* enough?", answer="Yes, up to 3 %.")
    save_results(folder, [answered], seed=0, versions={})
    write_gallery(readme, [folder])
    assert "**Is D\\* enough?** Yes, up to 3 %.\n\n![" in readme.read_text()


def test_command_draws_what_the_folders_allow(folders, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(TEXT)
    command = [sys.executable, "-m", "rlhfsim.plots.gallery"]
    done = subprocess.run([*command, readme, folders[0]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn = sorted(path.stem for path in (tmp_path / "figures" / "gallery").iterdir())
    assert drawn == ["inequalities", "sharp_bound"]
    assert done.stdout.count("\n") == 2
    for arguments, word in (([readme], "Usage"), ([readme, tmp_path], "tables of no figure")):
        assert main([*map(str, arguments)]) == 2
        errors = capsys.readouterr().err
        assert word in errors
        assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "has 0 times '<!-- gallery: begin -->'"),
        (f"{BEGIN}\n{BEGIN}\n{END}", "has 2 times"),
        (f"{END}\n{BEGIN}", "before '<!-- gallery: begin -->'"),
    ],
)
def test_readme_without_its_lines_is_refused_and_kept(text, message, folders, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match=message):
        write_gallery(readme, folders)
    assert readme.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
