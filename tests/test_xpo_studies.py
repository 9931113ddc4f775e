"""XPO and iterated DPO as methods of a study, and the family that hides the best response."""

import numpy as np
import pytest

from rlhfsim import GeneralPreference, PreferenceData
from rlhfsim.games import duality_gap, minimax_winner
from rlhfsim.learners import DPO, TabularPolicies
from rlhfsim.learners.online.xpo import XPO, IteratedDPO
from rlhfsim.online.xpo import ConstantAlpha, DecreasingAlpha, hidden_best
from rlhfsim.randomness import generator_for
from rlhfsim.sampling import sample_preferences
from rlhfsim.studies import Study, read_results, run_study, wide
from rlhfsim.studies.instances.games import two_cycles
from rlhfsim.studies.shipped.general_preferences import FLOOR, FLOOR_OF_ANY

HIDDEN = {"family": "hidden-best", "mass": 0.01, "rare": 3, "gap": 0.5}
ITERATED = {"method": "iterated-DPO", "beta": 0.3, "grid": [1, 4]}
OPTIMISTIC = {"method": "XPO", "beta": 0.3, "alpha": 0.02, "grid": [4]}


def study(**settings):
    plain = {"name": "rounds", "instances": [HIDDEN], "learners": [ITERATED], "n": [0]}
    return Study.from_dict(plain | settings)


def test_the_family_is_the_example():
    scene = study().instances[0].scene(np.random.default_rng(0), 0)
    example = hidden_best(1.0, 0.01, rare=3, gap=0.5)
    np.testing.assert_array_equal(scene.bandit.reference, example.bandit.reference)
    np.testing.assert_array_equal(scene.bandit.reward, example.bandit.reward)
    np.testing.assert_array_equal(scene.rewards, example.rewards)


def test_methods_make_the_learners():
    scene = study().instances[0].scene(np.random.default_rng(0), 0)
    made = study(
        learners=[ITERATED, OPTIMISTIC, OPTIMISTIC | {"decreasing": True, "batch": 3}]
    ).learners
    iterated, constant, falling = (method.learner(4.0, scene) for method in made)
    assert isinstance(iterated, IteratedDPO)
    assert isinstance(constant, XPO)
    assert (iterated.opponent, constant.opponent) == ("policy", "reference")
    assert (constant.alpha, falling.alpha) == (ConstantAlpha(0.02), DecreasingAlpha(0.02))
    assert (constant.rounds, constant.batch, falling.batch) == (4, 1, 3)
    np.testing.assert_allclose(
        constant.policies.policies, hidden_best(0.3, 0.01, rare=3, gap=0.5).policies, rtol=1e-12
    )


def test_other_classes_and_logged_preferences(tmp_path):
    tabular = ITERATED | {"grid": [1], "policies": {"kind": "tabular", "ridge": 0.5}}
    linear = OPTIMISTIC | {"policies": {"kind": "log-linear"}, "ridge": 0.5, "label": "linear"}
    made = study(
        instances=[{"family": "log-linear", "responses": 4, "dimension": 2}],
        learners=[tabular, linear], n=[50], measures=["cumulative_regret"],
    )  # fmt: skip
    run_study(made, tmp_path / "run", workers=1)
    rows = wide(read_results(tmp_path / "run"))
    assert rows["error"].isna().all()
    # What is played in the only round is DPO's policy on the logged comparisons.
    spec = made.instances[0]
    scene = spec.scene(generator_for(made.name, f"instance {spec.scene_key}/0", 0), 0)
    rng = generator_for(made.name, f"data {spec.key}/0/50", 0)
    data = sample_preferences(scene.bandit, 50, rng, model=scene.labels)
    assert isinstance(data, PreferenceData)
    learned = DPO(0.3, TabularPolicies(ridge=0.5)).fit(data, scene.bandit.reference)
    first = float(scene.bandit.regret(learned.policy))
    assert rows["cumulative_regret"].iloc[0] == pytest.approx(first, abs=1e-12)


def test_bad_settings_are_refused():
    for settings, message in (
        ({"instances": [HIDDEN | {"mass": 0.0}]}, r"instances\[0\]\.mass"),
        ({"instances": [HIDDEN | {"mass": 0.5}]}, "rare mass is 1.5; it must be below 1"),
        ({"instances": [HIDDEN | {"rare": 0}]}, r"instances\[0\]\.rare"),
        ({"learners": [ITERATED | {"grid": [0]}]}, r"learners\[0\]\.grid\[0\]"),
        ({"learners": [ITERATED | {"grid": [1.5]}]}, r"learners\[0\]\.grid\[0\]"),
        ({"learners": [ITERATED | {"beta": 0.0}]}, r"learners\[0\]\.beta"),
        ({"learners": [ITERATED | {"opponent": "uniform"}]}, r"learners\[0\]\.opponent"),
        ({"learners": [OPTIMISTIC | {"alpha": -1.0}]}, r"learners\[0\]\.alpha"),
        ({"learners": [{"method": "XPO", "beta": 1.0, "grid": [1]}]}, r"learners\[0\]\.alpha"),
    ):
        with pytest.raises(ValueError, match=message):
            study(**settings)


def test_the_floors_of_the_two_cycles_with_and_without_the_decider():
    game = GeneralPreference(two_cycles())
    mix = minimax_winner(two_cycles()[0, :3, :3] * 2 - 1).policy
    np.testing.assert_allclose(mix, np.array([5, 2, 8]) / 15, rtol=1e-9)

    def gaps(first, second, decider):
        row = np.concatenate((first * mix, second * mix, [decider]))
        return duality_gap(np.tile(row, (2, 1)), game)

    # Both statements at their tight witnesses; the decider alone has less than 2 (0.8 - 0).
    np.testing.assert_allclose(gaps(0.5, 0.5, 0.0), FLOOR, rtol=1e-9)
    np.testing.assert_allclose(gaps(0.2, 0.2, 0.6), FLOOR_OF_ANY, rtol=1e-9)
    np.testing.assert_allclose(gaps(0.0, 0.0, 1.0), 0.4, rtol=1e-9)
    rng = np.random.default_rng(3)
    policy = rng.dirichlet(np.full(7, 0.4), 3000)
    masses = policy[:, :3].sum(axis=1), policy[:, 3:6].sum(axis=1)
    both = duality_gap(np.repeat(policy[:, None], 2, axis=1), game)
    for gap, (good, bad) in zip(both.T, (masses, masses[::-1]), strict=True):
        assert (gap >= np.maximum(0.4 * policy[:, 6], 2 * (0.8 * bad - 0.2 * good)) - 1e-12).all()
    least = np.maximum(0.4 * policy[:, 6], FLOOR * (1 - policy[:, 6]))
    assert (both.mean(axis=1) >= least - 1e-12).all()
    assert least.min() >= FLOOR_OF_ANY - 1e-12
