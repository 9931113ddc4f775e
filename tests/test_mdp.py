"""Processes of H steps: planning and evaluation against all trajectories, one by one."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from step_processes import laws, ragged_mdp, random_policy

from rlhfsim import (
    KL,
    ChiSquared,
    ContextualBandit,
    ForwardKL,
    JensenShannon,
    random_bandit,
    solve,
)
from rlhfsim.mdp import (
    FiniteHorizonMDP,
    LinearMDP,
    PrefixTree,
    TokenTree,
    action_values,
    chi_squared_over_trajectories,
    max_trajectory_concentrability,
    occupancies,
    optimal_policy,
    random_linear_mdp,
    random_mdp,
    random_token_tree,
    solve_steps,
    step_divergence,
    trajectory_concentrability,
    trajectory_kl,
    value,
)

DIVERGENCES = (KL(), ChiSquared(), ChiSquared() + 0.3 * KL(), ForwardKL(), JensenShannon())
SEEDS = st.integers(0, 2**32 - 1)


# ---- one step is a bandit ------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
def test_one_step_is_the_bandit_to_the_bit(divergence):
    bandit = random_bandit(5, 7, np.random.default_rng(0))
    mdp = FiniteHorizonMDP.from_bandit(bandit)
    found = solve_steps(mdp, divergence, 0.3)
    known = solve(bandit.reward, bandit.reference, divergence, 0.3)
    np.testing.assert_array_equal(found.policy[0], known.policy)
    np.testing.assert_array_equal(found.values[0], known.value)
    np.testing.assert_array_equal(found.multiplier[0], known.multiplier)
    assert found.gap == np.abs(known.gap).max()
    assert found.tolerance == known.tolerance.max()
    policy = found.policy[0]
    assert float(value(mdp, found.policy)) == float(bandit.value(policy))
    charged = step_divergence(mdp, found.policy, divergence)
    assert charged == divergence(policy, bandit.reference, bandit.prompt_dist)
    back = mdp.as_bandit()
    np.testing.assert_array_equal(back.reward, bandit.reward)
    np.testing.assert_array_equal(back.reference, bandit.reference)
    np.testing.assert_array_equal(optimal_policy(mdp)[0], bandit.optimal_policy())


def test_tied_actions_go_to_the_best_covered_one_as_in_the_bandit():
    """Rewards of two levels tie everywhere; references tie too, and lack what is unavailable."""
    rng = np.random.default_rng(14)
    reward = rng.integers(0, 2, (50, 4)).astype(float)
    mask = np.ones((50, 4), bool)
    mask[:, 1] = rng.random(50) < 0.5
    weight = rng.integers(1, 3, (50, 4)) * mask
    reference = weight / weight.sum(axis=1, keepdims=True)
    bandit = ContextualBandit(np.full(50, 0.02), reference, reward, available=mask)
    best = optimal_policy(FiniteHorizonMDP.from_bandit(bandit))[0]
    np.testing.assert_array_equal(best, bandit.optimal_policy())
    assert (best.argmax(axis=1) != np.where(mask, reward, -1.0).argmax(axis=1)).any()
    # At an early step too: what follows is the same from either state.
    two = FiniteHorizonMDP(
        [1.0], ([[0, 1]],), ([[0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]), ([[0.25, 0.75]], np.eye(2))
    )
    np.testing.assert_array_equal(optimal_policy(two)[0], [[0.0, 1.0]])


# ---- against all trajectories --------------------------------------------------------------------


@given(seed=SEEDS, masked=st.booleans())
def test_evaluation_is_that_of_all_trajectories(seed, masked):
    rng = np.random.default_rng(seed)
    mdp = ragged_mdp(rng, masked)
    policy = random_policy(mdp, rng)
    q, p, reward = laws(mdp, policy, mdp.reference)
    assert q.sum() == pytest.approx(1.0, abs=1e-12)
    assert float(value(mdp, policy)) == pytest.approx(q @ reward, abs=1e-12)
    on = q > 0
    kl = (q[on] * np.log(q[on] / p[on])).sum()
    assert float(trajectory_kl(mdp, policy)) == pytest.approx(kl, rel=1e-9, abs=1e-12)
    mean = (q[on] ** 2 / p[on]).sum()
    assert float(trajectory_concentrability(mdp, policy)) == pytest.approx(mean, rel=1e-11)
    most = (q[on] / p[on]).max()
    assert float(max_trajectory_concentrability(mdp, policy)) == pytest.approx(most, rel=1e-11)


@given(seed=SEEDS)
def test_occupancies_and_values_belong_together(seed):
    rng = np.random.default_rng(seed)
    mdp = ragged_mdp(rng)
    policy = random_policy(mdp, rng)
    there = occupancies(mdp, policy)
    by_occupancy = sum(
        (d[:, None] * pi * r).sum() for d, pi, r in zip(there, policy, mdp.reward, strict=True)
    )
    assert float(value(mdp, policy)) == pytest.approx(by_occupancy, abs=1e-12)
    q, v = action_values(mdp, policy)
    for own_q, own_v, pi in zip(q, v, policy, strict=True):
        np.testing.assert_allclose((pi * own_q).sum(axis=1), own_v, atol=1e-13)
    # One transition of the first step ends the episode.
    assert there[1].sum() == pytest.approx(1.0 - there[0][1] * policy[0][1, 1])


def test_policies_that_differ_in_a_later_step_have_their_axis_in_every_step():
    rng = np.random.default_rng(3)
    mdp = ragged_mdp(rng)
    one, two = random_policy(mdp, rng), random_policy(mdp, rng)
    both = (one[0], one[1], np.stack([one[2], two[2]]))
    there = occupancies(mdp, both)
    assert [level.shape for level in there] == [(2, s) for s, _ in mdp.shapes]
    for level, own in zip(there, occupancies(mdp, one), strict=True):
        np.testing.assert_array_equal(level, np.broadcast_to(own, level.shape))


def test_every_action_may_end_the_episode():
    half = np.full((2, 2), 0.5)
    mdp = FiniteHorizonMDP([0.5, 0.5], (np.full((2, 2), -1),), (np.ones((2, 2)),) * 2, (half, half))
    there = occupancies(mdp, mdp.reference)
    np.testing.assert_array_equal(there, [[0.5, 0.5], [0.0, 0.0]])
    many = occupancies(mdp, np.broadcast_to(half, (2, 3, 2, 2)))
    np.testing.assert_array_equal(many[1], np.zeros((3, 2)))
    assert float(value(mdp, mdp.reference)) == 1.0


def test_optimal_policy_beats_every_deterministic_policy():
    rng = np.random.default_rng(3)
    mdp = random_mdp(2, 2, 3, rng)
    best = float(value(mdp, optimal_policy(mdp)))
    eye = np.eye(3)
    values = [
        float(value(mdp, (eye[list(a[:2])], eye[list(a[2:])]))) for a in np.ndindex(3, 3, 3, 3)
    ]
    assert best == pytest.approx(max(values), abs=1e-14)


# ---- planning ------------------------------------------------------------------------------------


@given(seed=SEEDS, beta=st.floats(0.05, 10.0))
def test_kl_soft_values_are_log_partition_functions(seed, beta):
    rng = np.random.default_rng(seed)
    mdp = ragged_mdp(rng)
    found = solve_steps(mdp, KL(), beta)
    later = [None, None, np.zeros((4, 3))]
    for h in (2, 1, 0):
        q = mdp.reward[h] + later[h]
        v = beta * logsumexp(q / beta, b=mdp.reference[h], axis=1)
        np.testing.assert_allclose(found.values[h], v, atol=1e-12 * (1 + beta))
        np.testing.assert_allclose(
            found.policy[h], softmax(np.log(mdp.reference[h]) + q / beta, axis=1), atol=1e-12
        )
        if h == 2:
            later[1] = mdp.transitions[1] @ v
        if h == 1:
            move = mdp.transitions[0]
            later[0] = np.where(move < 0, 0.0, v[move])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
def test_no_change_at_a_state_pays(divergence, masked):
    """Towards every action of every state, by a little and by much; and random policies."""
    mdp, beta = ragged_mdp(np.random.default_rng(8), masked), 0.4
    found = solve_steps(mdp, divergence, beta)

    def objective(policy):
        return value(mdp, policy) - beta * step_divergence(mdp, policy, divergence)

    best = float(found.objective)
    assert float(objective(found.policy)) == pytest.approx(best, abs=1e-12)
    assert 0 <= found.gap <= found.tolerance < 1e-12
    for h, (_, n_actions) in enumerate(mdp.shapes):
        for step in (1e-5, 0.3):
            for s, a in zip(*np.nonzero(mdp.reference[h]), strict=True):
                changed = [level.copy() for level in found.policy]
                changed[h][s] = (1.0 - step) * changed[h][s] + step * np.eye(n_actions)[a]
                # A wrong optimum would gain in proportion to the step.
                assert float(objective(changed)) <= best + 1e-12
                assert float(objective(changed)) >= best - 30 * step
    rng = np.random.default_rng(1)
    for _ in range(20):
        assert float(objective(random_policy(mdp, rng))) < best


@pytest.mark.parametrize("divergence", [KL(), ChiSquared()], ids=repr)
def test_the_certificate_is_the_sum_of_those_of_the_steps(divergence):
    mdp = random_mdp(4, 3, 3, np.random.default_rng(2))
    found = solve_steps(mdp, divergence, 0.3)
    gaps, allowed, q = [], 0.0, mdp.reward[3]
    for h in (3, 2, 1, 0):
        step = solve(q, mdp.reference[h], divergence, 0.3)
        np.testing.assert_array_equal(found.values[h], step.value)
        gaps.append(np.abs(step.gap).max())
        allowed += step.tolerance.max()
        if h:
            q = mdp.reward[h - 1] + np.matmul(mdp.transitions[h - 1], step.value[:, None])[..., 0]
            # The sum of a reward and a mean of values is rounded.
            allowed += 4 * np.finfo(np.float64).eps * np.abs(q).max()
    assert sum(gaps) > max(gaps)
    assert found.gap == pytest.approx(sum(gaps), rel=1e-12, abs=0.0)
    assert found.tolerance == pytest.approx(allowed, rel=1e-12, abs=0.0)


def test_many_betas_at_once():
    mdp = ragged_mdp(np.random.default_rng(4), masked=True)
    betas = np.array([0.1, 1.0, 10.0])
    together = solve_steps(mdp, ChiSquared(), betas)
    assert together.objective.shape == (3,)
    for k, beta in enumerate(betas):
        alone = solve_steps(mdp, ChiSquared(), float(beta))
        for many, one in zip(together.policy, alone.policy, strict=True):
            np.testing.assert_array_equal(many[k], one)
        assert together.objective[k] == alone.objective


@pytest.mark.parametrize("divergence", [KL(), ChiSquared()], ids=repr)
def test_regularization_fades_and_takes_over(divergence):
    mdp = ragged_mdp(np.random.default_rng(5))
    best = float(value(mdp, optimal_policy(mdp)))
    assert float(value(mdp, solve_steps(mdp, divergence, 1e-4).policy)) == pytest.approx(best)
    for level, p in zip(solve_steps(mdp, divergence, 1e9).policy, mdp.reference, strict=True):
        np.testing.assert_allclose(level, p, atol=1e-8)


def test_other_rewards_in_place_of_the_own():
    mdp = ragged_mdp(np.random.default_rng(6))
    other = tuple(2.0 * r for r in mdp.reward)
    found = solve_steps(mdp, KL(), 1.0, reward=other)
    known = solve_steps(replace(mdp, reward=other), KL(), 1.0)
    np.testing.assert_array_equal(found.policy[0], known.policy[0])


def test_unreached_states_do_not_count_even_at_infinity():
    """The first step avoids a state where the policy leaves the reference."""
    mdp = FiniteHorizonMDP(
        [1.0], ([[0, 1]],), ([[0.0, 0.0]], np.zeros((2, 2))), ([[0.5, 0.5]], [[0.5, 0.5], [1, 0]])
    )
    policy = ([[1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]])
    assert float(trajectory_kl(mdp, policy)) == pytest.approx(np.log(2))
    assert float(trajectory_concentrability(mdp, policy)) == 2.0
    assert float(max_trajectory_concentrability(mdp, policy)) == 2.0
    policy = ([[0.5, 0.5]], policy[1])
    assert float(trajectory_kl(mdp, policy)) == np.inf
    assert float(trajectory_concentrability(mdp, policy)) == np.inf


def test_arrays_are_copied_frozen_and_pickled():
    rng = np.random.default_rng(7)
    reward = rng.standard_normal((2, 3, 2))
    mdp = FiniteHorizonMDP(
        [0.2, 0.3, 0.5], [np.zeros((3, 2), dtype=int)], reward, [[[0.5] * 2] * 3] * 2
    )
    reward[:] = 0.0
    assert np.abs(mdp.reward[0]).min() > 0
    for array in (mdp.initial, *mdp.transitions, *mdp.reward, *mdp.reference):
        assert not array.flags.writeable
    again = pickle.loads(pickle.dumps(mdp))
    np.testing.assert_array_equal(again.reward[1], mdp.reward[1])
    assert not again.reward[1].flags.writeable
    assert mdp.deterministic
    assert mdp.horizon == 2
    assert not random_mdp(2, 2, 2, rng).deterministic


# ---- linear processes ----------------------------------------------------------------------------


@given(seed=SEEDS, beta=st.floats(0.1, 5.0))
def test_action_values_of_a_linear_process_are_linear(seed, beta):
    rng = np.random.default_rng(seed)
    linear = random_linear_mdp(3, 5, 3, 2, rng)
    mdp = linear.mdp
    np.testing.assert_allclose(mdp.transitions[0], linear.features[0] @ linear.measures[0])
    policy = random_policy(mdp, rng)
    q, v = action_values(mdp, policy)
    for own, phi, w in zip(q, linear.features, linear.weights(v), strict=True):
        np.testing.assert_allclose(own, phi @ w, atol=1e-12)
    soft = solve_steps(mdp, ChiSquared(), beta)
    for h, (phi, w) in enumerate(zip(linear.features, linear.weights(soft.values), strict=True)):
        again = solve(phi @ w, mdp.reference[h], ChiSquared(), beta)
        np.testing.assert_allclose(again.policy, soft.policy[h], atol=1e-10)


def test_features_and_measures_that_make_no_distributions():
    linear = random_linear_mdp(2, 3, 2, 2, np.random.default_rng(0))
    fields = {n: getattr(linear, n) for n in ("initial", "features", "parameters", "reference")}
    with pytest.raises(ValueError, match=r"features\[0\] @ measures\[0\]\[0, 0\] sums to 2"):
        LinearMDP(measures=(2 * linear.measures[0],), **fields)
    flipped = np.array([[1.5, -0.5, 0.0], [0.0, 0.5, 0.5]])
    with pytest.raises(ValueError, match=r"measures\[0\]\[\d, \d, 1\] is -.*must not be negative"):
        LinearMDP(measures=(flipped,), **fields)
    with pytest.raises(ValueError, match="values has 1 arrays; it must have 2"):
        linear.weights([np.zeros(3)])
    with pytest.raises(
        ValueError, match=r"values\[1\] has shape \(2,\); it must have shape \(3,\)"
    ):
        linear.weights([np.zeros(3), np.zeros(2)])
    with pytest.raises(ValueError, match="measures has 0 arrays; it must have 1"):
        LinearMDP(measures=(), **fields)
    with pytest.raises(ValueError, match=r"measures\[0\] has shape \(2, 2\); .* \(2, 3\)"):
        LinearMDP(measures=(np.eye(2),), **fields)
    assert pickle.loads(pickle.dumps(linear)).mdp.shapes == linear.mdp.shapes


# ---- bad input -----------------------------------------------------------------------------------

GOOD = {
    "initial": [1.0],
    "transitions": [[[0, 1]]],
    "reward": [[[0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]],
    "reference": [[[0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]],
}
FULL = [np.ones((1, 2), bool), np.ones((2, 2), bool)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": []}, "reward has 0 arrays; the horizon must be at least 1"),
        ({"reward": 3.0}, "reward is 3.0; it must be a sequence"),
        ({"reward": [[[0.0, np.nan]], GOOD["reward"][1]]}, r"reward\[0\]\[0, 1\] is nan"),
        ({"reward": [[0.0, 1.0], GOOD["reward"][1]]}, r"reward\[0\] has shape \(2,\)"),
        ({"initial": [0.5, 0.5]}, r"initial has shape \(2,\); it must have shape \(1,\)"),
        ({"initial": [0.9]}, "initial sums to 0.9"),
        ({"transitions": []}, "transitions has 0 arrays; it must have 1"),
        ({"transitions": [[[0, 2]]]}, r"transitions\[0\]\[0, 1\] is 2; .* below 2"),
        ({"transitions": [[[0, -2]]]}, r"transitions\[0\]\[0, 1\] is -2; .* or -1"),
        ({"transitions": [[[[1.0, 0.0], [0.5, 0.4]]]]}, r"transitions\[0\]\[0, 1\] sums to 0.9"),
        ({"transitions": [[[[1.0, 0.0], [1.5, -0.5]]]]}, r"transitions\[0\]\[0, 1, 1\] is -0.5"),
        ({"transitions": [[[[1.0], [1.0]]]]}, r"transitions\[0\] has shape \(1, 2, 1\)"),
        ({"transitions": [[[0]]]}, r"transitions\[0\] has shape \(1, 1\)"),
        ({"reference": [[[0.5, 0.6]], GOOD["reference"][1]]}, r"reference\[0\]\[0\] sums to 1.1"),
        (
            {"reference": [[[[0.5, 0.5]]] * 3, GOOD["reference"][1]]},
            r"reference\[0\] has shape \(3, 1, 2\); it must have shape \(1, 2\)",
        ),
        ({"transitions": [[[0], [0, 1]]]}, r"transitions\[0\] is .* rows must be equally long"),
        ({"reference": [[[0.5, 0.5]]]}, "reference has 1 arrays; it must have 2"),
        ({"reference": [[[1.0]], GOOD["reference"][1]]}, r"reference\[0\] has shape \(1, 1\)"),
        ({"available": [FULL[0]]}, "available has 1 arrays"),
        ({"available": [FULL[0], [[1, 1], [1, 1]]]}, r"available\[1\] has dtype int64"),
        ({"available": [FULL[0], ~FULL[1]]}, r"available\[1\] has no action at state 0"),
        ({"available": [[[True, False]], FULL[1]]}, r"reference\[0\]\[0, 1\] is 0.5; an action"),
    ],
)
def test_bad_processes(change, message):
    arguments = GOOD | change
    if "available" in change:
        arguments["available"] = [np.asarray(mask) for mask in change["available"]]
    with pytest.raises(ValueError, match=message):
        FiniteHorizonMDP(**arguments)


MDP = FiniteHorizonMDP(**GOOD)
HUGE = replace(MDP, reward=[np.full(shape, 1e308) for shape in MDP.shapes])
MASKED = FiniteHorizonMDP(
    **(GOOD | {"reference": [[[1.0, 0.0]], GOOD["reference"][1]]}),
    available=(np.array([[True, False]]), FULL[1]),
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve_steps(random_bandit(1, 2, np.random.default_rng(0)), KL(), 1.0),
         "process is a ContextualBandit; it must be a FiniteHorizonMDP or a TokenTree"),
        (lambda: solve_steps(MDP, KL(), 0.0), "beta is 0.0"),
        (lambda: solve_steps(MDP, KL(), [[1.0]]), r"beta has shape \(1, 1\)"),
        (lambda: solve_steps(MDP, KL(), []), r"beta has shape \(0,\); it must be a number or"),
        (lambda: solve_steps(MDP, "KL", 1.0), "divergence is 'KL'"),
        (lambda: step_divergence(MDP, MDP.reference, "kl"), "divergence is 'kl'; it must be a Div"),
        (lambda: value(MDP, [np.full((3, 1, 2), 0.5), np.full((4, 2, 2), 0.5)]),
         r"policy\[1\] has shape \(4, 2, 2\); .* those of the steps before, \(3,\)"),
        (lambda: value(HUGE, MDP.reference), "reward.0. plus the value of what follows is inf at"),
        (lambda: optimal_policy(HUGE), "reward.0. plus the value of what follows is inf at"),
        (lambda: chi_squared_over_trajectories(HUGE, 1.0), "reward.0. plus the value of what foll"),
        (lambda: solve_steps(MDP, KL(), 1.0, reward=[[[0.0, 1.0]]]), "reward has 1 arrays"),
        (lambda: solve_steps(MDP, KL(), 1.0, reward=([[0.0]], GOOD["reward"][1])),
         r"reward\[0\] has shape \(1, 1\); it must be \(1, 2\)"),
        (lambda: solve_steps(MDP, KL(), 1.0, reward=[np.full(s, 1e308) for s in MDP.shapes]),
         r"reward\[0\] plus the value of what follows is inf at \[0, 0\]"),
        (lambda: value(MDP, [[[0.5, 0.5]]]), "policy has 1 arrays; it must have 2"),
        (lambda: value(MDP, [[[0.5, 0.4]], GOOD["reference"][1]]), r"policy\[0\]\[0\] sums to 0.9"),
        (lambda: value(MDP, [[[0.5, 0.5]], [[1.0, 0.0]]]), r"policy\[1\] has shape \(1, 2\)"),
        (lambda: value(MASKED, GOOD["reference"]), r"policy\[0\]\[0, 1\] is 0.5; an action that"),
        (lambda: MDP.as_bandit(), "horizon is 2; only one step makes a bandit"),
        (lambda: FiniteHorizonMDP.from_bandit(MDP), "bandit is a FiniteHorizonMDP"),
        (lambda: random_mdp(0, 2, 2, np.random.default_rng(0)), "horizon is 0; .* at least 1"),
    ],
)  # fmt: skip
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- chi-squared over trajectories ---------------------------------------------------------------


@given(seed=SEEDS, beta=st.floats(0.3, 20.0))
def test_no_policy_beats_the_chi_squared_optimum_over_trajectories(seed, beta):
    rng = np.random.default_rng(seed)
    mdp = ragged_mdp(rng)
    best = chi_squared_over_trajectories(mdp, beta)
    policies = [random_policy(mdp, rng), solve_steps(mdp, ChiSquared(), beta).policy]
    for policy in policies:
        away = 0.5 * (float(trajectory_concentrability(mdp, policy)) - 1.0)
        assert float(value(mdp, policy)) - beta * away <= best.value + 1e-11
    q, v = action_values(mdp, mdp.reference)
    np.testing.assert_allclose(best.advantage[1], q[1] - v[1][:, None], atol=1e-13)
    assert best.reference_value == float(value(mdp, mdp.reference))


def test_the_chi_squared_optimum_over_trajectories_is_attained():
    """By the policy that remembers: its law over trajectories, written out."""
    mdp = ragged_mdp(np.random.default_rng(12))
    best = chi_squared_over_trajectories(mdp, 8.0)
    assert best.least_ratio > 0
    tilted = [p * (1.0 + a / 8.0) for p, a in zip(mdp.reference, best.advantage, strict=True)]
    plain, reward = laws(mdp, mdp.reference)
    # The sum of advantages along each trajectory, from products that are linear in one step.
    total = np.zeros_like(plain)
    for h in range(3):
        mixed = [
            t if k == h else p for k, (t, p) in enumerate(zip(tilted, mdp.reference, strict=True))
        ]
        total += 8.0 * (laws(mdp, mixed)[0] / plain - 1.0)
    ratio = 1.0 + total / 8.0
    assert best.least_ratio == pytest.approx(ratio.min(), rel=1e-11)
    law = plain * ratio
    assert law.sum() == pytest.approx(1.0, abs=1e-12)
    attained = law @ reward - 8.0 * 0.5 * (plain * (ratio - 1.0) ** 2).sum()
    assert attained == pytest.approx(best.value, abs=1e-12)
    # With a small beta W would be negative somewhere.
    assert chi_squared_over_trajectories(mdp, 0.1).least_ratio < 0


def test_over_trajectories_of_tokens_it_is_the_bandit():
    tree = random_token_tree(PrefixTree.full(3, 2), 1, np.random.default_rng(13))
    bandit = tree.as_bandit()
    best = chi_squared_over_trajectories(tree, 5.0)
    known = solve(bandit.reward, bandit.reference, ChiSquared(), 5.0)
    assert best.least_ratio > 0
    assert best.value == pytest.approx(float(known.value[0]), rel=1e-13)
    ratio = known.policy / bandit.reference
    assert best.least_ratio == pytest.approx(ratio.min(), rel=1e-12)
    one = FiniteHorizonMDP.from_bandit(bandit)
    assert chi_squared_over_trajectories(one, 5.0).value == pytest.approx(best.value, rel=1e-13)
    with pytest.raises(ValueError, match="beta is 0"):
        chi_squared_over_trajectories(one, 0)


def test_prompts_that_do_not_occur_have_no_ratio():
    rewards = [[0.0, 1.0], [0.0, -100.0]]
    bandit = ContextualBandit([1.0, 0.0], np.full((2, 2), 0.5), rewards)
    tree = TokenTree.from_bandit(bandit, PrefixTree.full(2, 1))
    for process in (tree, tree.as_mdp()):
        assert chi_squared_over_trajectories(process, 1.0).least_ratio == 0.5
    bandit = ContextualBandit([1.0, 0.0], [[0.5, 0.5], [0.01, 0.99]], np.zeros((2, 2)))
    tree = TokenTree.from_bandit(bandit, PrefixTree.full(2, 1))
    for process, policy in ((tree, ([[[1.0, 0.0]]] * 2,)), (tree.as_mdp(), ([[1.0, 0.0]] * 2,))):
        assert float(max_trajectory_concentrability(process, policy)) == 2.0


def test_states_that_do_not_follow_have_no_ratio():
    def process(mass):
        """Return two steps, in which the second state of the second one has the given mass."""
        reference = ([[1.0]], [[0.5, 0.5], [0.01, 0.99]])
        rewards = ([[0.0]], [[1.0, 0.0], [-9.0, 9.0]])
        return FiniteHorizonMDP([1.0], ([[[1.0 - mass, mass]]],), rewards, reference)

    policy = ([[1.0]], [[1.0, 0.0], [1.0, 0.0]])
    assert float(max_trajectory_concentrability(process(0.0), policy)) == 2.0
    assert float(max_trajectory_concentrability(process(1e-9), policy)) == 100.0
    assert chi_squared_over_trajectories(process(0.0), 1.0).least_ratio == 0.5
    assert chi_squared_over_trajectories(process(1e-9), 1.0).least_ratio < -5.0


def test_a_trajectory_that_ends_early_has_the_sum_of_its_own_advantages():
    mdp = FiniteHorizonMDP(
        [1.0], ([[-1, 0]],), ([[-4.0, 4.0]], [[1.0, -1.0]]), ([[0.5, 0.5]], [[0.5, 0.5]])
    )
    # The early end, of reward -4, is the least of all.
    assert chi_squared_over_trajectories(mdp, 1.0).least_ratio == 1.0 - 4.0


def test_what_the_reference_cannot_do_has_no_ratio():
    mdp = FiniteHorizonMDP([1.0], (), ([[0.0, 1.0, -100.0]],), ([[0.5, 0.5, 0.0]],))
    best = chi_squared_over_trajectories(mdp, 1.0)
    assert best.least_ratio == 0.5
    assert float(best.value) == 0.5 + 0.25 / 2
