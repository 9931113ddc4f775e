"""One policy gradient for every f-divergence.

The derivative of `D_f(pi_t || p)` along `pi_t ~ pi e^(t g)`, by a complex step through generators
that are written apart from the library's, against the formula with the library's links.

Source: arXiv 2302.08215 (f-DPG).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION
from rlhfsim.claims.f_divergences import OTHERS, PairClaim, Side
from rlhfsim.claims.pairs import Pairs
from rlhfsim.divergences import KL, ChiSquared, Divergence


def _alpha_generator(alpha: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda w: (w**alpha - 1.0 - alpha * (w - 1.0)) / (alpha * (alpha - 1.0))


GENERATORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "KL": lambda w: w * np.log(w) - w + 1.0,
    "D_chi2": lambda w: 0.5 * (w - 1.0) ** 2,
    "forward KL": lambda w: w - 1.0 - np.log(w),
    "JS": lambda w: 0.5 * (w * np.log(w) - (w + 1.0) * np.log(0.5 * (w + 1.0))),
    "H^2": lambda w: (np.sqrt(w) - 1.0) ** 2,
    "D_alpha at 0.3": _alpha_generator(0.3),
    "D_alpha at 3": _alpha_generator(3.0),
}

_STEP = 1e-30


def interior(x: Pairs) -> Pairs:
    """Return the instances with a tenth of the uniform distribution mixed into both."""
    even = 0.1 / x.policy.shape[1]
    return replace(x, policy=0.9 * x.policy + even, reference=0.9 * x.reference + even)


def _direction(x: Pairs) -> FloatArray:
    """Return the error, scaled to at most 1."""
    largest = np.abs(x.error).max(axis=1, keepdims=True)
    return x.error / np.where(largest > 0, largest, 1.0)


def _derivative(name: str) -> Side:
    """Return `d D_f(pi_t || p)/dt` at 0, `pi_t ~ pi e^(t g)`, by a complex step."""

    def side(x: Pairs) -> FloatArray:
        y = interior(x)
        weight = y.policy * np.exp(1j * _STEP * _direction(x))
        moved = weight / weight.sum(axis=1, keepdims=True)
        cost = (y.reference * GENERATORS[name](moved / y.reference)).sum(axis=1)
        return np.asarray(cost.imag / _STEP)

    return side


def _policy_gradient(divergence: Divergence) -> Side:
    """Return `E_pi[f'(pi/p) (g - E_pi g)]`."""

    def side(x: Pairs) -> FloatArray:
        y, g = interior(x), _direction(x)
        centred = g - (y.policy * g).sum(axis=1, keepdims=True)
        slope = divergence.link(y.policy / y.reference)
        return np.asarray((y.policy * slope * centred).sum(axis=1))

    return side


def _slope_rounding(divergence: Divergence) -> Side:
    def side(x: Pairs) -> FloatArray:
        y = interior(x)
        slope = np.abs(divergence.link(y.policy / y.reference))
        return 4.0 * RESOLUTION * (1.0 + slope.max(axis=1))

    return side


def _generic() -> Pairs:
    pi, p = np.array([[0.7, 0.2, 0.1]]), np.array([[0.2, 0.3, 0.5]])
    return Pairs(pi, p, pi, p, np.array([0.5]), np.array([[1.0, -0.5, 0.25]]))


def _gradient(name: str, divergence: Divergence) -> PairClaim:
    return PairClaim(
        f"policy gradient of {name}",
        "d D_f(pi_t || p)/dt = E_pi[f'(pi/p) (g - E_pi[g])] at t = 0, pi_t ~ pi e^(t g)",
        "arXiv 2302.08215 (f-DPG)",
        "identity",
        _derivative(name),
        _policy_gradient(divergence),
        _generic,
        _slope_rounding(divergence),
        "full support",
    )


F_DPG_CLAIMS: tuple[PairClaim, ...] = tuple(
    _gradient(name, divergence)
    for name, divergence in {"KL": KL(), "D_chi2": ChiSquared(), **OTHERS}.items()
)
