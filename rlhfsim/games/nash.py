"""Regularized Nash policies: the one equilibrium of a game in which leaving the reference costs.

`l(pi, pi') - beta D(pi || p) + beta D(pi' || p)` is concave in pi and convex in pi', and has one
equilibrium, in which both play the same `pi_beta = argmax_pi l(pi, pi_beta) - beta D(pi || p)`.

How it is found.  In scores u, with `pi(u)` the optimum of `<u, pi> - D(pi || p)` (what `solve`
returns) and `t = 1/beta`, it is the root of `t l pi(u) - u`.  The derivative of pi(u) is a
covariance matrix H, `l` is skew, and so the eigenvalues of `1 - t l H` are `1 + i s`: Newton's
method never meets a singular matrix.  Its merit is half the duality gap, a Bregman divergence of
`t l pi(u)` and u, and it starts at u = 0, where t = 0, and follows the equilibrium as t grows.
Everything with kinks (chi-squared) goes the same way, with a derivative of one side.

Source: arXiv 2312.00886 (KL); the method is ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.divergences import KL, Divergence
from rlhfsim.games.game import Game, as_game, expected
from rlhfsim.games.solution import NashSolution, require_equilibrium, rounding
from rlhfsim.solvers import solve

#: By how much t grows at first, and Newton steps at each t: in haste, and for what that leaves.
_PACES = ((4.0, 12), (1.2, 40))
#: The least growth (then the search gives up) and the most.
_LEAST_GROWTH, _MOST_GROWTH = 1.0 + 1e-9, 64.0
#: Newton steps at the last t.
_LAST_STEPS = 60
#: Values of t that are tried at each pace, then the search gives up.
_MOST_MOVES = 150
#: Halvings of a step.
_HALVINGS = 12
#: Scores, and steps of them, that the search can still add and multiply.
_FAR = 1e150
#: Weights above this are as good as infinite: the responses of the others share what is left.
_HEAVY = 1e100
#: Merit from which whole steps are taken, and that is good enough to go on with; rounding per t.
_NEAR, _DONE, _ROUNDING = 1e-3, 1e-8, 1e-13


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
    search = _Search(games, references, divergence)
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


def _near(t: FloatArray) -> FloatArray:
    """Return the merit below which Newton's method converges."""
    return _NEAR + _ROUNDING * t


def _done(t: FloatArray) -> FloatArray:
    """Return the merit below which a point is as good as the equilibrium to go on from."""
    return _DONE + _ROUNDING * t


