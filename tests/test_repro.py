"""The main job as a user runs it: what it writes, prints and refuses."""

import hashlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest
from small_parts import MAIN_FIGURES, SMALL

from rlhfsim import ContextualBandit, example_table
from rlhfsim.cli import main
from rlhfsim.files import TEMPORARY_PREFIX
from rlhfsim.notation import to_html
from rlhfsim.plots import FIGURES
from rlhfsim.plots.redraw import read_tables
from rlhfsim.repro import PARTS, job
from rlhfsim.repro.job import STEPS, reproduce

SOME = {name: FIGURES[name] for name in ("sharp_bound", "overoptimization_table")}


def make_small(patch, figures=SOME):
    """Give the main job small settings and fewer figures, every part of it real."""
    assert SMALL.keys() == PARTS.keys()
    for name, study in SMALL.items():
        patch.setitem(PARTS, name, study)
    patch.setattr(job, "FIGURES", figures)


@pytest.fixture
def small(monkeypatch):
    """The main job with small settings and two of its figures."""
    make_small(monkeypatch)


@pytest.fixture(scope="module")
def with_table(tmp_path_factory):
    """One run with small settings, seed 1, the example table and all figures; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch, FIGURES)
        out = tmp_path_factory.mktemp("small") / "out"
        reproduce(out, 1, ContextualBandit.from_table(example_table()), lambda _: None)
    return out


@pytest.fixture(scope="module")
def without_table(tmp_path_factory):
    """One run with small settings, seed 1 and no table; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        out = tmp_path_factory.mktemp("small") / "out"
        reproduce(out, 1, None, lambda _: None)
    return out


def cli(*args, **options):
    return subprocess.run(
        [sys.executable, "-m", "rlhfsim", *map(str, args)],
        capture_output=True, text=True, **options,
    )  # fmt: skip


