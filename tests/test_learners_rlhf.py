"""RLHF and the inference-time learners: what they return is what their parts give."""

import pickle

import numpy as np
import pytest

from rlhfsim import KL, ChiSquared, FiniteClass, JensenShannon, Tabular, fit_reward, solve
from rlhfsim.data import PreferenceData, count_pairs
from rlhfsim.divergences import ALL_DIVERGENCES
from rlhfsim.inference import best_of_n, inference_time_pessimism, soft_best_of_n
from rlhfsim.instances import random_bandit
from rlhfsim.learners import (
    RLHF,
    BestOfN,
    InferenceTimePessimism,
    Learner,
    SoftBestOfN,
)
from rlhfsim.rewards import MLEDoesNotExistError
from rlhfsim.sampling import sample_preferences

BOX = Tabular(r_max=3.0)
LEARNERS = (
    RLHF(0.3, model=BOX),
    RLHF(0.3, ChiSquared(), BOX),
    RLHF(0.3, ChiSquared() + KL(), BOX),
    RLHF(0.3, JensenShannon(), BOX),
    BestOfN(4, BOX),
    SoftBestOfN(4, 0.5, BOX),
    InferenceTimePessimism(4, 0.5, BOX),
)


@pytest.fixture(scope="module")
def bandit():
    return random_bandit(n_prompts=3, n_responses=5, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def data(bandit):
    return sample_preferences(bandit, 400, np.random.default_rng(1))


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_the_protocol(learner, bandit, data):
    assert isinstance(learner, Learner)
    learned = learner.fit(data, bandit.reference)
    np.testing.assert_array_equal(learned.reward, fit_reward(data, BOX).reward)
    assert learned.diagnostics["log_likelihood"] == fit_reward(data, BOX).log_likelihood
    for x in range(3):
        pair = learned.policy[x], bandit.reference[x]
        assert learned.diagnostics["kl"][x] == pytest.approx(float(KL()(*pair)), rel=1e-14)
        assert learned.diagnostics["chi_squared"][x] == pytest.approx(
            float(ChiSquared()(*pair)), rel=1e-14
        )
    from_counts = learner.fit(count_pairs(data), bandit.reference)
    np.testing.assert_array_equal(from_counts.policy, learned.policy)
    again = pickle.loads(pickle.dumps(learned))
    np.testing.assert_array_equal(again.policy, learned.policy)
    assert not again.policy.flags.writeable
    assert pickle.loads(pickle.dumps(learner)) == learner
    # Better than the reference in the reward that it fitted.
    gain = ((learned.policy - bandit.reference) * learned.reward).sum(axis=1)
    assert (gain > 0).all()


@pytest.mark.parametrize("divergence", ALL_DIVERGENCES, ids=repr)
def test_rlhf_is_the_fit_and_the_optimum(divergence, bandit, data):
    rho = bandit.prompt_dist
    learned = RLHF(0.7, divergence, BOX).fit(data, bandit.reference, prompt_dist=rho)
    optimum = solve(learned.reward, bandit.reference, divergence, 0.7)
    np.testing.assert_array_equal(learned.policy, optimum.policy)
    value = (rho @ (learned.policy * learned.reward).sum(axis=1)) - 0.7 * divergence(
        learned.policy, bandit.reference, rho
    )
    assert learned.objective == pytest.approx(float(value), rel=1e-12)
    assert learned.residual == np.abs(optimum.gap).max()
    assert learned.beta == 0.7
    assert RLHF(0.7, divergence, BOX).fit(data, bandit.reference).objective is None


def test_inference_time_learners_are_their_laws(bandit, data):
    reward = fit_reward(data, BOX).reward
    p = bandit.reference
    laws = {
        BestOfN(4, BOX): best_of_n(p, reward, 4),
        SoftBestOfN(4, 0.5, BOX): soft_best_of_n(p, reward, 4, 0.5),
        InferenceTimePessimism(4, 0.5, BOX): inference_time_pessimism(p, reward, 4, 0.5),
    }
    for learner, law in laws.items():
        np.testing.assert_array_equal(learner.fit(data, p).policy, law)


def test_finite_classes_report_ties():
    rewards = np.array([[[0.0, 1.0, 0.0]], [[0.0, 1.0, 9.0]], [[1.0, 0.0, 0.0]]])
    data = PreferenceData([0, 0], [1, 1], [0, 0], (1, 3))
    reference = np.full((1, 3), 1 / 3)
    learned = RLHF(1.0, KL(), FiniteClass(rewards)).fit(data, reference)
    assert learned.diagnostics["index"] == 0
    np.testing.assert_array_equal(learned.diagnostics["tied"], [0, 1])
    picks = {
        RLHF(1.0, KL(), FiniteClass(rewards))
        .fit(data, reference, rng=np.random.default_rng(seed))
        .diagnostics["index"]
        for seed in range(20)
    }
    assert picks == {0, 1}


def test_a_missing_estimate_is_not_papered_over():
    data = PreferenceData([0], [1], [0], (1, 2))
    with pytest.raises(MLEDoesNotExistError):
        RLHF(1.0).fit(data, [[0.5, 0.5]])
    with pytest.raises(MLEDoesNotExistError):
        BestOfN(2).fit(data, [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: RLHF(0.0), "beta is 0.0"),
        (lambda d: RLHF(np.nan), "beta is nan"),
        (lambda d: RLHF(1.0, "KL"), "divergence is 'KL'"),
        (lambda d: RLHF(1.0, KL(), Tabular), "model is .*must be a reward model"),
        (lambda d: BestOfN(0), "n is 0"),
        (lambda d: BestOfN(2.5), "n is 2.5; it must be an integer"),
        (lambda d: SoftBestOfN(2, -1.0), "temperature is -1.0"),
        (lambda d: InferenceTimePessimism(2, np.inf), "beta is inf"),
        (lambda d: RLHF(1.0).fit(d, np.full((3, 4), 0.25)), r"reference has shape \(3, 4\)"),
        (lambda d: RLHF(1.0).fit(d, np.full((3, 5), 0.25)), r"reference\[0\] sums to 1.25"),
        (lambda d: BestOfN(2).fit([1], np.full((3, 5), 0.2)), "data is a list"),
        (
            lambda d: RLHF(1.0).fit(d, np.full((3, 5), 0.2), prompt_dist=[1.0]),
            r"prompt_dist has shape \(1,\)",
        ),
    ],
)
def test_bad_input(call, message, data):
    with pytest.raises(ValueError, match=message):
        call(data)
