"""The search for the equilibrium of a regularized game, by Newton's method along beta.

In scores u, with `pi(u)` the optimum of `<u, pi> - D(pi || p)` (what `solve` returns) and
`t = 1/beta`, the equilibrium is the root of `t l pi(u) - u`.  The derivative of pi(u) is a
covariance matrix H, `l` is skew, and so the eigenvalues of `1 - t l H` are `1 + i s`: Newton's
method never meets a singular matrix.  Its merit is half the duality gap, a Bregman divergence of
`t l pi(u)` and u, and it starts at u = 0, where t = 0, and follows the equilibrium as t grows.
Everything with kinks (chi-squared) goes the same way, with a derivative of one side.

Source: the method is ours.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.divergences import Divergence
from rlhfsim.games.game import expected
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
#: Size up to which the search can still add and multiply scores, and steps of them.
FAR = 1e150
#: Weights above this are as good as infinite: the responses of the others share what is left.
_HEAVY = 1e100
#: Merit from which whole steps are taken, and that is good enough to go on with; rounding per t.
_NEAR, _DONE, _ROUNDING = 1e-3, 1e-8, 1e-13


def _near(t: FloatArray) -> FloatArray:
    """Return the merit below which Newton's method converges."""
    return _NEAR + _ROUNDING * t


def _done(t: FloatArray) -> FloatArray:
    """Return the merit below which a point is as good as the equilibrium to go on from."""
    return _DONE + _ROUNDING * t


class Search:
    """Newton's method on the scores of N rows, each by itself.

    `games` is (N, Y, Y) and `references` (N, Y).
    """

    def __init__(self, games: FloatArray, references: FloatArray, divergence: Divergence) -> None:
        self.games, self.references, self.divergence = games, references, divergence

    def follow(self, t: FloatArray, start: FloatArray | None) -> FloatArray:
        """Return the (N, Y) scores of the equilibria at the (N,) t, from `start` if given."""
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
            kept = length <= FAR
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
