"""What is left after a fit: runs of one sign, the Durbin-Watson statistic with its exact law."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen

#: Most residuals for which the law of the Durbin-Watson statistic is computed.
MOST_EXACT = 1000

# Nodes of Imhof's integral, in log u.
_NODES = np.linspace(-37.0, 83.0, 2401)


@dataclass(frozen=True)
class ResidualChecks(Frozen):
    """Whether residuals, in the order of d, look like independent noise.

    Small p-values say that the form is wrong by more than the noise: the residuals follow a curve.
    """

    #: Number of runs of one sign, and P(at most so many | the numbers of either sign).
    runs: int
    runs_p: float
    #: `sum (e_i - e_(i-1))^2 / sum e_i^2`: 2 for independent noise, near 0 for a curve.
    durbin_watson: float
    #: P(at most that) for independent normal noise and this design; None for over 1000 values.
    durbin_watson_p: float | None
    #: Largest `|residual|` over the range of the values.
    largest: float


def check_residuals(residuals: FloatArray, design: FloatArray, largest: float) -> ResidualChecks:
    """Return the checks of residuals of a fit with an (n, k) design, both in the order of d.

    Parameters
    ----------
    residuals : (n,) array
    design : (n, k) array
        Columns, or derivatives in the parameters at the fit.
    largest : float
        Largest `|residual|` over the range of the values.
    """
    runs, ups, downs = count_runs(residuals)
    statistic, likely = durbin_watson(residuals), None
    if residuals.size <= MOST_EXACT:
        likely = durbin_watson_probability(statistic, design)
    return ResidualChecks(
        runs=runs,
        runs_p=runs_probability(runs, ups, downs),
        durbin_watson=statistic,
        durbin_watson_p=likely,
        largest=largest,
    )


def count_runs(residuals: FloatArray) -> tuple[int, int, int]:
    """Return the number of runs of one sign, of positive and of negative residuals; 0 is left out.

    All are 0 where every residual is.
    """
    up = residuals[residuals != 0] > 0
    runs = int((up[1:] != up[:-1]).sum()) + (up.size > 0)
    return int(runs), int(up.sum()), int((~up).sum())


def runs_probability(runs: int, ups: int, downs: int) -> float:
    """Return P(at most so many runs) over all orders of the signs.

    An order has 2k runs in `2 C(u-1, k-1) C(d-1, k-1)` ways and 2k + 1 in
    `C(u-1, k) C(d-1, k-1) + C(u-1, k-1) C(d-1, k)`, of `C(u+d, u)`.

    Source: Wald and Wolfowitz 1940 (Ann. Math. Statist. 11, 147).
    """
    if ups == 0 or downs == 0:
        return 1.0
    total = _log_choose(ups + downs, ups)
    terms = []
    for r in range(2, runs + 1):
        k = r // 2
        if r % 2 == 0:
            both = math.log(2.0) + _log_choose(ups - 1, k - 1) + _log_choose(downs - 1, k - 1)
            terms.append(both - total)
        else:
            terms.append(_log_choose(ups - 1, k) + _log_choose(downs - 1, k - 1) - total)
            terms.append(_log_choose(ups - 1, k - 1) + _log_choose(downs - 1, k) - total)
    return min(1.0, math.fsum(math.exp(t) for t in terms))


def _log_choose(n: int, k: int) -> float:
    if not 0 <= k <= n:
        return -math.inf
    return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))


def durbin_watson(residuals: FloatArray) -> float:
    """Return `sum (e_i - e_(i-1))^2 / sum e_i^2`; 2 where every residual is 0."""
    largest = float(np.abs(residuals).max())
    if largest == 0.0:
        return 2.0
    scaled = residuals / largest
    return float(np.square(np.diff(scaled)).sum() / np.square(scaled).sum())


def durbin_watson_probability(statistic: float, design: FloatArray) -> float:
    """Return P(Durbin-Watson at most `statistic`) for independent normal noise.

    With M the projection off the design and A the matrix of `sum (e_i - e_(i-1))^2`, the event is
    `sum_i (lambda_i - statistic) z_i^2 <= 0`, `lambda` the eigenvalues of A on the range of M and
    z standard normal; its probability is Imhof's integral.

    Source: Durbin and Watson 1950, 1951 (Biometrika 37, 409; 38, 159); Imhof 1961 (48, 419).
    """
    k = design.shape[1]
    complete, _ = np.linalg.qr(design, mode="complete")
    steps = np.diff(complete[:, k:], axis=0)
    weights = np.linalg.eigvalsh(steps.T @ steps) - statistic
    if not (weights < 0).any():
        return 0.0
    if not (weights > 0).any():
        return 1.0
    return imhof(weights / np.abs(weights).max())


def imhof(weights: FloatArray) -> float:
    """Return `P(sum_i w_i z_i^2 <= 0)`, z standard normal.

    `1/2 - (1/pi) int_0^inf sin(sum_i atan(w_i u)/2) / (u prod_i (1 + w_i^2 u^2)^(1/4)) du`.
    """
    # In log u the integrand is analytic in a strip of width pi and dies off at both ends: the
    # trapezoidal rule converges geometrically, and half the nodes show its error.
    scaled = weights * np.exp(_NODES)[:, None]
    angle = 0.5 * np.arctan(scaled).sum(axis=1)
    height = np.sin(angle) * np.exp(-0.25 * np.log1p(np.square(scaled)).sum(axis=1))
    step = float(_NODES[1] - _NODES[0])
    value, coarse = step * float(height.sum()), 2.0 * step * float(height[::2].sum())
    if abs(value - coarse) > 1e-9:
        raise ArithmeticError(
            f"the integral of the Durbin-Watson law is known to {abs(value - coarse):.1e} only"
        )
    return min(1.0, max(0.0, 0.5 - value / math.pi))
