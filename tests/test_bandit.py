from fractions import Fraction

import numpy as np
import pytest

from rlhfsim.bandit import ContextualBandit

RHO = [0.25, 0.75]
REFERENCE = [[0.5, 0.25, 0.25], [0.125, 0.375, 0.5]]
REWARD = [[1.0, 0.5, -2.0], [0.25, 0.75, 0.5]]
PROXY = [[0.0, 3.0, 1.0], [1.0, -1.0, 0.5]]
POLICY = np.array([[0.25, 0.25, 0.5], [0.5, 0.0, 0.5]])


@pytest.fixture
def bandit():
    return ContextualBandit(RHO, REFERENCE, REWARD, proxy_reward=PROXY)


def exact_value(rho, policy, reward):
    return sum(
        Fraction(float(w)) * Fraction(float(a)) * Fraction(float(r))
        for w, row, rewards in zip(rho, policy, reward, strict=True)
        for a, r in zip(row, rewards, strict=True)
    )


# ---- evaluation ----------------------------------------------------------------------------------


def test_values_agree_with_fractions(bandit):
    assert bandit.value(POLICY) == float(exact_value(RHO, POLICY, REWARD))
    assert bandit.proxy_value(POLICY) == float(exact_value(RHO, POLICY, PROXY))
    assert np.array_equal(bandit.value_per_prompt(POLICY), [-0.625, 0.375])
    best = exact_value(RHO, [[1, 0, 0], [0, 1, 0]], REWARD)
    assert bandit.regret(POLICY) == float(best - exact_value(RHO, POLICY, REWARD))
    assert np.array_equal(bandit.regret_per_prompt(POLICY), [1.625, 0.375])


def test_random_values_agree_with_loops_on_leading_axes():
    rng = np.random.default_rng(0)
    rho, reference = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(5), 4)
    reward = rng.normal(size=(4, 5))
    bandit = ContextualBandit(rho, reference, reward, proxy_reward=-2 * reward)
    policies = rng.dirichlet(np.ones(5), (3, 2, 4))
    value, regret = bandit.value(policies), bandit.regret(policies)
    assert value.shape == regret.shape == (3, 2)
    assert bandit.value_per_prompt(policies).shape == (3, 2, 4)
    assert bandit.regret_per_prompt(policies).shape == (3, 2, 4)
    optimum = sum(rho[x] * max(reward[x]) for x in range(4))
    for i in range(3):
        for j in range(2):
            exact = float(exact_value(rho, policies[i, j], reward))
            assert value[i, j] == pytest.approx(exact, abs=1e-15)
            assert regret[i, j] == pytest.approx(optimum - exact, rel=1e-13)
    np.testing.assert_allclose(bandit.proxy_value(policies), -2 * value, rtol=1e-14)
    comparators = rng.dirichlet(np.ones(5), (3, 1, 4))
    against = bandit.regret(policies, comparators)
    np.testing.assert_allclose(against, bandit.value(comparators) - value, atol=1e-14)
    assert (against < 0).any()
    assert bandit.regret(policies[0, 0]).shape == ()


def test_regret_keeps_its_digits_under_large_offsets():
    rng = np.random.default_rng(1)
    small = rng.integers(-100, 101, (3, 4)) * 2.0**-20
    policy, rho = rng.dirichlet(np.ones(4), 3), np.array([0.25, 0.25, 0.5])
    reference = np.full((3, 4), 0.25)
    plain = ContextualBandit(rho, reference, small)
    # The shifted rewards are exact, so the regrets are those of the same bandit, to every digit.
    shifted = ContextualBandit(rho, reference, small + 2.0**30)
    assert np.array_equal(shifted.regret(policy), plain.regret(policy))
    exact = float(exact_value(rho, plain.optimal_policy(), small) - exact_value(rho, policy, small))
    assert shifted.regret(policy) == pytest.approx(exact, rel=1e-14)
    assert 0 < exact < 1e-3


