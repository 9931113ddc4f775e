"""The Bayesian view of KL-regularized RLHF: its identities, against mpmath."""

import pickle

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim import KL, ContextualBandit, Tabular, example_table, total_variation
from rlhfsim.data import PreferenceData
from rlhfsim.instances import random_bandit
from rlhfsim.learners import RLHF, Learner
from rlhfsim.learners.bayesian import (
    BayesianPosterior,
    collapse_distance,
    collapsed_policy,
    evidence,
    evidence_gap,
    evidence_lower_bound,
    posterior,
)
from rlhfsim.sampling import sample_preferences

BOX = Tabular(r_max=3.0)


@st.composite
def problems(draw):
    """A policy, a reference with its support or more, and rewards with ties."""
    size = draw(st.integers(1, 5))
    weights = st.lists(st.integers(0, 9), min_size=size, max_size=size).filter(any)
    reference, policy = (np.array(draw(weights), dtype=float) for _ in range(2))
    policy[reference == 0] = 0
    if not policy.any():
        policy = reference.copy()
    reward = draw(st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1.0]), min_size=size, max_size=size))
    return policy / policy.sum(), np.array(reward), reference / reference.sum()


betas = st.floats(0.02, 50.0)


def exact(reward, reference, beta):
    """Masses `p e^(r/beta)` and their sum, in 60 digits."""
    mass = [mp.mpf(float(p)) * mp.exp(mp.mpf(float(r)) / mp.mpf(beta)) for r, p in
            zip(reward, reference, strict=True)]  # fmt: skip
    return mass, mp.fsum(mass)


def exact_kl(policy, other):
    pairs = [(mp.mpf(float(a)), b) for a, b in zip(policy, other, strict=True) if a > 0]
    return mp.fsum(a * mp.log(a / b) for a, b in pairs)


@given(problem=problems(), beta=betas)
def test_posterior_evidence_and_bound_agree_with_mpmath(problem, beta):
    policy, reward, reference = problem
    with mp.workdps(60):
        mass, total = exact(reward, reference, beta)
        expected = [float(m / total) for m in mass]
        gap = float(mp.mpf(beta) * exact_kl(policy, [m / total for m in mass]))
        prior = [mp.mpf(float(p)) for p in reference]
        mean = mp.fsum(
            mp.mpf(float(a)) * mp.mpf(float(r)) for a, r in zip(policy, reward, strict=True)
        )
        bound = float(mean - mp.mpf(beta) * exact_kl(policy, prior))
        log_evidence = float(mp.mpf(beta) * mp.log(total))
    np.testing.assert_allclose(posterior(reward, reference, beta), expected, rtol=1e-12, atol=0)
    slack = 1e-14 * (3 + beta)
    assert float(evidence(reward, reference, beta)) == pytest.approx(log_evidence, abs=slack)
    found = float(evidence_lower_bound(policy, reward, reference, beta))
    assert found == pytest.approx(bound, abs=slack)
    assert float(evidence_gap(policy, reward, reference, beta)) == pytest.approx(
        gap, rel=1e-12, abs=slack
    )


@given(problem=problems(), beta=betas)
def test_the_bound_is_the_evidence_minus_the_gap(problem, beta):
    """`J_beta(pi) = beta log Z - beta KL(pi || posterior)`."""
    policy, reward, reference = problem
    bound = float(evidence_lower_bound(policy, reward, reference, beta))
    total = float(evidence(reward, reference, beta))
    gap = float(evidence_gap(policy, reward, reference, beta))
    assert bound + gap == pytest.approx(total, abs=3e-14 * (3 + beta))
    assert gap >= 0
    best = posterior(reward, reference, beta)
    assert float(evidence_gap(best, reward, reference, beta)) <= 1e-14 * beta
    assert float(evidence_lower_bound(best, reward, reference, beta)) == pytest.approx(
        total, abs=3e-14 * (3 + beta)
    )


def test_bayes_rule_in_two_steps():
    """The posterior of the first reward is the prior of the second; evidences add."""
    rng = np.random.default_rng(0)
    p, one, two = rng.dirichlet(np.ones(5)), rng.normal(size=5), rng.normal(size=5)
    first = posterior(one, p, 0.3)
    np.testing.assert_allclose(posterior(two, first, 0.3), posterior(one + two, p, 0.3), rtol=1e-12)
    both = evidence(one, p, 0.3) + evidence(two, first, 0.3)
    assert float(both) == pytest.approx(float(evidence(one + two, p, 0.3)), rel=1e-13)


def test_gaps_where_the_posterior_underflows():
    """`KL = r/beta + log Z` of the point mass on the worst response, at 10^6 nats."""
    gap = evidence_gap([1.0, 0.0], [0.0, 1.0], [0.5, 0.5], 1e-6)
    assert float(gap) == pytest.approx(1.0 + 1e-6 * (np.log(0.5) - np.log(0.5)), rel=1e-12)
    assert float(evidence_gap([0.0, 1.0], [0.0, 1.0], [1.0, 0.0], 1.0)) == np.inf
    assert float(evidence_lower_bound([0.0, 1.0], [0.0, 1.0], [1.0, 0.0], 1.0)) == -np.inf


@given(problem=problems(), beta=betas)
def test_the_collapse(problem, beta):
    """Against the definition, and the bound `(1 - m)/m e^(-gap/beta)`."""
    _, reward, reference = problem
    limit = collapsed_policy(reward, reference)
    inside = reference > 0
    best = inside & (reward == reward[inside].max())
    mass = reference[best].sum()
    np.testing.assert_allclose(limit, np.where(best, reference / mass, 0.0), rtol=1e-15)
    distance = float(collapse_distance(reward, reference, beta))
    found = float(total_variation(posterior(reward, reference, beta), limit))
    assert distance == pytest.approx(found, abs=1e-14)
    if best[inside].all():
        assert distance == 0
    else:
        gap = reward[inside].max() - reward[inside & ~best].max()
        assert distance <= (1 - mass) / mass * np.exp(-gap / beta) * (1 + 1e-12)


