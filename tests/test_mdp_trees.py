"""Prefix trees and responses made token by token, against whole sequences."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim import (
    KL,
    ChiSquared,
    ContextualBandit,
    ForwardKL,
    TrajectoryPreference,
    concentrability,
    random_bandit,
    solve,
)
from rlhfsim.mdp import (
    PrefixTree,
    TokenTree,
    max_trajectory_concentrability,
    occupancies,
    random_token_tree,
    sequence_policy,
    solve_steps,
    step_divergence,
    token_policy,
    trajectory_concentrability,
    trajectory_kl,
    value,
)

SEEDS = st.integers(0, 2**32 - 1)
#: Sequences of 1 to 3 tokens, one a prefix of others, in no order.
WORDS = [[1, 0, 2], [0, -1, -1], [1, -1, -1], [0, 1, -1], [1, 0, 0], [2, 2, 2]]


def some_tree(seed):
    """A full tree, one of sequences of various lengths, or one from parents."""
    rng = np.random.default_rng(seed)
    kind = seed % 3
    if kind == 0:
        return PrefixTree.full(int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    if kind == 1:
        tokens = rng.integers(0, 3, size=(12, 3))
        length = rng.integers(0, 4, size=12)
        padded = np.where(np.arange(3) < length[:, None], tokens, -1)
        return PrefixTree.from_sequences(rng.permutation(np.unique(padded, axis=0)), 3)
    parent = [-1, *(int(rng.integers(0, i)) for i in range(1, 12))]
    return PrefixTree.from_parents(parent)


def random_levels(prefixes, prompts, rng):
    return random_token_tree(prefixes, prompts, rng).reference


# ---- structure -----------------------------------------------------------------------------------


def test_the_full_tree_lists_all_sequences_in_lexicographic_order():
    tree = PrefixTree.full(3, 2)
    assert (tree.horizon, tree.n_sequences, tree.available) == (2, 9, None)
    assert tree.shapes == ((1, 3), (3, 3))
    tokens = tree.steps_along([np.array([[0, 1, 2]]), np.tile([0, 1, 2], (3, 1))])
    np.testing.assert_array_equal(tokens, list(np.ndindex(3, 3)))
    again = PrefixTree.from_sequences(list(np.ndindex(3, 3)))
    for level, known in zip(again.children, tree.children, strict=True):
        np.testing.assert_array_equal(level, known)


def test_numbers_by_their_digits():
    tree = PrefixTree.digits(6, 2)
    columns = [np.broadcast_to(np.arange(2.0), shape) for shape in tree.shapes]
    np.testing.assert_array_equal(tree.steps_along(columns) @ [4, 2, 1], np.arange(6))
    assert tree.horizon == 3
    assert PrefixTree.digits(9, 3).shapes == PrefixTree.full(3, 2).shapes
    assert PrefixTree.digits(1, 2).n_sequences == 1
    new = np.array([3, 0, 5, 1, 2, 4])
    values = np.arange(6.0)
    moved = tree.renamed(new)
    np.testing.assert_array_equal(moved.at_ends(tree.spread(values))[new], values)
    again = moved.renamed(np.argsort(new))
    np.testing.assert_array_equal(again.at_ends(tree.spread(values)), values)


def test_sequences_keep_their_order_and_their_tokens():
    tree = PrefixTree.from_sequences(WORDS)
    assert (tree.horizon, tree.n_sequences) == (3, 6)
    # The last column is the token that ends a response.
    assert tree.shapes == ((1, 4), (3, 4), (3, 4))
    columns = [np.broadcast_to(np.arange(4.0), shape) for shape in tree.shapes]
    expected = [[1, 0, 2], [0, 3, 0], [1, 3, 0], [0, 1, 3], [1, 0, 0], [2, 2, 2]]
    found = tree.steps_along(columns)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(tree.available[0], [[True, True, True, False]])


def test_sequences_without_a_short_one_need_no_end():
    tree = PrefixTree.from_sequences([[1, 0], [0, 1]])
    assert tree.shapes == ((1, 2), (2, 2))
    np.testing.assert_array_equal(tree.available[1], [[False, True], [True, False]])
    assert PrefixTree.from_sequences([[-1, -1], [0, -1]]).shapes == ((1, 2), (1, 2))


def test_a_tree_from_parents():
    tree = PrefixTree.from_parents([2, 2, -1, 0, 0, 3])
    # Responses: nodes 1, 4 and 5.
    np.testing.assert_array_equal(tree.children[0], [[0, -1]])
    np.testing.assert_array_equal(tree.children[1], [[0, -1]])
    np.testing.assert_array_equal(tree.children[2], [[-1]])
    np.testing.assert_array_equal(tree.order, [0, 1, 2])
    steps = tree.steps_along([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([[5.0]])])
    np.testing.assert_array_equal(steps, [[2, 0, 0], [1, 4, 0], [1, 3, 5]])


@given(seed=SEEDS)
def test_sums_products_and_policies_along_responses(seed):
    tree, rng = some_tree(seed), np.random.default_rng(seed)
    levels = random_levels(tree, 2, rng)
    steps = tree.steps_along(levels)
    assert steps.shape == (2, tree.n_sequences, tree.horizon)
    np.testing.assert_allclose(tree.sums_along(levels), steps.sum(axis=-1), rtol=1e-13)
    products = np.where(steps > 0, steps, 1.0).prod(axis=-1)
    np.testing.assert_allclose(tree.products_along(levels), products, rtol=1e-13)
    policy = sequence_policy(tree, levels)
    np.testing.assert_allclose(policy.sum(axis=-1), 1.0, atol=1e-12)
    back = token_policy(tree, policy)
    for level, known in zip(back, levels, strict=True):
        np.testing.assert_allclose(level, known, atol=1e-9)
    np.testing.assert_allclose(sequence_policy(tree, back), policy, rtol=1e-12)
    values = rng.standard_normal((2, tree.n_sequences))
    np.testing.assert_array_equal(tree.at_ends(tree.spread(values)), values)
    np.testing.assert_array_equal(tree.sums_along(tree.spread(values)), values)


def test_prefixes_that_no_response_reaches_are_uniform():
    tree = PrefixTree.from_sequences([[0, 0], [0, 1], [1, 0], [1, 2]])
    levels = token_policy(tree, [0.25, 0.75, 0.0, 0.0])
    np.testing.assert_array_equal(levels[0], [[1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(levels[1], [[0.25, 0.75, 0.0], [0.5, 0.0, 0.5]])


# ---- the process ---------------------------------------------------------------------------------


@given(seed=SEEDS, beta=st.floats(0.05, 5.0))
def test_kl_by_token_is_kl_by_sequence(seed, beta):
    tree = random_token_tree(some_tree(seed), 2, np.random.default_rng(seed), concentration=2.0)
    bandit = tree.as_bandit()
    known = solve(bandit.reward, bandit.reference, KL(), beta)
    found = solve_steps(tree, KL(), beta)
    policy = sequence_policy(tree.prefixes, found.policy)
    np.testing.assert_allclose(policy, known.policy, atol=1e-12)
    np.testing.assert_allclose(found.values[0][:, 0], known.value, atol=1e-12 * (1 + beta))
    assert float(found.objective) == pytest.approx(known.value.mean(), abs=1e-11)
    kl = KL()(policy, bandit.reference, bandit.prompt_dist)
    assert float(trajectory_kl(tree, found.policy)) == pytest.approx(float(kl), abs=1e-11)


@given(seed=SEEDS)
def test_evaluation_is_that_of_whole_responses(seed):
    rng = np.random.default_rng(seed)
    tree = random_token_tree(some_tree(seed), 3, rng, concentration=3.0)
    bandit = tree.as_bandit()
    levels = random_levels(tree.prefixes, 3, rng)
    policy = sequence_policy(tree.prefixes, levels)
    assert float(value(tree, levels)) == pytest.approx(float(bandit.value(policy)), abs=1e-12)
    mean = float(concentrability(policy, bandit.reference, bandit.prompt_dist))
    assert float(trajectory_concentrability(tree, levels)) == pytest.approx(mean, rel=1e-10)
    most = (policy / bandit.reference).max()
    assert float(max_trajectory_concentrability(tree, levels)) == pytest.approx(most, rel=1e-10)
    ended = 1.0 - occupancies(tree, levels)[-1].sum(axis=-1)
    short = tree.prefixes.at_ends(
        [np.full(s, float(h + 1 < tree.horizon)) for h, s in enumerate(tree.prefixes.shapes)]
    )
    np.testing.assert_allclose(policy @ short, ended, atol=1e-12)


@given(
    seed=SEEDS, divergence=st.sampled_from([KL(), ChiSquared(), ChiSquared() + KL(), ForwardKL()])
)
def test_the_tree_is_the_process_of_its_prefixes(seed, divergence):
    tree = random_token_tree(some_tree(seed), 2, np.random.default_rng(seed))
    mdp = tree.as_mdp()
    assert mdp.deterministic
    by_tree, by_mdp = solve_steps(tree, divergence, 0.5), solve_steps(mdp, divergence, 0.5)
    for ours, theirs in zip(by_tree.policy, by_mdp.policy, strict=True):
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-14)
        assert (ours >= 0).all()
    assert float(by_tree.objective) == pytest.approx(float(by_mdp.objective), abs=1e-13)
    ours = float(step_divergence(tree, by_tree.policy, divergence))
    theirs = float(step_divergence(mdp, by_mdp.policy, divergence))
    assert ours == pytest.approx(theirs, rel=1e-12)


@given(seed=SEEDS)
def test_only_sums_of_rewards_along_a_response_matter(seed):
    tree = random_token_tree(some_tree(seed), 2, np.random.default_rng(seed))
    at_ends = TokenTree.from_bandit(tree.as_bandit(), tree.prefixes)
    for divergence in (KL(), ChiSquared()):
        ours, theirs = (solve_steps(t, divergence, 0.5) for t in (tree, at_ends))
        for level, other in zip(ours.policy, theirs.policy, strict=True):
            np.testing.assert_allclose(level, other, atol=1e-11)


@pytest.mark.parametrize("divergence", [KL(), ChiSquared(), ForwardKL()], ids=repr)
def test_one_token_is_the_bandit_to_the_bit(divergence):
    bandit = random_bandit(3, 6, np.random.default_rng(1))
    tree = TokenTree.from_bandit(bandit, PrefixTree.full(6, 1))
    found = solve_steps(tree, divergence, 0.2)
    known = solve(bandit.reward, bandit.reference, divergence, 0.2)
    np.testing.assert_array_equal(sequence_policy(tree.prefixes, found.policy), known.policy)
    np.testing.assert_array_equal(found.values[0][:, 0], known.value)
    again = tree.as_bandit()
    np.testing.assert_array_equal(again.reference, bandit.reference)
    np.testing.assert_array_equal(again.reward, bandit.reward)


def test_a_bandit_whose_responses_are_all_available_is_a_tree():
    bandit = random_bandit(2, 4, np.random.default_rng(6))
    whole = replace(bandit, available=np.ones((2, 4), bool))
    trees = [TokenTree.from_bandit(b, PrefixTree.full(2, 2)) for b in (bandit, whole)]
    np.testing.assert_array_equal(trees[0].reference[1], trees[1].reference[1])


def test_chi_squared_by_token_is_not_by_sequence():
    """Two tokens, closed form: one good response, uniform reference, no clipping."""
    bandit = ContextualBandit([1.0], [[0.25] * 4], [[1.0, 0.0, 0.0, 0.0]])
    tree = TokenTree.from_bandit(bandit, PrefixTree.full(2, 2))
    found = solve_steps(tree, ChiSquared(), 1.0)
    # At (first token good) w = 1 +- 1/2 and V = 1/2 + 1/8; at the root w = 1 +- V/2.
    np.testing.assert_allclose(found.policy[1][0], [[0.75, 0.25], [0.5, 0.5]])
    np.testing.assert_allclose(found.policy[0][0], [[0.5 + 5 / 32, 0.5 - 5 / 32]])
    by_sequence = solve(bandit.reward, bandit.reference, ChiSquared(), 1.0).policy
    np.testing.assert_allclose(by_sequence, [[0.4375, 0.1875, 0.1875, 0.1875]])


def test_labels_are_bradley_terry_on_sums():
    tree = random_token_tree(PrefixTree.from_sequences(WORDS), 2, np.random.default_rng(2))
    model = tree.labels()
    assert isinstance(model, TrajectoryPreference)
    np.testing.assert_allclose(model.reward, tree.sequence_reward(), atol=1e-14)
    assert model.step_reward.shape == (2, 6, 3)


def test_a_deep_full_tree():
    """2^14 responses, against their bandit."""
    prefixes = PrefixTree.full(2, 14)
    rng = np.random.default_rng(3)
    bandit = ContextualBandit([1.0], [rng.dirichlet(np.ones(2**14))], [rng.standard_normal(2**14)])
    tree = TokenTree.from_bandit(bandit, prefixes)
    found = solve_steps(tree, KL(), 0.5)
    known = solve(bandit.reward, bandit.reference, KL(), 0.5)
    assert float(found.objective) == pytest.approx(float(known.value[0]), rel=1e-13)
    policy = sequence_policy(prefixes, found.policy)
    assert np.abs(policy - known.policy).sum() < 1e-12
    assert found.gap <= found.tolerance < 1e-12


def test_trees_are_frozen_and_pickled():
    tree = random_token_tree(PrefixTree.from_sequences(WORDS), 2, np.random.default_rng(4))
    again = pickle.loads(pickle.dumps(tree))
    for ours, theirs in zip(again.reference, tree.reference, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert not ours.flags.writeable
    full = pickle.loads(pickle.dumps(PrefixTree.full(3, 3)))
    np.testing.assert_array_equal(full.at_ends(full.spread(np.arange(27.0))), np.arange(27.0))
    assert not full.children[2].flags.writeable


# ---- bad input -----------------------------------------------------------------------------------

TREE = PrefixTree.full(2, 2)
HALVES = ([[[0.5, 0.5]]], [[[0.5, 0.5], [0.5, 0.5]]])
ZEROS = ([[[0.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]])
LACKING = ContextualBandit(
    [0.5, 0.5],
    [[0.25] * 4, [0.5, 0.5, 0.0, 0.0]],
    np.zeros((2, 4)),
    available=np.array([[True] * 4, [True, True, False, True]]),
)
HOLED = PrefixTree.from_sequences([[0, 0], [1, 1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PrefixTree(()), "children has 0 arrays; the horizon must be at least 1"),
        (lambda: PrefixTree(3), "children is 3; it must be a sequence"),
        (lambda: PrefixTree([[[-1], [-1, -1]]]), r"children\[0\] is .* rows must be equally long"),
        (lambda: PrefixTree([np.array([[2**64 - 1]], np.uint64)]),
         r"children\[0\]\[0, 0\] is 18446744073709551615; it must be an int64"),
        (lambda: PrefixTree.from_sequences(np.array([[2**64 - 1]], np.uint64)),
         r"steps\[0, 0\] is 18446744073709551615"),
        (lambda: PrefixTree.from_parents([[-1], [0, 0]]), "parent is .* rows must be equally long"),
        (lambda: PrefixTree([[[0.5]]]), r"children\[0\] is .*plain array of integers"),
        (lambda: PrefixTree([[[-1], [-1]]]), r"children\[0\] has shape \(2, 1\); .*\(1, A\)"),
        (lambda: PrefixTree([[[0, 1]], [[-1]]]), r"children\[1\] has shape \(1, 1\); .* \(2, A\)"),
        (lambda: PrefixTree([[[0, -1]]]), r"children\[0\]\[0, 0\] is 0; the last level has no"),
        (lambda: PrefixTree([[[0, -3]], [[-1]]]), r"children\[0\]\[0, 1\] is -3; .* has 1 nodes"),
        (lambda: PrefixTree([[[0, 0]], [[-1], [-1]]]),
         r"children\[0\]\[0, 1\] is 0, as is children\[0\]\[0, 0\]; a node must have one parent"),
        # A child that points up to its own level: no such index is left.
        (lambda: PrefixTree([[[0, 1]], [[-1], [2]], [[-1]]]),
         r"children\[1\]\[1, 0\] is 2; the next level has 1 nodes"),
        (lambda: PrefixTree([[[-1, -1]], [[-1]]]), r"children\[0\] has no children; only the last"),
        (lambda: PrefixTree([[[0, 1]], [[-1], [-2]]]), r"children\[1\]\[1\] has no token"),
        (lambda: PrefixTree([[[-1, -1]]], [0, 0]), "order has 2 entries, 1 of them distinct"),
        (lambda: PrefixTree.full(2, 0), "horizon is 0; it must be at least 1"),
        (lambda: PrefixTree.full(0, 2), "vocabulary is 0; it must be at least 1"),
        (lambda: PrefixTree.full(10, 20), r"vocabulary \*\* horizon is 10\*\*20"),
        (lambda: PrefixTree.from_sequences([[0, 1], [0, 2]], 2), r"steps\[1, 1\] is 2"),
        (lambda: PrefixTree.from_sequences([[0, 1], [-1, 1]]), r"steps\[1, 1\] is 1; no step may"),
        (lambda: PrefixTree.from_sequences([[0, 1], [1, 1], [0, 1]]),
         r"steps\[2\] is the same sequence as steps\[0\]"),
        (lambda: PrefixTree.from_sequences([[0.5]]), "plain array of integers"),
        (lambda: PrefixTree.digits(0, 2), "n_sequences is 0"),
        (lambda: PrefixTree.digits(4, 1), "base is 1; it must be at least 2"),
        (lambda: TREE.renamed([0, 1]), "new has 2 entries, 2 of them distinct"),
        (lambda: TREE.renamed([0, 1, 2, 4]), r"new\[3\] is 4"),
        (lambda: PrefixTree.from_parents([-1]), "parent has 1 entry, the root; the horizon must"),
        (lambda: PrefixTree.from_parents([0, 0]), r"parent has 0 roots \(entries of -1\)"),
        (lambda: PrefixTree.from_parents([-1, -1]), "parent has 2 roots"),
        (lambda: PrefixTree.from_parents([-1, 0, 9]), r"parent\[2\] is 9; parents must be below 3"),
        (lambda: PrefixTree.from_parents([-1, 0, 5, 2, 3, 4, 4]),
         r"parent\[2\] is 5; the parents go round in a cycle, 2 -> 5 -> 4 -> 3 -> 2"),
        (lambda: PrefixTree.from_parents([-1, 1]), r"parent\[1\] is 1; .*cycle, 1 -> 1"),
        (lambda: PrefixTree.from_parents([[-1]]), r"plain \(M,\) array of integers"),
        (lambda: token_policy(TREE, [0.5, 0.5]), r"policy has shape \(2,\); .* the 4 responses"),
        (lambda: token_policy(TREE, [0.5, 0.5, 0.5, 0.0]), "policy sums to 1.5"),
        (lambda: sequence_policy(TREE, HALVES[:1]), "policy has 1 arrays; it must have 2"),
        (lambda: sequence_policy(3, HALVES), "prefixes is a int"),
        (lambda: sequence_policy(HOLED, HALVES), r"policy\[1\]\[0, 0, 1\] is 0.5; an action"),
        (lambda: TokenTree(TREE, [1.0], ZEROS, HALVES[::-1]), r"reference\[0\] has shape \(1, 2"),
        (lambda: TokenTree(TREE, [0.5, 0.5], ZEROS, HALVES), r"reference\[0\] has shape \(1, 1"),
        (lambda: TokenTree(TREE, [[1.0]], ZEROS, HALVES), r"prompt_dist has shape \(1, 1\)"),
        (lambda: TokenTree(TREE, [1.0], ([[[0.0, np.nan]]], ZEROS[1]), HALVES),
         r"reward\[0\]\[0, 0, 1\] is nan"),
        (lambda: TokenTree(TREE, [1.0], ZEROS[:1], HALVES), "reward has 1 arrays; it must have 2"),
        (lambda: TokenTree(TREE, [1.0], ([[[0.0]]], ZEROS[1]), HALVES), r"reward\[0\] has shape"),
        (lambda: TokenTree(HOLED, [1.0], (ZEROS[0], [[[0.0, 1.0], [0.0, 0.0]]]),
                           (HALVES[0], [[[1.0, 0.0], [0.0, 1.0]]])),
         r"reward\[1\]\[0, 0, 1\] is 1.0; it must be 0"),
        (lambda: TokenTree(HOLED, [1.0], (ZEROS[0], [[[0.0, -1.0], [0.0, 0.0]]]),
                           (HALVES[0], [[[1.0, 0.0], [0.0, 1.0]]])),
         r"reward\[1\]\[0, 0, 1\] is -1.0; it must be 0"),
        (lambda: TokenTree.from_bandit(random_bandit(1, 3, np.random.default_rng(0)), TREE),
         "prefixes has 4 responses; it must have those of the data, 3"),
        (lambda: TokenTree.from_bandit(LACKING, TREE), r"bandit.available\[1, 2\] is False; every"),
        (lambda: token_policy("x", [0.5, 0.5]), "prefixes is a str; it must be a PrefixTree"),
        (lambda: TREE.spread(np.zeros(5)), r"values has shape \(5,\); .* the 4 responses"),
        (lambda: TREE.spread(np.zeros(())), r"values has shape \(\); .* the 4 responses"),
        (lambda: TREE.summed(np.zeros((4, 3))), r"values has shape \(4, 3\); .* the 4 responses"),
        (lambda: TREE.at_ends([np.zeros((1, 2)), np.zeros((3, 2))]),
         r"levels\[1\] has shape \(3, 2\); its last axes must be \(2, 2\)"),
        (lambda: TREE.sums_along([np.zeros((1, 1)), np.zeros((2, 2))]),
         r"levels\[0\] has shape \(1, 1\); its last axes must be \(1, 2\)"),
        (lambda: TREE.sums_along([np.zeros((1, 2))]), "levels has 1 arrays; it must have 2"),
        (lambda: TREE.steps_along([np.zeros((1, 2)), np.zeros((2, 3))]), r"levels\[1\] has shape"),
        (lambda: TREE.products_along([np.zeros((2, 1, 2)), np.zeros((3, 2, 2))]),
         r"levels\[1\] has shape \(3, 2, 2\); .* of the levels before, \(2,\)"),
        (lambda: TREE.products_along(3), "levels is 3; it must be a sequence"),
        (lambda: value(random_token_tree(TREE, 2, np.random.default_rng(0)), HALVES),
         r"policy\[0\] has shape \(1, 1, 2\); its last axes must be \(2, 1, 2\)"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
