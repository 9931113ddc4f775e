r"""What XPO minimises over scores: convex losses of comparisons, less a value that is convex too.

With scores `s(x, y) = beta u(x, y)` up to a constant per prompt, `u = log pi - log p`, counts W of
who beat whom, and m(x, y) how often the opponent drew y, M(x) in all,

    F(w) = sum_x f_x(s(x, .)) + (ridge/2) |w|^2,     s(x, .) = Phi_x w,
    f(s) = sum_{y, z} W(y, z) softplus(s(z) - s(y))
           + (alpha/beta) sum_y m(y) s(y) - alpha M log sum_y p(y) e^{s(y)/beta},

which is the loss of DPO and `alpha sum_i log pi(y~_i)`, without the constant `alpha m log p`.  The
last term is concave: F may have several local minima.  With the Gibbs variational principle,

    F(w) = min_q L(w) + (alpha/beta) sum_y [m(y) - M q(y)] s(y) + alpha M KL(q || p),

L the convex rest, and the best q is the policy itself.  For each q that is a convex problem in w;
those of the q that sit on one response, the optimism about that response, are the starts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from rlhfsim.checks import FloatArray

_STEPS = 300
#: Gradient, per comparison and as a share of what is summed in it, at which a descent ends.
_ENOUGH = 1e-13
#: The same, below which a descent goes on only as long as the gradient halves.
_NEARLY = 1e-9
#: Least curvature of a step, as a share of the largest.
_FLATTEST = 1e-10
#: Most times that the curvature is lifted for one step.
_LIFTS = 60
#: Rounding of F, as a share of it.
_ROUNDING = 1e-14
#: Share of the decrease of the model that a step must reach.
_SHARE = 1e-4


class Optimistic(NamedTuple):
    """F over some prompts that share their parameter w."""

    #: (P, Y, Y) how often the first response beat the second one.
    wins: FloatArray
    #: (P, Y) draws of the opponent.
    draws: FloatArray
    #: (P, Y) p.
    reference: FloatArray
    #: (P, Y, d) Phi, 0 where p is.
    design: FloatArray
    alpha: float
    beta: float
    ridge: float
    #: Every entry of w lies in `[0, upper]`, where this is finite.
    upper: float = np.inf

    @property
    def size(self) -> float:
        """Return how much is summed: comparisons, and the optimistic terms."""
        return float(1.0 + self.wins.sum() + self.alpha / self.beta * self.draws.sum())

    def scores(self, w: FloatArray) -> FloatArray:
        """Return (P, Y) `Phi w`."""
        return np.asarray(self.design @ w)

    def policy(self, w: FloatArray) -> FloatArray:
        """Return (P, Y) `p e^{s/beta}/Z`."""
        return self._gibbs(self.scores(w))[0]

    def value(self, w: FloatArray) -> float:
        """Return F."""
        s = self.scores(w)
        gap = s[:, None, :] - s[:, :, None]
        total = float((self.wins * np.logaddexp(0.0, gap)).sum()) + 0.5 * self.ridge * float(w @ w)
        if self.alpha:
            log_z = self._gibbs(s)[1]
            total += self.alpha / self.beta * float((self.draws * s).sum())
            total -= self.alpha * float(self.draws.sum(axis=1) @ log_z)
        return total

    def derivatives(self, w: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the (d,) gradient and the (d, d) Hessian of F."""
        s = self.scores(w)
        gap = s[:, None, :] - s[:, :, None]
        pull = self.wins * expit(gap)
        slope = pull.sum(axis=1) - pull.sum(axis=2)
        bend = pull * expit(-gap)
        bend = bend + bend.transpose(0, 2, 1)
        curvature = _diagonal(bend.sum(axis=2)) - bend
        if self.alpha:
            pi = self._gibbs(s)[0]
            total = self.draws.sum(axis=1, keepdims=True)
            slope = slope + self.alpha / self.beta * (self.draws - total * pi)
            spread = _diagonal(pi) - pi[:, :, None] * pi[:, None, :]
            curvature = curvature - (self.alpha / self.beta**2) * total[..., None] * spread
        gradient = np.einsum("pyd,py->d", self.design, slope) + self.ridge * w
        half = np.matmul(curvature, self.design)
        hessian = np.tensordot(self.design, half, axes=((0, 1), (0, 1)))
        return gradient, hessian + self.ridge * np.eye(w.size)

    def _gibbs(self, s: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (P, Y) the policy of scores, and (P,) `log sum_y p e^{s/beta}`."""
        inside = self.reference > 0
        top = np.where(inside, s, -np.inf).max(axis=1, keepdims=True)
        weight = self.reference * np.exp(np.where(inside, s - top, 0.0) / self.beta)
        total = weight.sum(axis=1, keepdims=True)
        return weight / total, (np.log(total) + top / self.beta)[:, 0]


class Tilted(NamedTuple):
    """F of another problem without optimism, and a linear term: convex."""

    problem: Optimistic
    #: (d,) what is added to the gradient.
    tilt: FloatArray

    @property
    def size(self) -> float:
        """As of the problem."""
        return self.problem.size

    @property
    def ridge(self) -> float:
        """As of the problem."""
        return self.problem.ridge

    @property
    def upper(self) -> float:
        """As of the problem."""
        return self.problem.upper

    def value(self, w: FloatArray) -> float:
        """Return the sum."""
        return self.problem.value(w) + float(self.tilt @ w)

    def derivatives(self, w: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return its gradient and Hessian."""
        gradient, hessian = self.problem.derivatives(w)
        return gradient + self.tilt, hessian


def optimist(problem: Optimistic, about: FloatArray, start: FloatArray) -> FloatArray:
    """Return the (d,) parameter of least F with q held at (P, Y) distributions.

    Parameters
    ----------
    problem : Optimistic
    about : (P, Y) array
    start : (d,) array
    """
    missing = problem.draws - problem.draws.sum(axis=1, keepdims=True) * about
    tilt = problem.alpha / problem.beta * np.einsum("pyd,py->d", problem.design, missing)
    return descend(Tilted(problem._replace(alpha=0.0), tilt), start).point


class Stationary(NamedTuple):
    """Where a descent ended."""

    point: FloatArray
    value: float
    #: Largest entry of the gradient that the bounds leave, over `Optimistic.size`.
    residual: float


def left_over(problem: Optimistic | Tilted, w: FloatArray, gradient: FloatArray) -> FloatArray:
    """Return the (d,) gradient, 0 where only the bound on an entry keeps F from falling.

    Parameters
    ----------
    problem : Optimistic or Tilted
    w, gradient : (d,) arrays
    """
    if problem.upper == np.inf:
        return gradient
    held = ((w <= 0.0) & (gradient > 0.0)) | ((w >= problem.upper) & (gradient < 0.0))
    return np.where(held, 0.0, gradient)


def descend(problem: Optimistic | Tilted, start: FloatArray) -> Stationary:
    """Return a stationary point that is no higher than the start, but for rounding.

    Newton's method with the absolute values of the Hessian's eigenvalues, which are lifted further
    wherever a step does not lower F enough.  Entries that a bound holds are left out of a step, and
    the others are clipped to the bounds.

    Parameters
    ----------
    problem : Optimistic or Tilted
    start : (d,) array
        Within the bounds.
    """
    size = problem.size
    w, value, damping = start, problem.value(start), 0.0
    gradient, hessian = problem.derivatives(w)
    residual = left_over(problem, w, gradient)
    for _ in range(_STEPS):
        before = float(np.abs(residual).max())
        if before <= _ENOUGH * size:
            break
        trial, damping = _step(problem, w, value, residual, hessian, damping)
        trial_value = problem.value(trial)
        trial_gradient, trial_hessian = problem.derivatives(trial)
        trial_residual = left_over(problem, trial, trial_gradient)
        after = float(np.abs(trial_residual).max())
        if before <= _NEARLY * size and after > 0.5 * before:
            # Rounding leaves nothing more to gain.
            break
        w, value, hessian, residual = trial, trial_value, trial_hessian, trial_residual
    return Stationary(w, value, float(np.abs(residual).max()) / size)


def _step(
    problem: Optimistic | Tilted,
    w: FloatArray,
    value: float,
    residual: FloatArray,
    hessian: FloatArray,
    damping: float,
) -> tuple[FloatArray, float]:
    """Return a point that lowers F enough, but for its rounding, and the damping of the next."""
    free = np.flatnonzero(residual) if problem.upper < np.inf else np.arange(w.size)
    curvature, basis = np.linalg.eigh(hessian[np.ix_(free, free)])
    floor = max(problem.ridge, _FLATTEST * (1.0 + float(np.abs(curvature).max())))
    slope, bend = basis.T @ residual[free], np.maximum(np.abs(curvature), floor)
    rounding = _ROUNDING * (1.0 + abs(value))
    for _ in range(_LIFTS):
        trial = w.copy()
        trial[free] -= basis @ (slope / (bend + damping))
        if problem.upper < np.inf:
            trial = np.clip(trial, 0.0, problem.upper)
        promised = float(residual @ (w - trial))
        if problem.value(trial) <= value - _SHARE * promised + rounding:
            return trial, 0.1 * damping if damping > floor else 0.0
        damping = max(4.0 * damping, floor)
    return w, damping


def lowest(problem: Optimistic, starts: list[FloatArray]) -> Stationary:
    """Return the lowest of the stationary points that some starts lead to, the first of equals."""
    found = [descend(problem, start) for start in starts]
    least = min(one.value for one in found)
    reach = 1e-12 * (1.0 + abs(least))
    return next(one for one in found if one.value <= least + reach)


def _diagonal(rows: FloatArray) -> FloatArray:
    """Return the (P, Y, Y) diagonal matrices of (P, Y) rows."""
    return np.asarray(rows[..., None] * np.eye(rows.shape[-1]))
