"""Likelihood-ratio sets against enumeration, closed forms, other solvers and the dual program."""

import copy
import pickle

import cvxpy as cp
import mpmath
import numpy as np
import pytest
from confidence_data import counts_of, data_of, draw_wins, log_likelihood_of
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.special import entr, expit
from scipy.stats import chi2

from rlhfsim.rewards import FiniteClass, FirstResponse, MLEDoesNotExistError, Tabular, fit_reward
from rlhfsim.rewards.confidence import (
    ConfidenceSet,
    ProfileError,
    TabularLikelihoodSet,
    finite_likelihood_set,
    likelihood_ratio_set,
    profile,
    tabular_likelihood_set,
    wilks_radius,
)
from rlhfsim.rewards.confidence.finite_likelihood import FiniteLikelihoodSet

SEEDS = st.integers(0, 2**32 - 1)


def balanced(rng, shape):
    weights = rng.normal(size=shape)
    return weights - weights.mean(axis=1, keepdims=True)


def random_problem(seed, prompts=2, responses=3, n=400):
    rng = np.random.default_rng(seed)
    reward = rng.uniform(-1, 1, (prompts, responses))
    reference = rng.dirichlet(np.full(responses, 5.0), prompts) * 0.7 + 0.3 / responses
    wins = draw_wins(rng, reward, reference, n, 1)[0]
    return rng, reward, wins


# ---- finite class -----------------------------------------------------------------------------


def test_finite_set_is_the_enumeration_of_its_definition():
    rng, reward, wins = random_problem(1)
    rewards = np.concatenate((reward[None], reward + rng.normal(0, 0.4, (40, *reward.shape))))
    found = finite_likelihood_set(data_of(wins), FiniteClass(rewards), 0.1)
    total = np.array([log_likelihood_of(wins, r) for r in rewards])
    inside = total >= total.max() - np.log(41 / 0.1)
    assert 1 < inside.sum() < 41
    np.testing.assert_array_equal(found.mask, inside)
    np.testing.assert_array_equal(found.members, np.nonzero(inside)[0])
    np.testing.assert_allclose(found.log_likelihood, total, rtol=1e-13)
    assert [found.contains(r) for r in rewards] == inside.tolist()
    assert not found.contains(rewards[found.members[0]] + 1e-9)
    weights = rng.normal(size=reward.shape)
    values = (rewards[inside] * weights).sum(axis=(1, 2))
    np.testing.assert_allclose(found.bounds(weights), (values.min(), values.max()), rtol=1e-14)
    least = found.minimize(weights)
    np.testing.assert_array_equal(least.reward, rewards[inside][values.argmin()])
    assert least.gap == 0.0
    assert isinstance(found, ConfidenceSet)


def test_a_finite_set_of_radius_0_is_the_most_likely_reward():
    model = FiniteClass(np.array([[[0.0, 1.0]], [[1.0, 0.0]]]))
    found = FiniteLikelihoodSet(counts_of([[[0, 0], [1, 0]]]), model, 0.0)
    np.testing.assert_array_equal(found.members, [0])


@pytest.mark.parametrize("prompts", [1, 19])
def test_finite_radius_is_where_markov_and_the_union_bound_are_tight(prompts):
    """One comparison a prompt; reward x lets a rare win of prompt x look certain.

    The likelihood ratio is then `1/p` with probability p and nearly 0 otherwise, as in the
    extreme case of Markov's inequality, and the events of different rewards are nearly disjoint.
    """
    delta, size = 0.2, prompts + 1

    def misses_after_one_upset(p):
        truth = np.tile([np.log(p / (1 - p)), 0.0], (prompts, 1))
        rewards = np.repeat(truth[None], size, axis=0)
        rewards[range(prompts), range(prompts), 0] = 40.0
        outcomes = []
        for upset in range(prompts):
            wins = np.zeros((prompts, 2, 2))
            wins[:, 1, 0] = 1
            wins[upset] = [[0, 1], [0, 0]]
            found = finite_likelihood_set(counts_of(wins), FiniteClass(rewards), delta)
            outcomes.append(not found.contains(truth))
        assert len(set(outcomes)) == 1
        return outcomes[0]

    rare = delta / size
    assert misses_after_one_upset(0.999 * rare)
    assert not misses_after_one_upset(1.001 * rare)
    # Hence a miss of probability up to 1 - (1 - delta/|R|)^(|R| - 1): just below delta.
    if prompts > 1:
        assert 0.85 * delta < 1 - (1 - rare) ** prompts < delta


