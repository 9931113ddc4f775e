"""Divergences as convex expressions of cvxpy."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)

# cvxpy comes without useful type annotations.
Expression = Any
Constraint = Any


def load_cvxpy() -> Any:
    """Return cvxpy, or raise with how to install it."""
    try:
        return importlib.import_module("cvxpy")
    except ImportError:
        raise ImportError(
            "solve_convex needs cvxpy; install it with: pip install 'rlhfsim[convex]'"
        ) from None


def _kl(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    return load_cvxpy().kl_div(policy, p)


def _chi_squared(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    cp = load_cvxpy()
    return 0.5 * cp.square(cp.multiply(1.0 / np.sqrt(p), policy - p))


def _forward_kl(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    return load_cvxpy().kl_div(p, policy)


def _jensen_shannon(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    cp = load_cvxpy()
    middle = 0.5 * (policy + p)
    return 0.5 * (cp.kl_div(policy, middle) + cp.kl_div(p, middle))


def _squared_hellinger(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    cp = load_cvxpy()
    return policy + p - 2.0 * cp.multiply(p, cp.sqrt(cp.multiply(1.0 / p, policy)))


def _alpha(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    cp, alpha = load_cvxpy(), cast("AlphaDivergence", divergence).alpha
    ratio = cp.multiply(1.0 / p, policy)
    power = cp.power(ratio, alpha, approx=False)
    return cp.multiply(p, (power - 1.0 - alpha * (ratio - 1.0)) / (alpha * (alpha - 1.0)))


#: `p f(pi/p)` elementwise as a convex expression, by the class of the divergence.
EXPRESSIONS: dict[type[Divergence], Callable[[Expression, FloatArray, Divergence], Expression]] = {
    KL: _kl,
    ChiSquared: _chi_squared,
    ForwardKL: _forward_kl,
    JensenShannon: _jensen_shannon,
    SquaredHellinger: _squared_hellinger,
    AlphaDivergence: _alpha,
}


def expression(divergence: Divergence, policy: Expression, reference: FloatArray) -> Expression:
    """Return `p f(pi/p)` elementwise as a convex cvxpy expression, for `reference > 0`.

    Raises
    ------
    ValueError
        For a divergence that is neither in `EXPRESSIONS` nor has a `cvxpy_expression`, or whose
        expression is not convex.
    """
    total: Expression = 0.0
    for weight, base in divergence.terms():
        own = getattr(base, "cvxpy_expression", None)
        if own is not None:
            term = own(policy, reference)
        elif type(base) in EXPRESSIONS:
            term = EXPRESSIONS[type(base)](policy, reference, base)
        else:
            raise ValueError(
                f"divergence {base!r} has no convex expression; give its class a method "
                "cvxpy_expression(policy, reference) that returns p f(pi/p) elementwise"
            )
        if not term.is_convex():
            raise ValueError(f"the expression of divergence {base!r} is not convex: {term}")
        total = total + weight * term
    return total
