"""Trajectories: their laws, comparisons of them, and step rewards that are fitted to these."""

import pickle

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import chisquare
from step_processes import laws, ragged_mdp, random_policy

from rlhfsim import KL, random_bandit
from rlhfsim.mdp import (
    FiniteHorizonMDP,
    Trajectories,
    TrajectoryPairs,
    fit_step_reward,
    occupancies,
    sample_trajectories,
    sample_trajectory_preferences,
    solve_steps,
    step_features,
    value,
)
from rlhfsim.mdp.trajectories import _drawn

N = 20_000


@pytest.fixture(scope="module")
def mdp():
    return ragged_mdp(np.random.default_rng(0), masked=True)


def test_trajectories_follow_the_policy(mdp):
    rng = np.random.default_rng(1)
    policy = random_policy(mdp, rng)
    drawn = sample_trajectories(mdp, N, rng, policy=policy)
    there = occupancies(mdp, policy)
    for h in range(mdp.horizon):
        on = drawn.state[:, h] >= 0
        cells = drawn.state[on, h] * mdp.shapes[h][1] + drawn.action[on, h]
        count = np.bincount(cells, minlength=policy[h].size)
        mass = (there[h][:, None] * policy[h]).ravel()
        assert (count[mass == 0] == 0).all()
        seen = mass > 0
        observed = np.append(count[seen], N - on.sum())
        expected = np.append(mass[seen], 1.0 - mass.sum()) * N
        keep = expected > 1e-6 * N
        assert chisquare(observed[keep], expected[keep], sum_check=False).pvalue > 1e-4
    rewards = drawn.gathered(mdp.reward).sum(axis=1)
    q, reward = laws(mdp, policy)
    deviation = np.sqrt((q @ reward**2 - (q @ reward) ** 2) / N)
    assert abs(rewards.mean() - float(value(mdp, policy))) < 4.5 * deviation


def test_transitions_are_those_of_the_process(mdp):
    drawn = sample_trajectories(mdp, 500, np.random.default_rng(2))
    move = mdp.transitions[0][drawn.state[:, 0], drawn.action[:, 0]]
    np.testing.assert_array_equal(drawn.state[:, 1], move)
    assert ((drawn.state[:, 2] < 0) == (move < 0)).all()
    started = sample_trajectories(mdp, 3, np.random.default_rng(2), start=np.array([1, 0, 1]))
    np.testing.assert_array_equal(started.state[:, 0], [1, 0, 1])


def test_the_same_generator_draws_the_same(mdp):
    one, two = (sample_trajectory_preferences(mdp, 50, np.random.default_rng(3)) for _ in "ab")
    np.testing.assert_array_equal(one.chosen.state, two.chosen.state)
    np.testing.assert_array_equal(one.rejected.action, two.rejected.action)
    again = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(again.chosen.action, one.chosen.action)
    assert not again.chosen.action.flags.writeable


def test_the_largest_uniform_number_finds_an_action_of_a_rounded_sum():
    class Largest:
        def random(self, shape):
            return np.full(shape, np.nextafter(1.0, 0.0))

    rows = np.array([[0.3, 0.7 - 5e-10], [0.5, 0.5]])
    np.testing.assert_array_equal(_drawn(rows, Largest()), [1, 1])


def test_labels_are_bradley_terry_on_sums_of_rewards(mdp):
    """The mean of a label less its probability, against its standard error."""
    pairs = sample_trajectory_preferences(mdp, N, np.random.default_rng(4), temperature=0.5)
    np.testing.assert_array_equal(pairs.chosen.state[:, 0], pairs.rejected.state[:, 0])
    won, lost = (t.gathered(mdp.reward).sum(axis=1) for t in (pairs.chosen, pairs.rejected))
    margin = np.abs(won - lost)
    right, p = won > lost, expit(margin / 0.5)
    apart = margin > 0
    deviation = np.sqrt((p * (1 - p))[apart].sum())
    assert abs((right[apart] - p[apart]).sum()) < 4.5 * deviation
    assert deviation < 0.5 * abs((right[apart] - expit(margin[apart])).sum())