def test_bad_finite_classes_are_refused():
    data = data_of([[[0, 1], [1, 0]]])
    model = FiniteClass(np.zeros((2, 1, 2)))
    with pytest.raises(ValueError, match=r"model has rewards of shape \(2, 1, 3\)"):
        finite_likelihood_set(data, FiniteClass(np.zeros((2, 1, 3))), 0.1)
    with pytest.raises(ValueError, match=r"model is .*; it must be a FiniteClass"):
        finite_likelihood_set(data, Tabular(), 0.1)
    for delta in (0.0, 1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="delta"):
            finite_likelihood_set(data, model, delta)
    found = finite_likelihood_set(data, model, 0.1)
    with pytest.raises(ValueError, match=r"weights has shape \(2,\)"):
        found.bounds(np.zeros(2))
    with pytest.raises(ValueError, match=r"reward\[0, 1\] is nan"):
        found.contains([[0.0, np.nan]])
    with pytest.raises(ValueError, match="data is a str"):
        finite_likelihood_set("data", model, 0.1)


# ---- tabular: the bounds ----------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1e-6, 0.3, 2.0, 30.0, 200.0])
@pytest.mark.parametrize(("won", "lost"), [(3, 2), (1, 1), (90, 10), (1, 10**6)])
def test_bounds_of_one_pair_solve_a_scalar_equation(won, lost, radius):
    found = TabularLikelihoodSet(counts_of([[[0, won], [lost, 0]]]), radius)
    best = np.log(won / lost)

    def drop(gap):
        near = won * np.log1p(expit(-best) * np.expm1(best - gap))
        return near + lost * np.log1p(expit(best) * np.expm1(gap - best)) - radius

    reach = 3 * radius / min(won, lost) + 3.0
    low, high = (
        brentq(drop, *ends, xtol=1e-14, rtol=1e-14)
        for ends in ((best - reach, best), (best, best + reach))
    )
    np.testing.assert_allclose(found.bounds([[1.0, -1.0]]), (low, high), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("radius", [0.1, 5.0, 30.0, 60.0, 90.0, 200.0, 600.0, 900.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.01, -2.0), (0.3, -0.4), (-0.7, -0.1)])
def test_bounds_of_two_pairs_follow_the_multiplier(radius, weights):
    """Each pair has `sigma(gap) = (won - s w)/n`; s, close to its limit, from high precision.

    Far out one pair alone pays for the radius; its curvature is `exp(-margin)`, below rounding.
    """
    won, lost = (3, 40), (2, 60)
    found = TabularLikelihoodSet(
        counts_of([[[0, a], [b, 0]] for a, b in zip(won, lost, strict=True)]), radius
    )
    with mpmath.workdps(500):
        limit = min(
            mpmath.mpf(a if w > 0 else b) / abs(mpmath.mpf(w))
            for a, b, w in zip(won, lost, weights, strict=True)
        )

        def state(t):
            s, value, drop = limit * (1 - mpmath.exp(-t)), mpmath.mpf(0), mpmath.mpf(0)
            for a, b, w in zip(won, lost, weights, strict=True):
                p, best = (a - s * w) / (a + b), mpmath.mpf(a) / (a + b)
                value += w * mpmath.log(p / (1 - p))
                drop += a * mpmath.log(best / p) + b * mpmath.log((1 - best) / (1 - p))
            return value, drop

        low, high = mpmath.mpf(0), mpmath.mpf(1000)
        for _ in range(150):
            middle = (low + high) / 2
            low, high = (middle, high) if state(middle)[1] < radius else (low, middle)
        expected = float(state(low)[0])
    got = found.minimize([[w, -w] for w in weights])
    assert got.value == pytest.approx(expected, rel=1e-11)


