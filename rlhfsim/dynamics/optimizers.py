"""Optimizers: how a gradient moves the parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray


class Optimizer(ABC):
    """A rule that moves parameters against a gradient, with what it remembers in `moments`."""

    @abstractmethod
    def move(
        self,
        parameter: FloatArray,
        gradient: FloatArray,
        rate: float,
        number: int,
        moments: FloatArray,
    ) -> None:
        """Move `parameter` in place; `moments` is (2, P), zero at the start, and is kept.

        Steps are numbered from 1.
        """


@dataclass(frozen=True)
class GradientDescent(Optimizer):
    """`m <- momentum m + g`, `theta <- theta - rate m`.

    Parameters
    ----------
    momentum : float
        In [0, 1).
    """

    momentum: float = 0.0

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "momentum", _decay("momentum", self.momentum))

    def move(
        self,
        parameter: FloatArray,
        gradient: FloatArray,
        rate: float,
        number: int,
        moments: FloatArray,
    ) -> None:
        """Move `parameter` in place."""
        moments[0] = self.momentum * moments[0] + gradient
        parameter -= rate * moments[0]


@dataclass(frozen=True)
class Adam(Optimizer):
    """`theta <- theta - rate m^/(sqrt(v^) + epsilon)`, with running means of g and of g^2.

    `m <- b1 m + (1 - b1) g`, `v <- b2 v + (1 - b2) g^2`; after t steps `m^ = m/(1 - b1^t)` and
    `v^ = v/(1 - b2^t)`.  A derivative that is 0 but for rounding counts as much as any other once
    it is beyond epsilon: on data with exact ties, digits of Adam's path are those of rounding.

    Parameters
    ----------
    mean_decay, square_decay : float
        `b1` and `b2`, in [0, 1).
    epsilon : float
        Positive.

    Source: arXiv 1412.6980, algorithm 1.
    """

    mean_decay: float = 0.9
    square_decay: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        """Validate."""
        for name in ("mean_decay", "square_decay"):
            object.__setattr__(self, name, _decay(name, getattr(self, name)))
        object.__setattr__(self, "epsilon", checks.positive_number("epsilon", self.epsilon))

    def move(
        self,
        parameter: FloatArray,
        gradient: FloatArray,
        rate: float,
        number: int,
        moments: FloatArray,
    ) -> None:
        """Move `parameter` in place."""
        b1, b2 = self.mean_decay, self.square_decay
        moments[0] = b1 * moments[0] + (1.0 - b1) * gradient
        moments[1] = b2 * moments[1] + (1.0 - b2) * gradient**2
        mean = moments[0] / (1.0 - b1**number)
        parameter -= rate * mean / (np.sqrt(moments[1] / (1.0 - b2**number)) + self.epsilon)


def _decay(name: str, value: float) -> float:
    decay = checks.positive_number(name, value, zero=True)
    if decay >= 1:
        raise ValueError(f"{name} is {decay!r}; it must be below 1")
    return decay