def run_here(capsys, *args):
    """Run a command in this process, without the seconds that each import takes."""
    with pytest.raises(SystemExit) as stop:
        main([*map(str, args)])
    return stop.value.code, *capsys.readouterr()


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """One run of the real command with its default settings."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, cli("repro", "--out", out, "--table", example_table())


def digests(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_command_succeeds_and_prints_every_claim(full):
    out, done = full
    assert done.returncode == 0, done.stderr
    findings = pd.read_parquet(out / "tables" / "findings.parquet")
    assert len(findings) == 4 + 5 + 3 * 2 + 18 + 2
    assert findings["expected"].isna().sum() == 2  # the two measurements
    assert set(findings["expected"].dropna()) == {True}
    text = " ".join(re.sub(r"[│┃]", " ", done.stdout).split())
    for word in ("claim", "source", "measured", "verdict", "holds", "false", "attained"):
        assert word in text
    assert "Omega(1/log n)" in text
    assert done.stderr == ""  # no progress bar where there is no terminal


def test_folder_holds_what_the_manifest_says(full):
    out, _ = full
    manifest = json.loads((out / "manifest.json").read_text())
    found = digests(out)
    assert found.pop("manifest.json")
    assert found == manifest["files"]
    assert manifest["seed"] == 0
    assert manifest["table"] == {"prompts": 12, "responses": 6}
    for name in MAIN_FIGURES:
        assert f"figures/{name}.pdf" in found
        assert f"figures/{name}.png" in found
        assert f"figures/{name}.csv" in found
        assert f"figures/{name}.txt" in found
    assert not [p for p in out.rglob("*") if p.name.startswith(TEMPORARY_PREFIX)]


def test_csv_and_parquet_agree(full):
    out, _ = full
    for path in sorted((out / "tables").glob("*.parquet")):
        table, text = pd.read_parquet(path), pd.read_csv(path.with_suffix(".csv"))
        assert list(table.columns) == list(text.columns)
        for column in table.select_dtypes("number"):
            pd.testing.assert_series_equal(
                table[column], text[column], check_exact=True, check_dtype=False
            )


def test_figures_are_pictures_with_embedded_fonts(full):
    out, _ = full
    for name in MAIN_FIGURES:
        picture = matplotlib.image.imread(out / "figures" / f"{name}.png")
        assert picture.shape[1] == 2025  # 6.75 in at 300 dpi
        assert picture[..., :3].std() > 0.05
        pdf = (out / "figures" / f"{name}.pdf").read_bytes()
        assert b"/Type3" not in pdf
        assert b"CreationDate" not in pdf


class Page(HTMLParser):
    """Collects what a page refers to, its ids, and its visible text."""

    def __init__(self):
        super().__init__()
        self.links, self.ids, self.text, self.svg = [], [], [], 0

    def handle_starttag(self, tag, attrs):
        self.svg += tag == "svg"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.text.append(data)


def test_report_is_self_contained(full):
    out, _ = full
    page = Page()
    page.feed((out / "report.html").read_text())
    assert page.svg == len(MAIN_FIGURES)
    # Only references within the page and embedded images: nothing is fetched.
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    text = "".join(page.text)
    findings = pd.read_parquet(out / "tables" / "findings.parquet")
    for row in findings.itertuples():
        for formula in (row.measured, row.claim):
            assert re.sub("<.*?>", "", unescape(to_html(formula))) in text
        assert row.computed_by in text


def test_report_names_functions_and_tables_that_exist(full):
    import importlib

    out, _ = full
    findings = pd.read_parquet(out / "tables" / "findings.parquet")
    for row in findings.itertuples():
        assert (out / "tables" / f"{row.table}.parquet").is_file()
        for name in re.findall(r"rlhfsim[\w.]+", row.computed_by):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                module, _, attribute = name.rpartition(".")
                assert callable(getattr(importlib.import_module(module), attribute))


def test_same_seed_same_bytes_other_seed_other_numbers(with_table, tmp_path, monkeypatch):
    make_small(monkeypatch, FIGURES)
    table = ContextualBandit.from_table(example_table())
    steps = []
    reproduce(tmp_path, 1, table, steps.append)
    assert len(steps) == STEPS
    assert digests(tmp_path) == digests(with_table)
    tables = read_tables(tmp_path, ["sharp_bound", "overoptimization_curves"])
    parts = "sharp_bound", "overoptimization"
    other = {k: v for name in parts for k, v in PARTS[name](2, None).tables.items()}
    for name, saved in tables.items():
        assert not saved.equals(other[name])


def test_failure_half_way_leaves_the_previous_run(small, without_table, tmp_path, monkeypatch):
    shutil.copytree(without_table, tmp_path, dirs_exist_ok=True)
    before = digests(tmp_path)

    def interrupted(seed, table):
        raise KeyboardInterrupt

    monkeypatch.setitem(PARTS, "inequalities", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce(tmp_path, 2, None, lambda _: None)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_command_leaves_nothing(tmp_path, how):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhfsim", "repro", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        deadline = time.monotonic() + 60
        while not list(out.glob(f"{TEMPORARY_PREFIX}*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, how)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + how
    assert "Traceback" not in errors
    if how == signal.SIGINT:
        assert errors == "rlhfsim: interrupted\n"
    assert list(out.iterdir()) == []


def test_table_without_its_figure_is_explained(without_table, capsys):
    code, _, errors = run_here(capsys, "figure", "overoptimization_table", without_table)
    assert code == 2
    assert "holds no data for overoptimization_table; run repro with --table" in errors


def test_figure_is_drawn_again_from_saved_tables(full, tmp_path):
    out, _ = full
    done = cli("figure", "sharp_bound", out, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    for suffix in (".png", ".pdf", ".csv", ".txt"):
        again = (tmp_path / "sharp_bound").with_suffix(suffix).read_bytes()
        assert again == (out / "figures" / "sharp_bound").with_suffix(suffix).read_bytes()
    assert set(read_tables(out, ["sharp_bound"])) == {"sharp_bound"}


def test_figure_for_a_venue(full, tmp_path, capsys):
    out, _ = full
    code, shown, errors = run_here(
        capsys, "figure", "inequalities", out, "--out", tmp_path, "--venue", "icml",
        "--width", "column", "--format", "png,pgf,svg",
    )  # fmt: skip
    assert code == 0, errors
    names = ("inequalities.png", "inequalities.pgf", "inequalities.svg")
    written = [str(tmp_path / name) for name in (*names, "inequalities.csv", "inequalities.txt")]
    assert shown.splitlines() == written
    assert sorted(map(str, tmp_path.iterdir())) == sorted(written)
    assert matplotlib.image.imread(written[0]).shape[1] == 975  # 3.25 in at 300 dpi


def test_report_holds_every_claim_that_was_checked(full):
    from rlhfsim.claims import CLAIMS

    out, _ = full
    checked = pd.read_parquet(out / "tables" / "claims.parquet")
    assert list(checked["claim"]) == [claim.name for claim in CLAIMS]
    assert checked["passed"].all()
    report = (out / "report.html").read_text()
    for claim in CLAIMS:
        assert f'<span class="math">{to_html(claim.formula)}</span>' in report


def test_headline_of_the_readme_is_what_was_checked(full):
    from rlhfsim.claims import CheckResult
    from rlhfsim.claims.headline import headline

    out, _ = full
    rows = pd.read_parquet(out / "tables" / "claims.parquet").to_dict("records")
    results = [
        CheckResult(**row | {"witness": None if pd.isna(row["witness"]) else row["witness"]})
        for row in rows
    ]
    text = (Path(__file__).parents[1] / "README.md").read_text()
    # Nothing in it depends on how many instances are drawn, unless one of them fails a claim.
    assert headline(results) in text
    assert f"There are {len(results)}, a file" in text


def test_figure_scripts_draw(full, tmp_path, monkeypatch):
    out, _ = full
    scripts = sorted((Path(__file__).parents[1] / "figures").glob("*.py"))
    assert set(MAIN_FIGURES) <= {script.stem for script in scripts} <= set(FIGURES)
    monkeypatch.chdir(tmp_path)
    for script in scripts:
        if script.stem not in MAIN_FIGURES:
            continue
        monkeypatch.setattr(sys, "argv", [str(script), str(out)])
        # In this process, without the seconds that each import takes.
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        assert ended.value.code == 0
        assert (tmp_path / f"{script.stem}.pdf").is_file()
    assert subprocess.run([sys.executable, scripts[0]], capture_output=True).returncode != 0


BAD = [
    (["repro", "--seed", "-1"], "--seed"),
    (["repro", "--sede", "1"], "--sede"),
    (["repro", "--table", "nowhere.csv"], "nowhere.csv"),
    (["repro", "--out", __file__], "is not a folder"),
    (["repro", "--out", ""], "out is empty; it must name a folder"),
    (["figure", "sharp_bound", ".", "--out", __file__], "sharp_bound.parquet does not exist"),
    (["figure", "nonsense", "."], "name is 'nonsense'; it must be one of"),
    (["figure", "sharp_bound", "."], "sharp_bound.parquet does not exist"),
    (["paper", "."], "settings.toml does not exist"),
    (["figure", "sharp_bound", ".", "--venue", "x"], "venue is 'x'; it must be one of icml"),
    (["figure", "sharp_bound", ".", "--width", "x"], "width is 'x'; it must be one of column"),
    (["figure", "sharp_bound", ".", "--format", "x"], "formats has 'x'; it must be one of pdf"),
    (["report", "."], "results.json does not exist"),
    (["nonsense"], "nonsense"),
]


def is_one_line(errors, message):
    return message in errors and errors.startswith("rlhfsim: error: ") and errors.count("\n") == 1


@pytest.mark.parametrize(("args", "message"), BAD, ids=[" ".join(a)[:40] for a, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, errors = run_here(capsys, *args)
    assert (code, out) == (2, "")
    assert is_one_line(errors, message)


@pytest.mark.parametrize("case", [BAD[7], BAD[-1]], ids=["a command's own", "no command"])
def test_bad_input_of_the_real_command(case, tmp_path):
    args, message = case
    done = cli(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert is_one_line(done.stderr, message)


def test_constant_proxy_is_refused_before_anything_runs(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("prompt_id,response_id,reward,length\na,b,1,5\na,c,2,5\n")
    arguments = "repro", "--table", tmp_path / "t.csv", "--out", tmp_path / "out"
    code, _, errors = run_here(capsys, *arguments)
    assert code == 2
    assert "proxy_reward is constant on every prompt" in errors
    assert not (tmp_path / "out").exists()


def test_files_of_a_previous_run_go_unless_they_were_changed(small, with_table, tmp_path):
    shutil.copytree(with_table, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine.txt").write_text("kept")
    changed = tmp_path / "figures" / "overoptimization_table.png"
    changed.write_bytes(b"edited by the user")
    reproduce(tmp_path, 1, None, lambda _: None)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    others = set(digests(tmp_path)) - set(manifest["files"]) - {"manifest.json"}
    assert others == {"mine.txt", "figures/overoptimization_table.png"}


def test_bad_table_is_one_line(tmp_path):
    (tmp_path / "t.csv").write_text("prompt_id,response_id,reward\na,b,1.0\na,b,2.0\n")
    done = cli("repro", "--table", tmp_path / "t.csv", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "row" in done.stderr
    assert not (tmp_path / "out").exists()


def test_unexpected_verdict_exits_with_1(small, tmp_path, monkeypatch, capsys):
    def contradicted(seed, table):
        result = SMALL["inequalities"](seed, table)
        first, *rest = result.findings
        worse = type(first)(**{**first.__dict__, "expected": False})
        return type(result)(**{**result.__dict__, "findings": (worse, *rest)})

    monkeypatch.setitem(PARTS, "inequalities", contradicted)
    monkeypatch.setattr(sys, "argv", ["rlhfsim", "repro", "--out", str(tmp_path / "o")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "written to" in capsys.readouterr().out