def test_the_rate_of_the_collapse_is_tight():
    """Two levels: the distance over its bound tends to 1, and keeps its digits far down."""
    ratios = []
    for beta in (0.5, 0.1, 0.02, 0.002):
        distance = float(collapse_distance([0.0, 1.0, 1.0], [0.9, 0.05, 0.05], beta))
        ratios.append(distance / (9.0 * np.exp(-1.0 / beta)))
    assert 0.4 < ratios[0] < 0.6
    assert 0.99 < ratios[1] < 1.0
    assert ratios[-1] == pytest.approx(1.0, rel=1e-12)
    # A better response outside the support does not count; ties share as the prior does.
    limit = collapsed_policy([5.0, 1.0, 1.0, 0.0], [0.0, 0.1, 0.3, 0.6])
    np.testing.assert_allclose(limit, [0.0, 0.25, 0.75, 0.0])


def test_shapes_broadcast():
    rng = np.random.default_rng(1)
    p, r = rng.dirichlet(np.ones(4), (2, 3)), rng.normal(size=(3, 4))
    for function in (evidence, collapse_distance):
        whole = function(r, p, 0.7)
        assert whole.shape == (2, 3)
        assert whole[1, 2] == pytest.approx(float(function(r[2], p[1, 2], 0.7)), rel=1e-14)
    assert posterior(r, p, 0.7).shape == collapsed_policy(r, p).shape == (2, 3, 4)
    gap = evidence_gap(p[0], r, p, 0.7)
    assert gap.shape == (2, 3)
    assert gap[1, 2] == pytest.approx(float(evidence_gap(p[0, 2], r[2], p[1, 2], 0.7)), rel=1e-13)


# ---- the learner ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["random", "judged table"])
def bandit(request):
    if request.param == "random":
        return random_bandit(n_prompts=3, n_responses=5, rng=np.random.default_rng(0))
    return ContextualBandit.from_table(example_table())


def test_the_learner(bandit):
    data = sample_preferences(bandit, 500, np.random.default_rng(1))
    p, rho = bandit.reference, bandit.prompt_dist
    learner = BayesianPosterior(0.3, BOX)
    assert isinstance(learner, Learner)
    assert pickle.loads(pickle.dumps(learner)) == learner
    learned = learner.fit(data, p, prompt_dist=rho)
    rlhf = RLHF(0.3, KL(), BOX).fit(data, p, prompt_dist=rho)
    np.testing.assert_array_equal(learned.policy, rlhf.policy)
    np.testing.assert_array_equal(learned.reward, rlhf.reward)
    assert learned.residual <= 1e-14
    assert learned.diagnostics["evidence"].shape == rho.shape
    for x in range(len(rho)):
        with mp.workdps(40):
            mass, total = exact(learned.reward[x], p[x], 0.3)
            log_evidence = float(mp.mpf(0.3) * mp.log(total))
        assert learned.diagnostics["evidence"][x] == pytest.approx(log_evidence, abs=1e-13)
        np.testing.assert_allclose(
            learned.policy[x], [float(m / total) for m in mass], rtol=1e-12, atol=0
        )
    assert learned.objective == pytest.approx(
        float(rho @ learned.diagnostics["evidence"]), abs=1e-13
    )
    assert learned.diagnostics["log_likelihood"] == rlhf.diagnostics["log_likelihood"]


def test_the_learner_collapses_as_beta_vanishes(bandit):
    data = sample_preferences(bandit, 500, np.random.default_rng(1))
    distance = []
    for beta in (1.0, 0.1, 0.01, 1e-4):
        learned = BayesianPosterior(beta, BOX).fit(data, bandit.reference)
        limit = collapsed_policy(learned.reward, bandit.reference)
        found = 0.5 * np.abs(learned.policy - limit).sum(axis=1)
        np.testing.assert_allclose(learned.diagnostics["collapse_distance"], found, atol=1e-13)
        distance.append(found.max())
    assert distance[0] > 0.1
    assert (np.diff(distance) < 0).all()
    assert distance[-1] < 1e-6


DATA = PreferenceData([0], [1], [0], (1, 2))
HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BayesianPosterior(0.0), "beta is 0.0"),
        (lambda: BayesianPosterior(1.0, Tabular), "model is .*must be a reward model"),
        (lambda: BayesianPosterior(1.0, BOX).fit(DATA, [[0.5, 0.6]]), r"reference\[0\] sums to"),
        (lambda: posterior([0, 1], HALF, -1.0), "beta is -1.0"),
        (lambda: posterior([0, 1, 2], HALF, 1.0), "last axes differ"),
        (lambda: evidence([0, np.nan], HALF, 1.0), r"reward\[1\] is nan"),
        (lambda: evidence([0, 1], [0.5, 0.6], 1.0), "reference sums to 1.1"),
        (lambda: evidence_lower_bound([1.0], [0, 1], HALF, 1.0), "last axes differ"),
        (lambda: evidence_gap([0.5, 0.6], [0, 1], HALF, 1.0), "policy sums to 1.1"),
        (lambda: evidence_gap(HALF, [0, 1], HALF, np.inf), "beta is inf"),
        (lambda: collapsed_policy([0, np.inf], HALF), r"reward\[1\] is inf"),
        (lambda: collapse_distance([0, 1], [1.5, -0.5], 1.0), r"reference\[1\] is -0.5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
