"""Checking claims: verdicts, the worst instance, tables of results, and the two commands."""

import csv
import dataclasses
import io
import json
import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from rlhfsim.claims import CLAIMS, DIVERGENCE_CLAIMS, Pairs, checking
from rlhfsim.claims.base import Claim
from rlhfsim.claims.checking import (
    BATCH,
    COLUMNS,
    CheckResult,
    cells,
    check,
    comma_separated,
    latex,
    markdown,
    select,
)
from rlhfsim.claims.divergences import chi_squared, kl
from rlhfsim.cli import main
from rlhfsim.divergences import renyi
from rlhfsim.notation import _LATEX, _WORDS, to_latex
from rlhfsim.randomness import generator_for

LISTED = next(c for c in DIVERGENCE_CLAIMS if c.name == "Pinsker")
PINSKER = dataclasses.replace(LISTED, kind="upper")
LOG_COVERAGE = next(c for c in DIVERGENCE_CLAIMS if c.name == "KL below log of coverage")
FALSE = DIVERGENCE_CLAIMS[0]

IDENTITY = Claim(
    "second Renyi divergence", "D_2 = log(1 + 2 D_chi2)", "arXiv 1206.2459", "identity",
    lambda x: renyi(x.policy, x.reference, 2.0), lambda x: np.log1p(2.0 * chi_squared(x)),
    PINSKER.witness, resolution=lambda x: np.asarray(1e-12),
)  # fmt: skip
LOWER = dataclasses.replace(
    LOG_COVERAGE, name="log of coverage above KL", kind="lower",
    left=LOG_COVERAGE.right, right=LOG_COVERAGE.left,
)  # fmt: skip


def scaled(claim, factor):
    return dataclasses.replace(claim, right=lambda x: factor * claim.right(x))


def without_seconds(results):
    """Return everything but the time, as comparable values."""

    def instance(x):
        return None if x is None else [getattr(x, f.name).tolist() for f in dataclasses.fields(x)]

    return [
        {
            f.name: instance(r.worst_instance) if f.name == "worst_instance" else getattr(r, f.name)
            for f in dataclasses.fields(r)
            if f.name != "seconds"
        }
        for r in results
    ]


# ---- one claim -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "verdict", "passed"),
    [
        (LOG_COVERAGE, "holds, tight", True),
        (scaled(LOG_COVERAGE, 2.0), "not tight", False),
        (dataclasses.replace(scaled(LOG_COVERAGE, 2.0), kind="upper"), "holds", True),
        (scaled(LOG_COVERAGE, 0.999), "VIOLATED", False),
        (scaled(LOG_COVERAGE, np.nan), "VIOLATED", False),
        (LOWER, "holds, tight", True),
        (scaled(LOWER, 0.5), "holds", True),
        (scaled(LOWER, 1.001), "VIOLATED", False),
        (IDENTITY, "holds", True),
        (scaled(IDENTITY, 1.001), "VIOLATED", False),
        (scaled(IDENTITY, 1 / 1.001), "VIOLATED", False),
        (FALSE, "false", True),
        (scaled(FALSE, 2.001), "not refuted", False),
    ],
)
def test_verdicts(claim, verdict, passed):
    result = claim.check(1500, 0)
    assert (result.verdict, result.passed) == (verdict, passed)
    assert (result.claim, result.kind, result.instances) == (claim.name, claim.kind, 1500)
    assert (result.source, result.formula) == (claim.source, claim.formula)


def test_sides_that_are_not_numbers_are_told():
    def holed(x):
        return np.where(x.weight > 0.5, np.nan, 0.0)

    hole = dataclasses.replace(PINSKER, left=holed).check(1500, 0)
    assert (hole.verdict, hole.passed, hole.worst) == ("VIOLATED", False, np.inf)
    count = int(re.fullmatch(r"left is not a number at (\d+) of 1501", hole.details).group(1))
    assert 0 < count < 1500
    both = dataclasses.replace(
        PINSKER, left=lambda x: np.nan, right=lambda x: np.nan, witness=None,
        no_witness="none", instances=Pairs,
    ).check(10, 0)  # fmt: skip
    assert both.details == "left is not a number at 10 of 10, right is not a number at 10 of 10"
    assert PINSKER.check(100, 0).details == ""


