"""Games of preferences: gaps, minimax winners, coverage of pairs, estimates."""

import pickle
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from game_problems import KINDS, games
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from rlhfsim import (
    BradleyTerry,
    GeneralPreference,
    PreferenceData,
    SolverError,
    condorcet_winner,
    cyclic_preference,
    population_pairs,
    random_bandit,
    random_preference,
)
from rlhfsim.games import (
    GameError,
    NashSolution,
    advantage,
    duality_gap,
    estimated_preference,
    minimax_winner,
    pair_law,
    unilateral_concentrability,
)
from rlhfsim.games.exact_program import exact_winner, maximize
from rlhfsim.games.solution import require_equilibrium, rounding
from rlhfsim.preferences.examples import PREFERENCE_MODELS

EPS = np.finfo(np.float64).eps


# ---- advantages and gaps -------------------------------------------------------------------------


@pytest.mark.parametrize("model", PREFERENCE_MODELS, ids=lambda m: f"{type(m).__name__}{m.shape}")
def test_advantages_are_twice_the_probability_less_one(model):
    game = advantage(model)
    np.testing.assert_array_equal(game, -np.swapaxes(game, 1, 2))
    np.testing.assert_allclose(game, 2 * model.tensor() - 1, atol=2e-16)


def test_the_gap_is_that_of_all_deviations():
    rng = np.random.default_rng(0)
    model = random_preference(rng, (3, 5))
    policy = rng.dirichlet(np.ones(5), size=(2, 3))
    gap = duality_gap(policy, model)
    assert gap.shape == (2, 3)
    p = model.tensor()
    for k in range(2):
        for x in range(3):
            pi = policy[k, x]
            wins = [sum(pi[z] * (2 * p[x, y, z] - 1) for z in range(5)) for y in range(5)]
            losses = [sum(pi[z] * (2 * p[x, z, y] - 1) for z in range(5)) for y in range(5)]
            assert gap[k, x] == pytest.approx(max(wins) - min(losses), abs=1e-15)
    few = np.array([True, False, True, False, False])
    only = duality_gap(policy, model, available=few)
    smaller = 2 * p[:, few] - 1
    np.testing.assert_allclose(only, 2 * np.einsum("xyz,kxz->kxy", smaller, policy).max(-1))
    assert (only <= gap).all()
    single = duality_gap(policy[0, 1], p[1] * 2 - 1)
    np.testing.assert_allclose(single, gap[0, 1], atol=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: duality_gap([0.5, 0.5], [[0.5, 0.7], [0.3, 0.5]]), r"game\[0, 0\] is 0.5 .*to 0"),
        (lambda: duality_gap([0.5, 0.5], [[0.0, 1.0], [-0.9, 0.0]]), r"game\[0, 1\] is 1.0"),
        (lambda: duality_gap([0.5, 0.4], np.zeros((2, 2))), "policy sums to 0.9"),
        (lambda: duality_gap([0.5, 0.5], np.zeros((3, 3))), "same responses"),
        (lambda: duality_gap([0.5, 0.5], np.zeros((2, 3))), r"game has shape \(2, 3\)"),
        (lambda: duality_gap([0.5, 0.5], [[0.0, np.nan], [np.nan, 0.0]]), "game.* is nan"),
        (lambda: advantage(np.zeros((2, 2))), "model is a ndarray"),
        (lambda: minimax_winner(np.zeros((2, 2)), available=[False, False]), "no response"),
        (lambda: minimax_winner(np.zeros((2, 2)), available=[1, 1]), "must be boolean"),
        (lambda: minimax_winner(np.zeros((2, 2)), available=[True] * 3), "must broadcast"),
        (lambda: GeneralPreference([[0.5, 0.7], [0.2, 0.5]]), "must sum to 1"),
        (lambda: unilateral_concentrability([0.5, 0.5], np.full((2, 2), 0.3)), "pairs sums to 1.2"),
        (lambda: unilateral_concentrability([0.5, 0.5], np.full((3, 3), 0.3)), "pairs has shape"),
        (lambda: estimated_preference(np.zeros(3)), "data is a ndarray"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- minimax winners -----------------------------------------------------------------------------


def program(game):
    """Return the value of a game and an equilibrium, by a linear program of its own."""
    size = len(game)
    solved = linprog(
        np.r_[np.zeros(size), 1.0], A_ub=np.c_[game, -np.ones(size)], b_ub=np.zeros(size),
        A_eq=[np.r_[np.ones(size), 0.0]], b_eq=[1.0],
        bounds=[(0, None)] * size + [(None, None)],
    )  # fmt: skip
    return solved.fun, solved.x[:size]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 3, 6, 15])
