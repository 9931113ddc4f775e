"""Behavior cloning and RLHF around the clone: exact values, limits, and errors in both samples."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax

from rlhfsim import KL, ContextualBandit, Tabular, example_table, solve
from rlhfsim.data import DemonstrationData, PreferenceData
from rlhfsim.instances import random_bandit
from rlhfsim.laws import population_pairs
from rlhfsim.learners import RLHF, Learner
from rlhfsim.learners.demonstrations import DemonstrationRegularized, behavior_cloning
from rlhfsim.sampling import sample_demonstrations, sample_preferences

BOX = Tabular(r_max=3.0)


# ---- behavior cloning ----------------------------------------------------------------------------


def test_the_clone_of_a_few_demonstrations():
    shown = DemonstrationData([0, 0, 0, 2], [1, 1, 0, 2], (3, 4))
    clone = behavior_cloning(shown)
    np.testing.assert_allclose(
        clone, [[2 / 7, 3 / 7, 1 / 7, 1 / 7], [0.25] * 4, [0.2, 0.2, 0.4, 0.2]], rtol=1e-15
    )
    clone = behavior_cloning(shown, smoothing=0.5)
    np.testing.assert_allclose(clone[0], [0.3, 0.5, 0.1, 0.1], rtol=1e-15)
    # Responses that a prompt does not have get nothing, unless an expert showed them.
    available = np.ones((3, 4), dtype=bool)
    available[0, 2:], available[2, 2:] = False, False
    clone = behavior_cloning(shown, available=available)
    np.testing.assert_allclose(clone[0], [0.4, 0.6, 0.0, 0.0], rtol=1e-15)
    np.testing.assert_allclose(clone[2], [0.25, 0.25, 0.5, 0.0], rtol=1e-15)


@given(
    responses=st.lists(st.integers(0, 3), min_size=1, max_size=12), smoothing=st.floats(0.05, 5.0)
)
def test_the_clone_maximises_the_smoothed_likelihood(responses, smoothing):
    """`sum_i log pi(y_i) + kappa sum_y log pi(y)`, by a general optimiser."""
    shown = DemonstrationData([0] * len(responses), responses, (1, 4))
    weight = np.bincount(responses, minlength=4) + smoothing

    def loss(logits):
        log_policy = log_softmax(logits)
        return -weight @ log_policy, weight.sum() * np.exp(log_policy) - weight

    found = minimize(loss, np.zeros(4), jac=True, method="BFGS")
    clone = behavior_cloning(shown, smoothing=smoothing)[0]
    np.testing.assert_allclose(clone, np.exp(log_softmax(found.x)), atol=1e-4)
    assert -weight @ np.log(clone) <= found.fun + 1e-12


def test_without_smoothing_the_clone_is_the_shares():
    shown = DemonstrationData([0, 0, 1], [1, 0, 1], (2, 3))
    np.testing.assert_array_equal(
        behavior_cloning(shown, smoothing=0.0), [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]
    )


# ---- the learner ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["random", "judged table"])
def bandit(request):
    if request.param == "random":
        return random_bandit(n_prompts=3, n_responses=5, rng=np.random.default_rng(0))
    return ContextualBandit.from_table(example_table())


def expert_of(bandit, temperature=0.3):
    """A good policy that is not the best."""
    return solve(bandit.reward, bandit.reference, KL(), temperature).policy


def test_it_is_rlhf_around_the_clone(bandit):
    rng = np.random.default_rng(1)
    shown = sample_demonstrations(bandit, 200, rng, expert=expert_of(bandit))
    data = sample_preferences(bandit, 400, rng)
    p, rho = bandit.reference, bandit.prompt_dist
    learner = DemonstrationRegularized(shown, 0.4, model=BOX)
    assert isinstance(learner, Learner)
    learned = learner.fit(data, p, prompt_dist=rho)
    clone = behavior_cloning(shown, available=p > 0)
    assert (clone[p == 0] == 0).all()
    np.testing.assert_array_equal(learned.diagnostics["behavior_policy"], clone)
    np.testing.assert_array_equal(
        learned.diagnostics["demonstrations"], np.bincount(shown.prompt, minlength=len(p))
    )
    weight = clone * np.exp((learned.reward - learned.reward.max()) / 0.4)
    np.testing.assert_allclose(
        learned.policy, weight / weight.sum(axis=1, keepdims=True), rtol=1e-11
    )
    value = float(rho @ (learned.policy * learned.reward).sum(axis=1))
    cost = 0.4 * float(KL()(learned.policy, clone, rho))
    assert learned.objective == pytest.approx(value - cost, rel=1e-11)
    assert learned.residual < 1e-12
    again = pickle.loads(pickle.dumps(learner)).fit(data, p)
    np.testing.assert_array_equal(again.policy, learned.policy)


def test_infinite_samples_give_rlhf_around_the_expert(bandit):
    """Demonstrations in the proportions of the expert, and the population of pairs."""
    counts = np.array([8, 4, 2, 1, 1, 0])[: bandit.shape[1]]
    expert = np.where(bandit.reference > 0, counts, 0).astype(float)
    expert /= expert.sum(axis=1, keepdims=True)
    prompt, response = np.nonzero(expert)
    repeat = np.round(expert[prompt, response] * 16 * 15 * 14 * 13 * 11).astype(int)
    shown = DemonstrationData(prompt.repeat(repeat), response.repeat(repeat), bandit.shape)
    pairs = population_pairs(bandit)
    model = Tabular(r_max=20.0)
    learned = DemonstrationRegularized(shown, 0.5, 0.0, model).fit(pairs, bandit.reference)
    limit = RLHF(0.5, KL(), model).fit(pairs, expert)
    np.testing.assert_allclose(learned.policy, limit.policy, atol=1e-12)
    exact = solve(bandit.reward, expert, KL(), 0.5).policy
    np.testing.assert_allclose(learned.policy, exact, atol=1e-6)
    # Smoothing fades as 1/N.
    smoothed = DemonstrationRegularized(shown, 0.5, 1.0, model).fit(pairs, bandit.reference)
    assert np.abs(smoothed.policy - exact).max() < 1e-4


def mean_regret(bandit, n_shown, n_pairs, seeds=24):
    regret = 0.0
    for seed in range(seeds):
        rng = np.random.default_rng([n_shown, n_pairs, seed])
        shown = sample_demonstrations(bandit, n_shown, rng, expert=bandit.optimal_policy())
        data = sample_preferences(bandit, n_pairs, rng)
        learned = DemonstrationRegularized(shown, 0.5, model=Tabular(r_max=2.0)).fit(
            data, bandit.reference
        )
        regret += float(bandit.regret(learned.policy)) / seeds
    return regret


def test_the_error_falls_in_both_sample_sizes():
    """Exact regrets, averaged over pinned seeds; every step of either size pays clearly."""
    bandit = random_bandit(n_prompts=2, n_responses=6, rng=np.random.default_rng(4))
    by_shown = [mean_regret(bandit, n, 200) for n in (2, 16, 128, 1024)]
    for before, after in itertools.pairwise(by_shown):
        assert after < 0.6 * before
    by_pairs = [mean_regret(bandit, 8, n) for n in (10, 100, 1000)]
    for before, after in itertools.pairwise(by_pairs):
        assert after < 0.9 * before


@given(
    seed=st.integers(0, 2**32 - 1), beta=st.floats(0.05, 3.0), smoothing=st.sampled_from([0.2, 1.0])
)
def test_what_the_clone_lacks_is_what_is_lost(seed, beta, smoothing):
    """With the true reward, the regret against the expert in closed form:

    `J(pi_E) - J(pi) = beta (KL(pi_E || pi_BC) - KL(pi || pi_BC) - KL(pi_E || pi))`.
    """
    rng = np.random.default_rng(seed)
    bandit = random_bandit(n_prompts=1, n_responses=4, rng=rng)
    expert = rng.dirichlet(np.ones(4), 1)
    shown = sample_demonstrations(bandit, 5, rng, expert=expert)
    pairs = population_pairs(bandit)
    learner = DemonstrationRegularized(shown, beta, smoothing, Tabular(r_max=30.0))
    learned = learner.fit(pairs, bandit.reference)
    policy, clone = learned.policy, behavior_cloning(shown, smoothing=smoothing)
    kl = KL()
    lacks = float(kl(expert, clone)) - float(kl(policy, clone)) - float(kl(expert, policy))
    assert float(bandit.regret(policy, expert)) == pytest.approx(beta * lacks, abs=1e-6)
    assert float(bandit.regret(policy, expert)) <= beta * float(kl(expert, clone)) + 1e-6


DATA = PreferenceData([0], [1], [0], (1, 2))
SHOWN = DemonstrationData([0], [1], (1, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DemonstrationRegularized([1], 1.0), "demonstrations is a list"),
        (lambda: DemonstrationRegularized(SHOWN, 0.0), "beta is 0.0"),
        (lambda: DemonstrationRegularized(SHOWN, 1.0, -0.1), "smoothing is -0.1"),
        (lambda: DemonstrationRegularized(SHOWN, 1.0, model="x"), "model is 'x'"),
        (
            lambda: DemonstrationRegularized(
                DemonstrationData([0], [1], (1, 3)), 1.0, 1.0, BOX
            ).fit(DATA, [[0.5, 0.5]]),
            r"demonstrations has shape \(1, 3\); it must be that of the data, \(1, 2\)",
        ),
        (
            lambda: DemonstrationRegularized(SHOWN, 1.0, 1.0, BOX).fit(DATA, [[0.5, 0.6]]),
            r"reference\[0\] sums to",
        ),
        (lambda: behavior_cloning(DATA), "demonstrations is a PreferenceData"),
        (
            lambda: behavior_cloning(DemonstrationData([0, 2], [1, 0], (3, 2)), smoothing=0.0),
            "demonstrations has no row of prompt 1; smoothing must be positive",
        ),
        (
            lambda: behavior_cloning(
                DemonstrationData([0], [1], (2, 2)), available=[[True, True], [False, False]]
            ),
            "no row of prompt 1; it has no response",
        ),
        (lambda: behavior_cloning(SHOWN, available=[[1, 1]]), "available has dtype int64"),
        (lambda: behavior_cloning(SHOWN, available=[True, True]), r"available .*shape \(2,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
