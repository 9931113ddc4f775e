"""Soft best-of-n, rejection sampling and win rates against enumeration and mpmath."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim import ChiSquared, solve
from rlhfsim.inference import (
    best_of_n,
    calibrated_reward,
    inference_time_pessimism,
    rejection_sampling,
    soft_best_of_n,
    win_rate,
    worst_of_n,
)
from rlhfsim.inference import soft_best_of_n as soft_function

ROWS = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4).map(
    lambda w: np.array(w) / math.fsum(w)
)
LEVELS = st.lists(st.integers(-3, 3), min_size=4, max_size=4).map(np.array)


# ---- soft best-of-n ------------------------------------------------------------------------------


def by_listing(p, r, n, temperature):
    """Every sequence of n draws, in 40 digits."""
    with mp.workdps(40):
        e = [mp.exp(mp.mpf(float(x)) / mp.mpf(temperature)) for x in r]
        law = [mp.mpf(0)] * len(p)
        for draws in itertools.product(range(len(p)), repeat=n):
            probability = mp.fprod(mp.mpf(float(p[y])) for y in draws)
            total = mp.fsum(e[y] for y in draws)
            for y in draws:
                law[y] += probability * e[y] / total
        return np.array([float(x) for x in law])


@given(p=ROWS, levels=LEVELS, n=st.integers(1, 4), temperature=st.floats(0.02, 50.0))
def test_soft_best_of_n_agrees_with_listing_all_draws(p, levels, n, temperature):
    r = levels[: p.size] / 2
    expected = by_listing(p, r, n, temperature)
    np.testing.assert_allclose(soft_best_of_n(p, r, n, temperature), expected, rtol=5e-14, atol=0)


def test_small_masses_of_hopeless_responses_keep_their_digits():
    """With two draws, pi(y) = p(y)^2 + 2 p(y) p(z) e(y)/(e(y) + e(z))."""
    p = np.array([1e-200, 1.0 - 1e-13, 1e-13])
    r = np.array([0.0, 60.0, 200.0])
    policy = soft_best_of_n(p, r, 2, 1.0)
    with mp.workdps(400):
        q, e = [mp.mpf(float(x)) for x in p], [mp.exp(mp.mpf(float(x))) for x in r]
        for y in range(3):
            exact = q[y] ** 2 + sum(
                2 * q[y] * q[z] * e[y] / (e[y] + e[z]) for z in range(3) if z != y
            )
            assert policy[y] == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize("gap", [60.0, 100.0])
@pytest.mark.parametrize("rare", [1e-20, 1e-40, 1e-80])
def test_a_rare_response_that_is_worse_keeps_its_digits(gap, rare):
    """Of two draws: both are the rare worse one, or it is taken beside the better one."""
    found = soft_best_of_n([1.0 - rare, rare], [0.0, -gap], 2, 1.0)
    share = math.exp(-gap) / (1.0 + math.exp(-gap))
    expected = rare * rare + 2.0 * rare * (1.0 - rare) * share
    assert found[1] == pytest.approx(expected, rel=1e-11, abs=0.0)


@pytest.mark.parametrize("n", [1, 2, 30, 10**5])
def test_cold_choices_are_best_of_n(n):
    rng = np.random.default_rng(1)
    p, r = rng.dirichlet(np.ones(7), size=3), rng.integers(0, 4, (3, 7)).astype(float)
    for temperature in (1e-3, 1e-9, 1e-300):
        got = soft_best_of_n(p, r, n, temperature)
        np.testing.assert_allclose(got, best_of_n(p, r, n), rtol=1e-12, atol=1e-280)


def test_rewards_at_the_ends_of_the_floats():
    p, r = np.array([0.1, 0.2, 0.3, 0.4]), np.array([1e308, -1e308, 3.0, 3.0])
    np.testing.assert_allclose(soft_best_of_n(p, r, 3, 1e-5), best_of_n(p, r, 3), rtol=1e-13)


def test_hot_choices_and_single_draws_are_the_reference():
    rng = np.random.default_rng(2)
    p, r = rng.dirichlet(np.ones(9)), rng.normal(size=9)
    np.testing.assert_allclose(soft_best_of_n(p, r, 1, 0.3), p, rtol=1e-14)
    np.testing.assert_allclose(soft_best_of_n(p, r, 50, 1e14), p, rtol=1e-12)


@pytest.mark.parametrize(("n", "error"), [(10**3, 0.02), (10**6, 2e-5), (10**12, 2e-11)])
def test_many_draws_give_the_kl_optimum(n, error):
    """The bias is of order 1/n: not closer than a hundredth of it, not further than it."""
    rng = np.random.default_rng(3)
    p, r = rng.dirichlet(np.ones(5)), rng.normal(size=5)
    tilted = p * np.exp(r / 0.5)
    distance = np.abs(soft_best_of_n(p, r, n, 0.5) / (tilted / tilted.sum()) - 1).max()
    assert distance < error
    assert distance > 1e-3 * error


def test_monte_carlo_agrees():
    rng = np.random.default_rng(4)
    p, r = rng.dirichlet(np.ones(6)), rng.normal(size=6)
    draws = rng.choice(6, p=p, size=(200_000, 5))
    race = r[draws] / 0.4 + rng.gumbel(size=draws.shape)
    chosen = draws[np.arange(len(draws)), race.argmax(axis=1)]
    policy = soft_best_of_n(p, r, 5, 0.4)
    error = np.bincount(chosen, minlength=6) / len(draws) - policy
    assert (np.abs(error) < 4.5 * np.sqrt(policy * (1 - policy) / len(draws))).all()
    assert np.abs(policy - p).max() > 0.05


def test_grids_agree_with_single_prompts_and_zeros_stay_zero():
    rng = np.random.default_rng(5)
    p, r = rng.dirichlet(np.ones(5), size=3), rng.normal(size=(3, 5))
    p[1] = [0.5, 0.0, 0.5, 0.0, 0.0]
    heats = np.array([0.1, 2.0])[:, None]
    grid = soft_best_of_n(p, r, 6, heats)
    assert grid.shape == (2, 3, 5)
    for k, x in np.ndindex(2, 3):
        one = soft_best_of_n(p[x], r[x], 6, float(heats[k, 0]))
        np.testing.assert_array_equal(grid[k, x], one)
    assert (grid[:, 1, [1, 3, 4]] == 0).all()


def test_long_rows_in_pieces(monkeypatch):
    rng = np.random.default_rng(6)
    p, r = rng.dirichlet(np.ones(300)), rng.normal(size=300)
    whole = soft_best_of_n(p, r, 64, 0.02)
    module = __import__("rlhfsim.inference.soft_best_of_n", fromlist=["_CHUNK"])
    monkeypatch.setattr(module, "_CHUNK", 1000)
    np.testing.assert_allclose(soft_function(p, r, 64, 0.02), whole, rtol=1e-13)
    monkeypatch.setattr(module, "_STEP", 1.0)
    with pytest.raises(ArithmeticError, match="misses its mass"):
        soft_function(p, r, 64, 0.02)


# ---- rejection sampling --------------------------------------------------------------------------


def test_rejection_sampling_by_hand():
    """Accepted with probability 1 and 1/4: first draw, second draw, or the spare one."""
    p, w = np.array([0.25, 0.75]), np.array([2.0, 0.5])
    failure = 1 - (0.25 + 0.75 / 4)
    expected = np.array([0.25, 0.75 / 4]) * (1 + failure) + failure**2 * p
    np.testing.assert_allclose(rejection_sampling(p, w, 2.0, 2), expected, rtol=1e-15)
    np.testing.assert_array_equal(rejection_sampling(p, w, 2.0, 0), p)


@given(p=ROWS, ratios=st.lists(st.floats(0, 5), min_size=4, max_size=4), n=st.integers(0, 5))
def test_rejection_sampling_step_by_step(p, ratios, n):
    w = np.array(ratios[: p.size])
    accept = np.minimum(w / 2.0, 1.0)
    law, going = np.zeros(p.size), 1.0
    for _ in range(n):
        law += going * p * accept
        going *= float((p * (1 - accept)).sum())
    law += going * p
    np.testing.assert_allclose(rejection_sampling(p, w, 2.0, n), law, rtol=1e-12, atol=1e-300)


def test_nothing_or_everything_is_accepted():
    p = np.array([0.3, 0.7])
    np.testing.assert_array_equal(rejection_sampling(p, np.zeros(2), 1.0, 7), p)
    np.testing.assert_allclose(rejection_sampling(p, np.full(2, 9.0), 1.0, 7), p, rtol=1e-15)
    p = np.array([1e-300, 1.0])
    rare = rejection_sampling(p, np.array([1.0, 0.0]), 1.0, 10)
    assert rare[0] == pytest.approx(11e-300, rel=1e-12)


def test_pessimism_tends_to_the_chi_squared_optimum_and_best_of_n_does_not():
    rng = np.random.default_rng(7)
    p, r = rng.dirichlet(np.ones(8), size=4), rng.normal(size=(4, 8))
    optimum = solve(r, p, ChiSquared(), 0.7).policy
    np.testing.assert_allclose(inference_time_pessimism(p, r, 1e9, 0.7), optimum, rtol=1e-12)
    np.testing.assert_array_equal(inference_time_pessimism(p, r, 0, 0.7), p)
    assert np.abs(best_of_n(p, r, 1e9) - optimum).max() > 0.3
    few = inference_time_pessimism(p, r, 3, 0.7)
    gains = [float((rho * r).sum(axis=1).mean()) for rho in (p, few, optimum)]
    assert gains == sorted(gains)
    assert gains[2] - gains[0] > 0.3
    grid = inference_time_pessimism(p, r, 3, np.array([0.7, 2.0])[:, None])
    np.testing.assert_array_equal(grid[0], few)


def test_what_the_reference_lacks_bounds_no_ratio_however_good_it_looks():
    p, r = [0.5, 0.2, 0.3, 0.0], [0.0, 1.0, 0.3, 50.0]
    whole = inference_time_pessimism(p, r, 3, 0.5)
    np.testing.assert_array_equal(whole[:3], inference_time_pessimism(p[:3], r[:3], 3, 0.5))
    assert whole[3] == 0.0


# ---- win rates -----------------------------------------------------------------------------------


def test_calibrated_rewards_by_definition():
    rng = np.random.default_rng(8)
    p, r = rng.dirichlet(np.ones(6), size=5), rng.integers(0, 3, (5, 6)).astype(float)
    for x, y in np.ndindex(5, 6):
        expected = p[x, r[x] < r[x, y]].sum() + 0.5 * p[x, r[x] == r[x, y]].sum()
        assert calibrated_reward(r, p)[x, y] == pytest.approx(expected, rel=1e-14, abs=1e-16)
    np.testing.assert_allclose((p * calibrated_reward(r, p)).sum(axis=1), 0.5, rtol=1e-14)
    np.testing.assert_array_equal(calibrated_reward(np.exp(r), p), calibrated_reward(r, p))


def test_win_rates_by_definition():
    rng = np.random.default_rng(9)
    one, other = rng.dirichlet(np.ones(5), size=3), rng.dirichlet(np.ones(5), size=3)
    r, rho = rng.integers(0, 3, (3, 5)).astype(float), np.array([0.2, 0.3, 0.5])
    wins = (r[:, :, None] > r[:, None, :]) + 0.5 * (r[:, :, None] == r[:, None, :])
    expected = float(np.einsum("x,xy,xz,xyz->", rho, one, other, wins))
    assert win_rate(one, other, r, rho) == pytest.approx(expected, rel=1e-14)
    assert win_rate(other, one, r, rho) == pytest.approx(1 - expected, rel=1e-14)
    assert win_rate(one, one, r, rho) == pytest.approx(0.5, rel=1e-14)
    # Against the reference, best-of-n wins n/(n + 1) of the time if there are no ties.
    fine = np.full(5000, 1 / 5000)
    rate = win_rate(best_of_n(fine, np.arange(5000.0), 3), fine, np.arange(5000.0))
    assert rate == pytest.approx(3 / 4, abs=1e-4)


def test_worst_of_n_mirrors_best_of_n():
    rng = np.random.default_rng(10)
    p, r = rng.dirichlet(np.ones(5)), np.array([1.0, 0.0, 2.0, 2.0, 0.0])
    np.testing.assert_allclose(
        worst_of_n(p, r, 2),
        [
            p[0] * (p[0] + 2 * (p[2] + p[3])),
            *(p[k] * (2 - (p[1] + p[4])) for k in (1,)),
            *(p[k] * (p[2] + p[3]) for k in (2, 3)),
            p[4] * (2 - (p[1] + p[4])),
        ],
        rtol=1e-13,
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_best_of_n([0.5, 0.4], [0, 1], 2, 1.0), "reference sums to 0.9"),
        (lambda: soft_best_of_n([0.5, 0.5], [0, np.nan], 2, 1.0), r"reward\[1\] is nan"),
        (lambda: soft_best_of_n([0.5, 0.5], [0, 1], 0, 1.0), "n is 0; it must be at least 1"),
        (lambda: soft_best_of_n([0.5, 0.5], [0, 1], 10**16, 1.0), "it must be at most"),
        (lambda: soft_best_of_n([0.5, 0.5], [0, 1], 2, [1.0, 0.0]), r"temperature\[1\] is 0.0"),
        (lambda: soft_best_of_n([0.5, 0.5], [0, 1, 2], 2, 1.0), "last axes differ"),
        (lambda: rejection_sampling([1.0], [-1.0], 1.0, 1), r"ratio\[0\] is -1.0"),
        (lambda: rejection_sampling([1.0], [1.0], 0.0, 1), "bound is 0.0"),
        (lambda: rejection_sampling([1.0], [1.0], 1.0, -1), "n is -1.0"),
        (lambda: inference_time_pessimism([1.0], [1.0], 1, 0.0), "beta is 0.0"),
        (lambda: calibrated_reward([1.0, 2.0], [1.0]), "last axes differ"),
        (lambda: win_rate([0.5, 0.6], [0.5, 0.5], [0, 1]), "policy sums to 1.1"),
        (lambda: win_rate(np.eye(2), np.eye(2), np.eye(2)), "prompt_dist is missing"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