def test_pairs_of_two_policies(mdp):
    """The first always ends early, the second never: each comparison has one of both."""
    ends = [p.copy() for p in mdp.reference]
    ends[0][0], ends[0][1], ends[1][:] = [0, 0, 1], [0, 1, 0], [0, 1]
    stays = [p.copy() for p in ends]
    stays[0][1], stays[1][:] = [1, 0, 0], [1, 0]
    pairs = sample_trajectory_preferences(
        mdp, 200, np.random.default_rng(5), policies=(ends, stays)
    )
    action = np.sort([pairs.chosen.action[:, 1], pairs.rejected.action[:, 1]], axis=0)
    assert (action[1] == 0).sum() + (action[1] == 1).sum() == 200
    assert (action[0] != action[1]).all()


def test_fitted_step_rewards_maximise_the_penalised_likelihood():
    """By a general optimiser, on features of few dimensions; and with one-hot ones."""
    mdp = ragged_mdp(np.random.default_rng(6))
    pairs = sample_trajectory_preferences(mdp, 300, np.random.default_rng(7))
    rng = np.random.default_rng(8)
    for features in (
        tuple(rng.standard_normal((*shape, 3)) for shape in mdp.shapes),
        step_features(mdp),
    ):
        rewards, fit = fit_step_reward(pairs, features, ridge=0.3)
        size = features[0].shape[-1]
        summed = [
            np.stack([t.gathered([f[..., k] for f in features]).sum(axis=1) for k in range(size)])
            for t in (pairs.chosen, pairs.rejected)
        ]
        difference = (summed[0] - summed[1]).T

        def loss(theta, difference=difference):
            return np.logaddexp(0.0, -difference @ theta).sum() + 0.15 * theta @ theta

        best = minimize(loss, np.zeros(size), method="BFGS")
        np.testing.assert_allclose(fit.parameter, best.x, atol=1e-4)
        for level, own in zip(rewards, features, strict=True):
            np.testing.assert_allclose(level, own @ fit.parameter, atol=1e-14)
    assert len(rewards) == 3
    assert rewards[0].shape == mdp.shapes[0]


def test_fitted_step_rewards_learn_to_plan():
    mdp = ragged_mdp(np.random.default_rng(9))
    known = solve_steps(mdp, KL(), 0.3)
    lost = []
    for n in (100, 10_000):
        pairs = sample_trajectory_preferences(mdp, n, np.random.default_rng(10))
        rewards, _ = fit_step_reward(pairs, step_features(mdp), ridge=0.1)
        policy = solve_steps(mdp, KL(), 0.3, reward=rewards).policy
        lost.append(float(value(mdp, known.policy)) - float(value(mdp, policy)))
    assert abs(lost[1]) < 0.3 * abs(lost[0])
    assert abs(lost[1]) < 0.05


