"""The folders of `paper_repro/` agree with what is measured, and disagreement is caught."""

import functools
import re
import shutil
from pathlib import Path

import pytest

from rlhfsim.cli import main
from rlhfsim.papers import reproduce_paper
from rlhfsim.repro import inequalities

ROOT = Path(__file__).parents[1] / "paper_repro"
FOLDERS = sorted(p for p in ROOT.iterdir() if p.is_dir())


@pytest.fixture(autouse=True, scope="module")
def _one_run_of_the_same_settings():
    """What is wrong with `expected.toml` is found in the tables of a study that takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inequalities, "run", functools.cache(inequalities.run))
        yield


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_paper_reproduces(folder):
    checks = reproduce_paper(folder)
    assert len(checks) >= 3
    assert [c.name for c in checks if not c.agrees] == []
    assert (folder / "README.md").is_file()


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(ROOT / "blog_2025_divergences", tmp_path / "paper"))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_wrong_number_is_caught_and_exits_with_1(copy, capsys):
    edit(copy / "expected.toml", "1.3862943611198906", "1.39")
    with pytest.raises(SystemExit) as stop:
        main(["paper", str(copy)])
    assert stop.value.code == 1
    assert re.findall(r"\b(NO|yes)\b", capsys.readouterr().out) == ["NO", *4 * ["yes"]]


BAD = [
    ("settings.toml", 'study = "inequalities"', 'study = "nonsense"', "study is 'nonsense'"),
    ("settings.toml", "seed = 0", "seed = -1", "seed is -1; it must be a non-negative integer"),
    ("settings.toml", "seed = 0", "sede = 0", "key 'sede' is unknown"),
    ("settings.toml", "seed = 0", "[settings]\ninstance = 3", "settings.instance is unknown"),
    ("settings.toml", "seed = 0", "seed = ", "is not valid TOML"),
    ("expected.toml", 'column = "witness_ratio"', 'column = "ratio"', "has no column 'ratio'"),
    ("expected.toml", "KL below chi-squared", "KL", "0 rows of inequalities match"),
    ("expected.toml", 'table = "inequalities"', 'table = "x"', "table 'x' is not among"),
    ("expected.toml", "relative = 1e-12", "", "one rule is needed"),
    ("expected.toml", "relative = 1e-12", "relativ = 1e-12", "key 'relativ' is unknown"),
    ("expected.toml", "[[number]]", "[[numbers]]", "and no others"),
]


@pytest.mark.parametrize(("file", "old", "new", "message"), BAD, ids=[b[3][:24] for b in BAD])
def test_bad_folder_is_named(copy, file, old, new, message):
    edit(copy / file, old, new)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as error:
        reproduce_paper(copy)
    assert file in str(error.value)


def test_missing_file_is_named(copy):
    (copy / "expected.toml").unlink()
    with pytest.raises(ValueError, match=r"expected\.toml does not exist"):
        reproduce_paper(copy)
