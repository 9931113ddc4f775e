"""The alpha-divergences: one family from forward KL over Hellinger and KL to chi-squared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import Divergence
from rlhfsim.divergences.chi_squared import ChiSquared
from rlhfsim.divergences.forward_kl import ForwardKL
from rlhfsim.divergences.kl import KL

# The series of (e^x - 1 - x)/x^2 ends within 1e-18 of itself at |x| = 1.
_SERIES_TERMS = 18


@dataclass(frozen=True)
class AlphaDivergence(Divergence):
    """`f(t) = (t^a - 1 - a (t - 1)) / (a (a - 1))` for any real a, with its limits at 0 and 1.

    `f'(t) = (t^(a-1) - 1)/(a - 1)`, inverse `[1 + (a - 1) s]_+^(1/(a - 1))`.  `AlphaDivergence(1)`
    is KL, `AlphaDivergence(0)` forward KL and `AlphaDivergence(2)` chi-squared (with its 1/2):
    these three are the terms of sums and multiples, and `solve` takes their routes.
    `AlphaDivergence(0.5)` is twice `SquaredHellinger()`.

    Parameters
    ----------
    alpha : a finite number

    Source: Amari (1985), with `a = (1 - alpha')/2` in place of his alpha'; theory of Tsallis.

    >>> float(AlphaDivergence(2)([1.0, 0.0], [0.5, 0.5]))
    0.5
    """

    alpha: float

    def __post_init__(self) -> None:
        alpha = checks.as_real("alpha", self.alpha)
        if alpha.ndim:
            raise ValueError(f"alpha is {self.alpha!r:.80}; it must be one number")
        object.__setattr__(self, "alpha", float(alpha))

    def terms(self) -> tuple[tuple[float, Divergence], ...]:
        """Return `((1, base),)`, the base being the limit itself at alpha = 0, 1, 2."""
        limits: dict[float, Divergence] = {0.0: ForwardKL(), 1.0: KL(), 2.0: ChiSquared()}
        return ((1.0, limits.get(self.alpha, self)),)

    @property
    def recession(self) -> float:
        """`1/(1 - a)` for `a < 1`, else infinite."""
        return 1.0 / (1.0 - self.alpha) if self.alpha < 1 else np.inf

    def perspective(self, policy: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p (w^a - 1 - a (w - 1)) / (a (a - 1))`."""
        pi, p = np.broadcast_arrays(
            np.asarray(policy, dtype=np.float64), np.asarray(reference, dtype=np.float64)
        )
        if self.alpha >= 0.5:
            return tsallis_terms(pi, p, self.alpha - 1.0) / self.alpha
        # p f_a(pi/p) = pi f_(1-a)(p/pi), and the order above 1/2 is the one without cancellation.
        return tsallis_terms(p, pi, -self.alpha) / (1.0 - self.alpha)

    def link(self, ratio: ArrayLike) -> FloatArray:
        """Return `(t^(a-1) - 1)/(a - 1)`, `log t` at a = 1."""
        t = np.asarray(ratio, dtype=np.float64)
        shift = self.alpha - 1.0
        with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
            log_t = np.log(t)
            x = shift * log_t if shift else np.zeros_like(log_t)
            near = np.abs(x) < 1.0
            far = (self._power(t) - 1.0) / (shift or 1.0)
            return np.where(near, log_t * _first_quotient(np.where(near, x, 0.0)), far)

    def link_slope(self, ratio: ArrayLike) -> FloatArray:
        """Return `t^(a-2)`."""
        t = np.asarray(ratio, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
            if self.alpha < 1:
                return self._power(t) / t
            return np.power(t, self.alpha - 2.0)

    def inverse_link(self, score: ArrayLike) -> FloatArray:
        """Return `[1 + (a - 1) s]_+^(1/(a - 1))`, `e^s` at a = 1; `inf` for `s >= f'(inf)`."""
        s = np.asarray(score, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
            t = np.exp(self._log_ratio(s))
            # One Newton step in log t: the exponent's rounding costs |log t| ulp.
            step = (s - self.link(t)) / self._power(t)
            return np.where(np.abs(step) < 1e-3, t * (1.0 + step), t)

    def _log_ratio(self, score: FloatArray) -> FloatArray:
        """Return `log t = log(1 + (a - 1) s)/(a - 1)`."""
        shift = self.alpha - 1.0
        with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
            # (a - 1) s may be too small or too large for a float.
            y = np.maximum(shift * score, -1.0)
            near = np.where(np.abs(y) < 1e-300, score, score * (np.log1p(y) / y))
            far = (np.log(np.abs(shift)) + np.log(np.abs(score))) / (shift or 1.0)
            ends = -np.inf if shift > 0 else np.inf
            return np.where(y > -1.0, np.where(np.isfinite(y), near, far), ends)

    def tail(self, ratio: ArrayLike) -> FloatArray:
        """Return `t^(a-1)/(1 - a)`, for `a < 1`."""
        if self.alpha >= 1:
            return super().tail(ratio)
        with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
            return self._power(np.asarray(ratio, dtype=np.float64)) * self.recession

    def inverse_tail(self, deficit: ArrayLike) -> FloatArray:
        """Return `((1 - a) u)^(-1/(1 - a))` at `s = 1/(1 - a) - u`, for `a < 1`."""
        if self.alpha >= 1:
            return super().inverse_tail(deficit)
        with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
            u = (1.0 - self.alpha) * np.maximum(np.asarray(deficit, dtype=np.float64), 0.0)
            t = np.power(u, -self.recession)
            step = (1.0 - u / self._power(t)) * self.recession
            return np.where(np.abs(step) < 1e-3, t * (1.0 + step), t)

    def conjugate_perspective(self, score: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p (t^a - 1)/a`, `t^a = t (1 + (a - 1) s)`, or `p log t` at a = 0.

        It is `inf` for `s > recession`.
        """
        s = np.asarray(score, dtype=np.float64)
        with np.errstate(over="ignore", under="ignore"):
            power = np.maximum(1.0 + (self.alpha - 1.0) * s, 0.0)
        value = self._conjugate(self.inverse_link(s), self._log_ratio(s), power, reference)
        return np.where(s > self.recession, np.inf, value)

    def conjugate_tail(self, deficit: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p (t^a - 1)/a`, `t^a = t (1 - a) u` at `s = 1/(1 - a) - u`, for `a < 1`."""
        if self.alpha >= 1:
            return super().conjugate_tail(deficit, reference)
        power = (1.0 - self.alpha) * np.maximum(np.asarray(deficit, dtype=np.float64), 0.0)
        with np.errstate(divide="ignore"):
            log_t = -self.recession * np.log(power)
        return self._conjugate(self.inverse_tail(deficit), log_t, power, reference)

    def _conjugate(
        self, t: FloatArray, log_t: FloatArray, power: FloatArray, reference: ArrayLike
    ) -> FloatArray:
        """Return `p (t^a - 1)/a` from t, log t and `t^(a-1)`."""
        p = np.asarray(reference, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
            x = self.alpha * log_t if self.alpha else np.zeros_like(log_t)
            near = np.abs(x) < 1.0
            close = p * (log_t * _first_quotient(np.where(near, x, 0.0)))
            # Where t is beyond the floats, t^a need not be.
            ends = (t == 0) | ~np.isfinite(t)
            limit = np.power(power, self.alpha / (self.alpha - 1.0)) if self.alpha != 1 else t
            whole = np.where(ends, p * limit, (p * t) * power)
            return np.where(near, close, (whole - p) / (self.alpha or 1.0))

    def _power(self, t: FloatArray) -> FloatArray:
        """Return `t^(a-1)`."""
        if abs(self.alpha) < 0.5:
            # a - 1 need not be a float, but t^a/t is exact to rounding.
            return np.where(np.isinf(t), 0.0, np.where(t > 0, np.power(t, self.alpha) / t, np.inf))
        return np.power(t, self.alpha - 1.0)


def tsallis_terms(policy: FloatArray, reference: FloatArray, shift: float) -> FloatArray:
    """Return `p (w^a - 1 - a (w - 1))/(a - 1)` for `a = 1 + shift >= 1/2`, elementwise.

    It is `pi (e^x - 1)/shift - (pi - p)` with `x = shift log w`, and for small x the term of KL
    plus `pi x log w (e^x - 1 - x)/x^2`, where nothing cancels.  Masses of 0 are allowed on
    either side.
    """
    pi, p = policy, reference
    log_w = log_ratio(pi, p)
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        x = shift * log_w if shift else np.zeros_like(log_w)
        near = np.abs(x) < 1.0
        x_near, log_near = np.where(near, x, 0.0), np.where(near, log_w, 0.0)
        kl_terms = KL().perspective(pi, np.where(p > 0, p, 1.0))
        close = kl_terms + pi * x_near * log_near * _second_quotient(x_near)
        # In halves: w^shift may overflow where pi w^shift does not.  The rounding of x costs |x|
        # ulp, that of the ratio shift ulp.
        ratio = pi / p
        normal = np.isfinite(ratio) & (ratio >= np.finfo(np.float64).tiny) & (np.abs(log_w) > 1)
        half = np.where(normal, np.power(ratio, 0.5 * shift), np.exp(0.5 * x))
        far = ((pi * half) * half - pi) / (shift or 1.0) - (pi - p)
        far = np.where(p > 0, far, pi * _unsupported(shift))
        value = np.where(near & (p > 0), close, far)
        return np.where(pi > 0, value, p)


def _unsupported(shift: float) -> float:
    """Return the Tsallis term of a unit of mass where the reference has none."""
    return -1.0 / shift - 1.0 if shift < 0 else np.inf


def log_ratio(policy: FloatArray, reference: FloatArray) -> FloatArray:
    """Return `log(pi/p)`: `inf` where only p is 0, and 0 where pi is."""
    pi, p = policy, reference
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratio, excess = pi / p, (pi - p) / p
        normal = np.isfinite(ratio) & (ratio >= np.finfo(np.float64).tiny)
        far = np.where(normal, np.log(ratio), np.log(pi) - np.log(p))
        value = np.where(np.abs(excess) <= 0.5, np.log1p(excess), far)
    return np.where(pi > 0, value, 0.0)


def _first_quotient(x: FloatArray) -> FloatArray:
    """Return `(e^x - 1)/x`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x == 0, 1.0, np.expm1(x) / x)


def _second_quotient(x: FloatArray) -> FloatArray:
    """Return `(e^x - 1 - x)/x^2` for `|x| <= 1`, by its series `sum_k x^k / (k + 2)!`."""
    total = np.zeros_like(x)
    for k in range(_SERIES_TERMS, 0, -1):
        total = (total + 1.0) * x / (k + 2)
    return 0.5 * (1.0 + total)