def test_negative_regret_is_not_an_error(bandit):
    worst = np.array([[0.0, 0, 1], [1, 0, 0]])
    assert bandit.regret(POLICY, worst) == float(
        exact_value(RHO, worst, REWARD) - exact_value(RHO, POLICY, REWARD)
    )
    assert bandit.regret(POLICY, worst) < 0
    assert bandit.regret(bandit.optimal_policy()) == 0


def test_optimal_policy_breaks_ties_by_coverage():
    reward = [[1, 1, 1, 0], [1, 1, 0, 0], [0, 2, 0, 2]]
    reference = [[0.1, 0.3, 0.3, 0.3], [0.2, 0.2, 0.1, 0.5], [0.9, 0.0, 0.1, 0.0]]
    bandit = ContextualBandit([0.5, 0.25, 0.25], reference, reward)
    assert bandit.optimal_policy().argmax(axis=1).tolist() == [1, 0, 1]
    assert np.array_equal(bandit.optimal_policy().sum(axis=1), [1, 1, 1])
    assert bandit.shape == (3, 4)


def test_prompts_of_weight_zero_do_not_count():
    bandit = ContextualBandit([0.0, 1.0], REFERENCE, [[1e300, 0, -1e300], REWARD[1]])
    assert bandit.value(POLICY) == 0.375


# ---- availability --------------------------------------------------------------------------------


def test_unavailable_responses():
    available = np.array([[True, True, False], [True, True, True]])
    reference = [[0.5, 0.5, 0.0], REFERENCE[1]]
    reward = [[0.0, 1.0, 5.0], REWARD[1]]
    bandit = ContextualBandit(RHO, reference, reward, available=available)
    assert bandit.optimal_policy().argmax(axis=1).tolist() == [1, 1]
    assert bandit.available.dtype == bool
    assert bandit.regret(bandit.optimal_policy()) == 0
    policy = np.array([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]])
    assert bandit.regret(policy) == 0.25 * 0.25
    policy[0] = [0.25, 0.5, 0.25]
    message = r"policy\[0, 2\] is 0\.25; a response that the prompt does not have"
    for function in (bandit.value, bandit.regret, bandit.value_per_prompt):
        with pytest.raises(ValueError, match=message):
            function(policy)
    with pytest.raises(ValueError, match=r"comparator\[0, 2\] is 0\.25"):
        bandit.regret(bandit.optimal_policy(), policy)


@pytest.mark.parametrize(
    ("available", "message"),
    [
        (np.ones((2, 3)), r"available has dtype float64 and shape \(2, 3\); it must be a boolean"),
        (np.ones((3, 2), bool), r"available has dtype bool and shape \(3, 2\).*shape \(2, 3\)"),
        (
            np.array([[1, 1, 1], [1, 0, 1]], bool),
            r"reference\[1, 1\] is 0\.375; a response that is not available must have",
        ),
    ],
)
def test_bad_masks(available, message):
    with pytest.raises(ValueError, match=message):
        ContextualBandit(RHO, REFERENCE, REWARD, available=available)


# ---- construction --------------------------------------------------------------------------------


def test_arrays_are_read_only_copies():
    rho, reference, reward = (np.array(a, dtype=float) for a in (RHO, REFERENCE, REWARD))
    mask = np.ones((2, 3), bool)
    bandit = ContextualBandit(rho, reference, reward, proxy_reward=reward, available=mask)
    for name, source in [
        ("prompt_dist", rho),
        ("reference", reference),
        ("reward", reward),
        ("proxy_reward", reward),
        ("available", mask),
    ]:
        array = getattr(bandit, name)
        assert not np.shares_memory(array, source)
        assert source.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
        with pytest.raises(AttributeError):
            setattr(bandit, name, source)
    reward[:] = 7
    assert bandit.reward[0, 0] == 1
    policy = POLICY.copy()
    policy.setflags(write=False)
    bandit.regret(policy)


