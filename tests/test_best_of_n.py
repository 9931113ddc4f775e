"""Best-of-N: exact law with ties against enumeration, Monte Carlo and mpmath."""

import itertools
from collections import Counter
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim import KL, ChiSquared, best_of_n, best_of_n_kl_formula
from rlhfsim.inference import best_of_n_chi_squared_bound


def enumerated(reference, reward, n):
    """Best-of-n law by listing every sequence of n draws, in exact arithmetic."""
    law = [Fraction(0)] * len(reference)
    for draws in itertools.product(range(len(reference)), repeat=n):
        probability = Fraction(1)
        for y in draws:
            probability *= reference[y]
        best = max(reward[y] for y in draws)
        tied = Counter(y for y in draws if reward[y] == best)
        for y, count in tied.items():
            law[y] += probability * Fraction(count, sum(tied.values()))
    return law


@given(
    weights=st.lists(st.integers(0, 5), min_size=2, max_size=4).filter(lambda w: sum(w) > 0),
    levels=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    n=st.integers(1, 5),
)
def test_agrees_with_enumeration_of_all_draws(weights, levels, n):
    reference = [Fraction(w, sum(weights)) for w in weights]
    reward = levels[: len(weights)]
    expected = [float(v) for v in enumerated(reference, reward, n)]
    policy = best_of_n([float(v) for v in reference], [float(v) for v in reward], n)
    np.testing.assert_allclose(policy, expected, rtol=1e-13, atol=0)


def test_agrees_with_monte_carlo():
    rng = np.random.default_rng(5)
    reference, reward = rng.dirichlet(np.ones(6)), np.array([1.0, 2.0, 2.0, 0.0, 3.0, 3.0])
    draws = rng.choice(6, p=reference, size=(200_000, 4))
    scores = reward[draws] + 1e-6 * rng.random(draws.shape)  # random tie-break
    chosen = draws[np.arange(len(draws)), scores.argmax(axis=1)]
    frequency = np.bincount(chosen, minlength=6) / len(draws)
    policy = best_of_n(reference, reward, 4)
    error = np.abs(frequency - policy) / np.sqrt(policy * (1 - policy) / len(draws))
    assert error.max() < 4.5
    assert np.abs(frequency - reference).max() > 0.05  # the test can tell the two apart


@pytest.mark.parametrize("n", [1, 2, 37, 10**6, 10**12])
def test_keeps_digits_of_rare_levels_and_large_n(n):
    reference = np.array([1e-300, 1e-13, 1e-7, 0.25, 0.75 - 1e-7 - 1e-13])
    reward = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    policy = best_of_n(reference, reward, n)
    with mpmath.workdps(350):
        tails = [mpmath.fsum(mpmath.mpf(v) for v in reference[:k]) for k in range(6)]
        exact = [(1 - tails[k]) ** n - (1 - tails[k + 1]) ** n for k in range(4)]
        exact.append((1 - tails[4]) ** n)
        for got, want in zip(policy, exact, strict=True):
            # The exponent n log F carries an error of a few ulp of itself.
            conditioning = 1 + n * float(tails[4]) if want < 1e-3 else 1
            assert abs(got - want) <= 1e-14 * conditioning * want + mpmath.mpf("1e-300")


@given(seed=st.integers(0, 10**6), n=st.integers(1, 3000), size=st.integers(2, 30))
def test_divergences_stay_below_the_usual_formulas(seed, n, size):
    rng = np.random.default_rng(seed)
    reference, reward = rng.dirichlet(np.ones(size)), rng.integers(0, size, size).astype(float)
    policy = best_of_n(reference, reward, n)
    assert KL()(policy, reference) <= best_of_n_kl_formula(n) + 1e-12
    assert ChiSquared()(policy, reference) <= best_of_n_chi_squared_bound(n) * (1 + 1e-12) + 1e-15


def test_formulas_are_attained_by_nearly_continuous_rewards():
    reference, reward = np.full(200_000, 1 / 200_000), np.arange(200_000.0)
    policy = best_of_n(reference, reward, 8)
    assert KL()(policy, reference) == pytest.approx(best_of_n_kl_formula(8), rel=1e-4)
    bound = best_of_n_chi_squared_bound(8)
    assert ChiSquared()(policy, reference) == pytest.approx(bound, rel=1e-4)


def test_formula_is_far_off_on_ten_uniform_responses():
    policy = best_of_n(np.full(10, 0.1), np.arange(10.0), 1024)
    assert KL()(policy, np.full(10, 0.1)) == pytest.approx(2.302585, abs=1e-6)
    assert best_of_n_kl_formula(1024) == pytest.approx(5.932448, abs=1e-6)


def test_broadcasts_over_prompts_and_counts():
    rng = np.random.default_rng(0)
    reference, reward = rng.dirichlet(np.ones(5), 3), rng.integers(0, 3, (3, 5)).astype(float)
    counts = np.array([1.0, 2.0, 9.0])
    stack = best_of_n(reference, reward, counts[:, None])
    assert stack.shape == (3, 3, 5)
    for i, n in enumerate(counts):
        for x in range(3):
            np.testing.assert_array_equal(stack[i, x], best_of_n(reference[x], reward[x], n))
    np.testing.assert_allclose(stack[0], reference, rtol=1e-15)


@pytest.mark.parametrize(
    "function",
    [
        lambda n: best_of_n([0.5, 0.5], [0.0, 1.0], n),
        best_of_n_kl_formula,
        best_of_n_chi_squared_bound,
    ],
)
def test_fewer_than_one_draw_is_named_with_its_index(function):
    with pytest.raises(ValueError, match=r"n\[1\] is 0\.5; it must be at least 1"):
        function([2.0, 0.5, 3.0])
    with pytest.raises(ValueError, match=r"n is 0\.0; it must be at least 1"):
        function(0)
    assert np.all(np.isfinite(function(1)))


def test_formulas_vanish_for_one_draw():
    assert best_of_n_kl_formula(1) == 0
    assert best_of_n_chi_squared_bound(1) == 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"last axes differ: reward \(1,\), reference \(2,\)"):
        best_of_n([0.5, 0.5], [0.0], 2)
    with pytest.raises(ValueError, match=r"n is 0\.5; it must be at least 1"):
        best_of_n([0.5, 0.5], [0.0, 1.0], 0.5)
    with pytest.raises(ValueError, match=r"last axes differ: reward \(3,\), reference \(2,\)"):
        best_of_n([0.5, 0.5], [0.0, 1.0, 2.0], 2)
    with pytest.raises(ValueError, match=r"reference sums to 0\.9"):
        best_of_n([0.5, 0.4], [0.0, 1.0], 2)