def test_what_is_not_a_number_refutes_nothing():
    nothing = scaled(FALSE, np.nan).check(100, 0)
    assert (nothing.verdict, nothing.passed) == ("not refuted", False)
    assert nothing.details.startswith("right is not a number")

    def holed(x):
        return np.where(x.weight > 0.5, np.nan, FALSE.right(x))

    partly = dataclasses.replace(FALSE, right=holed).check(1500, 0)
    assert (partly.verdict, partly.passed) == ("false", True)


def test_a_violation_by_the_witness_alone_counts():
    """The sample has no instance this close to disjoint supports; the witness is."""
    bretagnolle_huber = next(c for c in DIVERGENCE_CLAIMS if c.name == "Bretagnolle-Huber")
    result = scaled(bretagnolle_huber, 0.9).check(1, 0)
    assert result.sampled < 1 < result.witness == result.worst
    assert (result.verdict, result.passed, result.worst_index) == ("VIOLATED", False, None)


def test_a_violation_by_one_sampled_instance_counts():
    """Also where the witness says nothing of it, in any batch, and the instance is returned."""
    calls = []

    def left(x):
        calls.append(len(x))
        return np.where(x.weight == target, 2.0, 0.0)

    number, k = 2, 137
    rng = generator_for("check", f"marked/{number}", 5)
    batch = Pairs.sample(BATCH, rng)
    target = batch.weight[k - k % 3]  # a generic one: its weight occurs once
    marked = dataclasses.replace(PINSKER, name="marked", left=left, right=lambda x: np.ones(len(x)))
    result = marked.check(3 * BATCH, 5)
    assert result.verdict == "VIOLATED"
    assert result.worst_index == number * BATCH + k - k % 3
    assert result.worst_instance.weight[0] == target
    np.testing.assert_array_equal(
        result.worst_instance.policy, batch.take(k - k % 3).policy, strict=True
    )
    assert result.worst == pytest.approx(2.0)
    assert result.witness == 0
    assert marked.check(2 * BATCH, 5).passed
    assert sorted(set(calls)) == [1, BATCH]


def test_worst_instance_has_the_worst_ratio():
    for claim in (*DIVERGENCE_CLAIMS, LOWER, IDENTITY):
        result = claim.check(2500, 1)
        assert claim.ratio(result.worst_instance)[0] == pytest.approx(result.worst, rel=1e-12)
        assert result.worst == max(result.sampled, result.witness)
        assert result.worst_index is None or 0 <= result.worst_index < 2500


def test_a_larger_sample_begins_with_the_smaller_one():
    small, large = (FALSE.check(n, 3) for n in (BATCH, 4 * BATCH))
    assert small.sampled <= large.sampled
    head = max(
        FALSE.ratio(Pairs.sample(BATCH, generator_for("check", f"{FALSE.name}/{k}", 3))).max()
        for k in range(4)
    )
    assert large.sampled == head


def test_most_instances_caps_the_sample():
    assert dataclasses.replace(PINSKER, most_instances=70).check(10_000, 0).instances == 70
    assert dataclasses.replace(PINSKER, most_instances=70).check(50, 0).instances == 50


# ---- the runner ----------------------------------------------------------------------------------


def test_results_do_not_depend_on_workers_or_on_other_claims():
    runs = [check(DIVERGENCE_CLAIMS, instances=1200, seed=2, workers=w) for w in (1, 2, 5)]
    assert without_seconds(runs[0]) == without_seconds(runs[1]) == without_seconds(runs[2])
    assert [r.claim for r in runs[0]] == [c.name for c in DIVERGENCE_CLAIMS]
    alone = check([LISTED], instances=1200, seed=2)
    assert without_seconds(alone) == without_seconds(runs[0][3:4])
    other = check([PINSKER, FALSE], instances=1200, seed=3)
    assert other[1].sampled != runs[0][0].sampled


def test_workers_run_at_once():
    meeting = threading.Barrier(2, timeout=20)

    def left(x):
        if len(x) == 7:
            meeting.wait()
        return kl(x)

    both = [dataclasses.replace(LOG_COVERAGE, name=name, left=left) for name in "ab"]
    assert all(r.passed for r in check(both, instances=7, workers=2))


