"""Problems in single precision: solved in double precision, stored in single.

The reference for every number is the optimum of the same problem with its entries cast to float64,
by the general route and, where the row sums allow it, by mpmath.
"""

import mpmath as mp
import numpy as np
import pytest

from rlhfsim import KL, ChiSquared, solve
from rlhfsim.divergences import SquaredHellinger
from rlhfsim.kernels import blocks, launch
from rlhfsim.solvers import exact, general
from rlhfsim.solvers.high_precision import solve_high_precision

EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)
DOUBLE = float(np.finfo(float).eps)
FIELDS = ("multiplier", "value", "gap", "feasibility", "tolerance")
KERNELS = (
    KL(), 0.3 * KL(), ChiSquared(), 7 * ChiSquared(),
    *(ChiSquared() + g * KL() for g in (1e-4, 0.1, 1.0, 10.0, 1e4)),
)  # fmt: skip
# One that no kernel does, one with a kernel's parts, and one with weights beyond the kernel's.
GENERAL = (SquaredHellinger(), ChiSquared() + SquaredHellinger(), ChiSquared() + 1e13 * KL())
ALL = (*KERNELS, *GENERAL)
EVERY = pytest.mark.parametrize("divergence", ALL, ids=repr)
SIZES = (1, 2, 3, 9, 127, 129, 513, 1025, 5000)


def single(*arrays):
    return tuple(np.asarray(a, dtype=np.float32) for a in arrays)


def hard_problem(rng, size):
    reward = rng.normal(size=size) * 10.0 ** rng.uniform(-3, 3)
    reward += rng.choice([0.0, 0.0, 1e4, -1e6])
    reference = rng.dirichlet(np.full(size, rng.choice([0.1, 0.5, 3.0])))
    if rng.random() < 0.3:
        reference[rng.random(size) < 0.3] = 0.0
    if rng.random() < 0.2:
        reference[np.argmax(reward)] = 1e-30
    if not reference.sum() > 0.5:
        reference[:] = 1.0
    return (*single(reward, reference / reference.sum()), float(10.0 ** rng.uniform(-3, 3)))


def in_double(reward, reference, divergence, beta):
    """The optimum of the same numbers; their sum is 1 to single precision only."""
    wide = reward.astype(float)[None], reference.astype(float)[None]
    return general.solve_rows(*wide, np.array([beta]), divergence)


def least_weight(divergence):
    return min(weight for weight, _ in divergence.terms())


def assert_stored(policy, true, reward, reference, divergence, beta):
    """Two roundings to single precision at most: once of p e^s or of w, once of pi."""
    inside = reference > 0
    spread = float(np.ptp(reward[inside].astype(float)))
    conditioning = 8 * DOUBLE * spread / (beta * least_weight(divergence)) + 1e-13
    # Just above the clip of chi-squared a ratio is a difference of O(1).
    chi_squared = all(base == ChiSquared() for _, base in divergence.terms())
    clipped = reference * (8 * DOUBLE + conditioning if chi_squared else 0.0)
    error = np.abs(policy.astype(float) - true)
    # Small masses pass through the subnormal singles on their way.
    assert np.all(error <= (1.1 * EPS + conditioning) * true + clipped + 1e-13 * EPS)
    if np.isinf(divergence.recession):
        assert np.all(policy[~inside] == 0)


@EVERY
def test_the_policy_is_that_of_the_numbers_given(divergence):
    rng = np.random.default_rng(60)
    for size in SIZES * 3:
        reward, reference, beta = hard_problem(rng, size)
        solution = solve(reward, reference, divergence, beta)
        other = in_double(reward, reference, divergence, beta)
        assert solution.policy.dtype == np.float32
        assert all(getattr(solution, field).dtype == np.float64 for field in FIELDS)
        assert_stored(solution.policy, other.policy[0], reward, reference, divergence, beta)
        # Sums are in double precision, of terms rounded once or twice.
        inside = reward[reference > 0].astype(float)
        total = beta * sum(weight for weight, _ in divergence.terms())
        unit = EPS * (np.abs(inside).max() + np.ptp(inside) + EPS * total)
        assert abs(solution.value - other.value[0]) <= unit
        assert abs(solution.multiplier - other.multiplier[0]) <= unit + 64 * DOUBLE * total
        assert abs(solution.gap) <= solution.tolerance
        assert abs(solution.dual - other.value[0]) <= unit + solution.tolerance
        mass = solution.policy.sum(dtype=np.float64)
        assert solution.feasibility == pytest.approx(abs(mass - 1), abs=1e-14)
        assert solution.feasibility <= blocks.rounding.py_func(size, EPS)


@pytest.mark.parametrize("divergence", KERNELS, ids=repr)
def test_the_kernels_do_ordinary_problems_themselves(divergence, monkeypatch):
    monkeypatch.setattr(exact, "_generally", None)
    rng = np.random.default_rng(61)
    for n_rows, size in ((20, 1), (20, 5), (5, 300), (1, 4000)):
        reward, reference = single(
            rng.normal(size=(n_rows, size)), rng.dirichlet(np.ones(size), n_rows)
        )
        for beta in (0.05, 1.0, 100.0):
            for r in (reward, reward + np.float32(1e4)):
                solution = solve(r, reference, divergence, beta)
                assert solution.policy.dtype == np.float32
                assert np.all(np.abs(solution.gap) <= solution.tolerance)


