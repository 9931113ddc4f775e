"""Proposition A.1 at the best beta of each divergence: the constants, measured.

After learning the wrong reward on `instances.proposition_a1(n)`, n from 1000 to 10^12.

Source: arXiv 2407.13399, proposition A.1; constants measured here.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.proposition_a1 import LogSizes, least_kl_regret
from rlhfsim.claims.statistical import RateClaim
from rlhfsim.divergences import KL, ChiSquared, Divergence
from rlhfsim.solvers import solve

_SOURCE = "arXiv 2407.13399, prop. A.1; constant measured"
_LEAST, _MOST = np.log(1e3), np.log(1e12)
#: Points of a grid over log beta, and how often it is refined around its best point.
_POINTS, _ROUNDS = 60, 6
_MIXED = ChiSquared() + KL()


def clipped(log_n: FloatArray) -> FloatArray:
    """Return the sizes within 1000 and 10^12."""
    return np.clip(log_n, _LEAST, _MOST)


def least_regret(log_n: FloatArray, divergence: Divergence) -> FloatArray:
    """Return the (N,) least regret over beta after learning `r~ = (1/2, 1/2 - 1/(2 ln n), 1)`."""
    size = np.exp(log_n)
    gap = 0.5 / log_n
    half = np.full_like(size, 0.5)
    p = np.stack([half, 0.5 - 1.0 / size, 1.0 / size], axis=1)[:, None]
    wrong = np.stack([half, 0.5 - gap, np.ones_like(size)], axis=1)[:, None]
    low, high = np.log(1e-3 / np.sqrt(size)), np.full_like(size, np.log(10.0))
    share = np.linspace(0.0, 1.0, _POINTS)
    regret = np.empty((len(size), _POINTS))
    for _ in range(_ROUNDS):
        grid = low[:, None] + (high - low)[:, None] * share
        policy = solve(wrong, p, divergence, np.exp(grid)).policy
        regret = gap[:, None] * policy[:, :, 1] + 0.5 * policy[:, :, 2]
        best = regret.argmin(axis=1)[:, None]
        low = np.take_along_axis(grid, np.maximum(best - 1, 0), axis=1)[:, 0]
        high = np.take_along_axis(grid, np.minimum(best + 1, _POINTS - 1), axis=1)[:, 0]
    return np.asarray(regret.min(axis=1))


def _by_root(x: LogSizes, divergence: Divergence) -> FloatArray:
    """Return the least regret times `sqrt n`."""
    log_n = clipped(x.log_n)
    return least_regret(log_n, divergence) * np.exp(0.5 * log_n)


def _thousand() -> LogSizes:
    return LogSizes(np.array([_LEAST]))


def _constant(value: float, x: LogSizes) -> FloatArray:
    return np.full(len(x), value)


BEST_STRENGTH_CLAIMS: tuple[Claim[LogSizes] | RateClaim, ...] = (
    Claim[LogSizes](
        "KL regret at the best beta",
        "ln n min over beta of regret(KL, r~) <= 0.2387, from n = 1000 on",
        _SOURCE,
        "upper",
        lambda x: clipped(x.log_n) * least_kl_regret(clipped(x.log_n)),
        lambda x: _constant(0.2387, x),
        _thousand,
        most_instances=500,
    ),
    Claim[LogSizes](
        "chi-squared regret at the best beta",
        "sqrt n min over beta of regret(D_chi2, r~) <= 0.2462, from n = 1000 on",
        _SOURCE,
        "upper",
        lambda x: _by_root(x, ChiSquared()),
        lambda x: _constant(0.2462, x),
        _thousand,
        most_instances=200,
    ),
    Claim[LogSizes](
        "mixed regret at the best beta",
        "sqrt n min over beta of regret(D_chi2 + KL, r~) <= 0.6047, from n = 1000 on",
        _SOURCE,
        "upper",
        lambda x: _by_root(x, _MIXED),
        lambda x: _constant(0.6047, x),
        _thousand,
        most_instances=200,
    ),
    RateClaim(
        name="chi-squared regret falls like (ln n)/n at the best beta",
        formula="min over beta of regret(D_chi2, r~)/(1 + ln n) ~ 1/n, faster than 1/sqrt n",
        source=_SOURCE,
        exponent=-1.0,
        measure=lambda n, _: float(
            least_regret(np.array([np.log(n)]), ChiSquared())[0] / (1.0 + np.log(n))
        ),
        sizes=tuple(float(10**k) for k in range(5, 13)),
        floor=lambda n: 0.99 / n,
        ceiling=lambda n: 1.01 / n,
    ),
)
