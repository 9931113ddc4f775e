"""Games: coverage of one policy, against linear programs; equilibria, self-play, Nash-MD."""

from itertools import permutations, product

import numpy as np
import pytest
from claim_checks import assert_holds, assert_tight
from scipy.optimize import linprog

from rlhfsim import KL, GeneralPreference
from rlhfsim.claims.base import Claim
from rlhfsim.claims.contests import Contests, game_of, skew_games
from rlhfsim.claims.games import GAME_CLAIMS, GAMES, Mixtures, skew
from rlhfsim.claims.minimax import MINIMAX_CLAIMS
from rlhfsim.claims.nash import NASH_MD_CLAIMS, PROVED_CONSTANT, SOURCE_CONSTANT
from rlhfsim.claims.self_play import SELF_PLAY_CLAIMS
from rlhfsim.claims.unilateral import UNILATERAL_CLAIMS, comparisons, covered_game
from rlhfsim.coverage import concentrability
from rlhfsim.games import (
    duality_gap,
    minimax_winner,
    nash_md,
    solve_nash,
    unilateral_concentrability,
)


@pytest.mark.parametrize("claim", GAME_CLAIMS, ids=lambda c: c.name)
def test_claims_hold_and_are_tight(claim):
    assert_holds(claim)
    assert_tight(claim)


def test_data_cannot_tell_the_games_apart_and_winners_are_covered():
    reference = np.array([0.5, 0.5, 0.0])
    seen = reference[:, None] * reference[None, :] > 0
    assert all((game[seen] == GAMES[0][seen]).all() for game in GAMES)
    for game, winner in zip(GAMES, np.eye(3)[[0, 1, 0]], strict=True):
        np.testing.assert_array_equal(game, -game.T)
        assert duality_gap(winner[None], game)[0] == 0.0
        assert concentrability(winner, reference) == 2.0


def test_two_thirds_is_what_a_linear_program_finds():
    """Minimise t over policies with `2 (l pi)_y <= t` for every response of every game."""
    rows = np.concatenate([2.0 * GAMES.reshape(-1, 3), -np.ones((9, 1))], axis=1)
    found = linprog(
        [0, 0, 0, 1], A_ub=rows, b_ub=np.zeros(9), A_eq=[[1, 1, 1, 0]], b_eq=[1],
        bounds=[(0, None)] * 3 + [(None, None)],
    )  # fmt: skip
    assert found.fun == pytest.approx(2 / 3, rel=1e-9)
    np.testing.assert_allclose(found.x[:3], 1 / 3, atol=1e-9)


def test_duality_gap_is_that_of_all_best_responses():
    x = Mixtures.sample(200, np.random.default_rng(3))
    game = skew(x.advantage)
    np.testing.assert_allclose(game, -np.swapaxes(game, 1, 2))
    for k in range(200):
        best = max(game[k, y] @ x.policy[k] for y in range(3))
        worst = min(x.policy[k] @ game[k, :, y] for y in range(3))
        assert duality_gap(x.policy[k : k + 1], game[k])[0] == pytest.approx(best - worst)


# ---- general preferences played as games ---------------------------------------------------------

PLAYED = (*MINIMAX_CLAIMS, *NASH_MD_CLAIMS, *SELF_PLAY_CLAIMS, *UNILATERAL_CLAIMS)


@pytest.mark.parametrize("claim", [c for c in PLAYED if isinstance(c, Claim)], ids=lambda c: c.name)
def test_claims_of_played_games_hold(claim):
    result = claim.check(100, 1)
    assert result.passed, result.verdict
    if claim.kind != "identity":
        assert result.witness > 0.75


def random_contests(n=40, seed=5):
    return Contests.sample(n, np.random.default_rng(seed))


def test_contests_are_skew_and_in_range():
    x = random_contests(200)
    game = game_of(x)
    np.testing.assert_array_equal(game, -np.swapaxes(game, 1, 2))
    assert np.abs(game).max() <= 1.0
    assert x.valid().all()


def test_landau_bounds_by_the_order_of_responses():
    """`E_pi[(l pi)^2]` is convex in l: the largest over games is that of a strict order."""
    rng = np.random.default_rng(6)
    for size in (2, 3, 4):
        policy = rng.dirichlet(np.ones(size))
        corners = np.array(list(product([-1.0, 1.0], repeat=size * (size - 1) // 2)))
        best = max(
            float(policy @ (game @ policy) ** 2) for game in skew_games(0.5 + 0.5 * corners, size)
        )
        order = skew_games(np.ones((1, size * (size - 1) // 2)), size)[0]
        orders = [
            float(policy[list(k)] @ (order @ policy[list(k)]) ** 2)
            for k in permutations(range(size))
        ]
        assert best == pytest.approx(max(orders), abs=1e-14)
        assert best <= 1 / 3


def test_the_proved_constant_of_nash_md_holds_for_its_schedule():
    x = random_contests(60)
    exact = solve_nash(game_of(x), x.reference, KL(), x.beta).policy
    for rounds in (1, 2, 5, 20):
        last = nash_md(game_of(x), x.reference, x.beta, rounds).policy
        distance = KL().per_prompt(exact, last)
        allowed = PROVED_CONSTANT / (x.beta**2 * (rounds + 1))
        assert (distance <= allowed + 1e-12).all()
    assert pytest.approx(48.0) == SOURCE_CONSTANT / PROVED_CONSTANT


def test_a_step_of_nash_md_obeys_the_recursion():
    x = random_contests(60, 7)
    game, p = game_of(x), x.reference
    exact = solve_nash(game, p, KL(), x.beta).policy
    step = 0.5 / x.beta
    before = KL().per_prompt(exact, nash_md(game, p, x.beta, 3, step=step).policy)
    after = KL().per_prompt(exact, nash_md(game, p, x.beta, 4, step=step).policy)
    assert (after <= 0.5 * before + step**2 / 6 + 1e-9 * (1 + before)).all()


def test_the_covered_game_is_what_its_docstring_says():
    wins, law = covered_game()
    game = GeneralPreference(wins)
    winner = minimax_winner(game).policy[0]
    assert (winner[:3] > 0).all()
    assert not winner[3:].any()
    assert law.sum() == pytest.approx(1.0)
    assert law[3, 4] == 0
    assert unilateral_concentrability(winner, law) < 20
    assert unilateral_concentrability(np.full(5, 0.2), law) == np.inf
    counts = comparisons(wins, law, 90_000, np.random.default_rng(8))
    assert counts.total == 90_000
    share = counts.count[(counts.winner == 0) & (counts.loser == 1)].sum() / 10_000
    assert share == pytest.approx(wins[0, 1], abs=0.03)  # 5 standard errors