class Always:
    """A claim of another class: the runner calls `check` alone."""

    name, source, kind, formula = "always", "none", "rate", "n^-1/2"

    def check(self, instances, seed):
        return CheckResult(
            self.name, self.source, self.kind, self.formula, instances, float("nan"),
            f"slope {seed}", passed=True, details="from 10 to 100",
        )  # fmt: skip


def test_claims_of_other_classes_are_checked_and_printed():
    results = check([PINSKER, Always()], instances=50, seed=9)
    assert results[1].verdict == "slope 9"
    assert cells(results[1])[-2:] == ("", "slope 9 (from 10 to 100)")
    for table in (markdown(results), latex(results), comma_separated(results)):
        assert "slope 9" in table


def test_progress_counts_every_claim():
    seen = []
    check(DIVERGENCE_CLAIMS, instances=5, progress=lambda *call: seen.append(call))
    assert [done for done, _, _ in seen] == list(range(1, 19))
    assert {total for _, total, _ in seen} == {18}
    assert {name for _, _, name in seen} == {c.name for c in DIVERGENCE_CLAIMS}


def test_an_error_names_the_claim():
    def left(x):
        raise ValueError("no such side")

    with pytest.raises(ValueError, match="no such side") as caught:
        check([PINSKER, dataclasses.replace(PINSKER, name="broken", left=left)], instances=5)
    assert caught.value.__notes__ == ["while checking the claim 'broken'"]