def test_winners_are_certified_to_a_few_ulps(kind, size):
    rng = np.random.default_rng(size)
    l = games(kind, 12, size, rng)
    solution = minimax_winner(l)
    assert (np.abs(solution.gap) <= 6 * EPS).all()
    np.testing.assert_array_equal(solution.gap, duality_gap(solution.policy, l))
    np.testing.assert_array_equal(solution.value, -0.5 * solution.gap)
    np.testing.assert_array_equal(solution.support, solution.policy > 0)
    # In a batch and alone, and under other names, to the bit and to rounding.
    np.testing.assert_array_equal(minimax_winner(l[3]).policy, solution.policy[3])
    new = rng.permutation(size)
    renamed = minimax_winner(l[:, new][:, :, new])
    np.testing.assert_allclose(renamed.policy, solution.policy[:, new], atol=1e-7)
    if kind == "generic":  # the winner is unique, with a support of odd size
        assert (solution.support.sum(axis=1) % 2 == 1).all()
        for k in range(3):
            value, policy = program(l[k])
            assert value == pytest.approx(0.0, abs=1e-9)
            np.testing.assert_allclose(solution.policy[k], policy, atol=1e-7)


def test_rock_paper_scissors_with_unequal_stakes():
    """l(0,1) = a, l(1,2) = b, l(2,0) = c: the winner is (b, c, a) over their sum."""
    a, b, c = 0.2, 0.5, 0.9
    l = np.array([[0, a, -c], [-a, 0, b], [c, -b, 0]])
    np.testing.assert_allclose(minimax_winner(l).policy, np.array([b, c, a]) / 1.6, atol=1e-15)
    np.testing.assert_allclose(minimax_winner(1e-9 * l).policy, np.array([b, c, a]) / 1.6)
    np.testing.assert_allclose(
        minimax_winner(cyclic_preference(7, 0.1)).policy, np.full((1, 7), 1 / 7), atol=1e-15
    )


def winners_by_hand(game):
    """Return all vertices of the set of minimax winners, in rational arithmetic."""
    size, found = len(game), []
    table = [[Fraction(v) for v in row] for row in game.tolist()]
    for count in range(1, size + 1):
        for used in combinations(range(size), count):
            for rows in combinations(range(size), count - 1):
                point = solved(table, used, rows)
                if point is None or min(point) < 0:
                    continue
                losses = [sum(r * p for r, p in zip(row, point, strict=True)) for row in table]
                if max(losses) <= 0:
                    found.append(np.array([float(p) for p in point]))
    return np.array(found)


def solved(table, used, rows):
    """Return the point on `used` at which `rows` earn nothing, by Gauss's elimination."""
    system = [[table[r][u] for u in used] + [Fraction(0)] for r in rows]
    system.append([Fraction(1)] * len(used) + [Fraction(1)])
    for k in range(len(used)):
        pivot = next((i for i in range(k, len(system)) if system[i][k]), None)
        if pivot is None:
            return None
        system[k], system[pivot] = system[pivot], system[k]
        system[k] = [v / system[k][k] for v in system[k]]
        for i, other in enumerate(system):
            if i != k:
                factor = other[k]
                system[i] = [v - factor * w for v, w in zip(other, system[k], strict=True)]
    point = [Fraction(0)] * len(table)
    for k, u in enumerate(used):
        point[u] = system[k][-1]
    return point


def test_of_several_winners_the_most_spread_one_is_returned():
    """The set is the hull of its vertices; at its point of least norm no vertex is less far."""
    rng = np.random.default_rng(1)
    several = 0
    for game in games("ties", 25, 4, rng):
        policy = minimax_winner(game).policy
        vertices = winners_by_hand(game)
        assert len(vertices)
        several += len(np.unique(vertices, axis=0)) > 1
        assert (vertices @ policy >= policy @ policy - 1e-14).all()
        hull = linprog(np.zeros(len(vertices)), A_eq=np.c_[vertices, np.ones(len(vertices))].T,
                       b_eq=np.r_[policy, 1.0])  # fmt: skip
        assert hull.status == 0
    assert several > 5
    np.testing.assert_array_equal(minimax_winner(np.zeros((3, 3))).policy, np.full(3, 1 / 3))


def test_ties_in_which_several_constraints_say_the_same():
    """Most of the responses of this game's winner have mass 0 by no constraint of their own."""
    drawn = np.random.default_rng(0).integers(-1, 2, (123, 30, 30))[122]
    upper = np.triu(drawn, 1).astype(float)
    solution = minimax_winner(upper - upper.T)
    assert abs(solution.gap) <= 6 * EPS
    assert solution.policy[solution.support].min() > 1e-3


