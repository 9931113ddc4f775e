"""What only some studies measure: distance to a companion, likelihoods; bounds by the range."""

import numpy as np
import pytest
from study_examples import small

from rlhfsim import sample_preferences, total_variation
from rlhfsim.data import PreferenceData
from rlhfsim.learners import DPO, ChiPO, TabularPolicies
from rlhfsim.randomness import generator_for
from rlhfsim.studies import read_results, run_study, wide
from rlhfsim.studies.measures import ALWAYS, apart, likelihoods
from rlhfsim.studies.work import Piece, evaluate

POLICIES = {"kind": "tabular", "r_max": "range"}


def with_companion(**changes):
    settings = {
        "instances": [{"family": "random", "prompts": 2, "responses": 4, "environments": 2}],
        "learners": [
            {"method": "chiPO", "label": "chipo", "policies": POLICIES},
            {"method": "DPO", "label": "dpo", "policies": POLICIES, "grid": [0.1, 0.5]},
        ],
        "n": [30],
        "companion": "chipo",
        "likelihoods": True,
    }
    return small(**(settings | changes))


@pytest.fixture(scope="module")
def rows():
    study = with_companion()
    return study, evaluate(study, [Piece(k) for k in range(study.groups)])


def test_metrics_come_behind_those_that_every_cell_has():
    assert with_companion().metrics == (*ALWAYS, "apart", "chosen_logp", "rejected_logp")
    assert with_companion(bias=True).metrics[-3:] == ("rejected_logp", "bias", "estimation_error")
    assert small().metrics == ALWAYS


def test_cells_by_hand(rows):
    study, found = rows
    spec = study.instances[0]
    scene = spec.scene(generator_for(study.name, f"instance {spec.scene_key}/0", 1), 30)
    bandit, span = scene.bandit, np.ptp(scene.bandit.reward, axis=1).max()
    data = sample_preferences(bandit, 30, generator_for(study.name, f"data {spec.key}/1/30", 2))
    points = study.points
    place = found.columns["environment"].tolist().index(1) + 2 * len(points)
    options = TabularPolicies(r_max=span)
    for k, (method, beta) in enumerate(points):
        learner = (ChiPO, DPO)[method](beta, policies=options)
        mine, other = (
            one.fit(data, bandit.reference, prompt_dist=bandit.prompt_dist).policy
            for one in (learner, ChiPO(beta, policies=options))
        )
        distance = total_variation(mine, other, prompt_dist=bandit.prompt_dist)
        values = {name: found.columns[name][place + k] for name in study.metrics}
        assert values["apart"] == pytest.approx(distance, abs=1e-12)
        assert (values["apart"] == 0.0) == (method == 0)
        gaps = [
            np.log(mine[x, y] / bandit.reference[x, y])
            for x, y, z in zip(data.prompt, data.chosen, data.rejected, strict=True)
            if y != z
        ]
        assert values["chosen_logp"] == pytest.approx(np.mean(gaps), abs=1e-12)


def test_neither_company_nor_missing_companions_change_a_cell(rows):
    study, found = rows
    # The companion is not among these points, and 0.5 is not in its own grid.
    lone = evaluate(study, [Piece(3, (3, 4))])
    first = 3 * len(study.points)
    assert [point[0] for point in study.points] == [0, 0, 0, 1, 1]
    for name in study.metrics:
        np.testing.assert_array_equal(
            lone.columns[name], found.columns[name][first + 3 : first + 5]
        )
    assert len(lone.errors) == 2


def test_exact_expectations_have_them_too():
    study = with_companion(
        instances=[{"family": "explicit", "reward": [[0.0, 1.0]], "reference": [[0.7, 0.3]]}],
        n=[2], seeds="exact",
    )  # fmt: skip
    found = evaluate(study, [Piece(0)])
    assert np.isfinite(found.columns["apart"]).all()
    assert found.columns["apart"][-1] > 0