class _Search:
    """Newton's method on the scores of some rows, each by itself."""

    def __init__(self, games: FloatArray, references: FloatArray, divergence: Divergence) -> None:
        self.games, self.references, self.divergence = games, references, divergence

    def follow(self, t: FloatArray, start: FloatArray | None) -> FloatArray:
        """Return the scores of the equilibria at t."""
        if start is not None:
            scores, merit = self._improve(start, t, np.arange(len(t)), _LAST_STEPS)
            rows = np.flatnonzero(~(merit <= _done(t)))
        else:
            scores, rows = np.zeros(self.references.shape), np.arange(len(t))
        for growth, steps in _PACES:
            if rows.size:
                scores[rows], left = self._continued(t[rows], rows, growth, steps)
                rows = rows[left]
        return scores

    def _continued(
        self, t: FloatArray, rows: IntArray, pace: float, most: int
    ) -> tuple[FloatArray, BoolArray]:
        """Return the scores at t, from u = 0 at t = 0 by way of smaller t, and who is not there."""
        scores = np.zeros((len(rows), self.references.shape[1]))
        reached = np.zeros(len(rows))
        growth = np.full(len(rows), pace)
        left = np.ones(len(rows), dtype=np.bool_)
        for _ in range(_MOST_MOVES):
            some = np.flatnonzero(left)
            if not some.size:
                break
            # The same scores at another t are the same policy: the place to start from.
            aim = np.minimum(np.maximum(1.0, reached[some] * growth[some]), t[some])
            last = aim == t[some]
            for group, at, steps in (
                (some[~last], aim[~last], most),
                (some[last], aim[last], _LAST_STEPS),
            ):
                if not group.size:
                    continue
                tried, merit = self._improve(scores[group], at, rows[group], steps)
                good = merit <= _done(at)
                scores[group[good]], reached[group[good]] = tried[good], at[good]
                growth[group] = np.where(good, growth[group] ** 1.5, growth[group] ** 0.25)
                left[group[good & (at == t[group])]] = False
            left &= growth > _LEAST_GROWTH
            growth = np.minimum(growth, _MOST_GROWTH)
        return scores, reached < t

    def _improve(
        self, scores: FloatArray, t: FloatArray, rows: IntArray, steps: int
    ) -> tuple[FloatArray, FloatArray]:
        """Return scores after Newton steps, and their merit; all steps end where none shrinks."""
        scores = scores.copy()
        final = steps == _LAST_STEPS
        merit = self._merit(scores, t, rows)
        smallest = np.full(len(rows), np.inf)
        left = np.ones(len(rows), dtype=np.bool_)
        for _ in range(steps):
            if not final:
                left &= merit > _done(t)
            some = np.flatnonzero(left)
            if not some.size:
                break
            step = self._step(scores[some], t[some], rows[some])
            length = np.abs(step).max(axis=1)
            # No step at all, or none of a use: NaN fails the comparison.
            kept = length <= _FAR
            left[some[~kept]] = False
            some, step, length = some[kept], step[kept], length[kept]
            if not some.size:
                break
            near = merit[some] <= _near(t[some])
            # Near the root steps shrink until rounding is all that is left of them.
            done = near & ((length >= 0.5 * smallest[some]) | (length == 0.0))
            smallest[some[near]] = np.minimum(smallest[some], length)[near]
            left[some[done]] = False
            some, step, near = some[~done], step[~done], near[~done]
            tried, value = self._searched(
                scores[some], step, t[some], rows[some], merit[some], near
            )
            better = near | (value < merit[some])
            left[some[~better]] = False
            some = some[better]
            scores[some], merit[some] = tried[better], value[better]
        return scores, merit

    def _searched(
        self, scores: FloatArray, step: FloatArray, t: FloatArray, rows: IntArray,
        merit: FloatArray, whole: BoolArray,
    ) -> tuple[FloatArray, FloatArray]:  # fmt: skip
        """Return scores after the first of ever shorter steps that lowers the merit, and it."""
        length = np.ones(len(rows))
        reached = scores + step
        value = self._merit(reached, t, rows)
        for _ in range(_HALVINGS):
            bad = np.flatnonzero(~whole & ~(value < merit))
            if not bad.size:
                break
            length[bad] *= 0.5
            reached[bad] = scores[bad] + length[bad, None] * step[bad]
            value[bad] = self._merit(reached[bad], t[bad], rows[bad])
        return reached, value

    def _policy(self, scores: FloatArray, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        solved = solve(scores, self.references[rows], self.divergence, 1.0)
        return solved.policy, solved.value

    def _merit(self, scores: FloatArray, t: FloatArray, rows: IntArray) -> FloatArray:
        """Return half the duality gap over beta."""
        policy, value = self._policy(scores, rows)
        answer = t[:, None] * expected(self.games[rows], policy)
        spent = (policy * scores).sum(axis=1) - value
        return np.asarray(self._policy(answer, rows)[1] + spent)

    def _step(self, scores: FloatArray, t: FloatArray, rows: IntArray) -> FloatArray:
        policy = self._policy(scores, rows)[0]
        missed = t[:, None] * expected(self.games[rows], policy) - scores
        weight = self._weights(policy, self.references[rows])
        towards = _against_covariance(t[:, None, None] * self.games[rows], weight)
        return _solved(np.eye(scores.shape[1]) - towards, missed)

    def _weights(self, policy: FloatArray, p: FloatArray) -> FloatArray:
        """Return `p / f''(pi/p)` where pi has mass, at most `_HEAVY`."""
        moves = (p > 0) & (policy > 0)
        with np.errstate(over="ignore", divide="ignore", under="ignore"):
            ratio = np.where(moves, policy, 1.0) / np.where(moves, p, 1.0)
            return np.where(moves, np.minimum(p / self.divergence.link_slope(ratio), _HEAVY), 0.0)


def _against_covariance(game: FloatArray, weight: FloatArray) -> FloatArray:
    """Return `l H`, `H = diag(w) - w w^T / sum w`, also where one weight is nearly the whole sum.

    Its column of y is `w(y)` times `l(., y)` less the mean of l under the shares `w / sum w`; of
    the largest share both are about the same, and what is left is said by the other shares.
    """
    rows = np.arange(len(weight))
    lead = weight.argmax(axis=1)
    total = weight.sum(axis=1, keepdims=True)
    share = weight / np.where(total > 0.0, total, 1.0)
    rest = share.copy()
    rest[rows, lead] = 0.0
    leading, others = game[rows, :, lead], expected(game, rest)
    mean = others + share[rows, lead, None] * leading
    centred = game - mean[:, :, None]
    centred[rows, :, lead] = rest.sum(axis=1, keepdims=True) * leading - others
    return np.asarray(centred * weight[:, None, :])


def _solved(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Return the (N, Y) solutions of N systems, NaN for those that rounding has made singular."""
    try:
        return np.asarray(np.linalg.solve(matrix, right[..., None])[..., 0])
    except np.linalg.LinAlgError:
        if len(matrix) == 1:
            return np.full(right.shape, np.nan)
    return np.concatenate([_solved(matrix[k : k + 1], right[k : k + 1]) for k in range(len(right))])


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
        far = np.abs(game).max(axis=(-1, -2)) > _FAR * beta
    if far.any():
        place = [int(i[0]) for i in np.nonzero(np.atleast_1d(far))] if far.ndim else ""
        raise ValueError(
            f"beta is too small for the advantages at prompt {place}; their ratio must be at most "
            f"{_FAR:g}"
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
