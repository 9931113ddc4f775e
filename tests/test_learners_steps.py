"""Learners that go token by token: one token is the bandit, and everything by a second route."""

import pickle

import numpy as np
import pytest
from step_processes import ragged_mdp

from rlhfsim import (
    KL,
    BradleyTerry,
    ChiSquared,
    ContextualBandit,
    Linear,
    PreferenceData,
    Tabular,
    random_bandit,
    sample_demonstrations,
    sample_preferences,
    solve,
)
from rlhfsim.data import DemonstrationData
from rlhfsim.laws import population_pairs
from rlhfsim.learners import RLHF, DemonstrationRegularized, Learner
from rlhfsim.learners.demonstrations import behavior_cloning
from rlhfsim.learners.steps import (
    TokenDemonstrationRegularized,
    TokenRLHF,
    clone_tokens,
    clone_trajectories,
    plan_around_clone,
)
from rlhfsim.mdp import (
    FiniteHorizonMDP,
    PrefixTree,
    TokenTree,
    Trajectories,
    sample_trajectories,
    sequence_policy,
    solve_steps,
    step_divergence,
    token_policy,
    trajectory_kl,
    value,
)

RIDGE = Tabular(ridge=0.1)
BANDIT = random_bandit(3, 16, np.random.default_rng(1))
DATA = sample_preferences(BANDIT, 400, np.random.default_rng(2))
EXPERT = solve(BANDIT.reward, BANDIT.reference, KL(), 0.1).policy
SHOWN = sample_demonstrations(BANDIT, 40, np.random.default_rng(3), expert=EXPERT)
WORD = PrefixTree.full(16, 1)
TREES = [PrefixTree.full(4, 2), PrefixTree.full(2, 4)]


def same(one, two):
    """Everything of the second is in the first, to the bit."""
    np.testing.assert_array_equal(one.policy, two.policy)
    np.testing.assert_array_equal(one.reward, two.reward)
    assert (one.beta, one.residual, one.objective) == (two.beta, two.residual, two.objective)
    for key in two.diagnostics:
        np.testing.assert_array_equal(one.diagnostics[key], two.diagnostics[key], err_msg=key)


@pytest.mark.parametrize("divergence", [KL(), ChiSquared(), ChiSquared() + KL()], ids=repr)
@pytest.mark.parametrize("rho", [None, BANDIT.prompt_dist], ids=["no rho", "rho"])
def test_one_token_is_the_bandit_to_the_bit(divergence, rho):
    p = BANDIT.reference
    ours = TokenRLHF(WORD, 0.3, divergence, RIDGE).fit(DATA, p, prompt_dist=rho)
    same(ours, RLHF(0.3, divergence, RIDGE).fit(DATA, p, prompt_dist=rho))
    for smoothing in (1.0, 0.3):
        ours = TokenDemonstrationRegularized(WORD, SHOWN, 0.3, smoothing, RIDGE)
        known = DemonstrationRegularized(SHOWN, 0.3, smoothing, RIDGE)
        same(ours.fit(DATA, p, prompt_dist=rho), known.fit(DATA, p, prompt_dist=rho))


@pytest.mark.parametrize("prefixes", TREES, ids=["4^2", "2^4"])
def test_kl_does_not_see_the_tokens_and_chi_squared_does(prefixes):
    p, rho = BANDIT.reference, BANDIT.prompt_dist
    ours = TokenRLHF(prefixes, 0.3, KL(), RIDGE)
    assert isinstance(ours, Learner)
    learned = pickle.loads(pickle.dumps(ours)).fit(DATA, p, prompt_dist=rho)
    known = RLHF(0.3, KL(), RIDGE).fit(DATA, p, prompt_dist=rho)
    np.testing.assert_allclose(learned.policy, known.policy, atol=1e-13)
    assert learned.objective == pytest.approx(known.objective, abs=1e-13)
    np.testing.assert_allclose(learned.diagnostics["charged"], known.diagnostics["kl"], atol=1e-12)
    learned = TokenRLHF(prefixes, 0.3, ChiSquared(), RIDGE).fit(DATA, p, prompt_dist=rho)
    tree = TokenTree(prefixes, rho, prefixes.spread(learned.reward), token_policy(prefixes, p))
    levels = token_policy(prefixes, learned.policy)
    cost = float(step_divergence(tree, levels, ChiSquared()))
    assert rho @ learned.diagnostics["charged"] == pytest.approx(cost, rel=1e-10)
    assert learned.objective == pytest.approx(float(value(tree, levels)) - 0.3 * cost, rel=1e-10)
    # The optimum over sequences is worse by this objective.
    other = token_policy(prefixes, RLHF(0.3, ChiSquared(), RIDGE).fit(DATA, p).policy)
    rival = float(value(tree, other)) - 0.3 * float(step_divergence(tree, other, ChiSquared()))
    assert rival < learned.objective - 1e-4


