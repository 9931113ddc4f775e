"""The study `online`: cells by hand, planted regrets, the answer and the figure."""

import numpy as np
import pytest
from shipped_runs import draw_everywhere, run_testing, scene_and_data, verdicts

from rlhfsim.learners.online import OnlineRLHF
from rlhfsim.online import Enhancer, OnPolicy
from rlhfsim.studies.instances import MissedDirection
from rlhfsim.studies.methods import OnlineRLHFMethod
from rlhfsim.studies.shipped.online import (
    BATCHES,
    BETA,
    DPO,
    ENHANCER,
    MISSED,
    MOVING,
    NONE,
    SOME,
    STUDY,
    analyse,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("online", tmp_path_factory.mktemp("studies"))


def test_no_cell_fails(run):
    _, rows, _ = run
    assert rows["error"].isna().all()
    assert set(rows["n"]) == {NONE, SOME}


def test_regret_of_a_cell_without_rounds_left_to_chance(run):
    """After the first round with offline data, from the estimate of them alone, by the learner."""
    study, rows, _ = run
    own = rows[(rows["learner"] == DPO) & (rows["n"] == SOME) & (rows["instance"] == MISSED)]
    first = own[own["parameter_value"] == own["parameter_value"].min()]
    for _, row in first.iterrows():
        scene, data = scene_and_data(study, row)
        bandit = scene.bandit
        before = OnlineRLHF(bandit, scene.features, BETA, rounds=0).fit(data, bandit.reference)
        kl = (before.policy * np.log(before.policy / bandit.reference)).sum(axis=1)
        best = bandit.reference * np.exp(
            (bandit.reward - bandit.reward.max(axis=1, keepdims=True)) / BETA
        )
        value = BETA * np.log(best.sum(axis=1)) + bandit.reward.max(axis=1)
        lost = bandit.prompt_dist @ (
            value - (before.policy * bandit.reward).sum(axis=1) + BETA * kl
        )
        assert row["parameter_value"] == 1
        # The first round is played by what the offline data say.
        assert row["cumulative_regularized_regret"] == pytest.approx(lost, rel=1e-6)


def test_longer_runs_start_like_shorter_ones(run):
    _, rows, _ = run
    place = ["instance", "n", "learner", "environment", "seed"]
    for _, own in rows.groupby(place):
        sums = own.sort_values("parameter_value")["cumulative_regularized_regret"].to_numpy()
        assert (np.diff(sums) > 0).all()


def planted(rows, values):
    """Return the rows with the regrets of some learners changed."""
    regret = rows["learner"].map(values).astype(float) + 1e-3 * rows["environment"]
    cumulative = regret * rows["parameter_value"]
    return rows.assign(regret=regret, cumulative_regularized_regret=cumulative)


def test_planted_regrets_are_told(run):
    study, rows, _ = run
    names = rows["learner"].unique()
    for low, verdict in ((ENHANCER, "holds"), (DPO, "VIOLATED")):
        values = dict.fromkeys(names, 1.0) | {low: 0.5}
        found = verdicts(analyse(planted(rows, values), study))
        claim = f"{MISSED}, 0 offline comparisons: regret of enhancer is below that of {DPO}"
        assert found[claim] == verdict
        claim = f"{MISSED}, 0 offline comparisons: regret of {DPO} against that of {DPO + MOVING}"
        assert found[claim] == ("less" if low == DPO else "no difference seen")
        # Between others nothing differs.
        claim = f"{MISSED}, 0 offline comparisons: cumulative regularized regret of enhancer"
        assert found[f"{claim} against that of uniform"] == (
            "less" if low == ENHANCER else "no difference seen"
        )


def test_planted_growth_is_told(run):
    study, rows, _ = run
    noise = np.random.default_rng(0).uniform(0.9, 1.1, size=len(rows))
    sizes = {spec.label: spec.batch for spec in study.learners}
    made = rows["parameter_value"] * rows["learner"].map(sizes)
    # Testing keeps two sizes beyond the first 30 comparisons; the cells are moved there.
    later = rows.assign(parameter_value=100 * rows["parameter_value"])
    for power, verdict in ((0.2, "slower than sqrt(T)"), (1.0, "nearly linear")):
        values = noise * (100.0 * made) ** power
        result = analyse(later.assign(cumulative_regularized_regret=values), study)
        claim = (
            f"{ENHANCER}, {MISSED}, no offline data: growth of the cumulative regularized regret"
        )
        assert verdicts(result)[claim] == verdict
        slopes = result.tables["online_slopes"]["slope"]
        assert (slopes - power).abs().max() < 0.2


def test_the_answer_has_the_numbers_of_the_tables(run):
    _, _, result = run
    curves = result.tables["online_curves"]
    own = curves[(curves["instance"] == MISSED) & (curves["n"] == NONE)]
    for name in (ENHANCER, DPO, ENHANCER + MOVING, DPO + BATCHES + MOVING):
        mine = own[own["learner"] == name].sort_values("comparisons").iloc[-1]
        assert f"{mine['regret']:.3g} ({name})" in result.answer


def test_the_figure_draws_everywhere(run):
    assert "3 environments" in draw_everywhere("online", run[2].tables).caption


# ---- parts of the study --------------------------------------------------------------------------


def test_the_family_is_as_it_says():
    spec = MissedDirection(prompts=3, responses=9, dimension=4, rare=2, coverage=50.0)
    for seed in range(20):
        scene = spec.scene(np.random.default_rng(seed), 0)
        bandit, phi = scene.bandit, scene.features
        assert bandit.reference[:, 7:].sum(axis=1) == pytest.approx(1 / 50)
        assert (phi[:, :7, 3] == 0).all()
        assert (phi[:, 7:, 3] == 1).all()
        assert np.linalg.norm(phi[:, :7], axis=-1).max() <= 1
        assert (
            bandit.reward[:, 7:].min(axis=1) >= bandit.reward[:, :7].max(axis=1) + 1 - 1e-12
        ).all()
        theta = np.linalg.lstsq(phi.reshape(-1, 4), bandit.reward.ravel(), rcond=None)[0]
        np.testing.assert_allclose(phi @ theta, bandit.reward, atol=1e-12)
        assert np.linalg.norm(theta[:3]) == pytest.approx(1.0)
        assert theta[3] == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rare": 9}, "rare must be below responses, which is 9"),
        ({"coverage": 1.0}, "greater than 1"),
        ({"dimension": 1}, "greater than or equal to 2"),
    ],
)
def test_bad_families(settings, message):
    given = {"prompts": 1, "responses": 9, "dimension": 3, "coverage": 10.0} | settings
    with pytest.raises(ValueError, match=message):
        MissedDirection(**given)


def test_methods_build_their_learners():
    scene = STUDY.instances[0].scene(np.random.default_rng(0), 0)
    kinds = ("enhancer", "reference", "uniform", "on-policy", "laplace", "bootstrap")
    built = {
        kind: OnlineRLHFMethod(exploration=kind, beta=0.1, grid=(3,), members=4).learner(3, scene)
        for kind in kinds
    }
    assert built["enhancer"].exploration == Enhancer(5.0)
    assert built["on-policy"].exploration == OnPolicy()
    assert built["laplace"].exploration.members == built["bootstrap"].exploration.members == 4
    assert {learner.rounds for learner in built.values()} == {3}
    theory = OnlineRLHFMethod(
        exploration="enhancer", beta=0.1, grid=(3,), delta=0.1, norm_bound=2.0
    )
    assert theory.learner(3, scene).exploration.radius.norm_bound == 2.0
    with pytest.raises(ValueError, match="delta and norm_bound must be given together"):
        OnlineRLHFMethod(exploration="enhancer", beta=0.1, grid=(3,), delta=0.1)
