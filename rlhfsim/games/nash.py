"""Regularized Nash policies: the one equilibrium of a game in which leaving the reference costs.

`l(pi, pi') - beta D(pi || p) + beta D(pi' || p)` is concave in pi and convex in pi', and has one
equilibrium, in which both play the same `pi_beta = argmax_pi l(pi, pi_beta) - beta D(pi || p)`.

`games.search` finds it.

Source: arXiv 2312.00886 (KL); the method is ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL, Divergence
from rlhfsim.games.game import Game, as_game, expected
from rlhfsim.games.search import FAR, Search
from rlhfsim.games.solution import NashSolution, require_equilibrium, rounding
from rlhfsim.solvers import solve


def regularized_gap(
    policy: ArrayLike, game: Game, reference: ArrayLike, divergence: Divergence, beta: ArrayLike
) -> FloatArray:
    """Return the exact duality gap of a policy in the regularized game.

    `max_pi' [l(pi', pi) - beta D(pi' || p)] - min_pi'' [l(pi, pi'') + beta D(pi'' || p)]
    + 2 beta D(pi || p)`: what the two players could gain by leaving `pi` for the best response,
    which `solve` gives.  The two terms with D(pi || p) are those of `pi` against either response.

    Parameters
    ----------
    policy : (..., X, Y) array of distributions, or (Y,)
    game : PreferenceModel, or (..., X, Y, Y) array of advantages
    reference : (..., X, Y) array of distributions, or (Y,)
    divergence : Divergence
    beta : number or array
        Positive, broadcast against the prompt axes.

    Returns
    -------
    (..., X) array
        In units of `l`; `inf` where D(pi || p) is.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    SolverError
        As `solve`.

    Source: arXiv 2312.00886.
    """
    pay, p, b = as_regularized(game, reference, divergence, beta)
    pi = checks.as_distributions("policy", policy)
    checks.same_responses(policy=pi, reference=p)
    return gap_of(pi, pay, p, divergence, b)


def gap_of(
    pi: FloatArray, game: FloatArray, p: FloatArray, divergence: Divergence, beta: FloatArray
) -> FloatArray:
    """Return `regularized_gap` of arguments that were checked."""
    best = solve(expected(game, pi), p, divergence, beta).value
    worst = solve(expected(-np.swapaxes(game, -1, -2), pi), p, divergence, beta).value
    return np.asarray(best + worst + 2.0 * beta * divergence.per_prompt(pi, p))


def solve_nash(
    game: Game,
    reference: ArrayLike,
    divergence: Divergence | None = None,
    beta: ArrayLike = 1.0,
    *,
    start: ArrayLike | None = None,
) -> NashSolution:
    """Return the equilibrium of `l(pi, pi') - beta D(pi || p) + beta D(pi' || p)` of each prompt.

    As beta grows it tends to the reference; as beta falls to 0, to the minimax winner that is
    nearest to the reference, `argmin D(pi || p)` over the winners among its responses.

    Parameters
    ----------
    game : PreferenceModel, or (..., X, Y, Y) array of advantages
    reference : (..., X, Y) array of distributions, or (Y,)
        Responses of mass 0 are not played.
    divergence : Divergence
        `KL()` by default.
    beta : number or array
        Positive, in units of `l`, broadcast against the prompt axes: a grid is `beta[:, None]`.
    start : (..., X, Y) array, optional
        Finite scores `l pi / beta` to start from: those of a neighbouring game or beta, say, as
        `expected(game, policy) / beta`.  It saves steps and changes the answer by no more than
        rounding.

    Returns
    -------
    NashSolution
        `gap` is that of `regularized_gap`.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value; for a divergence of finite recession and a
        reference that lacks responses, which it does not forbid.
    GameError
        If the gap exceeds what rounding explains.
    SolverError
        As `solve`.
    """
    divergence = KL() if divergence is None else divergence
    pay, p, b = as_regularized(game, reference, divergence, beta)
    size = p.shape[-1]
    batch = np.broadcast_shapes(pay.shape[:-2], p.shape[:-1], b.shape)
    _require_finite(pay, b)
    games = np.broadcast_to(pay, (*batch, size, size)).reshape(-1, size, size)
    references = np.ascontiguousarray(np.broadcast_to(p, (*batch, size)).reshape(-1, size))
    betas = np.ascontiguousarray(np.broadcast_to(b, batch).reshape(-1))
    search = Search(games, references, divergence)
    scores = search.follow(1.0 / betas, _as_start(start, (*batch, size)))
    pi = solve(scores, references, divergence, 1.0).policy
    gap = gap_of(pi, games, references, divergence, betas)
    spent = betas * divergence.per_prompt(pi, references)
    # Of penalties near 0 rounding makes eps beta.
    largest = np.abs(games).max(axis=(-1, -2)) + spent + np.finfo(np.float64).eps * betas
    solution = NashSolution(
        pi.reshape(*batch, size), gap.reshape(batch), -0.5 * gap.reshape(batch),
        (4.0 * rounding(size) * largest).reshape(batch),
    )  # fmt: skip
    return require_equilibrium(solution)


def as_regularized(
    game: Game, reference: ArrayLike, divergence: Divergence, beta: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the checked advantages, reference and beta of a regularized game."""
    pay = as_game(game)
    p = checks.as_distributions("reference", reference)
    if not isinstance(divergence, Divergence):
        raise ValueError(f"divergence is {divergence!r:.80}; it must be a Divergence such as KL()")
    if p.shape[-1] != pay.shape[-1]:
        raise ValueError(
            f"reference has shape {p.shape} and game {pay.shape}; they must hold the same responses"
        )
    b = as_settings("beta", beta)
    checks.broadcast(game=pay[..., 0, 0], reference=p[..., 0], beta=b)
    if np.isfinite(divergence.recession) and (p == 0).any():
        place = [int(i[0]) for i in np.nonzero(p == 0)]
        raise ValueError(
            f"reference{place} is 0; {divergence!r} does not forbid responses that the reference "
            "lacks, so every mass must be positive"
        )
    return pay, p, b


def _require_finite(game: FloatArray, beta: FloatArray) -> None:
    with np.errstate(over="ignore"):
        far = np.abs(game).max(axis=(-1, -2)) > FAR * beta
    if far.any():
        place = [int(i[0]) for i in np.nonzero(np.atleast_1d(far))] if far.ndim else ""
        raise ValueError(
            f"beta is too small for the advantages at prompt {place}; their ratio must be at most "
            f"{FAR:g}"
        )


def as_settings(name: str, value: ArrayLike) -> FloatArray:
    """Return positive numbers, at least one of them."""
    array = checks.as_positive(name, value)
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must hold at least one number")
    return array


def _as_start(start: ArrayLike | None, shape: tuple[int, ...]) -> FloatArray | None:
    if start is None:
        return None
    scores = checks.as_real("start", start)
    try:
        return np.array(np.broadcast_to(scores, shape).reshape(-1, shape[-1]))
    except ValueError:
        raise ValueError(f"start has shape {scores.shape}; it must broadcast to {shape}") from None
