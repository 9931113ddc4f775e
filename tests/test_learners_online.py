"""The learner `OnlineRLHF`: the protocol, its limits, and what it says of itself."""

import pickle

import numpy as np
import pytest

from rlhfsim import ContextualBandit, Linear, PreferenceData
from rlhfsim.data import PairCounts
from rlhfsim.instances import log_linear_bandit
from rlhfsim.learners import RLHF, Learner
from rlhfsim.learners.online import OnlineRLHF
from rlhfsim.online import EXPLORATIONS, Enhancer, LinearProblem, OnPolicy, run_linear
from rlhfsim.sampling import sample_preferences

BUILT = log_linear_bandit(3, 5, 2, np.random.default_rng(0), norm=2.0)
BANDIT, PHI = BUILT.bandit, BUILT.features
NONE = PairCounts(*(np.empty(0, np.int64),) * 3, np.empty(0), 0.0, BANDIT.shape)
DATA = sample_preferences(BANDIT, 60, np.random.default_rng(1))


def learner(**settings):
    return OnlineRLHF(BANDIT, PHI, **({"beta": 0.2, "rounds": 40} | settings))


def fit(settings=None, data=NONE, seed=0, reference=BANDIT.reference, **more):
    rng = np.random.default_rng(seed)
    return learner(**(settings or {})).fit(data, reference, rng=rng, **more)


@pytest.mark.parametrize("how", EXPLORATIONS, ids=lambda how: how.name)
@pytest.mark.parametrize("moving", [False, True])
def test_it_is_the_run(how, moving):
    made = fit({"exploration": how, "moving": moving, "batch": 2}, DATA)
    run = run_linear(
        LinearProblem(BANDIT, PHI, 0.2), 40, [np.random.default_rng(0)], exploration=how, batch=2,
        moving=moving, offline=DATA,
    )  # fmt: skip
    np.testing.assert_array_equal(made.policy, run.policy[0])
    np.testing.assert_array_equal(made.diagnostics["regret"], run.regret[0])
    assert made.diagnostics["cumulative_regret"] == run.regret[0].sum()
    assert made.diagnostics["cumulative_regularized_regret"] == run.regularized_regret[0].sum()
    assert made.diagnostics["comparisons"].tolist() == list(range(2, 82, 2))
    np.testing.assert_array_equal(made.reward, PHI @ made.diagnostics["parameter"])
    assert made.residual <= 1e-11


def test_the_protocol():
    made = learner()
    assert isinstance(made, Learner)
    assert made.name == "online RLHF, enhancer, c 5, 40 rounds"
    assert learner(moving=True, exploration=OnPolicy()).name == (
        "online RLHF, iterated DPO, 40 rounds, moving reference"
    )
    again = pickle.loads(pickle.dumps(made))
    one, other = (
        x.fit(NONE, BANDIT.reference, rng=np.random.default_rng(3)) for x in (made, again)
    )
    np.testing.assert_array_equal(one.policy, other.policy)


@pytest.mark.parametrize("beta", [0.02, 0.5])
def test_without_rounds_it_is_rlhf(beta):
    made = learner(rounds=0, beta=beta, ridge=0.5).fit(DATA, BANDIT.reference)
    plain = RLHF(beta, model=Linear(PHI, ridge=0.5)).fit(DATA, BANDIT.reference)
    np.testing.assert_allclose(made.policy, plain.policy, rtol=1e-9)
    np.testing.assert_allclose(made.reward, plain.reward, rtol=1e-9)
    assert made.diagnostics["regret"].size == 0
    assert made.diagnostics["cumulative_regret"] == 0.0


def test_what_says_nothing_is_no_data():
    itself = PreferenceData([0, 1], [2, 3], [2, 3], BANDIT.shape)
    np.testing.assert_array_equal(fit(data=itself).policy, fit().policy)
    nothing = learner(rounds=0).fit(NONE, BANDIT.reference)
    np.testing.assert_allclose(nothing.policy, BANDIT.reference, rtol=1e-12)


def test_offline_data_help():
    many = sample_preferences(BANDIT, 3000, np.random.default_rng(2))
    with_data, without = fit(data=many), fit()
    assert (
        with_data.diagnostics["cumulative_regularized_regret"]
        < 0.3 * without.diagnostics["cumulative_regularized_regret"]
    )


def test_another_reference_and_other_prompts():
    p = np.array([[0.0, 0.1, 0.2, 0.3, 0.4]] * 3)
    made = fit(reference=p, prompt_dist=[1.0, 0.0, 0.0])
    assert (made.policy[:, 0] == 0).all()
    elsewhere = ContextualBandit([1.0, 0.0, 0.0], p, BANDIT.reward)
    run = run_linear(LinearProblem(elsewhere, PHI, 0.2), 40, [np.random.default_rng(0)])
    np.testing.assert_array_equal(made.policy, run.policy[0])
    # Regret is measured in the bandit, against all responses.
    assert made.diagnostics["regret"][0] == pytest.approx(elsewhere.regret(p).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": -1.0}, "beta is -1.0; it must be positive"),
        ({"rounds": -1}, "rounds is -1; it must be at least 0"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"ridge": 0.0}, "ridge is 0.0; it must be positive"),
        ({"regularization": -1.0}, "regularization is -1.0; it must be positive"),
        ({"moving": "yes"}, "moving is 'yes'; it must be True or False"),
        ({"exploration": "enhancer"}, "exploration is 'enhancer'; it must be one of Enhancer"),
        ({"labels": 1}, "labels is a int; it must be a PreferenceModel"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        learner(**change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NONE, np.ones((3, 5))), r"reference\[0\] sums to 5.0"),
        ((NONE, np.full((3, 4), 0.25)), r"reference has shape \(3, 4\)"),
        ((None, BANDIT.reference), "data is a NoneType"),
        ((NONE, BANDIT.reference), "rng is None; rounds need a numpy.random.Generator"),
    ],
)
def test_bad_fits(arguments, message):
    with pytest.raises(ValueError, match=message):
        learner().fit(*arguments)


def test_data_of_another_shape_than_the_bandit():
    small = PairCounts(*(np.empty(0, np.int64),) * 3, np.empty(0), 0.0, (2, 5))
    with pytest.raises(ValueError, match=r"reference has shape \(2, 5\)"):
        learner(rounds=0).fit(small, BANDIT.reference[:2])


def test_the_setting_is_not_changed():
    phi = np.array(PHI)
    made = OnlineRLHF(BANDIT, phi, 0.2, exploration=Enhancer())
    phi[:] = 0.0
    np.testing.assert_array_equal(made.features, PHI)


@pytest.mark.parametrize("rounds", [0, 3])
def test_a_generator_is_asked_for_by_its_name(rounds):
    with pytest.raises(ValueError, match=r"^rng is a int; it must be a numpy.random.Generator"):
        learner(rounds=rounds).fit(NONE, BANDIT.reference, rng=3)
