"""Extra terms: what a direct loss adds to the comparison."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.losses.rows import Rows


class ExtraTerm(ABC):
    """A term of the loss of each row."""

    @abstractmethod
    def values(self, rows: Rows) -> FloatArray:
        """Return the (n,) values."""

    @abstractmethod
    def slopes(self, rows: Rows) -> tuple[FloatArray, FloatArray]:
        """Return the (n,) derivatives in `log pi(y+)` and in `log pi(y-)`."""


@dataclass(frozen=True)
class SFTTerm(ExtraTerm):
    """`-weight v(y+) log pi(y+|x)`: the chosen response is imitated.

    `v(y+)` is the weight of the response in losses that have one (POWER), else 1.

    Parameters
    ----------
    weight : float
        Positive.

    Source: arXiv 2405.16436; arXiv 2412.09544 for v.
    """

    weight: float

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "weight", checks.positive_number("weight", self.weight))

    def values(self, rows: Rows) -> FloatArray:
        """Return `-weight v(y+) log pi(y+)`."""
        return -self.weight * (rows.chosen_weight * rows.chosen)

    def slopes(self, rows: Rows) -> tuple[FloatArray, FloatArray]:
        """Return `-weight v(y+)` and 0."""
        none = np.zeros_like(rows.chosen)
        return none - self.weight * rows.chosen_weight, none