def test_a_condorcet_winner_is_the_winner():
    rng = np.random.default_rng(2)
    reward = rng.standard_normal((6, 5))
    model = BradleyTerry(reward)
    policy = minimax_winner(model).policy
    np.testing.assert_array_equal(policy, np.eye(5)[reward.argmax(axis=1)])
    np.testing.assert_array_equal(condorcet_winner(model), policy.argmax(axis=1))
    # Differences that rounding leaves nothing of in P are seen too.
    close = BradleyTerry(np.array([[0.0, 1e-17, -1e-17]]))
    np.testing.assert_array_equal(minimax_winner(close).policy, [[0.0, 1.0, 0.0]])
    # Two responses of the highest reward: both win, the spread policy is returned.
    tied = BradleyTerry(np.array([[1.0, 0.0, 1.0]]))
    np.testing.assert_allclose(minimax_winner(tied).policy, [[0.5, 0.0, 0.5]], atol=1e-15)


def test_responses_that_there_are_not_neither_play_nor_threaten():
    rng = np.random.default_rng(3)
    l = games("generic", 8, 7, rng)
    mask = rng.random((8, 7)) < 0.6
    mask[:, 2] = True
    solution = minimax_winner(l, available=mask)
    assert not solution.policy[~mask].any()
    for k in range(8):
        kept = np.flatnonzero(mask[k])
        smaller = minimax_winner(l[k][np.ix_(kept, kept)])
        np.testing.assert_array_equal(solution.policy[k, kept], smaller.policy)


def test_margins_below_what_programs_resolve_are_decided_exactly():
    """A cycle of margins 1e-10 among responses that beat a fourth one surely."""
    l = np.zeros((4, 4))
    l[0, 1], l[1, 2], l[2, 0] = 1e-10, 2e-10, 4e-10
    l[:3, 3] = 1.0
    l = l - l.T
    np.testing.assert_allclose(
        minimax_winner(l).policy, np.array([2.0, 4.0, 1.0, 0.0]) / 7.0, rtol=1e-9, atol=0
    )
    np.testing.assert_allclose(exact_winner(l), np.array([2.0, 4.0, 1.0, 0.0]) / 7.0, rtol=1e-9)


def test_nearly_skew_advantages_are_made_so():
    """What `duality_gap` takes for a game the winner does too: the nearest skew-symmetric one."""
    near = np.array([[0, 0.5 + 5e-13, -0.2], [-0.5, 0, 0.3], [0.2, -0.3, 0]])
    exact = 0.5 * (near - near.T)
    found = minimax_winner(near)
    np.testing.assert_array_equal(found.policy, minimax_winner(exact).policy)
    np.testing.assert_allclose(found.policy, [0.3, 0.2, 0.5], atol=1e-12)
    assert abs(found.gap) <= 6 * EPS
    np.testing.assert_array_equal(duality_gap([0, 1, 0], near), duality_gap([0, 1, 0], exact))
    with pytest.raises(ValueError, match="advantages must sum to 0"):
        minimax_winner(near + 1e-11)


@pytest.mark.parametrize("noise", [1e-13, 1e-12, 1e-11])
def test_responses_that_are_nearly_copies_of_each_other(noise):
    """The masses of the copies add up to those of the cycle that was copied."""
    cycle = np.array([[0, 0.8, -0.6], [-0.8, 0, 0.4], [0.6, -0.4, 0]])
    for seed in range(4):
        rng = np.random.default_rng(seed)
        kind = np.concatenate([np.arange(3), rng.integers(0, 3, 4)])
        drift = noise * rng.standard_normal((7, 7))
        solution = minimax_winner(cycle[kind][:, kind] + drift - drift.T)
        assert abs(solution.gap) <= 20 * EPS
        together = np.bincount(kind, solution.policy)
        np.testing.assert_allclose(together, np.array([4, 6, 8]) / 18, atol=20 * noise)


def test_the_rational_program():
    best = maximize(np.array([3.0, 2.0]), np.array([[1.0, 1.0], [1.0, 3.0]]), np.array([4.0, 6.0]))
    assert best == [4, 0]
    best = maximize(np.array([1.0, 2.0]), np.array([[1.0, 1.0], [1.0, 3.0]]), np.array([4.0, 6.0]))
    assert best == [3, 1]
    with pytest.raises(ValueError, match="unbounded"):
        maximize(np.array([1.0]), np.array([[-1.0]]), np.array([1.0]))
    with pytest.raises(ValueError, match="bound is"):
        maximize(np.array([1.0]), np.array([[1.0]]), np.array([-1.0]))


