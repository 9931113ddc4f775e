"""Increasing transforms of the calibrated reward, to be maximised in its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray

_LARGEST_RATE = 700.0


class CalibratedTransform(ABC):
    """An increasing function of the calibrated reward, a number in `[0, 1]`."""

    @abstractmethod
    def __call__(self, calibrated: FloatArray) -> FloatArray:
        """Return the transformed reward."""


@dataclass(frozen=True)
class IdentityTransform(CalibratedTransform):
    """`c`: its expectation is the win rate of plain sampling.

    Source: arXiv 2412.19792.
    """

    def __call__(self, calibrated: FloatArray) -> FloatArray:
        """Return `c`."""
        return np.array(calibrated, dtype=np.float64)


@dataclass(frozen=True)
class ExponentialTransform(CalibratedTransform):
    """`sign(t) exp(t c)`: stresses the best responses at `t > 0`, the worst at `t < 0`.

    Parameters
    ----------
    rate : float
        `t`, not 0 and between -700 and 700.

    Source: arXiv 2412.19792 (best-of-n with t > 0, worst-of-n with t < 0).
    """

    rate: float

    def __post_init__(self) -> None:
        """Validate."""
        rate = checks.as_real("rate", self.rate)
        if rate.ndim or rate == 0 or abs(rate) > _LARGEST_RATE:
            raise ValueError(
                f"rate is {self.rate!r:.80}; it must be one number, not 0, "
                f"within {_LARGEST_RATE:g} of it"
            )

    def __call__(self, calibrated: FloatArray) -> FloatArray:
        """Return `sign(t) exp(t c)`."""
        return np.sign(self.rate) * np.exp(self.rate * np.asarray(calibrated))


@dataclass(frozen=True)
class LogarithmicTransform(CalibratedTransform):
    """`log c`: at `beta = 1/(n - 1)` the optimum is best-of-n of a continuous reward.

    It is `p c^(n-1)/Z`, and Z is close to 1/n where no response has much mass.

    Source: the density `n c^(n-1)` of best-of-n over the reference, arXiv 2401.01879.
    """

    def __call__(self, calibrated: FloatArray) -> FloatArray:
        """Return `log c`."""
        return np.log(calibrated)
