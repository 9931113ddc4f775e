"""The enhancer against brute force over directions and over policies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from rlhfsim import KL
from rlhfsim.online import most_uncertain_policy


def drawn(seed, d=2):
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(1, 4)), int(rng.integers(2, 6))
    p = np.maximum(rng.dirichlet(np.full(shape[1], 10 ** rng.uniform(-0.5, 0.7)), shape[0]), 1e-9)
    root = rng.standard_normal((d, d))
    return {
        "policy": p / p.sum(axis=1, keepdims=True),
        "features": rng.standard_normal((*shape, d)),
        "covariance": root @ root.T + 0.1 * np.eye(d),
        "beta": 10 ** rng.uniform(-1, 0.5),
        "radius": 10 ** rng.uniform(-1.5, 0.5),
        "prompt_dist": rng.dirichlet(np.ones(shape[0])),
    }


def apart(q, case):
    return np.einsum("x,xy,xyd->d", case["prompt_dist"], q - case["policy"], case["features"])


def width(q, case):
    v = apart(q, case)
    return float(np.sqrt(v @ np.linalg.solve(case["covariance"], v)))


def excess(q, case):
    """Return by how much a policy leaves the confidence set."""
    cost = case["beta"] * KL()(q, case["policy"], case["prompt_dist"])
    return float(cost - case["radius"] * width(q, case))


def along(case, u):
    """Return the value of the best policy for one direction of the features, by a root search."""
    p, rho, beta, c = (case[name] for name in ("policy", "prompt_dist", "beta", "radius"))
    scores = case["features"] @ u
    scores = scores - (p * scores).sum(axis=1, keepdims=True)

    def tilt(s):
        logs = np.log(p) + s * scores
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def lack(s):
        gain = rho @ (tilt(s) * scores).sum(axis=1)
        return beta * KL()(tilt(s), p, rho) - c * gain

    low = high = c / beta
    while lack(high) < 0 and high < 1e5:
        high *= 2
    s = brentq(lack, low, high, xtol=1e-13) if lack(high) > 0 else high
    return width(tilt(s), case)


def over_directions(case, angles=60):
    factor = np.linalg.cholesky(case["covariance"])
    turn = np.linspace(0, 2 * np.pi, angles, endpoint=False)
    return max(along(case, np.linalg.solve(factor.T, [np.cos(a), np.sin(a)])) for a in turn)


def test_on_two_features_it_is_nearly_always_the_global_maximum():
    share = []
    for seed in range(12):
        case = drawn(seed)
        found = most_uncertain_policy(**case)
        assert found.residual < 1e-8
        assert found.uncertainty == pytest.approx(width(found.policy, case), rel=1e-9)
        assert excess(found.policy, case) <= 1e-9 * found.uncertainty
        share.append(found.uncertainty / over_directions(case))
    assert max(share) < 1.004
    assert np.mean(np.array(share) > 0.999) >= 0.8
    assert min(share) > 0.9


@pytest.mark.parametrize("seed", range(8))
def test_on_one_feature_it_is_the_global_maximum(seed):
    case = drawn(seed, d=1)
    root = 1 / np.sqrt(case["covariance"][0])
    best = max(along(case, sign * root) for sign in (1.0, -1.0))
    assert most_uncertain_policy(**case).uncertainty == pytest.approx(best, rel=1e-8)


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_no_policy_at_random_is_allowed_and_much_better(seed, d):
    case = drawn(seed, d)
    best = most_uncertain_policy(**case).uncertainty
    rng = np.random.default_rng(seed)
    shape = case["policy"].shape
    for _ in range(40):
        q = rng.dirichlet(np.full(shape[1], 10 ** rng.uniform(-1, 1)), shape[0])
        share = rng.random()
        q = share * q + (1 - share) * case["policy"]
        if excess(q, case) <= 0:
            assert width(q, case) <= 1.2 * best


def test_on_a_plateau_it_stays_in_its_set():
    """A tilt that is a point mass has no variance, and two nearly equal features hide the jump."""
    case = {
        "policy": np.array([[0.99 - 1e-12, 0.01, 1e-12]]),
        "features": np.array([[[0.0], [1.0], [1.03]]]),
        "covariance": np.eye(1), "beta": 1.0, "radius": 15.0, "prompt_dist": np.ones(1),
    }  # fmt: skip
    found = most_uncertain_policy(**case)
    assert abs(excess(found.policy, case)) <= 1e-9
    assert found.divergence == pytest.approx(KL()(found.policy, case["policy"], np.ones(1)))

    def lack(share):
        # Nothing is left on the first response.
        q = np.array([[0.0, 1.0 - share, share]])
        return excess(q, case)

    share = brentq(lack, 1e-6, 1.0 - 1e-6)
    assert found.policy[0, 2] == pytest.approx(share, rel=1e-6)


def test_on_main_agents_near_point_masses_it_stays_in_its_set():
    rng = np.random.default_rng(0)
    for _ in range(1500):
        phi = rng.standard_normal((1, 5, 2))
        logs = phi @ rng.standard_normal(2) / 0.1
        p = np.exp(logs - logs.max(axis=1, keepdims=True))
        case = {
            "policy": p / p.sum(axis=1, keepdims=True), "features": phi, "beta": 0.5,
            "covariance": 100.0 * np.eye(2), "radius": 5.0, "prompt_dist": np.ones(1),
        }  # fmt: skip
        found = most_uncertain_policy(**case)
        reached = case["radius"] * found.uncertainty
        assert case["beta"] * found.divergence <= reached + 1e-11 * (1.0 + reached)
        # Where the main agent's rest is below 1e-300 the logarithms of its policy end.
        assert excess(found.policy, case) <= 1e-9


def test_the_sign_is_chosen_at_the_root():
    """The tilt by c/beta reaches farther to the one side, the root to the other."""
    p = np.array([[8.88850132e-06, 0.649892999, 1.18279945e-04, 0.349979833, 1.97760049e-10]])
    features = [0.74761735, 0.96751029, 0.60585882, 2.61874771, -0.12835882]
    case = {
        "policy": p / p.sum(), "features": np.array(features)[None, :, None],
        "covariance": np.eye(1), "beta": 0.4557146, "radius": 5.8695457, "prompt_dist": np.ones(1),
    }  # fmt: skip
    near = [width(tilted(case, sign * case["radius"] / case["beta"]), case) for sign in (1, -1)]
    far = [along(case, np.array([sign])) for sign in (1.0, -1.0)]
    assert np.argmax(near) != np.argmax(far)
    assert most_uncertain_policy(**case).uncertainty == pytest.approx(max(far), rel=1e-8)


def tilted(case, s):
    weights = case["policy"] * np.exp(s * case["features"][..., 0])
    return weights / weights.sum(axis=1, keepdims=True)


def test_two_responses_in_closed_form():
    """Features 0 and 1, even odds: tanh(s/2)/2 is the move, and the set ends where it says."""
    case = {
        "policy": np.array([[0.5, 0.5]]), "features": np.array([[[0.0], [1.0]]]),
        "covariance": np.array([[4.0]]), "beta": 0.5, "radius": 0.1, "prompt_dist": np.ones(1),
    }  # fmt: skip

    def lack(m):
        q = np.array([0.5 - m, 0.5 + m])
        return 0.5 * (q * np.log(2 * q)).sum() - 0.1 * m / 2

    move = brentq(lack, 1e-3, 0.5 - 1e-12, xtol=1e-15)
    found = most_uncertain_policy(**case)
    assert found.uncertainty == pytest.approx(move / 2, rel=1e-9)
    # s is counted along u = 1/2.
    assert np.tanh(found.strength / 4) / 2 == pytest.approx(move, rel=1e-9)


def test_where_all_policies_are_allowed_it_is_a_point_mass():
    case = drawn(4) | {"radius": 1e3, "beta": 1e-3}
    found = most_uncertain_policy(**case)
    np.testing.assert_allclose(found.policy.max(axis=1), 1.0)
    np.testing.assert_allclose(found.residual, 0.0, atol=1e-12)


def test_without_a_radius_or_a_difference_it_is_the_main_agent():
    case = drawn(0)
    for change in ({"radius": 0.0}, {"features": np.ones_like(case["features"])}):
        found = most_uncertain_policy(**(case | change))
        np.testing.assert_allclose(found.policy, case["policy"], rtol=1e-12)
        assert found.uncertainty == pytest.approx(0.0, abs=1e-12)


def test_responses_outside_of_the_support_stay_there():
    case = drawn(2)
    p = case["policy"].copy()
    p[:, 0] = 0.0
    case["policy"] = p / p.sum(axis=1, keepdims=True)
    found = most_uncertain_policy(**case)
    assert (found.policy[:, 0] == 0).all()
    np.testing.assert_allclose(found.policy.sum(axis=1), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": np.array([[0.5, 0.6]])}, r"policy\[0\] sums to 1.1"),
        ({"covariance": np.eye(3)}, r"covariance has shape \(3, 3\)"),
        ({"covariance": np.array([[1.0, 2.0], [2.0, 1.0]])}, "covariance is not positive definite"),
        ({"covariance": np.array([[1.0, 0.5], [0.0, 1.0]])}, "symmetric"),
        ({"beta": 0.0}, "beta is 0.0; it must be positive"),
        ({"radius": -1.0}, "radius is -1.0; it must be non-negative"),
        ({"radius": 1e300}, "their ratio must be below 1e200"),
        ({"prompt_dist": np.ones(4) / 4}, r"prompt_dist has shape \(4,\)"),
        ({"features": np.zeros((1, 1, 2))}, r"features has shape \(1, 1, 2\)"),
        ({"steps": -1}, "steps is -1; it must be at least 0"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        most_uncertain_policy(**(drawn(0) | change))