@EVERY
def test_against_mpmath_where_the_rows_sum_to_1_exactly(divergence):
    """Masses that are multiples of 2^-12 are singles and sum to 1 without rounding."""
    rng = np.random.default_rng(62)
    for size in (1, 2, 5, 40):
        counts = rng.multinomial(4096, rng.dirichlet(np.ones(size)))
        reward, reference = single(rng.normal(size=size), counts / 4096)
        beta = 10.0 ** rng.uniform(-1, 2)
        solution = solve(reward, reference, divergence, beta)
        truth = solve_high_precision(reward, reference, divergence, beta, digits=20)
        true = np.array([float(x) for x in truth.policy])
        assert_stored(solution.policy, true, reward, reference, divergence, beta)
        unit = EPS * (float(np.abs(reward).max()) + float(np.ptp(reward)))
        assert abs(mp.mpf(float(solution.value)) - truth.value) <= unit


HARD = {
    "the whole range of singles": ([3e38, 0.0, -3e38], [0.25, 0.5, 0.25], 1.0),
    "tiny rewards": ([1e-44, 0.0, -1e-44], [0.25, 0.5, 0.25], 1e-44),
    "exponentials below the singles": ([0.0, -100.0, -1000.0], [0.25, 0.5, 0.25], 1.0),
    "ratios below the singles": ([0.0, -95.0, -88.0], [0.25, 0.5, 0.25], 1.0),
    "ratios above the singles": ([1e30, 0.0, -1.0], [1e-20, 0.5, 0.5], 1.0),
    "a rare best": ([1.0, 0.0, -1.0], [1e-38, 0.5, 0.5], 0.01),
    "a subnormal best": ([500.0, 0.0, -1.0], [1e-44, 0.5, 0.5], 1.0),
    "subnormal masses": ([1.0, 0.0, 3.0], [0.5, 0.5, 1e-45], 1.0),
    "an impossible best": ([3e38, 0.0, -1.0], [0.0, 0.5, 0.5], 1.0),
    "all equal": ([1e6, 1e6, 1e6], [0.25, 0.5, 0.25], 1e-3),
}


@EVERY
@pytest.mark.parametrize("name", HARD)
def test_the_ends_of_single_precision(name, divergence):
    *arrays, beta = HARD[name]
    reward, reference = single(*arrays)
    solution = solve(reward, reference, divergence, beta)
    other = in_double(reward, reference, divergence, beta)
    assert_stored(solution.policy, other.policy[0], reward, reference, divergence, beta)
    assert abs(solution.gap) <= solution.tolerance
    assert np.isfinite(solution.value)


# ---- what is single precision and what is not ----------------------------------------------------


@EVERY
def test_mixed_dtypes_are_solved_in_double_precision(divergence):
    reward, reference = np.array([1.0, 0.25, -0.5]), np.array([0.25, 0.5, 0.25])
    expected = solve(reward, reference, divergence, 0.5)
    for r, p in (reward.astype(np.float32), reference), (reward, reference.astype(np.float32)):
        solution = solve(r, p, divergence, 0.5)
        assert solution.policy.dtype == np.float64
        assert np.array_equal(solution.policy, expected.policy)
    # beta is a parameter of the problem, not an array of the policy's kind.
    solution = solve(*single(reward, reference), divergence, np.float32(0.5))
    assert solution.policy.dtype == np.float32


def test_rows_need_sum_to_1_within_what_singles_can():
    rng = np.random.default_rng(63)
    for size in (3, 1000, 100_000):
        reward, reference = single(rng.normal(size=size), rng.dirichlet(np.ones(size)))
        solve(reward, reference, KL(), 1.0)
        # In double precision the same masses are refused, or happen to do.
        wide = reference.astype(float)
        if abs(wide.sum() - 1) > 1e-9:
            with pytest.raises(ValueError, match="rows must sum to 1 within 1e-09"):
                solve(reward.astype(float), wide, KL(), 1.0)
        for factor in (1.001, 0.999):
            with pytest.raises(ValueError, match="reference sums to"):
                solve(reward, reference * np.float32(factor), KL(), 1.0)


@EVERY
def test_batches_threads_and_places(divergence, monkeypatch):
    rng = np.random.default_rng(64)
    for n_rows, size in ((6, 9), (3, 1300)):
        reward, reference = single(
            rng.normal(size=(n_rows, size)), rng.dirichlet(np.ones(size), n_rows)
        )
        beta = 10.0 ** rng.uniform(-1, 1, n_rows)
        expected = solve(reward, reference, divergence, beta)
        for n in range(n_rows):
            one = solve(reward[n], reference[n], divergence, beta[n])
            for field in ("policy", *FIELDS):
                assert np.array_equal(getattr(one, field), getattr(expected, field)[n])
        monkeypatch.setattr(launch, "_LONG", 1)
        again = solve(reward, reference, divergence, beta)
        monkeypatch.undo()
        assert np.array_equal(again.policy, expected.policy)
        out = np.empty_like(reward)
        solution = solve(reward, reference, divergence, beta, out=out)
        assert np.shares_memory(solution.policy, out)
        assert np.array_equal(out, expected.policy)
        strided = solve(reward[:, ::-1][:, ::-1], np.asfortranarray(reference), divergence, beta)
        assert np.array_equal(strided.policy, expected.policy)
        with pytest.raises(ValueError, match=r"out has shape.*float64"):
            solve(reward, reference, divergence, beta, out=np.empty(reward.shape))