def test_a_bad_certificate_raises_and_keeps_what_was_reached():
    tolerance = np.array([1e-14, 1e-14])
    policy = np.array([[1.0, 0.0], [0.5, 0.5]])
    bad = NashSolution(policy, np.array([0.0, 1e-9]), np.zeros(2), tolerance)
    with pytest.raises(GameError, match=r"prompt \[1\]: duality gap 1e-09") as caught:
        require_equilibrium(bad)
    np.testing.assert_array_equal(caught.value.solution.policy, policy)
    assert isinstance(caught.value, SolverError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    np.testing.assert_array_equal(again.solution.policy, policy)
    with pytest.raises(GameError, match="nan"):
        require_equilibrium(NashSolution(policy, np.array([np.nan, 0]), np.zeros(2), tolerance))
    with pytest.raises(GameError, match=r"least mass -0\.5"):
        require_equilibrium(NashSolution([1.5, -0.5], np.zeros(()), np.zeros(()), np.ones(())))


def test_a_sum_ten_roundings_off_is_no_policy():
    off = np.array([0.5, 0.5 + 10.0 * rounding(2)])
    with pytest.raises(GameError, match="sum"):
        require_equilibrium(NashSolution(off, np.zeros(()), np.zeros(()), np.ones(())))


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_no_policy_is_safer_than_the_winner(seed, size):
    rng = np.random.default_rng(seed)
    l = games(KINDS[seed % 3], 1, size, rng)
    winner = minimax_winner(l).policy
    other = rng.dirichlet(np.full(size, 0.3), size=(40, 1))
    assert (duality_gap(other, l) >= duality_gap(winner, l) - 1e-14).all()


# ---- coverage and estimates ----------------------------------------------------------------------


def test_unilateral_concentrability_of_two_draws_of_a_reference():
    rng = np.random.default_rng(4)
    pi, p = rng.dirichlet(np.ones(4), size=(2, 3))
    found = unilateral_concentrability(pi, pair_law(p))
    for x in range(3):
        by_hand = max(
            sum(pi[x, z] ** 2 / (p[x, y] * p[x, z]) for z in range(4) if z != y) for y in range(4)
        )
        assert found[x] == pytest.approx(by_hand, rel=1e-13)
    # One order of each pair is as good as both.
    ordered = 2 * np.triu(pair_law(p), 1) + np.einsum("xy,yz->xyz", p**2, np.eye(4))
    np.testing.assert_allclose(unilateral_concentrability(pi, ordered), found, rtol=1e-13)


def test_what_covers_a_policy_need_not_cover_who_leaves_it():
    pi = np.array([0.5, 0.5, 0.0])
    assert unilateral_concentrability(pi, pair_law(pi)) == np.inf
    # Pairs of the third with either; none of the third with a fourth, which is not needed.
    pairs = np.zeros((4, 4))
    pairs[0, 1], pairs[0, 2], pairs[1, 2], pairs[0, 3], pairs[1, 3] = np.full(5, 0.2)
    assert unilateral_concentrability([0.5, 0.5, 0, 0], pairs) == pytest.approx(5.0)
    assert unilateral_concentrability([0.4, 0.4, 0.2, 0], pairs) == np.inf


def test_masses_whose_squares_underflow_are_covered_or_not():
    pi = np.array([1.0, 1e-200])
    assert unilateral_concentrability(pi, [[1.0, 0.0], [0.0, 0.0]]) == np.inf
    # max(1 / (mu/2), 1e-400 / (mu/2)) of the only pair.
    rare = [[1.0, 1e-300], [0.0, 0.0]]
    assert unilateral_concentrability(pi, rare) == pytest.approx(2e300, rel=1e-12)
    assert unilateral_concentrability(pi, [[0.5, 0.5], [0.0, 0.0]]) == pytest.approx(4.0)


def test_estimates_are_smoothed_shares():
    data = PreferenceData([0, 0, 0, 0, 1], [0, 0, 1, 2, 1], [1, 1, 0, 2, 2], (2, 3))
    model = estimated_preference(data, smoothing=1.0)
    assert model.tensor()[0, 0, 1] == pytest.approx(2.5 / 4)
    assert model.tensor()[0, 0, 2] == 0.5
    assert model.tensor()[1, 2, 1] == pytest.approx(0.25)
    exact = estimated_preference(data, smoothing=0.0).tensor()
    assert exact[0, 0, 1] == pytest.approx(2 / 3)
    assert exact[1, 1, 2] == 1.0
    assert exact[1, 0, 1] == 0.5


def test_the_law_of_infinite_data_gives_the_preferences_back():
    bandit = random_bandit(2, 4, np.random.default_rng(5))
    estimate = estimated_preference(population_pairs(bandit), smoothing=0.0)
    np.testing.assert_allclose(estimate.tensor(), BradleyTerry(bandit.reward).tensor(), atol=1e-13)
