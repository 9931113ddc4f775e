"""How often each confidence set misses the truth: pinned counts over 2,000 replications.

Each count is an exact regression value; beside it stands what the claim allows, by the 99.9%
Clopper-Pearson interval of the miss probability.
"""

import numpy as np
import pytest
from confidence_data import (
    REPLICATIONS,
    counts_of,
    draw_wins,
    interval,
)

from rlhfsim.rewards import FiniteClass, Tabular, fit_reward
from rlhfsim.rewards.confidence import (
    Ensemble,
    TabularLikelihoodSet,
    asymptotic_ellipsoid,
    bootstrap,
    ellipsoid,
    finite_likelihood_set,
    tabular_likelihood_set,
    wilks_radius,
)
from rlhfsim.rewards.linear import Linear

DELTA = 0.1
TRUTH = np.array([[0.0, 0.4, -0.5]])
REFERENCE = np.array([[0.4, 0.3, 0.3]])
WEIGHTS = np.array([[-0.4, 0.7, -0.3]])


def finite_sample(misses):
    """At most the level: the interval does not exclude it."""
    assert interval(misses)[0] <= DELTA


def asymptotic(misses, off=0.01):
    """Nearly the level: the interval meets `DELTA +- off`."""
    low, high = interval(misses)
    assert low <= DELTA + off
    assert high >= DELTA - off


def replications(seed, n):
    return draw_wins(np.random.default_rng(seed), TRUTH, REFERENCE, n, REPLICATIONS)


def test_finite_class():
    rewards = np.concatenate((TRUTH[None], np.random.default_rng(0).normal(size=(15, 1, 3))))
    model = FiniteClass(rewards)
    misses = 0
    for wins in replications(1, 60):
        misses += not finite_likelihood_set(counts_of(wins), model, DELTA).contains(TRUTH)
    assert misses == 9
    finite_sample(misses)


def test_finite_class_where_the_bound_is_nearly_reached():
    """19 prompts compared once, at each a reward for which its rare win is certain."""
    prompts, delta = 19, DELTA
    rare = 0.999 * delta / (prompts + 1)
    truth = np.tile([np.log(rare / (1 - rare)), 0.0], (prompts, 1))
    rewards = np.repeat(truth[None], prompts + 1, axis=0)
    rewards[range(prompts), range(prompts), 0] = 40.0
    model = FiniteClass(rewards)
    upsets = np.random.default_rng(2).random((REPLICATIONS, prompts)) < rare
    misses = 0
    for upset in upsets:
        wins = np.zeros((prompts, 2, 2))
        wins[:, 0, 1], wins[:, 1, 0] = upset, ~upset
        misses += not finite_likelihood_set(counts_of(wins), model, delta).contains(truth)
    assert misses == 194
    finite_sample(misses)
    assert interval(misses)[0] > DELTA / 2


def test_tabular_likelihood_ratio():
    misses = 0
    for wins in replications(3, 300):
        misses += not tabular_likelihood_set(counts_of(wins), DELTA).contains(TRUTH)
    assert misses == 197
    asymptotic(misses)


def test_profile_bounds_of_one_functional():
    radius, value = wilks_radius(1, DELTA), (WEIGHTS * TRUTH).sum()
    misses = 0
    for wins in replications(4, 300):
        found = TabularLikelihoodSet(counts_of(wins), radius)
        # The estimate is within the bounds, so that only the one on the value's side can miss it.
        side = 1.0 if value < (WEIGHTS * found.reward).sum() else -1.0
        misses += not found.minimize(side * WEIGHTS).value <= side * value
    assert misses == 216
    asymptotic(misses)


FEATURES = np.array([[[1.0, 0.0], [0.0, 1.0], [-0.5, -0.5]]])
THETA = np.array([0.3, -0.4])


def linear_replications(seed, n):
    rng = np.random.default_rng(seed)
    return draw_wins(rng, FEATURES @ THETA, REFERENCE, n, REPLICATIONS)


@pytest.mark.parametrize(
    ("model", "expected"),
    [(Linear(FEATURES, norm_bound=0.5), 0), (Linear(FEATURES, ridge=1.0), 0)],
    ids=["norm_bound", "ridge"],
)
def test_ellipsoid(model, expected):
    misses = 0
    for wins in linear_replications(5, 100):
        counts = counts_of(wins)
        fit = fit_reward(counts, model)
        found = ellipsoid(counts, model, fit, DELTA, norm_bound=0.5)
        misses += not found.contains(THETA)
    assert misses == expected
    finite_sample(misses)


def test_ellipsoid_at_the_worst_time():
    """The claim is for all n at once: fair coins, watched until the estimate looks worst."""
    rng = np.random.default_rng(9)
    times = np.unique(np.geomspace(100, 1_000_000, 400).astype(int))
    steps = np.diff(times, prepend=0)
    won = rng.binomial(steps, 0.5, (REPLICATIONS, len(times))).cumsum(axis=1)
    weight = 1000.0
    excess = (won - times / 2) ** 2 / (weight + times) - 0.25 * np.log1p(times / weight)
    worst = excess.argmax(axis=1)
    model = Linear([[[1.0], [0.0]]])
    misses = 0
    for path, at in zip(won, worst, strict=True):
        wins = np.array([[[0, path[at]], [times[at] - path[at], 0]]])
        counts = counts_of(wins)
        fit = fit_reward(counts, model)
        found = ellipsoid(counts, model, fit, DELTA, norm_bound=1e-3, regularization=weight)
        misses += not found.contains([0.0])
    assert misses == 139
    finite_sample(misses)
    # Little is lost: a constant twice as large would make misses as good as impossible.
    assert interval(misses)[0] > 0.4 * DELTA


def test_asymptotic_ellipsoid():
    model = Linear(FEATURES)
    misses = 0
    for wins in linear_replications(6, 300):
        fit = fit_reward(counts_of(wins), model)
        misses += not asymptotic_ellipsoid(model, fit, DELTA).contains(THETA)
    assert misses == 172
    asymptotic(misses)


@pytest.fixture(scope="module")
def ensembles():
    """One bootstrap of 2,000 prompts, each a replication of its own."""
    wins = replications(7, 300)[:, 0]
    # With 300 rows the estimate exists at every prompt of every resample.
    whole = bootstrap(counts_of(wins), Tabular(), 199, np.random.default_rng(8))
    return [
        Ensemble(whole.rewards[:, x : x + 1], whole.reward[x : x + 1]) for x in range(REPLICATIONS)
    ]


def test_bootstrap_intervals(ensembles):
    value = (WEIGHTS * TRUTH).sum()
    percentile = basic = 0
    for ensemble in ensembles:
        low, high = ensemble.bounds(WEIGHTS, DELTA)
        percentile += not low <= value <= high
        low, high = ensemble.basic_bounds(WEIGHTS, DELTA)
        basic += not low <= value <= high
    assert (percentile, basic) == (195, 160)
    asymptotic(percentile)
    asymptotic(basic)


def test_bootstrap_band(ensembles):
    misses = sum(not ensemble.contains(TRUTH, DELTA) for ensemble in ensembles)
    assert misses == 163
    asymptotic(misses)