def test_the_multiplier_is_that_of_the_first_token():
    prefixes, mixed = TREES[0], ChiSquared() + KL()
    learned = TokenRLHF(prefixes, 0.3, mixed, RIDGE).fit(
        DATA, BANDIT.reference, prompt_dist=BANDIT.prompt_dist
    )
    fitted = ContextualBandit(BANDIT.prompt_dist, BANDIT.reference, learned.reward)
    found = solve_steps(TokenTree.from_bandit(fitted, prefixes), mixed, 0.3)
    np.testing.assert_array_equal(learned.diagnostics["multiplier"], found.multiplier[0][:, 0])


@pytest.mark.parametrize("shown", [None, SHOWN], ids=["preferences", "demonstrations"])
def test_names_of_responses_do_not_matter_if_the_tree_has_them_too(shown):
    def learner(prefixes, demos):
        if demos is None:
            return TokenRLHF(prefixes, 0.5, ChiSquared(), RIDGE)
        return TokenDemonstrationRegularized(prefixes, demos, 0.5, model=RIDGE)

    new = np.random.default_rng(5).permutation(16)
    prefixes = PrefixTree.from_sequences([[y // 4, y % 4] if y > 2 else [y, -1] for y in range(16)])
    demos = shown and DemonstrationData(shown.prompt, new[shown.response], shown.shape)
    data = PreferenceData(DATA.prompt, new[DATA.chosen], new[DATA.rejected], (3, 16))
    first = learner(prefixes, shown).fit(DATA, BANDIT.reference)
    second = learner(prefixes.renamed(new), demos).fit(data, BANDIT.reference[:, np.argsort(new)])
    np.testing.assert_allclose(second.policy[:, new], first.policy, atol=1e-7)


def test_rewards_that_are_linear_in_counts_of_tokens():
    """Features summed along responses: a reward per token, fitted to preferences."""
    prefixes = PrefixTree.full(2, 4)
    ones = prefixes.sums_along([np.broadcast_to([0.0, 1.0], s) for s in prefixes.shapes])
    features = np.broadcast_to(ones[:, None], (3, 16, 1))
    data = sample_preferences(
        BANDIT, 4000, np.random.default_rng(4), model=BradleyTerry(0.8 * features[..., 0])
    )
    learned = TokenRLHF(prefixes, 1.0, KL(), Linear(features)).fit(data, BANDIT.reference)
    slope = learned.reward[0, -1] / 4.0
    assert slope == pytest.approx(0.8, abs=0.15)
    # Each token is tilted by the same factor: the reward of a prefix is that of its tokens.
    levels = token_policy(prefixes, learned.policy)
    before = token_policy(prefixes, BANDIT.reference)
    last = levels[3] / before[3]
    np.testing.assert_allclose(last[..., 1] / last[..., 0], np.exp(slope), rtol=1e-9)


# ---- cloning -------------------------------------------------------------------------------------


def test_the_clone_of_a_few_sequences():
    prefixes = PrefixTree.full(2, 2)
    shown = DemonstrationData([0, 0, 0, 1], [0, 0, 3, 2], (3, 4))
    clone = clone_tokens(shown, prefixes)
    np.testing.assert_allclose(clone[0][:, 0], [[3 / 5, 2 / 5], [1 / 3, 2 / 3], [0.5, 0.5]])
    np.testing.assert_allclose(clone[1][0], [[3 / 4, 1 / 4], [1 / 3, 2 / 3]])
    np.testing.assert_allclose(clone[1][1], [[0.5, 0.5], [2 / 3, 1 / 3]])
    np.testing.assert_array_equal(clone[1][2], np.full((2, 2), 0.5))
    bare = clone_tokens(DemonstrationData([0, 0], [0, 0], (1, 4)), prefixes, smoothing=0.0)
    np.testing.assert_array_equal(sequence_policy(prefixes, bare), [[1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(bare[1][0, 1], [0.5, 0.5])


def test_only_what_the_reference_can_give_is_smoothed_over():
    prefixes = PrefixTree.full(2, 2)
    shown = DemonstrationData([0], [0], (1, 4))
    clone = clone_tokens(shown, prefixes, reference=[[0.5, 0.0, 0.5, 0.0]])
    np.testing.assert_allclose(sequence_policy(prefixes, clone), [[2 / 3, 0, 1 / 3, 0]])
    # What was demonstrated counts, wherever it is.
    clone = clone_tokens(shown, prefixes, reference=[[0.0, 0.5, 0.5, 0.0]])
    np.testing.assert_allclose(sequence_policy(prefixes, clone), [[4 / 9, 2 / 9, 1 / 3, 0]])
    # The learner hands its reference to the clone.
    data = PreferenceData([0, 0], [0, 2], [2, 0], (1, 4))
    learner = TokenDemonstrationRegularized(prefixes, shown, 1.0, model=RIDGE)
    learned = learner.fit(data, [[0.5, 0.0, 0.5, 0.0]])
    np.testing.assert_allclose(learned.diagnostics["behavior_policy"], [[2 / 3, 0, 1 / 3, 0]])


@pytest.mark.parametrize("prefixes", TREES, ids=["4^2", "2^4"])
def test_unsmoothed_clones_are_the_shares_of_sequences(prefixes):
    """The maximum likelihood over next tokens is that over whole responses."""
    clone = sequence_policy(prefixes, clone_tokens(SHOWN, prefixes, smoothing=0.0))
    np.testing.assert_allclose(clone, behavior_cloning(SHOWN, smoothing=0.0), atol=1e-15)


def test_responses_of_several_lengths():
    prefixes = PrefixTree.from_sequences([[0, -1], [0, 1], [1, 1], [1, 0]])
    bandit = random_bandit(2, 4, np.random.default_rng(5))
    shown = DemonstrationData([0, 0, 1], [1, 1, 0], (2, 4))
    data = sample_preferences(bandit, 50, np.random.default_rng(6))
    learned = TokenDemonstrationRegularized(prefixes, shown, 0.5, model=RIDGE).fit(
        data, bandit.reference
    )
    clone = learned.diagnostics["behavior_policy"]
    np.testing.assert_allclose(clone[0], [3 / 4 / 4, 3 / 4 * 3 / 4, 1 / 8, 1 / 8])
    known = solve(learned.reward, clone, KL(), 0.5).policy
    np.testing.assert_allclose(learned.policy, known, atol=1e-13)
    np.testing.assert_array_equal(learned.diagnostics["demonstrations"], [2, 1])


def test_a_deterministic_expert_is_cloned_from_fewer_by_token():
    """Mean regret with the true reward: only prefixes on the way of the expert count."""
    bandit = random_bandit(1, 64, np.random.default_rng(7))
    expert = bandit.optimal_policy()
    pairs = population_pairs(bandit)
    model = Tabular(r_max=20.0)
    regret = []
    for prefixes in (PrefixTree.full(64, 1), PrefixTree.full(2, 6)):
        shown = sample_demonstrations(bandit, 30, np.random.default_rng(8), expert=expert)
        learned = TokenDemonstrationRegularized(prefixes, shown, 1.0, model=model).fit(
            pairs, bandit.reference
        )
        regret.append(float(bandit.regret(learned.policy)))
    assert regret[1] < 0.4 * regret[0]


# ---- stochastic processes ------------------------------------------------------------------------


def test_one_step_of_a_process_is_the_bandit_to_the_bit():
    mdp = FiniteHorizonMDP.from_bandit(BANDIT)
    shown = Trajectories(SHOWN.prompt[:, None], SHOWN.response[:, None])
    for smoothing in (1.0, 0.3):
        clone = clone_trajectories(shown, mdp, smoothing=smoothing)
        known = behavior_cloning(SHOWN, smoothing=smoothing, available=BANDIT.reference > 0)
        np.testing.assert_array_equal(clone[0], known)
        learner = DemonstrationRegularized(SHOWN, 0.3, smoothing, RIDGE)
        learned = learner.fit(DATA, BANDIT.reference)
        found = plan_around_clone(shown, mdp, 0.3, smoothing=smoothing, reward=[learned.reward])
        np.testing.assert_array_equal(found.policy[0], learned.policy)


def test_unsmoothed_clones_of_a_process_are_uniform_where_no_trajectory_was():
    shown = Trajectories([[0, 0, 1], [1, 2, 1]], [[0, 1, 0], [0, 0, 2]])
    clone = clone_trajectories(shown, ragged_mdp(np.random.default_rng(0)), smoothing=0.0)
    np.testing.assert_array_equal(clone[0], [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(clone[1], [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    third = np.full(3, 1 / 3)
    np.testing.assert_allclose(clone[2], [third, [0.5, 0.0, 0.5], third, third])


def test_only_actions_that_the_reference_can_take_are_smoothed_over():
    shown = Trajectories([[0, 0, 1], [1, 2, 1]], [[0, 1, 0], [0, 0, 2]])
    clone = clone_trajectories(shown, ragged_mdp(np.random.default_rng(0), masked=True))
    np.testing.assert_allclose(clone[0], [[2 / 3, 0.0, 1 / 3], [0.5, 0.25, 0.25]])
    np.testing.assert_array_equal(clone[2][3], [0.0, 1.0, 0.0])


def test_regret_around_a_clone_of_trajectories():
    """`J(pi_E) - J(pi) = beta (KL(pi_E||clone) - KL(pi||clone) - KL(pi_E||pi))`, and it falls."""
    mdp = ragged_mdp(np.random.default_rng(9))
    expert = solve_steps(mdp, KL(), 0.05).policy
    regret = []
    for n in (10, 100, 3000):
        shown = sample_trajectories(mdp, n, np.random.default_rng(10), policy=expert)
        clone = clone_trajectories(shown, mdp)
        policy = plan_around_clone(shown, mdp, 2.0).policy
        lost = float(value(mdp, expert)) - float(value(mdp, policy))
        near = float(trajectory_kl(mdp, expert, clone))
        cost = float(trajectory_kl(mdp, policy, clone)) + float(trajectory_kl(mdp, expert, policy))
        assert lost == pytest.approx(2.0 * (near - cost), abs=1e-10)
        assert lost <= 2.0 * near
        regret.append(near)
    assert regret[0] > 2 * regret[1] > 20 * regret[2]


PAIR = PreferenceData([0], [1], [0], (1, 4))
FEW = DemonstrationData([0], [1], (1, 4))
FOUR = PrefixTree.full(2, 2)
MDP = ragged_mdp(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TokenRLHF("tree", 1.0), "prefixes is a str; it must be a PrefixTree"),
        (lambda: TokenRLHF(FOUR, 0.0), "beta is 0.0"),
        (lambda: TokenRLHF(FOUR, 1.0, "kl"), "divergence is 'kl'"),
        (lambda: TokenRLHF(FOUR, 1.0, KL(), "x"), "model is 'x'"),
        (lambda: TokenRLHF(WORD, 1.0).fit(PAIR, [[0.25] * 4]), "prefixes has 16 responses; .* 4"),
        (lambda: TokenRLHF(FOUR, 1.0).fit(PAIR, [[0.3] * 4]), r"reference\[0\] sums to 1.2"),
        (lambda: TokenDemonstrationRegularized(FOUR, PAIR, 1.0), "demonstrations is a Preference"),
        (lambda: TokenDemonstrationRegularized(3, FEW, 1.0), "prefixes is a int"),
        (lambda: TokenDemonstrationRegularized(FOUR, FEW, -1.0), "beta is -1.0"),
        (lambda: TokenDemonstrationRegularized(FOUR, FEW, 1.0, -0.5), "smoothing is -0.5"),
        (lambda: TokenDemonstrationRegularized(
            FOUR, DemonstrationData([0], [0], (2, 4)), 1.0, model=RIDGE).fit(PAIR, [[0.25] * 4]),
         r"demonstrations has shape \(2, 4\); it must be that of the data, \(1, 4\)"),
        (lambda: clone_tokens(PAIR, FOUR), "demonstrations is a PreferenceData"),
        (lambda: clone_tokens(FEW, WORD), "prefixes has 16 responses"),
        (lambda: clone_tokens(DemonstrationData([0], [1], (2, 4)), FOUR, smoothing=0.0),
         "demonstrations has no row of prompt 1; smoothing must be positive"),
        (lambda: clone_tokens(FEW, FOUR, reference=[0.25] * 4),
         r"reference has shape \(4,\); it must have that of the demonstrations, \(1, 4\)"),
        (lambda: clone_tokens(FEW, FOUR, reference=[[0.25] * 4] * 3),
         r"reference has shape \(3, 4\); it must have that of the demonstrations, \(1, 4\)"),
        (lambda: clone_tokens(DemonstrationData([0], [1], (2, 4)), FOUR, reference=[[0.25] * 4]),
         r"reference has shape \(1, 4\); it must have that of the demonstrations, \(2, 4\)"),
        (lambda: clone_trajectories(FEW, MDP), "trajectories is a DemonstrationData"),
        (lambda: clone_trajectories(Trajectories([[0]], [[0]]), MDP), "trajectories has 1 steps"),
        (lambda: clone_trajectories(Trajectories([[0] * 3], [[0] * 3]), FOUR), "mdp is a PrefixTr"),
        (lambda: clone_trajectories(Trajectories([[2, 0, 0]], [[0] * 3]), MDP),
         r"trajectories.state\[0, 0\] is 2; it must be below 2"),
        (lambda: clone_trajectories(Trajectories([[0] * 3], [[0, 2, 0]]), MDP),
         r"trajectories.action\[0, 1\] is 2; it must be below 2"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
