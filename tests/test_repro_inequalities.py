"""The inequality study: what is shown is recomputed in mpmath, and findings can fail."""

import mpmath
import numpy as np
import pytest
from mpmath_claims import SIDES, exact

from rlhfsim.claims import DIVERGENCE_CLAIMS, Pairs
from rlhfsim.repro.inequalities import NAME, Settings, _finding, run

SETTINGS = Settings(instances=1500, response_counts=(2, 4))


@pytest.fixture(scope="module")
def result():
    return run(SETTINGS, seed=0)


@pytest.mark.parametrize("claim", DIVERGENCE_CLAIMS, ids=lambda c: c.name)
def test_shown_instance_has_the_shown_ratio(result, claim):
    row = result.tables[NAME].set_index("claim").loc[claim.name]
    x = Pairs(
        *(np.array([row[f"shown_{k}"]])
          for k in ("policy", "reference", "other_policy", "other_reference")),
        np.array(row["shown_weight"]), np.array([row["shown_error"]]),
    )  # fmt: skip
    with mpmath.workdps(40):
        left, right = SIDES[claim.name](exact(x))
        assert row["shown_ratio"] == pytest.approx(float(left / right), rel=1e-6)
    if claim.kind in {"upper", "tight"}:
        assert row["worst_ratio"] == row["shown_ratio"]
        assert 0.999 < row["worst_ratio"] <= 1 + 1e-9
    else:
        assert row["violated"]
        assert row["witness_ratio"] == row["shown_ratio"]


def test_findings(result):
    assert all(f.expected for f in result.findings)
    verdicts = [f.verdict for f in result.findings]
    assert verdicts.count("false") == 2
    assert verdicts.count("holds, tight") == 16
    row = dict(result.tables[NAME].iloc[1])
    assert not _finding({**row, "violated": True}).expected
    row = dict(result.tables[NAME].iloc[0])
    assert not _finding({**row, "violated": False}).expected


def test_untested_claims_do_not_hold(result):
    row = dict(result.tables[NAME].iloc[1])
    assert row["informative"] > 0.5
    finding = _finding({**row, "informative": 0.1})
    assert (finding.verdict, finding.expected) == ("not tested", False)


def test_random_search_alone_finds_the_false_one(result):
    table = result.tables[NAME].set_index("claim")
    assert table.loc["KL below chi-squared", "random_ratio"] > 1.9
    assert table.loc["change of measure with KL", "random_ratio"] > 1.1


def test_cells_do_not_depend_on_each_other(result):
    alone = run(Settings(instances=1500, response_counts=(4,)), seed=0).tables[NAME]
    both = result.tables[NAME]
    assert (alone["random_ratio"] <= both["random_ratio"]).all()
    assert (alone["random_ratio"] == both["random_ratio"]).any()
