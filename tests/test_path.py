import copy
import dataclasses
import itertools
import math
import pickle
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from rlhfsim.coverage import concentrability
from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)
from rlhfsim.instances import random_bandit
from rlhfsim.solvers import SolverError, solve
from rlhfsim.solvers.high_precision import solve_high_precision
from rlhfsim.solvers.path import (
    BestBeta,
    EnclosureError,
    best_beta,
    chi_squared_path,
    enclosure,
)
from rlhfsim.solvers.path.best import _scaled_problem
from rlhfsim.solvers.path.sums import running_sum

EPS = np.finfo(float).eps
MIXED = ChiSquared() + KL()
SMOOTH = (KL(), MIXED, ChiSquared() + 0.01 * KL(), 0.3 * ChiSquared() + 7 * KL())
OTHERS = (
    ForwardKL(),
    SquaredHellinger(),
    JensenShannon(),
    AlphaDivergence(0.5),
    AlphaDivergence(1.5),
    ForwardKL() + ChiSquared(),
)
EVERY = (*SMOOTH, ChiSquared(), 2.5 * ChiSquared())


def problems(seed, count, *, prompts=4, responses=7, decades=3.0):
    """Gold, learned reward, reference, prompt weights; ties and zeros now and then."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        shape = (int(rng.integers(1, prompts + 1)), int(rng.integers(1, responses + 1)))
        scale = 10.0 ** rng.uniform(-decades, decades, size=(shape[0], 1))
        learned, gold = rng.normal(size=shape) * scale, rng.normal(size=shape)
        if rng.random() < 0.3:
            learned = scale * rng.integers(0, 3, shape)
        reference = rng.dirichlet(np.full(shape[1], rng.choice([0.3, 1.0])), size=shape[0]) + 1e-12
        if shape[1] > 1 and rng.random() < 0.3:
            reference[:, rng.integers(shape[1])] = 0.0
        reference /= reference.sum(axis=1, keepdims=True)
        yield gold, learned, reference, rng.dirichlet(np.ones(shape[0]))


def spread_of(gold, reference):
    return np.ptp(np.where(reference > 0, gold, gold[:, reference.argmax(axis=1)[0]][:, None]))


# ---- rational arithmetic -------------------------------------------------------------------------


def exact_policy(rewards, masses, beta):
    """Of all upper sets of the reward, the one that satisfies the optimality conditions."""
    found = []
    for level in {r for r, p in zip(rewards, masses, strict=True) if p > 0}:
        active = [i for i, r in enumerate(rewards) if r >= level and masses[i] > 0]
        mass = sum(masses[i] for i in active)
        mean = sum(masses[i] * rewards[i] for i in active) / mass
        multiplier = mean + beta * (mass - 1) / mass
        scores = [1 + (r - multiplier) / beta for r in rewards]
        outside = [i for i in range(len(rewards)) if i not in active and masses[i] > 0]
        if all(scores[i] > 0 for i in active) and all(scores[i] <= 0 for i in outside):
            found.append([p * max(s, 0) for p, s in zip(masses, scores, strict=True)])
    assert len(found) == 1
    return found[0]


def exact_divergence(policy, masses):
    terms = [(pi - p) ** 2 / p for pi, p in zip(policy, masses, strict=True) if p > 0]
    return sum(terms) / 2


RATIONAL = {
    "generic": ([3, 1, 2, -1], [1, 2, 3, 2], [1, -2, 5, 4]),
    "ties": ([2, 2, 1, 1, 0], [1, 3, 2, 1, 1], [0, 4, 1, -1, 3]),
    "zeros": ([9, 1, 0, 5], [0, 3, 3, 2], [7, 1, 2, 0]),
    "single": ([4], [8], [3]),
    "equal": ([1, 1, 1], [2, 2, 4], [3, 0, 1]),
    "one level twice": ([1, 0, 1, 0], [1, 1, 2, 4], [1, 2, 3, 4]),
    "large offset": ([2**30 + 1, 2**30, 2**30 + 3], [2, 1, 5], [2**30, 2**30 + 7, 2**30 - 1]),
    "many": (list(range(9)), [16, 8, 8, 4, 4, 8, 8, 4, 4], [(7 * i) % 9 for i in range(9)]),
}


@pytest.mark.parametrize("case", RATIONAL, ids=str)
def test_rational_arithmetic(case):
    rewards, weights, gold = RATIONAL[case]
    total = sum(weights)
    masses = [Fraction(w, total) for w in weights]
    assert [Fraction(float(m)) for m in masses] == masses  # exact in floats, so nothing is hidden
    path = chi_squared_path(rewards, [float(m) for m in masses])
    value, cost = path.value(gold), path.divergence()

    exits = {
        sum(p * (r - rewards[k]) for p, r in zip(masses, rewards, strict=True) if r > rewards[k])
        for k in range(len(rewards))
        if masses[k] > 0
    } - {0}
    exits = sorted(exits, reverse=True)
    assert path.betas.tolist() == [float(x) for x in exits]
    assert path.breakpoints.tolist() == [1 / float(x) for x in exits]
    assert value.betas.tolist() == cost.betas.tolist() == path.betas.tolist()

    def expected(beta):
        policy = exact_policy(rewards, masses, beta)
        return policy, sum(pi * g for pi, g in zip(policy, gold, strict=True))

    base = sum(p * g for p, g in zip(masses, gold, strict=True))
    reach = max(gold) - min(gold)
    for beta in exits + [x * Fraction(n, 8) for x in exits for n in (1, 5, 7, 9, 40)]:
        policy, mean = expected(beta)
        number = float(beta)
        np.testing.assert_allclose(
            path.policy(number), [float(x) for x in policy], rtol=4 * EPS, atol=4 * EPS
        )
        assert abs(Fraction(float(value.gain(number))) - (mean - base)) <= 4 * EPS * reach
        assert abs(Fraction(float(value(number))) - mean) <= 4 * EPS * (reach + abs(base))
        assert cost(number) == pytest.approx(float(exact_divergence(policy, masses)), rel=8 * EPS)

    ends = [exits[0] * 3, *exits, exits[-1] / 3] if exits else [Fraction(3), Fraction(1, 3)]
    for segment, (right, left) in enumerate(itertools.pairwise(ends)):
        points = [left + (right - left) * Fraction(k, 3) for k in (1, 2)]
        (_, one), (_, two) = (expected(beta) for beta in points)
        slope = (one - two) / (1 / points[0] - 1 / points[1])
        middle = float(points[0])
        assert value.segment(middle) == segment
        # dJ/dtau has the size of a covariance of the two rewards.
        size = reach * (max(rewards) - min(rewards))
        assert abs(Fraction(float(value.derivative(middle))) - slope) <= 4 * EPS * size
        active = {i for i, pi in enumerate(expected(points[0])[0]) if pi > 0}
        assert set(path.order[: path.active_size(middle)].tolist()) == active
    assert value.constant.size == len(exits) + 1


@given(
    rewards=st.lists(st.integers(-4, 4), min_size=6, max_size=6),
    weights=st.lists(st.integers(0, 9), min_size=6, max_size=6).filter(lambda w: sum(w) > 0),
    gold=st.lists(st.integers(-9, 9), min_size=6, max_size=6),
    beta=st.fractions(Fraction(1, 50), Fraction(50), max_denominator=64),
)
def test_rational_arithmetic_on_random_problems(rewards, weights, gold, beta):
    weights[-1] += 64 - sum(weights)  # a sum of 64 keeps the masses exact
    masses = [Fraction(w, 64) for w in weights]
    beta = Fraction(float(beta))
    policy = exact_policy(rewards, masses, beta)
    path = chi_squared_path(rewards, [float(m) for m in masses])
    mean = sum((pi - p) * g for pi, p, g in zip(policy, masses, gold, strict=True))
    size = (max(gold) - min(gold)) * (1 + math.log(64))
    assert abs(Fraction(float(path.value(gold).gain(float(beta)))) - mean) <= 4 * EPS * size
    cost = float(exact_divergence(policy, masses))
    assert path.divergence()(float(beta)) == pytest.approx(cost, rel=16 * EPS, abs=0)


# ---- against solve and mpmath --------------------------------------------------------------------


def neighbourhood(betas):
    return np.concatenate([np.nextafter(betas, 0), betas, np.nextafter(betas, np.inf)])


def test_agrees_with_solve_on_grids_and_around_every_breakpoint():
    checked = 0
    for gold, learned, reference, rho in problems(0, 40):
        path = chi_squared_path(learned, reference)
        value, cost = path.value(gold, rho), path.divergence(rho)
        betas = np.concatenate([np.geomspace(1e-5, 1e5, 41), neighbourhood(path.betas)])
        grid = betas[:, None]
        theirs, ours = solve(learned, reference, ChiSquared(), grid), path.solution(grid)
        np.testing.assert_allclose(ours.policy, theirs.policy, rtol=1e-13, atol=8 * EPS)
        unit = 32 * EPS * (np.abs(learned).max() + grid)
        assert np.all(np.abs(ours.multiplier - theirs.multiplier) <= unit)
        assert np.all(np.abs(ours.value - theirs.value) <= unit)
        assert np.array_equal(path.policy(grid), ours.policy)
        assert np.array_equal(path.multiplier(grid), ours.multiplier)
        baseline = (reference * gold).sum(axis=-1)
        gains = ((theirs.policy * (gold - baseline[:, None])).sum(axis=-1) * rho).sum(axis=-1)
        size = spread_of(gold, reference)
        np.testing.assert_allclose(value.gain(betas), gains, rtol=0, atol=32 * EPS * size)
        np.testing.assert_allclose(value(betas) - gains, rho @ baseline, atol=64 * EPS * size)
        spent = ChiSquared()(theirs.policy, reference, rho)
        # The second computation loses digits near w = 1.
        slack = 1e-12 * spent + 32 * EPS * np.sqrt(spent)
        assert np.all(np.abs(cost(betas) - spent) <= slack + 1e-26)
        sizes = path.active_size(grid)
        # What rounding leaves at a breakpoint is not active.
        assert np.all((theirs.policy > 1e-6 * reference).sum(axis=-1) <= sizes)
        assert np.array_equal((theirs.policy[:41] > 0).sum(axis=-1), sizes[:41])
        checked += path.betas.size
    assert checked > 200


def test_agrees_with_mpmath_where_masses_are_tiny_and_offsets_large():
    rng = np.random.default_rng(1)
    for _ in range(25):
        size = int(rng.integers(2, 7))
        reference = rng.dirichlet(np.ones(size))
        reference[rng.integers(size)] = 10.0 ** -rng.uniform(0, 300)
        reference[rng.integers(size)] = 1e-300
        reference /= reference.sum()
        offset = float(rng.choice([0.0, 2.0**30]))
        learned = offset + rng.integers(-1000, 1000, size) / 256.0
        gold = offset + rng.integers(-1000, 1000, size) / 256.0
        path = chi_squared_path(learned, reference)
        value, cost = path.value(gold), path.divergence()
        for beta in [*path.betas, *(path.betas * 0.7), 1e-3, 1.0, 1e3]:
            truth = solve_high_precision(learned, reference, ChiSquared(), beta, digits=40)
            with mp.workdps(400):
                p = [mp.mpf(x) for x in reference]
                gain = sum(
                    (pi - q / sum(p)) * mp.mpf(g)
                    for pi, q, g in zip(truth.policy, p, gold, strict=True)
                )
                spent = sum((pi - q) ** 2 / (2 * q) for pi, q in zip(truth.policy, p, strict=True))
                reach = float(np.ptp(gold)) * (1 - math.log(reference[path.order[0]]))
                assert abs(mp.mpf(float(value.gain(beta))) - gain) <= 8 * EPS * reach
                assert abs(mp.mpf(float(cost(beta))) - spent) <= 1e-14 * spent + 1e-30


def test_offsets_cost_nothing():
    for gold, learned, reference, rho in problems(2, 20, decades=0):
        gold, learned = np.round(gold * 2**20) / 2**20, np.round(learned * 2**20) / 2**20
        path, shifted = (chi_squared_path(learned + c, reference) for c in (0, 2.0**30))
        assert np.array_equal(path.betas, shifted.betas)
        value, moved = path.value(gold, rho), shifted.value(gold + 2.0**30, rho)
        for name in ("constant", "slope", "betas"):
            assert np.array_equal(getattr(value, name), getattr(moved, name))
        grid = np.geomspace(1e-3, 1e3, 9)
        assert np.array_equal(path.policy(grid[:, None]), shifted.policy(grid[:, None]))
        for divergence in (KL(), MIXED, ChiSquared()):
            best = best_beta(gold, learned, reference, divergence, rho)
            again = best_beta(gold + 2.0**30, learned + 2.0**30, reference, divergence, rho)
            unit = 64 * EPS * np.ptp(gold)
            assert again.gain == pytest.approx(best.gain, rel=0, abs=unit)
            assert again.beta == pytest.approx(best.beta, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_extreme_scales(scale):
    learned, reference, gold = np.array([1.0, 0.5, -0.5]), [1e-200, 0.5, 0.5], [1.0, 3.0, 2.0]
    plain, scaled = (chi_squared_path(learned * s, reference) for s in (1.0, scale))
    for share in (1e-3, 0.3, 1.0, 20.0):
        np.testing.assert_allclose(scaled.policy(share * scale), plain.policy(share), rtol=1e-14)
        for curve in ("value", "divergence"):
            arguments = (gold,) if curve == "value" else ()
            one, two = (getattr(path, curve)(*arguments) for path in (plain, scaled))
            assert two(share * scale) == pytest.approx(float(one(share)), rel=1e-13)
    reference = [0.01, 0.5, 0.49]
    for divergence in (KL(), ChiSquared()):
        one, two = (best_beta(gold, learned * s, reference, divergence) for s in (1.0, scale))
        assert two.gain == pytest.approx(one.gain, rel=1e-12)
        assert two.beta / scale == pytest.approx(one.beta, rel=1e-6)


def test_limits_of_beta():
    path = chi_squared_path([2.0, 2.0, 1.0, 9.0], [0.1, 0.3, 0.6, 0.0])
    np.testing.assert_allclose(path.policy(0.0), [0.25, 0.75, 0, 0], rtol=1e-15)
    np.testing.assert_allclose(path.policy(np.inf), [0.1, 0.3, 0.6, 0], rtol=1e-15)
    value, cost = path.value([4.0, 8.0, 1.0, 100.0]), path.divergence()
    assert value(0.0) == pytest.approx(7.0, rel=1e-15)
    assert value(np.inf) == pytest.approx(3.4, rel=1e-15)
    assert (value.gain(np.inf), value.derivative(0.0)) == (0.0, 0.0)
    assert cost(0.0) == pytest.approx(0.5 * (1 / 0.4 - 1), rel=1e-15)
    assert cost(np.inf) == pytest.approx(0.0, abs=1e-30)
    assert path.active_size([np.inf, 1.0, 1e-9, 0.0]).tolist() == [3, 3, 2, 2]
    assert float(path.breakpoints[0]) == pytest.approx(1 / 0.4, rel=2 * EPS)


def test_derivatives_are_differences():
    for gold, learned, reference, rho in problems(3, 15, decades=0):
        path = chi_squared_path(learned, reference)
        for curve in (path.value(gold, rho), path.divergence(rho)):
            ends = np.concatenate([[0.0], curve.breakpoints])
            for left, right in itertools.pairwise(ends):
                one, two, three = (left + (right - left) * np.array([0.25, 0.5, 0.75])).tolist()
                rise = (curve(1 / three) - curve(1 / one)) / (three - one)
                slack = 1e-14 * max(abs(float(curve.gain(1 / three))), 1) / (three - one)
                assert curve.derivative(1 / two) == pytest.approx(rise, rel=1e-8, abs=slack)


def test_batches_equal_loops():
    rng = np.random.default_rng(4)
    learned, gold = rng.normal(size=(2, 5, 60)), rng.normal(size=(5, 60))
    reference, rho = rng.dirichlet(np.ones(60), size=5), rng.dirichlet(np.ones(5))
    path = chi_squared_path(learned, reference)
    beta = rng.uniform(0.01, 1, size=(2, 5))
    policy, multiplier = path.policy(beta), path.multiplier(beta)
    for batch in range(2):
        value, cost = path[batch].value(gold, rho), path[batch].divergence(rho)
        for x in range(5):
            one = chi_squared_path(learned[batch, x], reference[x])
            inner = path[batch, x]
            # The unit of the exits is that of the batch: a power of 2.
            assert np.array_equal(one.betas, inner.betas)
            assert np.array_equal(one.policy(beta[batch, x]), policy[batch, x])
            assert one.multiplier(beta[batch, x]) == multiplier[batch, x]
        for b in (1e-3, 0.05, 0.4, 3.0):
            each = [path[batch][x].value(gold[x]).gain(b) for x in range(5)]
            assert value.gain(b) == pytest.approx(rho @ each, rel=1e-13, abs=1e-15)
            spent = [path[batch, x].divergence()(b) for x in range(5)]
            assert cost(b) == pytest.approx(rho @ spent, rel=1e-13)
    assert path[0].betas.size == 5 * 59
    assert np.array_equal(path[1, 2:4].reward, learned[1, 2:4])
    with pytest.raises(IndexError, match="3 indices for 2 prompt axes"):
        path[0, 0, 0]


def test_prompts_of_weight_zero_do_not_count():
    gold, learned = np.array([[1.0, 0.0], [5.0, 1e9]]), np.array([[1.0, 0.0], [1e200, 0.0]])
    reference = np.full((2, 2), 0.5)
    path = chi_squared_path(learned, reference)
    alone = chi_squared_path(learned[0], reference[0])
    assert np.array_equal(path.value(gold, [1.0, 0.0]).betas, alone.value(gold[0]).betas)
    for divergence in (KL(), ChiSquared()):
        both = best_beta(gold, learned, reference, divergence, [1.0, 0.0])
        assert both == best_beta(gold[0], learned[0], reference[0], divergence)


def test_one_level_has_no_breakpoints():
    path = chi_squared_path([[3.0, 3.0, 7.0]], [[0.5, 0.5, 0.0]])
    value, cost = path.value([[1.0, 5.0, 9.0]]), path.divergence()
    assert path.betas.size == value.betas.size == 0
    for beta in (0.0, 1e-9, 1.0, 1e9, np.inf):
        assert value(beta) == 3.0
        assert cost(beta) == 0.0
        assert path.policy(beta).tolist() == [[0.5, 0.5, 0.0]]
    for divergence in EVERY:
        best = best_beta([1.0, 5.0, 9.0], [3.0, 3.0, 7.0], [0.5, 0.5, 0.0], divergence)
        assert (best.beta, best.value, best.intervals) == (np.inf, 3.0, ((0.0, np.inf),))
        assert (best.divergence, best.kl, best.concentrability) == (0.0, 0.0, 1.0)


def test_paths_are_frozen_and_survive_pickling():
    learned, reference = np.array([[1.0, 0.0, 0.5]]), np.array([[0.2, 0.3, 0.5]])
    before = learned.copy(), reference.copy()
    path = chi_squared_path(learned, reference)
    value = path.value([[1.0, 2.0, 3.0]])
    assert np.array_equal(learned, before[0])
    assert np.array_equal(reference, before[1])
    for again in (pickle.loads(pickle.dumps(path)), copy.deepcopy(path)):
        assert np.array_equal(again.policy(0.1), path.policy(0.1))
        with pytest.raises(ValueError, match="read-only"):
            again.exits[0] = 0
    assert pickle.loads(pickle.dumps(value))(0.1) == value(0.1)
    learned[0, 0] = 99.0
    assert path.reward[0, 0] == 1.0


def test_a_wrong_path_fails_its_certificate():
    path = chi_squared_path([1.0, 0.0, 0.3], [0.2, 0.5, 0.3])
    wrong = dataclasses.replace(path, mass=path.mass * (1 + 1e-9))
    with pytest.raises(SolverError, match="no certified optimum"):
        wrong.solution(0.2)
    # Exits that are too large drop responses too early: feasible, and not optimal.
    early = dataclasses.replace(path, exits=path.exits * 1.2)
    beta = float(path.betas[0]) * 1.1
    assert path.active_size(beta) == 3
    assert early.active_size(beta) == 2
    with pytest.raises(SolverError, match="no certified optimum"):
        early.solution(beta)


@pytest.mark.parametrize("size", [1, 2, 47, 48, 49, 50, 1000, 2311])
def test_running_sums_are_correctly_rounded_to_an_ulp(size):
    rng = np.random.default_rng(size)
    terms = rng.normal(size=(2, size)) * 10.0 ** rng.uniform(-12, 12, size=(2, size))
    terms[1] = np.abs(terms[1])
    sums = running_sum(terms)
    for row, got in zip(terms, sums, strict=True):
        expected = np.array([math.fsum(row[: k + 1]) for k in range(size)])
        np.testing.assert_allclose(got, expected, rtol=2 * EPS)


# ---- the best beta, exactly ----------------------------------------------------------------------


def gains_on(grid, gold, learned, reference, divergence, rho):
    """J(beta) - J(p), from `solve`."""
    policy = solve(learned, reference, divergence, grid[:, None]).policy
    relative = gold - (reference * gold).sum(axis=-1, keepdims=True)
    return ((policy * np.where(reference > 0, relative, 0.0)).sum(axis=-1) * rho).sum(axis=-1)


def assert_unbeaten(best, grid, gains, unit):
    """No beta beats the upper bound, and none outside the intervals the best value."""
    assert isinstance(best, BestBeta)
    assert best.gain_lower <= best.gain_upper
    assert best.value_lower <= best.value_upper
    assert np.all(gains <= best.gain_upper + unit)
    assert best.gain >= gains.max() - (best.gain_upper - best.gain_lower) - unit
    inside = np.zeros(grid.shape, dtype=bool)
    for low, high in best.intervals:
        assert low <= high
        inside |= (grid >= low) & (grid <= high)
    assert np.all(gains[~inside] <= best.gain + unit)
    assert (best.beta_low, best.beta_high) == (best.intervals[0][0], best.intervals[-1][1])
    assert any(low <= best.beta <= high for low, high in best.intervals)


@pytest.mark.parametrize("divergence", EVERY, ids=repr)
def test_nothing_on_dense_grids_beats_the_best_beta(divergence):
    interior = 0
    for gold, learned, reference, rho in problems(5, 12):
        best = best_beta(gold, learned, reference, divergence, rho)
        unit = 64 * EPS * spread_of(gold, reference)
        grid = np.geomspace(1e-7, 1e7, 1001)
        gains = gains_on(grid, gold, learned, reference, divergence, rho)
        assert_unbeaten(best, grid, gains, unit)
        assert best.gain_upper - best.gain_lower <= 1e-10 * spread_of(gold, reference) + unit
        if 0 < best.beta < np.inf:
            interior += 1
            policy = solve(learned, reference, divergence, best.beta).policy
            there = gains_on(np.array([best.beta]), gold, learned, reference, divergence, rho)
            assert best.gain == pytest.approx(there[0], rel=0, abs=unit)
            assert best.value == pytest.approx(rho @ (policy * gold).sum(axis=-1), abs=2 * unit)
            assert best.divergence == pytest.approx(divergence(policy, reference, rho), rel=1e-9)
            assert best.kl == pytest.approx(KL()(policy, reference, rho), rel=1e-9)
            assert best.concentrability == pytest.approx(
                concentrability(policy, reference, rho), rel=1e-9
            )
    assert interior >= 3


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), divergence=st.sampled_from(EVERY))
def test_no_random_beta_beats_it(seed, divergence):
    ((gold, learned, reference, rho),) = problems(seed, 1, decades=1.0)
    rng = np.random.default_rng(seed)
    low, high = np.sort(10.0 ** rng.uniform(-4, 4, size=2))
    best = best_beta(gold, learned, reference, divergence, rho, low=low, high=high)
    assert low <= best.beta_low <= best.beta_high <= high
    grid = np.concatenate([[low, high], rng.uniform(low, high, 50), np.geomspace(low, high, 50)])
    grid = np.clip(grid, low, high)
    gains = gains_on(grid, gold, learned, reference, divergence, rho)
    assert_unbeaten(best, grid, gains, 64 * EPS * spread_of(gold, reference))


def test_chi_squared_peak_by_hand():
    # Exits 0, 0.2, 1.2; gold 1.1 at beta = inf, 1.5 at 1.2 and 1 at 0.2 and below.
    best = best_beta([1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.2, 0.3, 0.5], ChiSquared())
    assert best.beta == pytest.approx(1.2, rel=2 * EPS)
    assert best.value == pytest.approx(1.5, rel=4 * EPS)
    assert best.gain == pytest.approx(0.7, rel=4 * EPS)
    assert best.divergence == pytest.approx(0.5 * (0.25 / 0.2 + 0.25 / 0.3 - 1), rel=8 * EPS)
    assert best.kl == pytest.approx(0.5 * math.log(2.5) + 0.5 * math.log(5 / 3), rel=8 * EPS)
    assert best.concentrability == pytest.approx(1 + 2 * best.divergence, rel=4 * EPS)
    weighted = best_beta([1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.2, 0.3, 0.5], 4 * ChiSquared())
    assert weighted.beta == pytest.approx(0.3, rel=2 * EPS)
    assert weighted.divergence == pytest.approx(4 * best.divergence, rel=4 * EPS)


def test_flat_tops_are_reported_whole():
    # Two responses of equal gold are best: all beta between their exits are.
    gold, learned, reference = [1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.25, 0.25, 0.5]
    best = best_beta(gold, learned, reference, ChiSquared())
    assert best.intervals == ((0.0, 0.75),)
    assert (best.beta, best.value) == (0.75, 1.0)
    # A response of mass 0 that would be best is not there, and ties leave together.
    gold, learned, reference = [0.0, 1.0, 1.0, 0.0], [9.0, 1.0, 1.0, 0.0], [0.0, 0.25, 0.25, 0.5]
    best = best_beta(gold, learned, reference, ChiSquared())
    assert best.intervals == ((0.0, 0.5),)
    # Nothing to gain: p itself is best.
    best = best_beta([0.0, 1.0], [1.0, 0.0], [0.5, 0.5], ChiSquared())
    assert (best.beta, best.gain, best.intervals) == (np.inf, 0.0, ((np.inf, np.inf),))
    # Two tops of equal height: J = g_0 from 1/8 down, and (3 g_0 + 2 g_1 + 2 g_2)/7 at 7/8.
    best = best_beta([1, 0, 2, 0], [3, 2, 1, 0], [0.125, 0.125, 0.25, 0.5], ChiSquared())
    assert best.intervals == ((0.0, 0.125), (0.875, 0.875))
    assert (best.beta, best.beta_low, best.beta_high) == (0.875, 0.0, 0.875)
    assert best.value == pytest.approx(1.0, rel=4 * EPS)


def test_the_end_of_a_given_interval_can_be_best():
    arguments = [1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.2, 0.3, 0.5]
    for divergence in EVERY:
        free = best_beta(*arguments, divergence)
        above = best_beta(*arguments, divergence, low=2 * free.beta_high)
        assert above.beta == 2 * free.beta_high
        assert above.gain < free.gain
        below = best_beta(*arguments, divergence, high=0.5 * free.beta_low)
        assert below.beta == 0.5 * free.beta_low
        point = best_beta(*arguments, divergence, low=0.7, high=0.7)
        assert point.intervals == ((0.7, 0.7),)
        policy = solve(arguments[1], arguments[2], divergence, 0.7).policy
        assert point.value == pytest.approx(policy @ arguments[0], rel=1e-14)


# ---- branch and bound ----------------------------------------------------------------------------


def two_scales(gold_of_second, scale):
    """Two prompts that overoptimize at beta of different orders of magnitude."""
    learned = np.array([[2.0, 1.0, 0.0], [2 * scale, scale, 0.0]])
    gold = np.array([[0.8, 1.0, 0.0], [gold_of_second, 1.0, 0.0]])
    return gold, learned, np.array([[0.01, 0.3, 0.69]] * 2), np.array([0.7, 0.3])


@pytest.mark.parametrize("divergence", [KL(), MIXED], ids=repr)
def test_two_peaks_where_a_plain_minimiser_ends_on_the_lower_one(divergence):
    gold, learned, reference, rho = two_scales(-3.0, 1e-3)
    grid = np.geomspace(1e-5, 1e3, 2001)
    gains = gains_on(grid, gold, learned, reference, divergence, rho)
    inner = gains[1:-1]
    peaks = np.flatnonzero((inner > gains[:-2] + 1e-9) & (inner > gains[2:] + 1e-9)) + 1
    assert peaks.size == 2

    def loss(log_beta):
        return -gains_on(np.exp([log_beta]), gold, learned, reference, divergence, rho)[0]

    bounds = math.log(1e-6), math.log(1e4)
    plain = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    best = best_beta(gold, learned, reference, divergence, rho, low=1e-6, high=1e4)
    higher, lower = sorted(peaks, key=lambda i: -gains[i])
    assert math.exp(plain.x) == pytest.approx(grid[lower], rel=0.02)
    assert best.beta == pytest.approx(grid[higher], rel=0.02)
    assert best.gain > -plain.fun + 0.01
    assert_unbeaten(best, grid, gains, 1e-14)
    assert best.gain_upper - best.gain <= 1e-9
    assert best.evaluations < 200


def test_many_peaks():
    scales = 10.0 ** np.arange(-4, 5, 2)
    learned = np.array([2.0, 1.0, 0.0]) * scales[:, None]
    gold = np.array([[0.5, 1.0, 0.0]] * 5)
    reference, rho = np.array([[0.01, 0.3, 0.69]] * 5), np.full(5, 0.2)
    for divergence in (KL(), MIXED, ChiSquared()):
        grid = np.geomspace(1e-8, 1e8, 6001)
        gains = gains_on(grid, gold, learned, reference, divergence, rho)
        inner = gains[1:-1]
        assert ((inner > gains[:-2] + 1e-9) & (inner > gains[2:] + 1e-9)).sum() >= 3
        best = best_beta(gold, learned, reference, divergence, rho)
        assert_unbeaten(best, grid, gains, 1e-14)
        assert best.gain_upper - best.gain <= 1e-9


@pytest.mark.parametrize("gamma", [None, 1.0, 0.05])
def test_enclosures_hold_in_high_precision(gamma):
    """The stationary point to 30 digits, from the covariance of the two rewards."""
    divergence = KL() if gamma is None else ChiSquared() + gamma * KL()
    rng = np.random.default_rng(6)
    for _ in range(3):
        learned = np.array([2.0, 1.0, 0.0, -1.0]) + rng.uniform(-0.2, 0.2, 4)
        gold, reference = [0.2, 1.0, 0.0, 0.1], rng.dirichlet([0.5, 2, 2, 2])
        best = best_beta(gold, learned, reference, divergence, tolerance=1e-13)
        assert 0 < best.beta < np.inf

        def slope(beta, learned=learned, reference=reference, gold=gold):
            truth = solve_high_precision(learned, reference, divergence, float(beta), digits=30)
            speeds = [
                pi if gamma is None else pi / (pi / mp.mpf(q) + mp.mpf(gamma))
                for pi, q in zip(truth.policy, reference, strict=True)
            ]
            whole = sum(speeds)
            mean = sum(v * mp.mpf(r) for v, r in zip(speeds, learned, strict=True)) / whole
            terms = zip(speeds, learned, gold, strict=True)
            return sum(v * (mp.mpf(r) - mean) * mp.mpf(g) for v, r, g in terms), truth

        width = 1e-9
        left, right = (slope(best.beta * (1 + s * width))[0] for s in (-1, 1))
        assert left < 0 < right or right < 0 < left  # the root is within 1e-9 of beta
        policy = slope(best.beta)[1].policy
        value = sum(pi * mp.mpf(g) for pi, g in zip(policy, gold, strict=True))
        # J at its top is flat: this beta has the largest value to 1e-18.
        assert best.value_lower <= value <= best.value_upper
        assert best.beta_low < best.beta < best.beta_high
        assert best.beta_high - best.beta_low < 1e-4 * best.beta


@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
def test_slopes_stay_within_the_bounds_of_theorem_b(divergence):
    rng = np.random.default_rng(7)
    tight = 0
    for gold, learned, reference, rho in problems(8, 16, decades=1.0):
        gold = gold - (reference * gold).sum(axis=-1, keepdims=True)
        problem, _ = _scaled_problem(gold, learned, reference, rho, divergence)
        start = 10.0 ** rng.uniform(-1, 2)
        for width in (3.0, 0.3, 1e-2, 1e-4):
            left, right = (enclosure.evaluate(problem, t) for t in (start, start * (1 + width)))
            low, high = enclosure._slope_range(problem, left, right)
            box = enclosure.bounded(problem, left, right)
            least, most = enclosure._speed_range(problem, left, right)
            for share in rng.uniform(0, 1, 5):
                inner = enclosure.evaluate(problem, left.tau + share * (right.tau - left.tau))
                assert np.all(least <= inner.speed + inner.speed_error)
                assert np.all(inner.speed - inner.speed_error <= most)
                each = _slopes(problem, inner.tau)
                slack = 1e-12 * np.abs(gold).max()
                assert np.all(low <= each + slack)
                assert np.all(each <= high + slack)
                assert inner.total <= box.bound + 2 * inner.error
                # Theorem A
                climb = right.rise - left.rise
                drop = right.fall - left.fall
                assert np.all(inner.value <= left.value + climb + 1e-13)
                assert np.all(inner.value <= right.value + drop + 1e-13)
                assert np.all(left.centre - left.centre_error <= inner.centre + inner.centre_error)
                assert np.all(inner.centre - inner.centre_error <= right.centre + 1e-14)
            difference = (right.value - left.value) / (right.tau - left.tau)
            noise = 1e-13 * np.abs(gold).max() / (right.tau - left.tau)
            assert np.all(low - noise <= difference)
            assert np.all(difference <= high + noise)
            if width == 1e-4:
                size = np.abs(_slopes(problem, left.tau)).max() + 1e-30
                tight += bool((high - low).max() < 0.1 * size)
    assert tight >= 8


def _slopes(problem, tau):
    """Equation (1), per prompt."""
    node = enclosure.evaluate(problem, tau)
    r, g, v = problem.reward_hat, problem.gold, node.speed
    centre = (v * r).sum(axis=-1, keepdims=True) / v.sum(axis=-1, keepdims=True)
    return (v * (r - centre) * g).sum(axis=-1)


@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
def test_the_slope_formula_is_the_derivative(divergence):
    for gold, learned, reference, rho in problems(9, 10, decades=0.0):
        problem, _ = _scaled_problem(gold, learned, reference, rho, divergence)
        for tau in (0.1, 1.0, 5.0):
            h = 1e-4 * tau
            values = [(problem.policy(tau + k * h) * gold).sum(axis=-1) for k in (-2, -1, 1, 2)]
            derivative = (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h)
            slopes = _slopes(problem, tau)
            np.testing.assert_allclose(slopes, derivative, rtol=1e-7, atol=1e-10)
            total = enclosure.evaluate(problem, tau).slope
            assert total == pytest.approx(rho @ slopes, rel=1e-9, abs=1e-12)


class Own(Divergence):
    """`f' = 1 - 1/t`, the forward KL, by somebody who wrote only what is needed."""

    recession = 1.0

    def perspective(self, policy, reference):
        ratio = np.asarray(policy, float) / reference
        with np.errstate(divide="ignore"):
            return reference * (-np.log(ratio) + ratio - 1)

    def link(self, ratio):
        with np.errstate(divide="ignore"):
            return 1 - 1 / np.asarray(ratio, float)

    def link_slope(self, ratio):
        with np.errstate(divide="ignore"):
            return 1 / np.asarray(ratio, float) ** 2

    def inverse_link(self, score):
        score = np.asarray(score, float)
        return np.where(score < 1, 1 / np.where(score < 1, 1 - score, 1), np.inf)


class Declared(Own):
    convex_inverse_link = True


@pytest.mark.parametrize("divergence", OTHERS, ids=repr)
def test_other_divergences(divergence):
    assert enclosure.has_convex_inverse_link(divergence)
    for gold, learned, reference, rho in problems(10, 3, decades=1.0):
        if math.isfinite(divergence.recession):
            learned = np.where(reference > 0, learned, learned.min())
        best = best_beta(gold, learned, reference, divergence, rho, low=1e-3, high=1e3)
        grid = np.geomspace(1e-3, 1e3, 301)
        gains = gains_on(grid, gold, learned, reference, divergence, rho)
        assert_unbeaten(best, grid, gains, 1e-12)


def test_which_inverse_links_are_convex():
    """By second differences of the inverse links themselves."""
    ratio = np.array([0.3, 0.31, 0.32])
    for divergence in (*SMOOTH, *OTHERS, AlphaDivergence(2.5), AlphaDivergence(3.0)):
        bend = np.diff(np.diff(ratio) / np.diff(divergence.link(ratio)))[0]
        assert enclosure.has_convex_inverse_link(divergence) == (bend >= 0)
    assert not enclosure.has_convex_inverse_link(Own())
    assert not enclosure.has_convex_inverse_link(KL() + AlphaDivergence(3.0))


def test_a_divergence_of_ones_own():
    gold, learned, reference = [0.2, 1.0, 0.0], [2.0, 1.0, 0.0], [0.1, 0.3, 0.6]
    sharp = best_beta(gold, learned, reference, Declared(), low=1e-3)
    grid = np.geomspace(1e-3, 1e4, 4001)
    problem = [np.array([a]) for a in (gold, learned, reference)]
    gains = gains_on(grid, *problem, Own(), np.ones(1))
    assert_unbeaten(sharp, grid, gains, 1e-13)
    assert sharp.gain_upper - sharp.gain_lower < 1e-9
    loose = best_beta(gold, learned, reference, Own(), low=1e-3, tolerance=1e-3)
    assert_unbeaten(loose, grid, gains, 1e-13)
    assert loose.gain_lower <= sharp.gain_upper
    assert sharp.gain_lower <= loose.gain_upper
    assert loose.gain_upper - loose.gain_lower < 1e-3
    with pytest.raises(EnclosureError, match="after 50 evaluations; tolerance 1e-10") as caught:
        best_beta(gold, learned, reference, Own(), low=1e-3, max_evaluations=50)
    wide = caught.value.best
    assert_unbeaten(wide, grid, gains, 1e-13)
    assert wide.gain_upper - wide.gain_lower > 1e-6
    assert pickle.loads(pickle.dumps(caught.value)).best == wide


def test_results_are_frozen():
    best = best_beta([1.0, 0.0], [1.0, 0.0], [0.5, 0.5], KL())
    with pytest.raises(dataclasses.FrozenInstanceError):
        best.beta = 1.0


# ---- errors --------------------------------------------------------------------------------------

R, P = [1.0, 0.0], [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chi_squared_path([1.0, math.nan], P), r"reward_hat\[1\] is nan; entries must be"),
        (lambda: chi_squared_path(R, [0.5, 0.6]), r"reference sums to 1\.1"),
        (lambda: chi_squared_path(R, [1.5, -0.5]), r"reference\[1\] is -0\.5; probabilities"),
        (lambda: chi_squared_path([1.0], P), r"last axes differ: reward_hat \(1,\), reference"),
        (
            lambda: chi_squared_path([1.7e308, -1.7e308], P),
            "reward_hat spans more than the largest",
        ),
        (
            lambda: chi_squared_path([R, [1.7e308, -1.7e308]], P),
            r"reward_hat\[1\] spans more than the largest",
        ),
        (lambda: chi_squared_path(R, P).policy(-1.0), r"beta is -1\.0; it must not be negative"),
        (lambda: chi_squared_path(R, P).policy(math.nan), r"beta is nan; it must not be negative"),
        (lambda: chi_squared_path(R, P).multiplier(0.0), r"beta is 0\.0; it must be positive"),
        (lambda: chi_squared_path(R, P).solution(math.inf), "beta is inf; entries must be finite"),
        (lambda: chi_squared_path([R] * 3, P).policy([1.0, 2.0]), "shapes do not broadcast"),
        (lambda: chi_squared_path(R, P).value([1.0]), r"last axes differ: reward \(1,\)"),
        (lambda: chi_squared_path(R, P).value([1.0, math.inf]), r"reward\[1\] is inf"),
        (lambda: chi_squared_path(R, P).value([1e200, 0.0]), r"reward spans more than 1e\+150"),
        (lambda: chi_squared_path([R] * 3, P).value(R), "prompt_dist is missing; with 3 prompts"),
        (lambda: chi_squared_path([R] * 3, P).divergence([0.5, 0.5]), "prompt_dist has shape"),
        (lambda: chi_squared_path([[R]], P).value(R), r"the path has prompt axes \(1, 1\); index"),
        (lambda: chi_squared_path(R, P).value(R)(-1.0), r"beta is -1\.0; it must not be negative"),
        (lambda: best_beta([math.nan, 0], R, P, KL()), r"reward\[0\] is nan"),
        (lambda: best_beta(R, [math.nan, 0], P, KL()), r"reward_hat\[0\] is nan"),
        (lambda: best_beta(R, R, [0.5, 0.4], KL()), r"reference sums to 0\.9"),
        (lambda: best_beta(R, R, P, "kl"), r"divergence is 'kl'; it must be a Divergence"),
        (lambda: best_beta([R] * 2, R, P, KL()), "prompt_dist is missing; with 2 prompts"),
        (lambda: best_beta([R] * 2, R, P, KL(), [1.0]), r"prompt_dist has shape \(1,\)"),
        (lambda: best_beta([[R]], R, P, KL()), r"broadcast to shape \(1, 1, 2\); it must be"),
        (lambda: best_beta(R, R, P, KL(), low=-1), r"low is -1\.0; it must not be negative"),
        (lambda: best_beta(R, R, P, KL(), low=2, high=1), r"low is 2\.0; it must be at most high"),
        (lambda: best_beta(R, R, P, KL(), high=[1, 2]), r"high has shape \(2,\); it must be one"),
        (lambda: best_beta(R, R, P, KL(), tolerance=-1), r"tolerance is -1\.0; it must be non-neg"),
        (lambda: best_beta(R, R, P, KL(), max_evaluations=1), "max_evaluations is 1; it must be"),
        (
            lambda: best_beta([1, 2, 3], [[0, 1, 2]], [[0.5, 0.5, 0.0]], ForwardKL()),
            r"reward_hat\[0, 2\] is 2\.0, above all where reference is positive; under",
        ),
        (lambda: best_beta([1e200, 0], R, P, KL()), r"reward spans 1e\+200 within a prompt"),
        (lambda: best_beta(R, [1.7e308, -1.7e308], P, KL()), "reward_hat spans inf within"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("divergence", [KL(), ChiSquared(), ChiSquared() + KL()])
def test_a_constant_learned_reward_makes_every_beta_the_best(divergence):
    bandit = random_bandit(3, 5, np.random.default_rng(5))
    best = best_beta(
        bandit.reward, np.zeros((3, 5)), bandit.reference, divergence, bandit.prompt_dist,
        low=1e-3, high=1e3,
    )  # fmt: skip
    assert best.intervals == ((1e-3, 1e3),)
    assert best.value == pytest.approx(bandit.value(bandit.reference), rel=1e-14)
