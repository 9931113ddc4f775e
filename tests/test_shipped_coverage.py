"""The study `coverage`: its instances, cells made by hand, its bounds and verdicts."""

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from shipped_runs import draw_everywhere, run_testing, scene_and_data, verdicts

from rlhfsim import all_policy_concentrability, concentrability
from rlhfsim.studies.instances import Decoys
from rlhfsim.studies.shipped.coverage import analyse


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("coverage", tmp_path_factory.mktemp("studies"))


def test_instances_have_the_coverage_they_say():
    spec = Decoys(responses=8, decoys=2, coverage=5.0, decoy_coverage=300.0, reward_scale=2.0)
    scene = spec.scene(np.random.default_rng(0), 0)
    bandit = scene.bandit
    best = np.eye(8)[bandit.reward.argmax(axis=1)]
    assert concentrability(best, bandit.reference, bandit.prompt_dist) == pytest.approx(5.0)
    every = all_policy_concentrability(bandit.reference, bandit.prompt_dist)
    assert every == pytest.approx(300.0)
    assert bandit.reward[0, 0] == 2.0
    assert (bandit.reward[0, 6:] == 0.0).all()
    assert bandit.reward[0, 1:].max() <= 0.8 * 2.0
    # The class: the truth, and rewards that differ from it in one response, within [0, 4].
    assert np.array_equal(scene.rewards[0], bandit.reward)
    assert ((scene.rewards[1:] != bandit.reward).sum(axis=(1, 2)) == 1).all()
    assert 2.0 < scene.rewards.max() <= 4.0
    assert scene.rewards.min() >= 0.0


@pytest.mark.parametrize("wrong", [{"decoys": 7}, {"coverage": 1.001}, {"decoy_coverage": 2.0}])
def test_instances_that_do_not_exist_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Decoys(**({"responses": 8, "decoys": 2, "coverage": 3.0, "decoy_coverage": 9.0} | wrong))


def most_likely(scene, data):
    """Return the rewards of the class that no other one of it beats on the data."""
    gap = scene.rewards[:, data.prompt, data.chosen] - scene.rewards[:, data.prompt, data.rejected]
    score = -np.logaddexp(0.0, -gap).sum(axis=1)
    return scene.rewards[score >= score.max() - 1e-9]


def policy(reward, p, beta, learner):
    if learner == "rlhf-kl":
        w = np.exp((reward - reward.max()) / beta)
        return p * w / (p * w).sum()
    excess = lambda t: (p * np.clip(1 + (reward - t) / beta, 0, None)).sum() - 1  # noqa: E731
    shift = brentq(excess, reward.min(), reward.max() + beta, xtol=1e-15)
    return p * np.clip(1 + (reward - shift) / beta, 0, None)


def test_cells_by_hand(run):
    study, rows, _ = run
    checked = 0
    some = rows[rows["learner"].isin(["rlhf-kl", "rlhf-chi2"]) & (rows["parameter_value"] > 0.05)]
    for _, row in some.iloc[::7].iterrows():
        scene, data = scene_and_data(study, row)
        best = most_likely(scene, data)
        if len(best) > 1:  # A fair coin decides.
            continue
        p, r = scene.bandit.reference[0], scene.bandit.reward[0]
        pi = policy(best[0, 0], p, row["parameter_value"], row["learner"])
        assert row["regret"] == pytest.approx(r.max() - pi @ r, abs=1e-9)
        checked += 1
    assert checked >= 10


def test_bounds_are_minima_over_beta(run):
    table = run[2].tables["coverage_regret"]
    n, delta, size, v = 2000, 0.05, 32, 2.0
    slope = 1.0 / (2.0 + np.exp(v) + np.exp(-v))
    error = np.sqrt(np.log(size / delta) / n) / slope
    for _, row in table[table["learner"] == "rlhf-chi2"].iterrows():
        root = np.sqrt(row["comparator"] - 1.0)
        best = minimize_scalar(lambda b, s=root: (error + b * s) ** 2 / (4 * b),
                               bounds=(1e-4, 1e4), method="bounded").fun  # fmt: skip
        assert row["single_policy_bound"] == pytest.approx(min(best, root * error), rel=1e-3)
        expected = (root + np.sqrt(row["all_policies"] - 1.0)) * error
        assert row["all_policy_bound"] == pytest.approx(expected)


def test_either_coverage_varies_alone(run):
    table = run[2].tables["coverage_regret"]
    for varies, held in (("comparator", "all_policies"), ("all policies", "comparator")):
        some = table[table["varies"] == varies]
        assert some[held].nunique() == 1
        assert some.groupby("learner").size().nunique() == 1
        assert len(some) == 9 * 4
    assert len(table) == 18 * 4


def test_verdicts_follow_the_cells(run):
    study, rows, result = run
    bound = next(c for c in verdicts(result) if c.startswith("chi2: regret above"))
    assert verdicts(result)[bound] == "holds"
    chi2 = rows["learner"] == "rlhf-chi2"
    broken = analyse(rows.assign(regret=np.where(chi2, 1e3, rows["regret"])), study)
    assert verdicts(broken)[bound] == "VIOLATED"
    assert next(f for f in broken.findings if f.claim == bound).expected is False
    claim = "rlhf-chi2 loses less than rlhf-kl where the comparator has coverage 2"
    assert verdicts(broken)[claim] == "higher"
    # Regret that is a known function of coverage has the slope of it.
    of = dict(zip(study.labels[0], study.instances, strict=True))
    noise = np.random.default_rng(0).normal(scale=1e-3, size=len(rows))
    planted = noise + [0.01 * np.log2(of[name].coverage) for name in rows["instance"]]
    made = analyse(rows.assign(regret=planted), study)
    slopes = made.tables["coverage_slopes"].set_index("varies")["per_doubling"]
    assert slopes["comparator"].to_numpy() == pytest.approx(0.01, abs=1e-3)
    assert slopes["all policies"].to_numpy() == pytest.approx(0.0, abs=1e-3)
    rises = "rlhf-kl: regret rises with the coverage of the comparator"
    assert verdicts(made)[rises] == "rises"
    assert verdicts(analyse(rows.assign(regret=-planted), study))[rises] == "falls"


def test_the_answer_has_the_numbers_of_the_tables(run):
    result = run[2]
    slopes = result.tables["coverage_slopes"].set_index(["varies", "learner"])
    for learner in ("rlhf-kl", "rlhf-chi2"):
        assert f"{slopes.loc[('comparator', learner), 'per_doubling']:+.4f}" in result.answer
    regret = result.tables["coverage_regret"]
    held = regret[(regret["varies"] == "all policies") & (regret["learner"] == "rlhf-kl")]
    assert f"KL loses at most {held['regret'].max():.4f}" in result.answer


def test_the_figure_draws_everywhere(run):
    assert "4 environments" in draw_everywhere("coverage", run[2].tables).caption
