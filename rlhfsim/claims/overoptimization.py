"""Overoptimization curves: where the fitted forms peak, and what no curve can exceed.

Gains are `J(pi) - J(p)`, distances `d = sqrt(KL(pi || p))`.

Source: arXiv 2210.10760, whose forms are `d (a - b d)` for best-of-n and `d (a - b log d)` for RL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import Rows
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regularized import (
    KL_REGULARIZER,
    ProblemClaim,
    kl_divergence,
    ratio_rounding,
    true_size,
)

_SOURCE = "arXiv 2210.10760"


@dataclass(frozen=True, eq=False)
class Curves(Rows):
    """N fitted curves, and a distance on each."""

    parametrization: ClassVar[dict[str, str]] = {
        "slope": "positive", "loss": "positive", "distance": "positive",
    }  # fmt: skip

    slope: FloatArray  # (N,): a
    loss: FloatArray  # (N,): b; a/b at most 100
    distance: FloatArray  # (N,): d

    def valid(self) -> BoolArray:
        """Return whether the peak of the second form is a float."""
        return np.asarray(self.slope <= 100.0 * self.loss)

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` curves: a third near their peaks, a third of any size."""
        slope = 10.0 ** rng.uniform(-1.0, 1.0, size=n)
        loss = np.maximum(slope * 10.0 ** rng.uniform(-1.5, 1.5, size=n), 0.01 * slope)
        near = 1.0 + 10.0 ** rng.uniform(-6.0, -1.0, size=n)
        third = rng.permutation(n) % 3
        peaks = np.where(third == 0, 0.5 * slope / loss, np.exp(slope / loss - 1.0))
        away = 10.0 ** rng.uniform(-3.0, 3.0, size=n)
        return cls(slope, loss, np.where(third == 2, away, near * peaks))


def _best_of_n_form(x: Curves) -> FloatArray:
    return x.distance * (x.slope - x.loss * x.distance)


def _rl_form(x: Curves) -> FloatArray:
    return x.distance * (x.slope - x.loss * np.log(x.distance))


def _gain(x: Problems, policy: FloatArray) -> FloatArray:
    return x.mean(((policy - x.reference) * x.reward).sum(axis=-1))


def _reachable(x: Problems) -> FloatArray:
    """`E_x[(max r* - min r*) sqrt(KL/2)]` on the support."""
    inside = x.reference > 0
    high = np.where(inside, x.reward, -np.inf).max(axis=-1)
    low = np.where(inside, x.reward, np.inf).min(axis=-1)
    return x.mean((high - low) * np.sqrt(0.5 * kl_divergence(x, x.policy)))


def _gold(x: Problems) -> FloatArray:
    """`J(pi_beta) - min r*` of the KL optimum of the proxy."""
    least = x.reward.min(axis=-1, keepdims=True)
    return x.mean((KL_REGULARIZER.policy(x) * (x.reward - least)).sum(axis=-1))


def _gold_rounding(x: Problems) -> FloatArray:
    return true_size(x) * ratio_rounding(replace(x, beta=0.5 * x.beta))


def _curve(slope: float, loss: float, distance: float) -> Curves:
    return Curves(np.array([slope]), np.array([loss]), np.array([distance]))


def _small_step() -> Problems:
    step = 1e-4
    return single([0.5, 0.5], [1.0, 0.0], policy=[0.5 + step, 0.5 - step])


def _hacked() -> Problems:
    """Let the proxy favour a response that is rare and bad."""
    return single([0.6, 0.39, 0.01], [0.5, 0.0, 1.0], reward=[1.0, 0.5, 0.0], beta=0.12)


OVEROPTIMIZATION_CLAIMS: tuple[Claim[Curves] | ProblemClaim, ...] = (
    Claim[Curves](
        "peak of the best-of-n form",
        "d (a - b d) <= a^2/(4 b), at d = a/(2 b)",
        _SOURCE,
        "upper",
        _best_of_n_form,
        lambda x: x.slope**2 / (4.0 * x.loss),
        lambda: _curve(2.0, 0.5, 2.0),
    ),
    Claim[Curves](
        "peak of the RL form",
        "d (a - b log d) <= b e^(a/b - 1), at d = e^(a/b - 1)",
        _SOURCE,
        "upper",
        _rl_form,
        lambda x: x.loss * np.exp(x.slope / x.loss - 1.0),
        lambda: _curve(2.0, 0.5, float(np.exp(3.0))),
        # The peak's own exponent, up to 100, loses its digits first.
        lambda x: RESOLUTION * x.loss * np.exp(x.slope / x.loss - 1.0) * (1.0 + x.slope / x.loss),
    ),
    ProblemClaim(
        "gains are at most linear in the distance",
        "J(pi) - J(p) <= (max r* - min r*) d/sqrt(2), d = sqrt(KL)",
        "derived: Pinsker",
        "upper",
        lambda x: _gain(x, x.policy),
        _reachable,
        _small_step,
        lambda x: RESOLUTION * true_size(x),
    ),
    ProblemClaim(
        "a proxy is worth optimizing further",
        "J(pi_beta) <= J(pi_beta/2) under the gold reward",
        f"refuted in {_SOURCE}",
        "false",
        _gold,
        lambda x: _gold(replace(x, beta=0.5 * x.beta)),
        _hacked,
        _gold_rounding,
    ),
)
