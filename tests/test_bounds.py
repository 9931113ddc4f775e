"""Right-hand sides of theorems: valid everywhere, attained somewhere, and written out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim import (
    KL,
    ChiSquared,
    FiniteClass,
    fit_reward,
    proposition_a1,
    random_bandit,
    sample_preferences,
    solve,
)
from rlhfsim.bounds import (
    centred_error,
    chi_squared_bound,
    finite_class_error,
    proposition_a1_floor,
    reward_error,
    sharp_chi_squared_bound,
    theory_beta,
)


def problem(seed, prompts=2, responses=5):
    rng = np.random.default_rng(seed)
    shape = (prompts, responses)
    reward = rng.standard_normal(shape)
    return {
        "reward": reward,
        "reward_hat": reward + 10 ** rng.uniform(-1, 1) * rng.standard_normal(shape),
        "reference": rng.dirichlet(np.full(responses, 10 ** rng.uniform(-0.5, 1)), prompts),
        "beta": 10 ** rng.uniform(-2, 2),
        "comparator": rng.dirichlet(np.ones(responses), prompts),
        "prompt_dist": rng.dirichlet(np.ones(prompts)),
    }


def regret(p, divergence):
    policy = solve(p["reward_hat"], p["reference"], divergence, p["beta"]).policy
    return ((p["comparator"] - policy) * p["reward"]).sum(axis=1) @ p["prompt_dist"]


@given(seed=st.integers(0, 10**9), gamma=st.sampled_from([0.0, 0.1, 1.0, 10.0]))
def test_sharp_bound_holds(seed, gamma):
    p = problem(seed)
    divergence = ChiSquared() + gamma * KL() if gamma else ChiSquared()
    bound = sharp_chi_squared_bound(**p, kl_weight=gamma)
    assert regret(p, divergence) <= bound * (1 + 1e-12)


@given(seed=st.integers(0, 10**9))
def test_sharp_bound_is_attained_without_clipping(seed):
    p = problem(seed)
    rng = np.random.default_rng(seed)
    scale, ref = p["beta"], p["reference"]
    error = scale * rng.uniform(-0.5, 0.5, ref.shape)
    error -= (ref * error).sum(axis=1, keepdims=True)
    p["reward"] = 0.5 * (error + scale * (p["comparator"] / ref - 1))
    p["reward_hat"] = p["reward"] - error
    bound = sharp_chi_squared_bound(**p)
    assert regret(p, ChiSquared()) == pytest.approx(bound, rel=1e-10)
    # A bound of half the size is violated here: the constant 4 cannot be 8.
    assert regret(p, ChiSquared()) > 0.51 * bound


def test_sharp_bound_written_out():
    p = problem(3)
    total = 0.0
    for x in range(2):
        ref, delta = p["reference"][x], p["reward"][x] - p["reward_hat"][x]
        delta = delta - sum(ref * delta)
        for y in range(5):
            star = p["comparator"][x, y] / ref[y]
            total += p["prompt_dist"][x] * ref[y] * (delta[y] + p["beta"] * (star - 1)) ** 2
    assert sharp_chi_squared_bound(**p) == pytest.approx(total / (4 * p["beta"]), rel=1e-13)
    kl = KL()(p["comparator"], p["reference"], p["prompt_dist"])
    assert sharp_chi_squared_bound(**p, kl_weight=2.0) == pytest.approx(
        total / (4 * p["beta"]) + 2 * p["beta"] * kl, rel=1e-13
    )


def test_batches_agree_with_single_instances():
    ps = [problem(s) for s in range(4)]
    stack = {
        k: np.stack([p[k] for p in ps]) for k in ("reward", "reward_hat", "reference", "comparator")
    }
    betas, rho = np.array([p["beta"] for p in ps]), ps[0]["prompt_dist"]
    got = sharp_chi_squared_bound(**stack, beta=betas, prompt_dist=rho)
    want = [float(sharp_chi_squared_bound(**{**p, "prompt_dist": rho})) for p in ps]
    np.testing.assert_allclose(got, want, rtol=1e-14)


def test_comparator_off_the_support_has_no_bound():
    bound = sharp_chi_squared_bound([0.0, 1.0], [0.0, 1.0], [1.0, 0.0], 1.0, [0.0, 1.0])
    assert bound == np.inf


@given(seed=st.integers(0, 10**9))
def test_norm_bound_dominates_and_is_least_at_theory_beta(seed):
    p = problem(seed)
    epsilon = reward_error(p["reward"], p["reward_hat"], p["reference"], p["prompt_dist"])
    star = ChiSquared()(p["comparator"], p["reference"], p["prompt_dist"])
    bound = chi_squared_bound(epsilon, star, p["beta"])
    assert sharp_chi_squared_bound(**p) <= bound * (1 + 1e-12)
    best = theory_beta(epsilon, star)
    least = chi_squared_bound(epsilon, star, best)
    assert least == pytest.approx(np.sqrt(2 * star) * epsilon, rel=1e-12)
    for factor in (0.5, 0.99, 1.01, 2.0):
        assert chi_squared_bound(epsilon, star, factor * best) > least


def test_norm_bound_is_the_sharp_one_when_error_and_ratio_align():
    reference, comparator = np.array([0.2, 0.3, 0.5]), np.array([0.7, 0.2, 0.1])
    error = 3 * (comparator / reference - 1)
    epsilon = reward_error(error, np.zeros(3), reference)
    star = ChiSquared()(comparator, reference)
    sharp = sharp_chi_squared_bound(error, np.zeros(3), reference, 0.7, comparator)
    assert sharp == pytest.approx(chi_squared_bound(epsilon, star, 0.7), rel=1e-13)


def test_error_of_pairs_is_twice_the_centred_error():
    p = problem(11)
    delta = p["reward"] - p["reward_hat"]
    pairs = ((delta[:, :, None] - delta[:, None, :]) ** 2 * p["reference"][:, :, None]
             * p["reference"][:, None, :]).sum(axis=(1, 2)) @ p["prompt_dist"]  # fmt: skip
    epsilon = reward_error(p["reward"], p["reward_hat"], p["reference"], p["prompt_dist"])
    assert pairs == pytest.approx(2 * epsilon**2, rel=1e-13)
    shifted = p["reward_hat"] + np.array([[100.0], [-5.0]])
    np.testing.assert_allclose(
        centred_error(p["reward"], shifted, p["reference"]),
        centred_error(p["reward"], p["reward_hat"], p["reference"]),
        atol=1e-12,
    )


def test_finite_class_error_is_rarely_exceeded_and_not_vacuous():
    """At most a share delta of datasets may exceed it."""
    rng = np.random.default_rng(7)
    bandit = random_bandit(1, 4, rng)
    rewards = np.stack([bandit.reward, *(rng.random((7, 1, 4)))])
    n, delta = 400, 0.2
    bound = finite_class_error(n, len(rewards), delta, 1.0)
    errors = []
    for _ in range(300):
        fit = fit_reward(sample_preferences(bandit, n, rng), FiniteClass(rewards))
        errors.append(reward_error(bandit.reward, fit.reward, bandit.reference, [1.0]) ** 2)
    assert np.mean(np.array(errors) > bound) <= delta
    v = 1.0
    slope = np.exp(-v) / (1 + np.exp(-v)) ** 2  # sigma'(1), another way
    assert bound == pytest.approx(np.log(8 / 0.2) / (400 * slope**2), rel=1e-13)


@pytest.mark.parametrize("n", [3, 10, 100, 10**4, 10**8, 10**15])
def test_proposition_floor_is_below_every_beta_and_of_the_right_size(n):
    instance = proposition_a1(n)
    betas = np.geomspace(1e-6, 1e4, 3001)
    policy = solve(instance.reward_class[1], instance.bandit.reference, KL(), betas[:, None]).policy
    least = instance.bandit.regret(policy, instance.comparator).min()
    floor = proposition_a1_floor(n)
    assert floor <= least
    if n >= 100:
        assert least < 2.1 * floor


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"delta is 1\.5; it must be below 1"):
        finite_class_error(10, 2, 1.5, 1.0)
    with pytest.raises(ValueError, match="n is 2; it must be at least 3"):
        proposition_a1_floor(2)
    with pytest.raises(ValueError, match="beta is -1"):
        sharp_chi_squared_bound([0.0], [0.0], [1.0], -1.0, [1.0])
    with pytest.raises(ValueError, match="kl_weight is -1"):
        sharp_chi_squared_bound([0.0], [0.0], [1.0], 1.0, [1.0], kl_weight=-1.0)