def test_a_failed_companion_leaves_no_distance():
    # Without a bound the estimate of three preferences does not exist.
    study = with_companion(
        learners=[
            {"method": "chiPO", "label": "chipo"},
            {"method": "DPO", "label": "dpo", "policies": POLICIES},
        ],
        n=[3], seeds=1,
    )  # fmt: skip
    found = evaluate(study, [Piece(0)])
    assert found.errors[0]
    assert found.errors[-1] is None
    assert np.isnan(found.columns["apart"][-1])
    assert np.isfinite(found.columns["regret"][-1])


# ---- games and rounds --------------------------------------------------------------------------


def with_measures(*names, **changes):
    online = {
        "method": "XPO", "beta": 0.5, "alpha": 0.1, "grid": [2, 5],
        "policies": {"kind": "finite", "size": 4},
    }  # fmt: skip
    settings = {
        "instances": [{"family": "random", "prompts": 2, "responses": 3}],
        "learners": [
            {"method": "RLHF", "label": "rlhf", "reward": {"model": "tabular", "ridge": 0.1}},
            online,
        ],
        "n": [20],
        "measures": list(names),
    }
    return small(**(settings | changes))


def test_measures_by_hand():
    names = "duality_gap", "cumulative_regret", "cumulative_regularized_regret"
    study = with_measures(*names, bias=False)
    assert study.metrics == (*ALWAYS, *names)
    found = evaluate(study, [Piece(0)])
    assert not any(found.errors)
    spec = study.instances[0]
    scene = spec.scene(generator_for(study.name, f"instance {spec.scene_key}/0", 0), 20)
    bandit, name = scene.bandit, f"{spec.key}/0/20"
    data = sample_preferences(bandit, 20, generator_for(study.name, f"data {name}", 0))
    chance = 1.0 / (1.0 + np.exp(bandit.reward[:, None, :] - bandit.reward[:, :, None]))
    for k, (method, value) in enumerate(study.points):
        learner = study.learners[method].learner(value, scene)
        rng = generator_for(study.name, f"fit {name}/{study.learners[method].key}", 0)
        learned = learner.fit(data, bandit.reference, prompt_dist=bandit.prompt_dist, rng=rng)
        against = ((2 * chance - 1) * learned.policy[:, None, :]).sum(axis=-1).max(axis=-1)
        gap = 2.0 * against @ bandit.prompt_dist
        assert found.columns["duality_gap"][k] == pytest.approx(gap, abs=1e-14)
        assert gap > 0.01
        regrets = learned.diagnostics.get("regret", np.full(1, np.nan))
        assert found.columns["cumulative_regret"][k] == pytest.approx(
            regrets.sum(), nan_ok=True, rel=1e-14
        )
    sums = found.columns["cumulative_regret"]
    assert np.isnan(sums[:3]).all()
    assert 0 < sums[3] < sums[4]


def test_measures_come_before_the_split_and_in_exact_expectations():
    study = with_measures("duality_gap", bias=True)
    assert study.metrics[-3:] == ("duality_gap", "bias", "estimation_error")
    study = with_measures(
        "duality_gap",
        instances=[{"family": "explicit", "reward": [[0.0, 1.0]], "reference": [[0.7, 0.3]]}],
        learners=[{"method": "RLHF", "reward": {"model": "tabular", "ridge": 0.1}}],
        n=[2], seeds="exact",
    )  # fmt: skip
    gaps = evaluate(study, [Piece(0)]).columns["duality_gap"]
    assert (gaps > 0.1).all()
    # With two responses the gap is linear in the policy, like its regret, of range 1.
    regret = evaluate(study, [Piece(0)]).columns["regret"]
    np.testing.assert_allclose(gaps, 2 * np.tanh(0.5) * regret, rtol=1e-12)


@pytest.mark.parametrize(
    ("names", "message"),
    [(("nonsense",), "measures: 'nonsense' must be one of duality_gap"),
     (("duality_gap",) * 2, "measures: measures must differ")],
)  # fmt: skip
def test_bad_measures_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        with_measures(*names)