def test_budget_takes_whole_batches_and_at_least_one(monkeypatch):
    assert check([PINSKER], instances=10**7, budget=1e-9)[0].instances == BATCH
    assert check([PINSKER], instances=10, budget=1e-9)[0].instances == 10
    assert check([PINSKER], instances=2500, budget=6000.0)[0].instances == 2500
    assert check([], budget=1.0) == []
    for seconds, instances in ((0.75, 6 * BATCH), (0.31, 2 * BATCH), (0.29, BATCH)):
        clock = iter([5.0, 5.1])  # so the first batch takes 0.1 s
        monkeypatch.setattr(checking, "time", SimpleNamespace(perf_counter=clock.__next__))
        some = check([PINSKER], instances=10**8, budget=seconds)
        assert some[0].instances == instances
        assert without_seconds(some) == without_seconds(check([PINSKER], instances=instances))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instances": 0}, "instances is 0"),
        ({"instances": 1.5}, "instances is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
        ({"budget": 0.0}, "budget is 0"),
        ({"budget": float("nan")}, "budget is nan"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check([PINSKER], **arguments)


def test_selection():
    assert select(DIVERGENCE_CLAIMS) == list(DIVERGENCE_CLAIMS)
    chosen = select(DIVERGENCE_CLAIMS, ["Pinsker", "Renyi order", "Pinsker"])
    assert [c.name for c in chosen] == ["Pinsker", "Renyi order"]
    assert [c.name for c in select(DIVERGENCE_CLAIMS, source="TSYBAKOV")] == [
        "Pinsker", "Hellinger below KL", "Hellinger below TV", "TV below Hellinger",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'Pinskers', which is no claim; close are 'Pinsker'"):
        select(DIVERGENCE_CLAIMS, ["Pinskers"])
    with pytest.raises(ValueError, match="source is 'Tsybakov'"):
        select(DIVERGENCE_CLAIMS, ["Renyi order"], "Tsybakov")


# ---- tables --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results():
    return check(DIVERGENCE_CLAIMS, instances=300)


def test_markdown_has_a_row_for_each_claim(results):
    lines = markdown(results).splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert [cell.strip() for cell in rows[0]] == list(COLUMNS)
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert len(rows) == 2 + 18
    assert lines[-1] == (
        r"| change of measure with KL | \|E_π[δ] - E_p[δ]\| ≤ √(2 KL) ε_c "
        f"| blog 2025 (why KL fails) | false | 300 | {results[-1].worst:.9g} | false |"
    )


def test_latex_is_ascii_with_every_special_character_escaped(results):
    text = latex(results)
    assert text.isascii()
    body = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(body) == 1 + 18
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) == len(COLUMNS) - 1
        assert line.count("{") == line.count("}")
        assert not re.search(r"(?<!\\)[#%$~]|(?<!\\)_|\^(?!\{)", line)
    assert r"Bretagnolle \& Huber 1979" in text
    assert r"KL \ensuremath{\le} D\textsubscript{\ensuremath{\chi}\ensuremath{^{2}}} &" in text


def test_to_latex():
    assert to_latex("50 % of C_inf & x_1 ~ {a}^b") == (
        r"50 \% of C\textsubscript{\ensuremath{\infty}} \& x\textsubscript{1} "
        r"\textasciitilde{} \{a\}\textasciicircum{}b"
    )
    assert to_latex("sharp_bound at 10^-3") == (
        r"sharp\_bound at 10\ensuremath{^{-}}\ensuremath{^{3}}"
    )
    unicode = {c for word in _WORDS.values() for c in word if not c.isascii()}
    assert unicode <= set(_LATEX)
    assert all(to_latex(text).isascii() for c in CLAIMS for text in (c.name, c.formula, c.source))


def test_csv_keeps_every_digit(results):
    rows = list(csv.DictReader(io.StringIO(comma_separated(results))))
    assert len(rows) == 18
    for row, result in zip(rows, results, strict=True):
        assert row["claim"] == result.claim
        assert float(row["worst"]) == result.worst
        assert float(row["witness"]) == result.witness
        assert row["passed"] == str(result.passed)


# ---- commands ------------------------------------------------------------------------------------


def run(capsys, *arguments):
    """Return the exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_claims_lists_every_claim(capsys):
    code, out, err = run(capsys, "claims", "--json")
    assert (code, err) == (0, "")
    listed = json.loads(out)
    assert [entry["name"] for entry in listed] == [c.name for c in CLAIMS]
    assert listed[0] == {
        "name": "KL below chi-squared", "source": "blog 2025 (text, with the 1/2)",
        "kind": "false", "formula": "KL <= D_chi2",
    }  # fmt: skip
    code, out, _ = run(capsys, "claims", "--source", "bretagnolle")
    assert code == 0
    assert "TV <= sqrt(1 - exp(-KL))" in out
    assert "Pinsker" not in out


@pytest.mark.parametrize(
    ("suffix", "writer"), [(".md", markdown), (".csv", comma_separated), (".tex", latex)]
)
def test_check_prints_and_writes(capsys, tmp_path, suffix, writer):
    path = tmp_path / f"table{suffix}"
    code, out, err = run(
        capsys, "check", "Pinsker", "KL below chi-squared", "--instances", "400", "--seed", "4",
        "--out", str(path),
    )  # fmt: skip
    assert (code, err) == (0, "")
    expected = check([LISTED, FALSE], instances=400, seed=4)
    assert path.read_text(encoding="utf-8") == writer(expected)
    for result in expected:
        assert f"{result.worst:.9g}" in out
    assert f"written to {path}" in out


def test_check_by_source_within_a_budget(capsys):
    code, out, _ = run(capsys, "check", "--source", "Cauchy", "--budget", "1e-6")
    assert code == 0
    assert "TV below chi-squared" in out
    assert " 1000 " in out


def test_check_fails_where_a_claim_does_not_hold(capsys, monkeypatch):
    monkeypatch.setattr("rlhfsim.claims.CLAIMS", (PINSKER, scaled(LOG_COVERAGE, 0.9)))
    code, out, _ = run(capsys, "check", "--instances", "100")
    assert code == 1
    assert "VIOLATED" in out
    assert run(capsys, "check", "Pinsker", "--instances", "100")[0] == 0
    monkeypatch.setattr("rlhfsim.claims.CLAIMS", (scaled(FALSE, 2.1),))
    code, out, _ = run(capsys, "check", "--instances", "100")
    assert code == 1
    assert "not refuted" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "Pinskr"], "names has 'Pinskr', which is no claim; close are 'Pinsker'"),
        (["check", "--out", "table.txt"], "out is 'table.txt'; it must end in .md, .csv, .tex"),
        (["check", "--out", "nowhere/t.md"], "there is no folder 'nowhere'"),
        (["check", "--instances", "0"], "instances is 0; it must be at least 1"),
        (["check", "--budget", "-1"], "budget is -1"),
        (["claims", "--source", "nobody"], "source is 'nobody'"),
    ],
)
def test_bad_command_lines_are_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("rlhfsim: error: ")
    assert message in err
    assert err.count("\n") == 1
