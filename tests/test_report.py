"""The report: made from saved results alone, self-contained, escaped; claims with formulas set."""

import json
import math
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from small_parts import small_results, tables_of

from rlhfsim.claims.checking import CheckResult
from rlhfsim.findings import Finding, StudyResult, load_results, save_results
from rlhfsim.notation import to_html
from rlhfsim.report import build_report, claims_section, claims_table
from rlhfsim.report.claims import COLUMNS
from rlhfsim.report.tables import number_cell, numbers_table
from rlhfsim.repro import claims as claims_part
from rlhfsim.repro.job import write_tables

VERSIONS = {"rlhfsim": "0", "python": "3"}


def save(folder, results, **keywords):
    write_tables(folder / "tables", tables_of(results))
    save_results(folder, results, seed=3, versions=VERSIONS, **keywords)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    save(folder, small_results())
    build_report(folder)
    return folder


class Page(HTMLParser):
    """Every start tag with its attributes, the visible text, and the rows of tables."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.rows, self._hidden, self._cell = [], "", [], 0, False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("script", "style")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._hidden -= tag in ("script", "style")
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if not self._hidden:
            self.text += data
            if self._cell:
                self.rows[-1][-1] += data


def test_saved_results_are_read_as_they_were(folder):
    saved = load_results(folder)
    assert (saved.title, saved.seed, saved.versions) == ("main results", 3, VERSIONS)
    for given, read in zip(small_results(), saved.results, strict=True):
        for name in ("name", "title", "question", "answer", "findings"):
            assert getattr(read, name) == getattr(given, name)
        assert read.settings == json.loads(json.dumps(given.settings))
        assert read.findings_table().equals(given.findings_table())
        assert list(read.tables) == list(given.tables)
        for name, table in given.tables.items():
            plain = table.map(lambda v: list(v) if isinstance(v, list | np.ndarray) else v)
            again = read.tables[name].map(lambda v: list(v) if isinstance(v, np.ndarray) else v)
            pd.testing.assert_frame_equal(plain, again, check_exact=True)


def test_report_needs_the_saved_results_only(folder):
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "rlhfsim", "report", str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'report.html'}\n"
    assert (folder / "report.html").read_bytes() == before


def test_page_is_self_contained_and_says_everything(folder):
    html = (folder / "report.html").read_text()
    page = Page(html)
    references = [
        value for _, attrs in page.tags for name, value in attrs.items()
        if name in ("src", "href", "xlink:href", "action", "srcset")
    ]  # fmt: skip
    assert all(value.startswith(("#", "data:")) for value in references)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in references if value.startswith("#")} <= set(ids)
    assert sum(tag == "svg" for tag, _ in page.tags) == 5
    assert all(attrs["role"] == "img" for tag, attrs in page.tags if tag == "svg")
    for result in small_results():
        assert result.title in page.text
        for finding in result.findings:
            for formula in (finding.claim, finding.measured):
                assert unescape(re.sub("<.*?>", "", to_html(formula))) in page.text
            assert finding.computed_by in page.text


def test_answers_numbers_and_text_are_escaped(tmp_path):
    bad = '<script>alert("x")</script>'
    table = pd.DataFrame({"a <b>": [bad, "y"], "n": [1, 2], "v": [math.inf, math.nan]})
    finding = Finding(bad, bad, bad, bad, False, "t", bad)
    save(tmp_path, [StudyResult("s", bad, bad, {"k": bad}, {"t": table}, (finding,), answer=bad)])
    page = Page(build_report(tmp_path).read_text())
    assert sum(tag == "script" for tag, _ in page.tags) == 1  # that of the page
    assert page.text.count(bad) == 12
    assert ["a <b>", "n", "v"] in page.rows
    assert [bad, "1", "inf"] in page.rows
    assert ["y", "2", "–"] in page.rows
    assert any(attrs.get("class") == "verdict bad" for _, attrs in page.tags)


def test_numbers_sort_by_their_value():
    cells = [number_cell(v) for v in (math.inf, -math.inf, math.nan, 0.1 + 0.2, 1000)]
    assert [re.search('data-v="(.*?)"', cell)[1] for cell in cells] == [
        "Infinity", "-Infinity", "NaN", "0.30000000000000004", "1000",
    ]  # fmt: skip
    assert [re.sub("<.*?>", "", cell) for cell in cells] == ["inf", "-inf", "–", "0.3", "1,000"]
    html = numbers_table(pd.DataFrame({"hidden": [[1, 2]], "flag": [True], "x_y": [0.5]}))
    assert Page(html).rows == [["flag", "x y"], ["True", "0.5"]]


def result(name, **keywords):
    fields = {
        "source": "here", "kind": "upper", "formula": "KL <= D_chi2", "instances": 10,
        "worst": 0.5, "verdict": "holds", "passed": True,
    }  # fmt: skip
    return CheckResult(claim=name, **{**fields, **keywords})


def test_claims_come_with_their_formulas_the_false_ones_first():
    results = [
        result("true one", details="slope -0.5"),
        result("false one", kind="false", worst=math.inf, verdict="false"),
        result("broken one", worst=1.5, verdict="VIOLATED", passed=False),
        result("unmeasured", kind="high_probability", worst=math.nan),
        result("not refuted", kind="false", verdict="not refuted", passed=False),
    ]
    for given in (results, claims_table(results)):
        html = claims_section(given)
        rows = Page(html).rows
        assert rows[0] == [
            "claim", "statement", "source", "kind", "instances", "worst ratio", "verdict",
        ]  # fmt: skip
        assert [row[0] for row in rows[1:]] == [
            "not refuted", "broken one", "false one", "true one", "unmeasured",
        ]  # fmt: skip
        assert rows[3] == ["false one", "KL ≤ Dχ²", "here", "false", "10", "inf", "false"]
        assert rows[4][-1] == "holds (slope -0.5)"
        assert rows[5][3:6] == ["high probability", "10", ""]
        assert html.count("KL ≤ D<sub>χ²</sub>") == len(results)
        assert html.count('class="verdict bad"') == 2
    with pytest.raises(ValueError, match="results is empty"):
        claims_section([])
    with pytest.raises(ValueError, match="results has no column 'claim'"):
        claims_section(pd.DataFrame({"x": [1]}))


def test_claims_of_the_main_job(monkeypatch):
    checked = claims_part.run(
        claims_part.Settings(instances=20, claims=("Pinsker", "KL below chi-squared")), seed=0
    )
    assert list(checked.tables["claims"].columns) == list(COLUMNS)
    assert [(f.measured, f.verdict, f.expected) for f in checked.findings] == [
        ("1 of 1", "holds", True), ("1 of 1", "false", True),
    ]  # fmt: skip
    assert "Of 2 statements 1 hold, and 1" in checked.answer
    monkeypatch.setattr(
        claims_part, "check", lambda *a, **k: [result("bad", verdict="VIOLATED", passed=False)]
    )
    failed = claims_part.run(claims_part.Settings(), seed=0).findings[0]
    assert (failed.measured, failed.verdict, failed.expected) == (
        "0 of 1; not bad", "VIOLATED", False,
    )  # fmt: skip


def test_damaged_folders_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"results.json does not exist; .* is no results folder"):
        build_report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results.json is not readable"):
        build_report(tmp_path)
    (tmp_path / "results.json").write_text('{"title": "x"}')
    with pytest.raises(ValueError, match="is not a file of results: KeyError"):
        build_report(tmp_path)
    shutil.copy(folder / "results.json", tmp_path)
    with pytest.raises(ValueError, match=r"parquet does not exist, but results.json lists it"):
        build_report(tmp_path)
    (tmp_path / "tables").mkdir()
    for path in (folder / "tables").glob("*.parquet"):
        (tmp_path / "tables" / path.name).write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a readable Parquet file"):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_names_that_would_collide_are_refused(tmp_path):
    table = pd.DataFrame({"a": [1]})
    first = StudyResult("a", "", "", {}, {"t": table}, ())
    for second, message in (
        (StudyResult("a", "", "", {}, {"u": table}, ()), "results has 'a' twice"),
        (StudyResult("b", "", "", {}, {"t": table}, ()), "tables has 't' twice"),
    ):
        with pytest.raises(ValueError, match=message):
            save_results(tmp_path, [first, second], seed=0, versions={})
    assert list(tmp_path.iterdir()) == []


def test_a_result_without_findings_or_settings(tmp_path):
    save(tmp_path, [StudyResult("s", "Title", "Why?", {}, {}, ())], title="a study")
    page = Page(build_report(tmp_path).read_text())
    assert "rlhfsim: a study" in page.text
    assert "Settings" not in page.text
    assert load_results(tmp_path).results[0].findings_table().columns[0] == "study"
