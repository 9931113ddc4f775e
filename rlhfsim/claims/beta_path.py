"""How regularized optima move with beta: monotone and convex, and affine in 1/beta for chi2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION
from rlhfsim.claims.optima import leaving_points
from rlhfsim.claims.problems import Problems, single, two_prompts
from rlhfsim.claims.regularized import (
    CHI_SQUARED_REGULARIZER,
    MIXED_REGULARIZER,
    REGULARIZERS,
    ProblemClaim,
    Regularizer,
    baseline,
    mixed_rounding,
    ratio_rounding,
    reward_rounding,
    true_size,
)

_DERIVED = "derived: convex duality"


def _larger(x: Problems) -> Problems:
    """Return the same instances at a beta up to twice as large."""
    return replace(x, beta=x.beta * (1.0 + x.gamma / (1.0 + x.gamma)))


def _between(x: Problems) -> Problems:
    return replace(x, beta=0.5 * (x.beta + _larger(x).beta))


def _small_beta() -> Problems:
    """Every beta gives the best response nearly all mass: gains, divergences are the largest.

    At a second prompt there is nothing to gain: the weight of the first one counts.
    """
    at_stake = single([0.5, 0.5], [1.0, 0.0], beta=1e-7)
    return two_prompts(at_stake, single([0.5, 0.5], [0.0, 0.0]))


def _claims_of(regularizer: Regularizer) -> tuple[ProblemClaim, ...]:
    name = regularizer.name
    rounding = mixed_rounding if regularizer is MIXED_REGULARIZER else reward_rounding

    def value(x: Problems) -> FloatArray:
        return regularizer.objective(x, regularizer.policy(x)) - baseline(x, x.reward_hat)

    def learned(x: Problems) -> FloatArray:
        return x.mean((regularizer.policy(x) * x.reward_hat).sum(axis=-1)) - baseline(
            x, x.reward_hat
        )

    def spent(x: Problems) -> FloatArray:
        return x.mean(regularizer.cost(x, regularizer.policy(x)))

    def value_rounding(x: Problems) -> FloatArray:
        return 2.0 * rounding(x) + RESOLUTION * x.beta * spent(x)

    def spent_rounding(x: Problems) -> FloatArray:
        weight = 1.0 + x.gamma if regularizer is MIXED_REGULARIZER else 1.0
        return ratio_rounding(x) * (weight + spent(x))

    def decreasing(
        what: str,
        formula: str,
        side: Callable[[Problems], FloatArray],
        resolution: Callable[[Problems], FloatArray],
    ) -> ProblemClaim:
        return ProblemClaim(
            f"{what} falls in beta, {name}", formula, _DERIVED, "upper",
            lambda x: side(_larger(x)), side, _small_beta, resolution,
        )  # fmt: skip

    return (
        decreasing("value", "V(beta') <= V(beta), beta' >= beta", value, value_rounding),
        decreasing(
            "learned reward", "J^(pi_beta') <= J^(pi_beta), beta' >= beta", learned, value_rounding
        ),
        decreasing("divergence", "D(pi_beta') <= D(pi_beta), beta' >= beta", spent, spent_rounding),
        ProblemClaim(
            f"value convex in beta, {name}",
            "V((beta + beta')/2) <= (V(beta) + V(beta'))/2",
            _DERIVED,
            "upper",
            lambda x: value(_between(x)),
            lambda x: 0.5 * (value(x) + value(_larger(x))),
            _small_beta,
            value_rounding,
        ),
    )


# ---- chi-squared: affine between breakpoints -----------------------------------------------------


def three_strengths(x: Problems) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return three beta, equidistant in 1/beta, between which no response enters or leaves."""
    leaves = np.where(x.reference > 0, leaving_points(x), np.nan).reshape(len(x), -1)
    beta = x.beta[:, None]
    last = np.nanmax(np.where(leaves < beta, leaves, 0.0), axis=1)
    upcoming = np.nanmin(np.where(leaves >= beta, leaves, np.inf), axis=1)
    shortest = 1.0 / upcoming
    # Where nothing leaves however small beta gets, four times 1/beta will do.
    longest = 1.0 / np.maximum(last, 0.25 * x.beta)
    step = 0.375 * (longest - shortest)
    middle = 0.5 * (longest + shortest)
    return 1.0 / (middle - step), 1.0 / middle, 1.0 / (middle + step)


def _true_value(x: Problems, beta: FloatArray) -> FloatArray:
    policy = CHI_SQUARED_REGULARIZER.policy(replace(x, beta=beta))
    return x.mean((policy * x.reward).sum(axis=-1))


def _half_way(x: Problems) -> FloatArray:
    weak, middle, _ = three_strengths(x)
    return _true_value(x, middle) - _true_value(x, weak)


def _half_of_the_way(x: Problems) -> FloatArray:
    weak, _, strong = three_strengths(x)
    return 0.5 * (_true_value(x, strong) - _true_value(x, weak))


BETA_PATH_CLAIMS: tuple[ProblemClaim, ...] = (
    *(claim for regularizer in REGULARIZERS for claim in _claims_of(regularizer)),
    ProblemClaim(
        "chi2 value affine in 1/beta",
        "J(pi_b) - J(pi_a) = (J(pi_c) - J(pi_a))/2, 1/b = (1/a + 1/c)/2, on one active set",
        "derived: stationarity",
        "identity",
        _half_way,
        _half_of_the_way,
        lambda: single([0.5, 0.3, 0.2], [1.0, 0.25, -0.5], reward=[0.3, 1.0, -0.2], beta=0.4),
        lambda x: true_size(x) * ratio_rounding(replace(x, beta=three_strengths(x)[2])),
    ),
)
