"""The minimax (von Neumann) winner: the policy that no response beats on average.

Per prompt, the winners of the skew-symmetric game `l` are the distributions with `l pi <= 0`.  A
Condorcet winner is the only one.  Otherwise a guess of the support is verified, and where it cannot
be, a linear program says which responses some winner
uses: those S that have mass in a strictly complementary solution.  On S every winner solves
`l_SS pi = 0`.  Where that leaves one policy it is the winner (in a game without ties it is unique,
with a support of odd size); where it leaves more, the one with the least `sum_y pi^2`, the most
spread one, is returned.  It is unique and does not depend on the names of the responses.

Source: von Neumann 1928; Fisher and Ryan 1992 (uniqueness); Lawson and Hanson 1974, chapter 23
(least distance programming).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import null_space
from scipy.optimize import linprog

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.games.active_sets import guessed_support, non_negative_least_squares
from rlhfsim.games.exact_program import complementary_program, exact_winner
from rlhfsim.games.game import Game, as_available, as_game, deviation_gap
from rlhfsim.games.solution import NashSolution, require_equilibrium, rounding

#: Masses and margins, in units of the largest advantage, from which on they are no rounding.
_CLEAR = 1e-9
#: Masses below this are the rounding of 0.
_NOTHING = 1e-13
#: Singular values of `l_SS` below this share of its largest entry are zero.
_FLAT = 1e-11


def minimax_winner(game: Game, *, available: ArrayLike | None = None) -> NashSolution:
    """Return the minimax winner of each prompt, `argmin_pi max_y l(y, pi)`, certified.

    Of several winners the one with the least `sum_y pi^2`; see the module.  Games whose advantages
    differ by little more than rounding (responses that are nearly copies of each other) are
    solved in rational arithmetic, which takes seconds for 20 responses; where the most spread
    winner of such a game is beyond floating point, another one is returned.

    Parameters
    ----------
    game : PreferenceModel, or (..., X, Y, Y) array of advantages
        Any finite skew-symmetric numbers; (Y, Y) is one prompt.
    available : (..., X, Y) array of bool, optional
        The responses that there are, all by default: others neither get mass nor are played
        against.

    Returns
    -------
    NashSolution
        Its `gap` is the exact duality gap, some ulps of the largest advantage.

    Raises
    ------
    ValueError
        As `as_game`; for a mask of another shape or without responses.
    GameError
        If the gap exceeds what rounding explains.

    Examples
    --------
    >>> from rlhfsim.preferences import cyclic_preference
    >>> minimax_winner(cyclic_preference(3)).policy.round(3)
    array([[0.333, 0.333, 0.333]])
    """
    pay = as_game(game)
    mask = np.ones(pay.shape[:-1], dtype=np.bool_)
    if available is not None:
        mask = as_available(available, pay.shape[:-1])
    size = pay.shape[-1]
    games, masks = pay.reshape(-1, size, size), mask.reshape(-1, size)
    policy = _condorcet(games, masks)
    for k in np.flatnonzero(~policy.any(axis=-1)):
        kept = np.flatnonzero(masks[k])
        policy[k, kept] = _winner(games[k][np.ix_(kept, kept)])
    policy = policy.reshape(mask.shape)
    return require_equilibrium(_certified(policy, pay, mask))


def _certified(policy: FloatArray, game: FloatArray, mask: BoolArray) -> NashSolution:
    gap = deviation_gap(policy, game, mask)
    largest = np.abs(game).max(axis=(-1, -2))
    return NashSolution(policy, gap, -0.5 * gap, rounding(policy.shape[-1]) * largest)


def _condorcet(games: FloatArray, masks: BoolArray) -> FloatArray:
    """Return (N, Y) policies of mass 1 on the response that beats all others, or of none."""
    pairs = masks[:, None, :] & ~np.eye(games.shape[-1], dtype=np.bool_)
    beats = ((games > 0) | ~pairs).all(axis=-1) & masks
    return beats.astype(np.float64)


def _winner(game: FloatArray) -> FloatArray:
    """Return the most spread winner of one game."""
    largest = float(np.abs(game).max())
    if largest == 0.0:
        return np.full(len(game), 1.0 / len(game))
    scaled = 0.5 * (game / largest - game.T / largest)
    policy = _if_unique(scaled)
    if policy is not None and _wins(scaled, refined := _refined(scaled, policy)):
        return refined
    used = _support(scaled)
    if used is not None:
        policy = _on_support(scaled, used)
        if policy is not None and _wins(scaled, policy):
            return _refined(scaled, policy)
    # Advantages too near to each other for a program in floating point.
    vertex = exact_winner(scaled)
    policy = _on_support(scaled, vertex > 0)
    return policy if policy is not None and _wins(scaled, policy) else vertex


def _wins(game: FloatArray, policy: FloatArray) -> bool:
    """Return whether a policy meets the certificate of `require_equilibrium`."""
    return _excess(game, policy) <= 0.5 * rounding(len(game))


def _refined(game: FloatArray, policy: FloatArray) -> FloatArray:
    """Return the policy after a correction of what the equations of its support leave."""
    used, against = policy > 0, (game * policy).sum(axis=-1)
    level = np.abs(against) < _CLEAR
    system = np.vstack([game[np.ix_(level, used)], np.ones((1, int(used.sum())))])
    left = np.append(against[level], policy.sum() - 1.0)
    better = policy.copy()
    better[used] -= np.linalg.lstsq(system, left, rcond=_FLAT)[0]
    gains = _excess(game, better) < _excess(game, policy)
    return better if gains and (better[used] > 0).all() else policy


def _excess(game: FloatArray, policy: FloatArray) -> float:
    return float((game * policy).sum(axis=-1).max())


def _if_unique(game: FloatArray) -> FloatArray | None:
    """Return the winner where it is seen to be the only one, or None.

    A simplex method in floating point guesses the support S.  Where `l_SS pi = 0` has one solution,
    it is positive, and it surely beats all responses outside of S, it is the winner.
    """
    used = guessed_support(game)
    if used is None or not used.any():
        return None
    basis = null_space(game[np.ix_(used, used)], rcond=_FLAT)
    if basis.shape[1] != 1:
        return None
    policy = np.zeros(len(game))
    policy[used] = basis[:, 0] / basis[:, 0].sum()
    loses = (game * policy).sum(axis=-1) < -_CLEAR
    return policy if (policy[used] > 0).all() and loses[~used].all() else None


def _support(game: FloatArray) -> BoolArray | None:
    """Return which responses some winner uses, or None where the program gives no clear answer."""
    cost, matrix, bound = complementary_program(game)
    rows, limits = 2 * len(game), [(0.0, None)] * len(game) + [(0.0, 1.0)] * len(game)
    solved = linprog(-cost, A_ub=matrix[:rows], b_ub=bound[:rows], bounds=limits, method="highs-ds")
    if solved.x is None:
        return None
    mass = solved.x[: len(game)]
    loss = -(game @ mass)
    # Of each response one of the two is 0 and the other at least 1.
    clear = (np.minimum(mass, loss) < 0.25) & (np.maximum(mass, loss) > 0.75)
    return np.asarray(mass > loss) if clear.all() else None


def _on_support(game: FloatArray, used: BoolArray) -> FloatArray | None:
    """Return the most spread winner among the responses that winners use."""
    inner = game[np.ix_(used, used)]
    basis = null_space(inner, rcond=_FLAT) if len(inner) > 1 else np.ones((1, 1))
    if basis.shape[1] == 0:
        return None
    policy = np.zeros(len(game))
    if basis.shape[1] == 1:
        policy[used] = basis[:, 0] / basis[:, 0].sum()
    else:
        policy[used] = _least_norm(basis, game[np.ix_(~used, used)])
    return policy if (policy >= 0).all() else None


def _least_norm(basis: FloatArray, others: FloatArray) -> FloatArray:
    """Return the x of least norm in the span of `basis`: x >= 0, `others x <= 0`, sum 1.

    With `x = N c` it is the least `c` with `G c >= h`, from the residual of a non-negative least
    squares problem; then again, more exactly, with the constraints that are active as equations.
    """
    constraints = np.vstack([basis, -others @ basis, basis.sum(axis=0, keepdims=True)])
    target = np.zeros(len(constraints))
    target[-1] = 1.0
    goal = np.zeros(basis.shape[1] + 1)
    goal[-1] = 1.0
    weights = non_negative_least_squares(np.vstack([constraints.T, target]), goal)
    active = weights > 0.0
    least = np.linalg.pinv(constraints[active], rcond=_FLAT) @ target[active]
    point = basis @ least
    # What an active constraint says is 0 is 0, and so is what nothing but rounding keeps from it,
    # where several constraints say the same and one is active for all.
    point[active[: len(basis)] | (np.abs(point) < _NOTHING)] = 0.0
    return np.asarray(point)