def by_cvxpy(wins, weights, radius, best):
    """Return the minimum by an interior-point method on the exponential cone."""
    prompts, responses = weights.shape
    reward = cp.Variable((prompts, responses))
    loss = sum(
        int(wins[x, i, j]) * cp.logistic(reward[x, j] - reward[x, i])
        for x, i, j in zip(*np.nonzero(wins), strict=True)
    )
    fixed = [cp.sum(reward, axis=1) == 0]
    problem = cp.Problem(
        cp.Minimize(cp.sum(cp.multiply(weights, reward))), [loss <= radius - best, *fixed]
    )
    problem.solve(solver=cp.CLARABEL)
    return problem.value


@pytest.mark.parametrize("seed", range(4))
def test_bounds_agree_with_an_interior_point_method(seed):
    rng, _, wins = random_problem(seed, prompts=1 + seed % 2, responses=3 + seed // 2)
    wins = wins * ~np.eye(wins.shape[1], dtype=bool)
    radius = [0.5, 2.0, 5.0, 10.0][seed]
    found = TabularLikelihoodSet(counts_of(wins), radius)
    weights = balanced(rng, found.reward.shape)
    best = log_likelihood_of(wins, found.reward)
    low, high = found.bounds(weights)
    assert low == pytest.approx(by_cvxpy(wins, weights, radius, best), abs=1e-6)
    assert high == pytest.approx(-by_cvxpy(wins, -weights, radius, best), abs=1e-6)


def test_bounds_agree_with_sequential_quadratic_programming():
    rng, _, wins = random_problem(7, prompts=1, responses=4)
    radius = 3.0
    found = TabularLikelihoodSet(data_of(wins), radius)
    weights = balanced(rng, (1, 4))
    best = log_likelihood_of(wins, found.reward)
    result = minimize(
        lambda r: weights[0] @ np.append(r, 0.0),
        found.reward[0, :3] - found.reward[0, 3],
        constraints={
            "type": "ineq",
            "fun": lambda r: log_likelihood_of(wins, np.append(r, 0.0)[None]) - best + radius,
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.minimize(weights).value == pytest.approx(result.fun, abs=1e-7)


def dual_value(wins, reward, weights, radius, best):
    """Return a lower bound from the flow at `reward`, and how far it is from a feasible one.

    `log(1 + e^-m) >= entropy(q) - q m` for every q in [0, 1], so whenever the flow
    `lambda W q` has divergence `weights`, `<weights, r>` is at least
    `lambda (sum W entropy(q) - radius + L_max)` on the whole region.
    """
    q = expit(reward[:, None, :] - reward[:, :, None])
    flow = wins * q
    divergence = flow.sum(axis=2) - flow.sum(axis=1)
    scale = (weights * weights).sum() / (weights * divergence).sum()
    entropy = entr(q) + entr(1 - q)
    off = np.abs(scale * divergence - weights).max()
    return scale * ((wins * entropy).sum() - radius + best), off


@given(SEEDS, st.floats(-3, 4), st.integers(1, 3), st.integers(2, 5))
def test_the_dual_program_confirms_every_bound(seed, log_radius, prompts, responses):
    rng, _, wins = random_problem(seed, prompts, responses, n=300 * prompts)
    wins = wins * ~np.eye(responses, dtype=bool)
    radius = float(np.exp(log_radius))
    # One win each way keeps every estimate finite.
    found = TabularLikelihoodSet(counts_of(wins + ~np.eye(responses, dtype=bool)), radius)
    wins = wins + ~np.eye(responses, dtype=bool)
    weights = balanced(rng, found.reward.shape)
    least = found.minimize(weights)
    best = log_likelihood_of(wins, found.reward)
    away = (weights * (found.reward - least.reward)).sum()
    assert 0 <= least.gap <= 1e-9 * away
    assert (weights * least.reward).sum() == pytest.approx(least.value, abs=1e-12)
    # Primal: the minimiser is on the boundary.
    assert best - log_likelihood_of(wins, least.reward) == pytest.approx(radius, abs=1e-9)
    # Dual: nothing in the region is smaller.
    lower, off = dual_value(wins, least.reward, weights, radius, best)
    assert off < 1e-8
    assert lower == pytest.approx(least.value, abs=1e-8 * max(1.0, away))


@given(SEEDS, st.floats(2, 6), st.integers(1, 3), st.integers(2, 4))
def test_far_bounds_are_certified_and_confirmed_by_the_dual_program(
    seed, log_radius, prompts, responses
):
    """Regions in which some curvatures are below rounding, with few wins and weights apart."""
    rng = np.random.default_rng(seed)
    wins = np.ceil(rng.exponential(10.0, (prompts, responses, responses)))
    wins *= ~np.eye(responses, dtype=bool)
    radius = float(np.exp(log_radius))
    found = TabularLikelihoodSet(counts_of(wins), radius)
    weights = balanced(rng, found.reward.shape) * 10.0 ** rng.uniform(-1, 1, (prompts, 1))
    least = found.minimize(weights)
    best = log_likelihood_of(wins, found.reward)
    assert best - log_likelihood_of(wins, least.reward) == pytest.approx(radius, rel=1e-11)
    lower, off = dual_value(wins, least.reward, weights, radius, best)
    away = (weights * (found.reward - least.reward)).sum()
    assert off < 1e-8 * np.abs(weights).max()
    assert lower == pytest.approx(least.value, abs=1e-8 * max(1.0, away))


@pytest.mark.parametrize("steps", [3, 4, 5])
def test_the_gap_of_a_search_cut_short_is_its_error(monkeypatch, steps):
    """Duality: the minimum lies within the gap, which is not much larger than it has to be."""
    monkeypatch.setattr(profile, "RELATIVE_GAP", np.inf)
    found = TabularLikelihoodSet(counts_of([[[0, 4, 9], [7, 0, 2], [3, 8, 0]]]), 40.0)
    weights = np.array([[0.2, -0.5, 0.3]])
    exact = found.minimize(weights)
    monkeypatch.setattr(profile, "_OUTER_STEPS", steps)
    early = found.minimize(weights)
    error = abs(early.value - exact.value)
    assert error > 1e3 * exact.gap
    assert 0.999 * error <= early.gap <= 1.5 * error


@given(SEEDS)
def test_no_reward_of_the_set_leaves_its_bounds(seed):
    rng, _, wins = random_problem(seed)
    found = tabular_likelihood_set(counts_of(wins + 1), 0.2)
    weights = balanced(rng, found.reward.shape)
    low, high = found.bounds(weights)
    for _ in range(20):
        ray = rng.normal(size=found.reward.shape)
        out = brentq(lambda t, ray=ray: found.deficit(found.reward + t * ray) - found.radius, 0, 50)
        edge = found.reward + out * (1 - 1e-9) * ray
        assert found.contains(edge)
        assert not found.contains(found.reward + out * (1 + 1e-9) * ray)
        assert low <= (weights * edge).sum() <= high


def test_small_regions_are_wald_ellipsoids():
    rng, _, wins = random_problem(11)
    radius = 1e-8
    found = TabularLikelihoodSet(counts_of(wins), radius)
    weights = balanced(rng, found.reward.shape)
    both = wins + wins.transpose(0, 2, 1)
    gap = found.reward[:, :, None] - found.reward[:, None, :]
    curvature = both * expit(gap) * expit(-gap)
    variance = 0.0
    for x, w in enumerate(weights):
        laplacian = np.diag(curvature[x].sum(axis=1)) - curvature[x]
        variance += w @ np.linalg.pinv(laplacian) @ w
    half = np.sqrt(2 * radius * variance)
    middle = (weights * found.reward).sum()
    np.testing.assert_allclose(np.array(found.bounds(weights)) - middle, (-half, half), rtol=1e-3)


def test_bounds_do_not_depend_on_order_scale_or_constants():
    rng, _, wins = random_problem(3)
    found = TabularLikelihoodSet(data_of(wins), 2.0)
    weights = balanced(rng, found.reward.shape)
    low, high = found.bounds(weights)
    assert found.bounds(-weights) == pytest.approx((-high, -low), rel=1e-12)
    for scale in (1e-200, 1e-3, 1e200):
        got = np.array(found.bounds(scale * weights)) / scale
        np.testing.assert_allclose(got, (low, high), rtol=1e-11)
    order = rng.permutation(3)
    moved = TabularLikelihoodSet(counts_of(wins[:, order][:, :, order]), 2.0)
    assert moved.bounds(weights[:, order]) == pytest.approx((low, high), rel=1e-10)
    shifted = found.reward + np.array([[3.0], [-1e3]])
    assert found.deficit(shifted) == pytest.approx(0.0, abs=1e-9)
    assert found.bounds(np.zeros(found.reward.shape)) == (0.0, 0.0)
    # Sums within the tolerance stand for rewards of mean 0, where a common weight has no effect.
    np.testing.assert_allclose(found.bounds(weights + 1e-10), (low, high), rtol=1e-13)


def test_the_middle_is_the_maximum_likelihood_reward():
    _, _, wins = random_problem(5)
    found = TabularLikelihoodSet(data_of(wins), 2.0)
    expected = fit_reward(data_of(wins)).reward
    centred = expected - expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found.reward, centred, rtol=0, atol=1e-12)
    assert found.degrees == 4


# ---- tabular: linked sets ---------------------------------------------------------------------


def two_sets():
    """Return wins in which responses {0, 3} and {1, 2} of prompt 1 are never compared."""
    wins = np.zeros((3, 5, 5))
    wins[0, 0, 1], wins[0, 1, 0] = 7, 3
    wins[1, 0, 3], wins[1, 3, 0] = 4, 6
    wins[1, 1, 2], wins[1, 2, 1] = 5, 2
    return wins


def test_every_linked_set_has_a_constant_of_its_own():
    wins = two_sets()
    found = tabular_likelihood_set(counts_of(wins), 0.05)
    assert found.degrees == 3
    assert found.radius == pytest.approx(chi2.ppf(0.95, 3) / 2, rel=1e-12)
    odds = np.log([7 / 3, 4 / 6, 5 / 2]) / 2
    expected = np.zeros((3, 5))
    expected[0, :2] = odds[0], -odds[0]
    expected[1, [0, 3]] = odds[1], -odds[1]
    expected[1, [1, 2]] = odds[2], -odds[2]
    np.testing.assert_allclose(found.reward, expected, atol=1e-12)
    shifted = found.reward + 0.0
    shifted[1, [1, 2]] += 5.0
    shifted[2] = 9.0
    assert found.deficit(shifted) == pytest.approx(0.0, abs=1e-12)
    assert found.contains(shifted)
    # A functional of one set: the others stay at their maximum.
    weights = np.zeros((3, 5))
    weights[1, 1], weights[1, 2] = 1.0, -1.0
    alone = TabularLikelihoodSet(counts_of([[[0, 5], [2, 0]]]), found.radius)
    assert found.bounds(weights) == pytest.approx(alone.bounds([[1.0, -1.0]]), rel=1e-10)
    least = found.minimize(weights).reward
    np.testing.assert_allclose(least[1, [0, 3]], expected[1, [0, 3]], atol=1e-12)


def test_unbounded_directions_are_refused_by_name():
    found = tabular_likelihood_set(counts_of(two_sets()), 0.05)
    weights = np.zeros((3, 5))
    weights[1, 0], weights[1, 1] = 0.5, -0.5
    with pytest.raises(ValueError, match=r"weights\[1\] sums to 0.5 over the responses \[0, 3\]"):
        found.bounds(weights)
    weights = np.zeros((3, 5))
    weights[2, 4] = 1e-30
    with pytest.raises(ValueError, match=r"weights\[2, 4\] is 1e-30; it must be 0, since"):
        found.minimize(weights)


def test_a_missing_estimate_names_the_prompt_and_the_responses_of_the_data():
    wins = two_sets()
    wins[1, 3, 0] = 0
    with pytest.raises(MLEDoesNotExistError, match="prompt 1 does not exist") as caught:
        tabular_likelihood_set(counts_of(wins), 0.05)
    assert caught.value.prompt == 1
    assert caught.value.responses in ((0,), (3,))


# ---- tabular: construction --------------------------------------------------------------------


def test_wilks_radius_is_half_a_chi_squared_quantile():
    for degrees in (1, 2, 7, 500):
        for delta in (1e-8, 0.05, 0.5, 0.99):
            expected = chi2.isf(delta, degrees) / 2
            assert wilks_radius(degrees, delta) == pytest.approx(expected, rel=1e-10)


def test_one_entry_point_for_both_classes():
    _, reward, wins = random_problem(2)
    data = data_of(wins)
    finite = likelihood_ratio_set(data, FiniteClass(reward[None]), 0.1)
    assert finite.radius == pytest.approx(np.log(10))
    table = likelihood_ratio_set(data, Tabular(), 0.1)
    assert table.radius == pytest.approx(chi2.isf(0.1, 4) / 2)
    assert isinstance(table, ConfidenceSet)
    for model in (Tabular(r_max=1.0), Tabular(ridge=1.0)):
        with pytest.raises(ValueError, match="without a bound or ridge"):
            likelihood_ratio_set(data, model, 0.1)
    with pytest.raises(ValueError, match=r"model is .*; it must be Tabular\(\) without a gauge"):
        likelihood_ratio_set(data, Tabular(gauge=FirstResponse()), 0.1)
    with pytest.raises(ValueError, match="it must be a FiniteClass or Tabular"):
        likelihood_ratio_set(data, None, 0.1)


def test_bad_tabular_input_is_refused():
    data = data_of([[[0, 1], [1, 0]]])
    for radius in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="radius"):
            TabularLikelihoodSet(data, radius)
    with pytest.raises(ValueError, match=r"delta is 1.0; it must be below 1"):
        tabular_likelihood_set(data, 1.0)
    with pytest.raises(ValueError, match="degrees is 0; it must be at least 1"):
        wilks_radius(0, 0.1)
    with pytest.raises(ValueError, match="compares no two different responses"):
        tabular_likelihood_set(data_of([[[3, 0], [0, 2]]]), 0.1)
    found = TabularLikelihoodSet(data, 1.0)
    with pytest.raises(ValueError, match="weights"):
        found.bounds([[np.inf, 0.0]])
    with pytest.raises(ValueError, match=r"reward has shape \(1, 3\)"):
        found.contains([[0.0, 0.0, 0.0]])


def test_a_region_beyond_floating_point_raises_and_a_far_one_does_not():
    data = counts_of([[[0, 1, 0], [0, 0, 1], [1, 0, 0]]])
    weights = [[1.0, -1.0, 0.0]]
    # Far out one win costs its margin: D -> m + ... with the two others at half of it.
    far = TabularLikelihoodSet(data, 300.0).minimize(weights)
    assert far.value == pytest.approx(-(300 + 3 * np.log(2)), rel=1e-12)
    with pytest.raises(ProfileError, match="drowns in rounding"):
        TabularLikelihoodSet(data, 1e4).bounds(weights)


def test_sets_are_frozen_and_survive_copies():
    rng, reward, wins = random_problem(4)
    data = counts_of(wins)
    weights = balanced(rng, reward.shape)
    table = tabular_likelihood_set(data, 0.1)
    finite = finite_likelihood_set(data, FiniteClass(reward[None]), 0.1)
    for found in (table, finite):
        for twin in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert twin.bounds(weights) == found.bounds(weights)
    for array in (table.reward, finite.members, finite.log_likelihood):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
