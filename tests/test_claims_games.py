"""Games: coverage of one policy, against linear programs."""

import numpy as np
import pytest
from claim_checks import assert_holds, assert_tight
from scipy.optimize import linprog

from rlhfsim.claims.games import GAME_CLAIMS, GAMES, Mixtures, duality_gap, skew
from rlhfsim.coverage import concentrability


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
