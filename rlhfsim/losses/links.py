"""Links: what a direct loss compares for the two responses, as a function of the log ratio.

With `u = log w = log pi(y|x) - log p(y|x)` the score of a response is `beta phi(w)`.  A link is
increasing.  It takes u rather than w because w is a float only for `|u| < 709`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import Divergence
from rlhfsim.losses.log_links import log_link, log_link_slope

#: The interval to which chiPO's experiments clip the exponent.
PRACTICAL_RANGE = (-88.0, 20.0)


class Link(ABC):
    """An increasing function `phi` of the ratio, in terms of its logarithm u."""

    #: Whether `phi` is log w up to a constant, so that it is finite for every finite u and may
    #: carry a weight per response.
    logarithmic: ClassVar[bool] = False

    @abstractmethod
    def value(self, log_ratio: FloatArray) -> FloatArray:
        """Return `phi(e^u)`; `inf` or `-inf` where it is beyond the floats."""

    @abstractmethod
    def slope(self, log_ratio: FloatArray) -> FloatArray:
        """Return `d phi(e^u)/du`, not negative."""


@dataclass(frozen=True)
class LogLink(Link):
    """`phi(w) = log w`, of DPO (arXiv 2305.18290)."""

    logarithmic: ClassVar[bool] = True

    def value(self, log_ratio: FloatArray) -> FloatArray:
        """Return u."""
        return log_ratio

    def slope(self, log_ratio: FloatArray) -> FloatArray:
        """Return 1."""
        return np.ones_like(log_ratio)


@dataclass(frozen=True)
class EntropyLink(Link):
    """`phi(pi) = 1 + log pi`, for losses without a reference whose responses have weights.

    `v(y) (1 + log pi(y))` is the derivative in `pi(y)` of minus the weighted entropy
    `sum_y v(y) pi(y) log pi(y)`; with unequal weights the 1 does not cancel in a comparison.
    """

    logarithmic: ClassVar[bool] = True

    def value(self, log_ratio: FloatArray) -> FloatArray:
        """Return `1 + u`."""
        return 1.0 + log_ratio

    def slope(self, log_ratio: FloatArray) -> FloatArray:
        """Return 1."""
        return np.ones_like(log_ratio)


@dataclass(frozen=True)
class DivergenceLink(Link):
    """`phi(w) = f'(w)` of a divergence, with `f'(1) = 0`.

    KL gives log w, and chi-squared plus `gamma` KL gives `w - 1 + gamma log w`, chiPO's link less
    a 1 that cancels.  Where `f'(0+)` is finite the loss is defined, but its minimiser need not be
    the optimum of the regularized objective: that may give a response no mass at all, where
    `r = lambda + beta f'(w)` fails.  `fdpo` refuses such divergences.

    Parameters
    ----------
    divergence : Divergence

    Source: arXiv 2309.16240.
    """

    divergence: Divergence

    def __post_init__(self) -> None:
        """Validate."""
        if not isinstance(self.divergence, Divergence):
            raise ValueError(
                f"divergence is {self.divergence!r:.80}; it must be a Divergence, for example KL()"
            )

    def value(self, log_ratio: FloatArray) -> FloatArray:
        """Return `f'(e^u)`."""
        return log_link(self.divergence, log_ratio)

    def slope(self, log_ratio: FloatArray) -> FloatArray:
        """Return `e^u f''(e^u)`."""
        return log_link_slope(self.divergence, log_ratio)


@dataclass(frozen=True)
class PracticalLink(Link):
    """`phi(w) = exp(clip(alpha log w, -88, 20)) + gamma log w`, of chiPO's experiments.

    With `alpha = gamma = 1` it is `w + log w` as long as nothing is clipped.  The slope counts the
    ends of the clip as inside.

    Parameters
    ----------
    alpha : float
        Positive; 1/4 or 1 in the experiments.
    gamma : float
        Not negative; 0.1 or 1 in the experiments.  At 0 the link is flat where the exponent is
        clipped.

    Source: arXiv 2407.13399, experiments.
    """

    alpha: float
    gamma: float

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "alpha", checks.positive_number("alpha", self.alpha))
        gamma = checks.positive_number("gamma", self.gamma, zero=True)
        object.__setattr__(self, "gamma", gamma)

    def value(self, log_ratio: FloatArray) -> FloatArray:
        """Return `exp(clip(alpha u, -88, 20)) + gamma u`."""
        with np.errstate(over="ignore"):
            exponent = np.clip(self.alpha * log_ratio, *PRACTICAL_RANGE)
            return np.exp(exponent) + self._linear(log_ratio)

    def slope(self, log_ratio: FloatArray) -> FloatArray:
        """Return `alpha exp(alpha u) [-88 <= alpha u <= 20] + gamma`."""
        low, high = PRACTICAL_RANGE
        with np.errstate(over="ignore"):
            exponent = self.alpha * log_ratio
        inside = (exponent >= low) & (exponent <= high)
        steep = self.alpha * np.exp(np.where(inside, exponent, 0.0))
        return np.where(inside, steep, 0.0) + self.gamma

    def _linear(self, log_ratio: FloatArray) -> FloatArray:
        # 0 times the log of a probability of 0 would be nan.
        return self.gamma * log_ratio if self.gamma else np.zeros_like(log_ratio)