def test_names():
    bandit = ContextualBandit(RHO, REFERENCE, REWARD, prompts=["p", "q"], responses=range(3))
    assert bandit.prompts == ("p", "q")
    assert bandit.responses == (0, 1, 2)
    assert ContextualBandit(RHO, REFERENCE, REWARD).prompts is None


def test_nothing_is_renormalised():
    bandit = ContextualBandit([0.25, 0.75 + 5e-10], REFERENCE, REWARD)
    assert bandit.prompt_dist[1] == 0.75 + 5e-10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_dist": [0.5, 0.25, 0.25]}, r"prompt_dist has shape \(3,\); it must have shape"),
        ({"prompt_dist": [0.5, 0.6]}, r"prompt_dist sums to 1\.1; rows must sum to 1"),
        ({"prompt_dist": [1.5, -0.5]}, r"prompt_dist\[1\] is -0\.5"),
        ({"prompt_dist": None}, "prompt_dist is not an array of real numbers"),
        ({"reference": [0.5, 0.5]}, r"reference has shape \(2,\); it must be a non-empty \(X, Y\)"),
        ({"reference": np.ones((2, 0))}, r"reference has shape \(2, 0\)"),
        ({"reference": [[0.5, 0.25, 0.25], [0.5, 0.5, 0.1]]}, r"reference\[1\] sums to 1\.1"),
        ({"reward": [[1.0, 2.0]] * 2}, r"reward has shape \(2, 2\); it must have shape \(2, 3\)"),
        ({"reward": [[1, 2, np.nan]] * 2}, r"reward\[0, 2\] is nan.*\(2 such entries\)"),
        ({"reward": [[1, 2, np.inf]] * 2}, r"reward\[0, 2\] is inf; entries must be finite"),
        ({"proxy_reward": [[1.0]]}, r"proxy_reward has shape \(1, 1\)"),
        ({"prompts": ["a"]}, "prompts has 1 entries; it must have 2"),
        ({"responses": "abcd"}, "responses has 4 entries; it must have 3"),
    ],
)
def test_bad_construction(changes, message):
    good = {"prompt_dist": RHO, "reference": REFERENCE, "reward": REWARD}
    with pytest.raises(ValueError, match=message):
        ContextualBandit(**{**good, **changes})


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (POLICY[0], r"policy has shape \(3,\); its last two axes must be \(X, Y\) = \(2, 3\)"),
        (POLICY.T[:2] * 0 + 0.5, r"policy has shape \(2, 2\)"),
        (POLICY * 2, r"policy\[0\] sums to 2\.0"),
        (POLICY - [[0.5, 0, -0.5], [0, 0, 0]], r"policy\[0, 0\] is -0\.25"),
    ],
)
def test_bad_policies(bandit, policy, message):
    for function in (bandit.value, bandit.regret, bandit.proxy_value, bandit.value_per_prompt):
        with pytest.raises(ValueError, match=message):
            function(policy)


def test_proxy_value_needs_a_proxy():
    with pytest.raises(ValueError, match="proxy_reward is missing"):
        ContextualBandit(RHO, REFERENCE, REWARD).proxy_value(POLICY)


def test_unavailable_rewards_do_not_touch_the_regret():
    bandit = ContextualBandit(
        [1.0], [[0.5, 0.5, 0.0]], [[1, 0, 1e17]], available=[[True, True, False]]
    )
    assert bandit.regret(bandit.reference) == 0.5


def test_copies_stay_frozen():
    import copy
    import pickle

    bandit = ContextualBandit([1.0], [[0.5, 0.5]], [[1.0, 0.0]], prompts=["x"])
    for again in (copy.deepcopy(bandit), pickle.loads(pickle.dumps(bandit))):
        np.testing.assert_array_equal(again.reward, bandit.reward)
        assert again.prompts == ("x",)
        assert not again.reference.flags.writeable