def test_likelihoods_leave_out_equal_pairs_and_reach_minus_infinity():
    p = np.array([[0.5, 0.25, 0.25]])
    policies = np.array([[[0.5, 0.5, 0.0]], [[0.25, 0.25, 0.5]]])
    data = PreferenceData([0, 0, 0], [0, 1, 1], [1, 2, 1], shape=(1, 3))
    found = likelihoods(policies, p, data)
    assert found[0] == pytest.approx([0.5 * np.log(2.0), -np.inf])
    assert found[1] == pytest.approx([0.5 * np.log(0.5), 0.5 * np.log(2.0)])
    nothing = PreferenceData([0], [1], [1], shape=(1, 3))
    assert np.isnan(likelihoods(policies, p, nothing)).all()


def test_distances_are_averaged_over_prompts():
    one = np.array([[[1.0, 0.0], [0.5, 0.5]]])
    other = np.array([[[0.0, 1.0], [0.5, 0.5]]])
    assert apart(one, other, np.array([0.3, 0.7])) == pytest.approx([0.3])


def test_bad_companions_are_refused():
    with pytest.raises(ValueError, match=r"companion: 'x' must be a label.*chipo, dpo"):
        with_companion(companion="x")
    draws = {"method": "best-of-N", "reward": {"model": "finite"}, "grid": [2], "label": "dpo"}
    with pytest.raises(ValueError, match="companion: all learners must have the same parameter"):
        with_companion(
            learners=[{"method": "chiPO", "label": "chipo", "policies": POLICIES}, draws]
        )


def test_aligned_rewards_fall_with_the_rank_up_to_noise():
    family = {"family": "aligned", "prompts": 3, "responses": 5, "exponent": 2.0}
    pure, mixed = (
        small(instances=[family | {"trend": trend, "reward_scale": 2.0}]).instances[0]
        for trend in (1.0, 0.25)
    )
    bandit = pure.scene(np.random.default_rng(0), 5).bandit
    np.testing.assert_allclose(bandit.reward, [[2.0, 1.5, 1.0, 0.5, 0.0]] * 3)
    np.testing.assert_allclose(bandit.reference[0] / bandit.reference[0, 0],
                               [1, 1 / 4, 1 / 9, 1 / 16, 1 / 25])  # fmt: skip
    noise = mixed.scene(np.random.default_rng(0), 5).bandit.reward - 0.25 * bandit.reward
    assert 0.0 <= noise.min() < noise.max() <= 1.5
    assert len(np.unique(noise)) == 15


def test_a_bound_is_a_number_or_the_range():
    for bad in (0.0, -1.0, "wide", float("nan")):
        with pytest.raises(ValueError, match=r"policies.*r_max"):
            with_companion(
                learners=[{"method": "DPO", "label": "chipo",
                           "policies": {"kind": "tabular", "r_max": bad}}],
            )  # fmt: skip
    study = small(learners=[{"method": "chiPO", "clip": "range"}])
    scene = study.instances[0].scene(np.random.default_rng(0), 5)
    widest = max(row.max() - row.min() for row in scene.bandit.reward)
    assert study.learners[0].learner(0.1, scene).r_max == pytest.approx(widest)


def test_distances_to_another_companion_are_not_mixed_in(tmp_path):
    run_study(with_companion(), tmp_path / "changed", workers=1)
    for study, folder in ((with_companion(companion="dpo"), "changed"),
                          (with_companion(companion="dpo"), "fresh")):  # fmt: skip
        run_study(study, tmp_path / folder, workers=1)
    changed, fresh = (wide(read_results(tmp_path / f)) for f in ("changed", "fresh"))
    assert changed.equals(fresh)
    assert (changed.loc[changed["learner"] == "dpo", "apart"] == 0).all()
    assert (changed.loc[changed["learner"] == "chipo", "apart"] > 0).any()
