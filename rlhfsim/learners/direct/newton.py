r"""Newton's method for convex losses of the scores of one prompt.

Minimises, over `s` in R^K,

    F(s) = sum_r count_r outer(s(y+_r) - s(y-_r) - gap_r) + (ridge/2) sum_y s(y)^2
           - sum_y amount(y) log pi(y; s),

with `log pi(y) = log_base(y) + (s(y) - c(s))/(beta v(y))`, where `c(s)` makes pi sum to 1.  The
last term is the imitation of RPO and POWER.  It is convex: `sum_y pi(y; s, c) <= 1` is a convex
set in (s, c), the epigraph of c.  With `a = 1/(beta v)` and `q = pi a / sum pi a`,

    grad c = q,     hess c = J' diag(pi a^2) J / sum pi a,     J = I - 1 q'.

Source: arXiv 2405.16436, 2412.09544 for the losses; convexity derived here.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from rlhfsim.checks import FloatArray
from rlhfsim.learners.direct.normalizer import weighted_policy
from rlhfsim.learners.direct.prompts import PromptRows
from rlhfsim.losses import OuterLoss

_STEPS = 300
_FINAL_STEP = 1e-12
_NOISE = 1e-14
#: What is added to the unit diagonal, in turn, until the factorisation succeeds.
_JITTERS = (0.0, 1e-14, 1e-11)


class Smooth(Protocol):
    """A convex function of the scores of K responses; with `ridge` 0, blind to a common shift."""

    @property
    def size(self) -> int:
        """K."""
        ...

    @property
    def ridge(self) -> float:
        """Curvature along a common shift."""
        ...

    def value(self, s: FloatArray) -> float:
        """Return the function."""
        ...

    def derivatives(self, s: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """Return gradient, Hessian, and the size of what is summed in the gradient."""
        ...


class Imitation(NamedTuple):
    """The term `-sum_y amount log pi` of one prompt, over its K responses."""

    amount: FloatArray
    log_base: FloatArray
    weight: FloatArray
    beta: float

    def log_policy(self, scores: FloatArray) -> FloatArray:
        """Return (K,) log pi."""
        rows = scores[None], self.beta, self.weight[None], self.log_base[None]
        return weighted_policy(*rows)[0][0]


class Convex(NamedTuple):
    """F of one prompt."""

    rows: PromptRows
    outer: OuterLoss
    ridge: float = 0.0
    imitation: Imitation | None = None

    @property
    def size(self) -> int:
        """K."""
        return self.rows.size

    def value(self, s: FloatArray) -> float:
        """Return F."""
        h = self.rows.difference(s) - self.rows.gap
        total = float((self.rows.count * self.outer.value(h)).sum()) + self.ridge / 2 * float(s @ s)
        if self.imitation is not None:
            total -= float(self.imitation.amount @ self.imitation.log_policy(s))
        return total

    def derivatives(self, s: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """Return gradient, Hessian, and the size of what is summed in the gradient."""
        h = self.rows.difference(s) - self.rows.gap
        slope = self.rows.count * self.outer.slope(h)
        curvature = self.rows.count * self.outer.curvature(h)
        gradient = self.rows.scatter(slope) + self.ridge * s
        hessian = self.rows.laplacian(curvature) + self.ridge * np.eye(len(s))
        size = np.abs(slope).sum() + self.ridge * np.abs(s).sum()
        size += (curvature * (np.abs(h) + np.abs(self.rows.gap))).sum()
        if self.imitation is not None:
            more, bend, pull = _imitation(self.imitation, s)
            gradient, hessian, size = gradient + more, hessian + bend, size + pull
        return gradient, hessian, float(size)


class Stationary(NamedTuple):
    """Where the iteration ended."""

    scores: FloatArray
    #: Largest entry of the gradient, in comparisons, and the size of the terms it sums.
    residual: float
    size: float


def minimize(problem: Smooth, start: FloatArray | None = None, steps: int = _STEPS) -> Stationary:
    """Return the minimiser with mean 0.

    Parameters
    ----------
    problem : Smooth
        With one minimiser up to a constant: the responses linked by comparisons, or by an
        imitation.
    start : (K,) array, optional
    steps : int
        Most steps.
    """
    s = np.zeros(problem.size) if start is None else start
    for _ in range(steps):
        gradient, hessian, _ = problem.derivatives(s)
        step = _direction(gradient, hessian, problem.ridge)
        if step is None:
            break
        moved = _advance(problem, s, step, float(gradient @ step))
        if moved is s:
            # No part of the step lowers F any more, and the next step would be the same one.
            break
        s = moved - moved.mean()
        if np.abs(step).max() <= _FINAL_STEP * (1.0 + np.abs(s).max()):
            break
    gradient, _, size = problem.derivatives(s)
    return Stationary(s, float(np.abs(gradient).max()), size)


def _direction(gradient: FloatArray, hessian: FloatArray, ridge: float) -> FloatArray | None:
    """Return the Newton step, or None where the Hessian is singular to rounding."""
    diagonal = hessian.diagonal()
    if not (np.isfinite(hessian).all() and (diagonal > 0).all()):
        return None
    if ridge == 0:
        # F ignores a common shift; this gives it a curvature and moves no solution.
        hessian = hessian + diagonal.mean()
    unit = 1.0 / np.sqrt(hessian.diagonal())
    scaled = unit[:, None] * hessian * unit
    for more in _JITTERS:
        try:
            factor = cho_factor(scaled + more * np.eye(len(unit)), lower=True, check_finite=False)
        except LinAlgError:
            continue
        return np.asarray(unit * cho_solve(factor, -unit * gradient, check_finite=False))
    return None


def _advance(problem: Smooth, s: FloatArray, step: FloatArray, slope: float) -> FloatArray:
    """Return a point on the step at which F is lower, but for rounding."""
    before = problem.value(s)
    share = 1.0
    for _ in range(60):
        trial = s + share * step
        if problem.value(trial) <= before + 1e-4 * share * slope + _NOISE * (1.0 + abs(before)):
            return trial
        share *= 0.5
    return s


def _imitation(term: Imitation, s: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    pi = np.exp(term.log_policy(s))
    rate = 1.0 / (term.beta * term.weight)
    pulled = term.amount * rate
    total, steepness = float(pulled.sum()), float((pi * rate).sum())
    q = pi * rate / steepness
    bend = pi * rate**2 * (total / steepness)
    cross = np.outer(q, bend)
    hessian = np.diag(bend) - cross - cross.T + np.outer(q, q) * bend.sum()
    return total * q - pulled, hessian, 2.0 * total
