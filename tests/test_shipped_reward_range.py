"""The study `reward-range`: its cells, its exponents and its verdicts."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from shipped_runs import draw_everywhere, run_testing, scene_and_data, verdicts

from rlhfsim import ChiSquared, Tabular, fit_reward, solve
from rlhfsim.studies.shipped.reward_range import SHARE, WORST, N, analyse, information_error


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("reward-range", tmp_path_factory.mktemp("studies"))


@pytest.mark.parametrize("instance", ["hard 3 0.4", "typical 6"])
def test_a_cell_is_a_fit_in_the_box_of_the_true_range(run, instance):
    study, rows, _ = run
    some = rows[(rows["instance"] == instance) & (rows["learner"] == "rlhf-chi2")]
    row = some.iloc[len(some) // 2]
    scene, data = scene_and_data(study, row)
    span = np.ptp(scene.bandit.reward, axis=1).max()
    assert span <= float(instance.split()[1]) + 1e-12
    fit = fit_reward(data, Tabular(r_max=span))
    policy = solve(fit.reward, scene.bandit.reference, ChiSquared(), row["parameter_value"]).policy
    assert row["regret"] == pytest.approx(scene.bandit.regret(policy), abs=1e-9)


def test_coverage_of_the_comparator_is_fixed(run):
    study, rows, _ = run
    for _, row in rows.drop_duplicates("instance").iterrows():
        bandit = scene_and_data(study, row)[0].bandit
        ratio = bandit.optimal_policy() / bandit.reference
        coverage = float((bandit.optimal_policy() * ratio).sum(axis=1) @ bandit.prompt_dist)
        expected = 1 / SHARE if row["instance"].startswith("hard") else 20.0
        assert coverage == pytest.approx(expected)


def test_the_error_is_that_of_the_fisher_information():
    p, r = np.array([1 - 2 * SHARE, SHARE, SHARE]), np.array([0.0, 2.6, 3.0])
    win = 1 / (1 + np.exp(-(r[:, None] - r)))
    weight = N * np.outer(p, p) * win * (1 - win)
    np.fill_diagonal(weight, 0.0)
    # Both orders of a pair occur, so that the Laplacian of 2 n p p' sigma' is the information.
    laplacian = 2 * (np.diag(weight.sum(axis=1)) - weight)
    contrast = np.array([0.0, -1.0, 1.0])
    variance = contrast @ np.linalg.pinv(laplacian) @ contrast
    assert information_error(3.0, 0.4) == pytest.approx(np.sqrt(variance))
    worst = minimize_scalar(lambda z: -z * norm.sf(z), bounds=(0.1, 3), method="bounded")
    assert pytest.approx(-worst.fun, abs=1e-5) == WORST


def test_exponents_are_weighted_least_squares(run):
    result = run[2]
    regret = result.tables["reward_range_regret"]
    slopes = result.tables["reward_range_slopes"].set_index(["learner", "quantity"])
    hard = regret[(regret["family"] == "hard") & (regret["learner"] == "dpo")]
    weights = hard["regret"] / hard["error"]
    slope = np.polyfit(hard["r_max"], np.log(hard["regret"]), 1, w=weights)[0]
    assert slopes.loc[("dpo", "regret"), "slope"] == pytest.approx(slope)
    assert slopes.loc[("Theorem 3.1", "regret / R_max"), "slope"] == pytest.approx(2.0)
    assert 0.85 < slopes.loc[("sharp bound", "regret"), "slope"] < 1.0
    assert 0.2 < slopes.loc[("Fisher information", "regret"), "slope"] < 0.5
    gaps = result.tables["reward_range_gaps"]
    for (learner, r_max), some in gaps.groupby(["learner", "r_max"]):
        mine = regret[(regret["family"] == "hard") & (regret["learner"] == learner)]
        assert mine.set_index("r_max").loc[r_max, "regret"] == some["regret"].max()


def test_the_answer_has_the_numbers_of_the_tables(run):
    result = run[2]
    slopes = result.tables["reward_range_slopes"].set_index(["learner", "quantity"])
    for learner in ("rlhf-chi2", "chipo-clipped", "dpo"):
        row = slopes.loc[(learner, "regret")]
        assert f"{row['slope']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" in result.answer
    assert all(finding.expected is not False for finding in result.findings)


def test_other_cells_get_other_verdicts(run):
    study, rows, _ = run
    r_max = rows["instance"].str.split(" ").str[1].astype(float)
    noise = np.random.default_rng(0).uniform(0.9, 1.1, len(rows))
    steep = rows.assign(regret=np.exp(4.0 * r_max) * noise)
    told = verdicts(analyse(steep, study))
    claim = "dpo: at the worst gap, regret / R_max grows no faster than exp(2 R_max)"
    assert verdicts(run[2])[claim] == "holds"
    assert told[claim] == "not shown"
    assert told["dpo: on random instances, regret / R_max changes from R_max = 1 to 6"] == "grows"
    same = "chiPO with its clip at 2 R_max and scores within [0, R_max] is RLHF with chi2 + KL"
    assert verdicts(run[2])[same] == "holds"
    assert told[same] == "fails"


def test_the_figure_draws_everywhere(run):
    drawing = draw_everywhere("reward_range", run[2].tables)
    assert "16 datasets" not in drawing.caption
    assert "8 datasets" in drawing.caption
