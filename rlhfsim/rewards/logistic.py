r"""Newton's method for the logistic likelihood of feature differences.

Minimises, over `||theta||_2 <= B` where a bound is given,

    F(theta) = sum_u won_u log(1 + exp(-m_u)) + lost_u log(1 + exp(m_u))
               + 1/2 sum_j penalty_j theta_j^2,      m_u = <theta, d_u>.

*Direction.*  p minimises the quadratic model of F at theta over the ball (of which theta is a
point): without a bound the Newton direction, with one from the secular equation.

*Step.*  Along p, `|d^3 F| <= D d^2 F` with `D = max_u |<p, d_u>|`.  The model's minimality over a
convex set gives `<grad F, p> <= -p'Hp`, so the derivative of F along p is still not positive at
the step `log(1 + D)/D <= 1`, which stays in the ball.  Every step descends; no function values are
compared, and the steps become full ones as D -> 0.

Source: arXiv 1703.04599 (damped step, nu = 2); arXiv 2301.11270 (the estimate); `secular` for the
bound.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import expit

from rlhfsim.checks import FloatArray
from rlhfsim.rewards.features import Comparisons, weighted_gram
from rlhfsim.rewards.secular import ball_multiplier, scaled_back

#: The step, in margins, after which the error is below rounding.
FINAL_STEP = 1e-9

#: Below this the iteration converges quadratically until rounding stops it.
SMALL_STEP = 1e-6

_BASE_STEPS = 200


def minimize(
    pairs: Comparisons, start: FloatArray, penalty: FloatArray, radius: float | None
) -> tuple[FloatArray, float]:
    """Return the minimiser of F and the length of the last step, an error estimate.

    Parameters
    ----------
    pairs : Comparisons
        Differences of magnitude about 1.  F must have one minimiser in the ball.
    start : (d,) array
        In the ball.
    penalty : (d,) array
        Not negative.
    radius : float or None
        B.

    Returns
    -------
    (d,) array, in the ball, and a number in margins
        The number is infinite if the Hessian was singular to rounding.
    """
    theta, length = start, np.inf
    for _ in range(_step_limit(pairs, penalty, radius)):
        try:
            direction = _direction(pairs, theta, penalty, radius)
        except LinAlgError:
            return theta, np.inf
        before, length = length, float(np.abs(_margins(pairs.difference, direction)).max())
        theta = _inside(theta + (np.log1p(length) / length if length else 1.0) * direction, radius)
        if length <= FINAL_STEP or before / 2 < length <= SMALL_STEP:
            break
    return theta, length


def hessian(pairs: Comparisons, theta: FloatArray, penalty: FloatArray) -> FloatArray:
    """Return the (d, d) Hessian of F.

    Parameters
    ----------
    pairs : Comparisons
    theta : (d,) array
    penalty : (d,) array
    """
    margin = _margins(pairs.difference, theta)
    weights = (pairs.won + pairs.lost) * expit(margin) * expit(-margin)
    return weighted_gram(pairs.difference, weights) + np.diag(penalty)


def _margins(difference: FloatArray, theta: FloatArray) -> FloatArray:
    # Not `@`: its order of summation may depend on the number of threads.
    return np.asarray(np.einsum("ui,i->u", difference, theta))


def _gradient(pairs: Comparisons, theta: FloatArray, penalty: FloatArray) -> FloatArray:
    margin = _margins(pairs.difference, theta)
    net = pairs.lost * expit(margin) - pairs.won * expit(-margin)
    return np.asarray(np.einsum("ui,u->i", pairs.difference, net) + penalty * theta)


def _direction(
    pairs: Comparisons, theta: FloatArray, penalty: FloatArray, radius: float | None
) -> FloatArray:
    gradient = _gradient(pairs, theta, penalty)
    curvature = hessian(pairs, theta, penalty)
    try:
        free = _newton(curvature, gradient)
        if radius is None or np.linalg.norm(theta + free) <= radius:
            return free
    except LinAlgError:
        if radius is None:
            raise
    return _bounded(curvature, gradient, theta, radius)


def _newton(curvature: FloatArray, gradient: FloatArray) -> FloatArray:
    """Return `-curvature^{-1} gradient`."""
    diagonal = curvature.diagonal()
    if not (diagonal > 0).all():
        raise LinAlgError("a diagonal entry of the Hessian vanished")
    # With a unit diagonal the factorisation is blind to the scales of the features.
    unit = 1.0 / np.sqrt(diagonal)
    factor = cho_factor(unit[:, None] * curvature * unit, lower=True, check_finite=False)
    return np.asarray(unit * cho_solve(factor, -unit * gradient, check_finite=False))


def _bounded(
    curvature: FloatArray, gradient: FloatArray, theta: FloatArray, radius: float
) -> FloatArray:
    """Return the p that minimises `1/2 p' curvature p + gradient' p` over `|theta + p| <= B`."""
    values, vectors = np.linalg.eigh(curvature)
    # The matrix is a sum of squares; a negative eigenvalue is rounding of 0.
    values = np.maximum(values, 0.0)
    slope = vectors.T @ (gradient - curvature @ theta)
    multiplier = ball_multiplier(values, slope, radius)
    # Solved for the step and not for the point, so that rounding vanishes with the step.
    residual = vectors.T @ (gradient + multiplier * theta)
    return np.asarray(-(vectors @ scaled_back(residual, values + multiplier)))


def _inside(theta: FloatArray, radius: float | None) -> FloatArray:
    """Return the point moved back by the rounding that put it outside the ball."""
    if radius is None:
        return theta
    norm = float(np.linalg.norm(theta))
    return theta * (radius / norm) if norm > radius else theta


def _step_limit(pairs: Comparisons, penalty: FloatArray, radius: float | None) -> int:
    """Return more steps than the damped iteration needs: margins grow by about 1 a step."""
    reach = 0.0
    if radius is not None:
        reach = 2 * radius * float(np.linalg.norm(pairs.difference, axis=1).max())
    elif penalty.max() > 0:
        total = float((pairs.won + pairs.lost).sum())
        reach = max(0.0, float(np.log(total) - np.log(penalty[penalty > 0].min())))
    return _BASE_STEPS + int(4 * reach)