def test_a_potential_changes_no_preference_and_no_plan():
    """`+ v(s') - v(s)` in a deterministic process: what comparisons cannot tell."""
    rng = np.random.default_rng(11)
    moves = rng.integers(0, 3, size=(2, 3, 2))
    reward = rng.standard_normal((3, 3, 2))
    mdp = FiniteHorizonMDP(np.full(3, 1 / 3), moves, reward, np.full((3, 3, 2), 0.5))
    v = rng.standard_normal((3, 3))
    shaped = reward - v[:, :, None]
    for h in range(2):
        shaped[h] += v[h + 1][moves[h]]
    drawn = sample_trajectories(mdp, 100, rng)
    ours, theirs = (drawn.gathered(r).sum(axis=1) for r in (reward, shaped))
    np.testing.assert_allclose(theirs - ours, -v[0][drawn.state[:, 0]], atol=1e-13)
    for level, other in zip(
        solve_steps(mdp, KL(), 0.2).policy, solve_steps(mdp, KL(), 0.2, reward=shaped).policy,
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(level, other, atol=1e-12)


MDP = FiniteHorizonMDP([1.0], ([[0, -1]],), ([[0.0, 1.0]], [[1.0, 2.0]]), ([[0.5, 0.5]],) * 2)
ONE = Trajectories([[0, 0]], [[0, 1]])
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Trajectories([[0, 0]], [[0]]), r"state has shape \(1, 2\) and action \(1, 1\)"),
        (lambda: Trajectories([[0.5]], [[0]]), "state is .*plain"),
        (lambda: Trajectories([[-2]], [[0]]), r"state\[0, 0\] is -2; it must be at least -1"),
        (lambda: Trajectories([[]], [[]]), "state is"),
        (lambda: Trajectories([[0], [0, 1]], [[0], [0]]), "state is .* rows must be equally long"),
        (lambda: Trajectories([[0, 0]], np.array([[0, 2**64 - 1]], np.uint64)),
         r"action\[0, 1\] is 18446744073709551615; it must be an int64"),
        (lambda: ONE.gathered([np.zeros((1, 2))]), "levels has 1 arrays; the trajectories have 2"),
        (lambda: ONE.gathered([np.zeros((1, 2)), np.zeros((1, 1))]),
         r"action\[0, 1\] is 1; it must be below 1"),
        (lambda: Trajectories([[0], [2]], [[0], [0]]).gathered([np.zeros((2, 1))]),
         r"state\[1, 0\] is 2; it must be below 2"),
        (lambda: sample_trajectory_preferences(MDP, 1, RNG, policies=(MDP.reference,)),
         "policies has 1 entries; it must have 2"),
        (lambda: sample_trajectory_preferences(MDP, 1, RNG, policies=3), "policies is 3; it must"),
        (lambda: Trajectories([[-1, 0]], [[-1, 0]]), r"state\[0, 0\] is -1 .* both must be -1"),
        (lambda: Trajectories([[0, -1, 0]], [[0, -1, 0]]), r"state\[0, 2\] is 0"),
        (lambda: Trajectories([[0, 0]], [[0, -1]]), r"state\[0, 1\] is 0 and action\[0, 1\] is -1"),
        (lambda: TrajectoryPairs(ONE, 3), "rejected is a int"),
        (lambda: TrajectoryPairs(ONE, Trajectories([[0]], [[0]])), "they must be alike"),
        (lambda: TrajectoryPairs(ONE, Trajectories([[1, 0]], [[0, 0]])),
         r"rejected.state\[0, 0\] is 1; it must be that of chosen, 0"),
        (lambda: sample_trajectories(MDP, 0, RNG), "n is 0"),
        (lambda: sample_trajectories(MDP, 1, 3), "rng is a int"),
        (lambda: sample_trajectories(random_bandit(1, 2, RNG), 1, RNG), "mdp is a Contextual"),
        (lambda: sample_trajectories(MDP, 1, RNG, policy=[[[0.5, 0.5]]]), "policy has 1 arrays"),
        (lambda: sample_trajectories(MDP, 1, RNG, policy=np.full((2, 4, 1, 2), 0.5)),
         r"policy\[0\] has shape \(4, 1, 2\); one policy is sampled"),
        (lambda: sample_trajectories(MDP, 1, RNG, start=np.array([1])), r"start\[0\] is 1"),
        (lambda: sample_trajectories(MDP, 2, RNG, start=np.array([0])), r"start has shape \(1,\)"),
        (lambda: fit_step_reward(ONE, step_features(MDP)), "pairs is a Trajectories"),
        (lambda: fit_step_reward(TrajectoryPairs(ONE, ONE), step_features(MDP)[:1]),
         "features has 1 arrays; the trajectories have 2 steps"),
        (lambda: fit_step_reward(TrajectoryPairs(ONE, ONE), [np.ones((1, 1, 2))] * 2),
         r"pairs.chosen.action\[0, 1\] is 1; it must be below 1"),
        (lambda: fit_step_reward(TrajectoryPairs(ONE, ONE), [[1.0], [1.0]]), "has shape"),
        # Without a ridge, what no comparison tells apart is refused as `Linear` refuses it.
        (lambda: fit_step_reward(TrajectoryPairs(ONE, ONE), step_features(MDP)), "span"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
