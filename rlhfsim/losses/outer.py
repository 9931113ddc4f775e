"""Outer losses: functions of the scaled difference `h` between the two scores.

Where a loss has a kink, its slope is the one that torch's autograd takes: 0 at the kink of
`max(0, .)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit

from rlhfsim import checks
from rlhfsim.checks import FloatArray


class OuterLoss(ABC):
    """A function of h; falling in h means that the chosen response is pushed up."""

    #: Whether the loss is convex in h.
    convex: ClassVar[bool] = True

    @abstractmethod
    def value(self, h: FloatArray) -> FloatArray:
        """Return the loss."""

    @abstractmethod
    def slope(self, h: FloatArray) -> FloatArray:
        """Return its derivative."""

    @abstractmethod
    def curvature(self, h: FloatArray) -> FloatArray:
        """Return its second derivative, where it exists; not negative for a convex loss."""


@dataclass(frozen=True)
class Logistic(OuterLoss):
    """`-(1 - eps) log sigma(h - margin) - eps log sigma(margin - h)`.

    Parameters
    ----------
    label_smoothing : float
        `eps`, in [0, 1/2): cross entropy against the label `1 - eps`.
    margin : float
        How far apart the scores are asked to be.

    Source: arXiv 2305.18290, eq. 7; cDPO for eps; arXiv 2405.14734, eq. 6, for the margin.
    """

    label_smoothing: float = 0.0
    margin: float = 0.0

    def __post_init__(self) -> None:
        """Validate."""
        _set(self, "label_smoothing", _rate("label_smoothing", self.label_smoothing))
        _set(self, "margin", finite_number("margin", self.margin))

    def value(self, h: FloatArray) -> FloatArray:
        """Return the loss, in nats."""
        return _cross_entropy(h - self.margin, 1.0 - self.label_smoothing, self.label_smoothing)

    def slope(self, h: FloatArray) -> FloatArray:
        """Return `-(1 - eps) sigma(margin - h) + eps sigma(h - margin)`."""
        t, eps = h - self.margin, self.label_smoothing
        return eps * expit(t) - (1.0 - eps) * expit(-t)

    def curvature(self, h: FloatArray) -> FloatArray:
        """Return `sigma(h - margin) sigma(margin - h)`."""
        return _bell(h - self.margin)


@dataclass(frozen=True)
class RobustLogistic(OuterLoss):
    """`[-(1 - eps) log sigma(h) + eps log sigma(-h)] / (1 - 2 eps)`.

    Unbiased: its mean over labels that are flipped with probability eps is `-log sigma(h)`.  Each
    term is unbounded below, as `-eps h/(1 - 2 eps)`, when h grows.

    Parameters
    ----------
    flip_rate : float
        `eps`, in [0, 1/2).

    Source: arXiv 2403.00409 (robust DPO).
    """

    flip_rate: float

    def __post_init__(self) -> None:
        """Validate."""
        _set(self, "flip_rate", _rate("flip_rate", self.flip_rate))

    @property
    def _weights(self) -> tuple[float, float]:
        keep = 1.0 - 2.0 * self.flip_rate
        return (1.0 - self.flip_rate) / keep, -self.flip_rate / keep

    def value(self, h: FloatArray) -> FloatArray:
        """Return the loss, in nats."""
        return _cross_entropy(h, *self._weights)

    def slope(self, h: FloatArray) -> FloatArray:
        """Return `[-(1 - eps) sigma(-h) - eps sigma(h)] / (1 - 2 eps)`."""
        kept, flipped = self._weights
        return flipped * expit(h) - kept * expit(-h)

    def curvature(self, h: FloatArray) -> FloatArray:
        """Return `sigma(h) sigma(-h)`."""
        return _bell(h)


@dataclass(frozen=True)
class Squared(OuterLoss):
    """`weight (h - target)^2`.

    Parameters
    ----------
    target : float
    weight : float
        Positive.

    Source: arXiv 2310.12036, eq. 17; arXiv 2404.16767.
    """

    target: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        _set(self, "target", finite_number("target", self.target))
        _set(self, "weight", checks.positive_number("weight", self.weight))

    def value(self, h: FloatArray) -> FloatArray:
        """Return the loss."""
        with np.errstate(over="ignore"):
            return self.weight * (h - self.target) ** 2

    def slope(self, h: FloatArray) -> FloatArray:
        """Return `2 weight (h - target)`."""
        with np.errstate(over="ignore"):
            return 2.0 * self.weight * (h - self.target)

    def curvature(self, h: FloatArray) -> FloatArray:
        """Return `2 weight`."""
        return np.full_like(h, 2.0 * self.weight)


@dataclass(frozen=True)
class Hinge(OuterLoss):
    """`max(0, margin - h)`; slope 0 at `h = margin`.

    Parameters
    ----------
    margin : float
        Not negative.

    Source: arXiv 2305.10425; arXiv 2309.06657 with the reference.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        _set(self, "margin", checks.positive_number("margin", self.margin, zero=True))

    def value(self, h: FloatArray) -> FloatArray:
        """Return the loss."""
        return np.maximum(0.0, self.margin - h)

    def slope(self, h: FloatArray) -> FloatArray:
        """Return -1 where `h < margin`, else 0."""
        return np.where(h < self.margin, -1.0, 0.0)

    def curvature(self, h: FloatArray) -> FloatArray:
        """Return 0."""
        return np.zeros_like(h)


@dataclass(frozen=True)
class NegativeSigmoid(OuterLoss):
    """`-sigma(h)`: minus the likelihood instead of minus its logarithm; not convex."""

    convex: ClassVar[bool] = False

    def value(self, h: FloatArray) -> FloatArray:
        """Return the loss."""
        return -expit(h)

    def slope(self, h: FloatArray) -> FloatArray:
        """Return `-sigma(h) sigma(-h)`."""
        return -_bell(h)

    def curvature(self, h: FloatArray) -> FloatArray:
        """Return `sigma(h) sigma(-h) tanh(h/2)`."""
        return _bell(h) * np.tanh(0.5 * h)


def finite_number(name: str, value: float) -> float:
    """Return one finite number."""
    array = checks.as_real(name, value)
    if array.ndim != 0:
        raise ValueError(f"{name} is {value!r:.80}; it must be one number")
    return float(array)


def _set(instance: OuterLoss, name: str, value: float) -> None:
    object.__setattr__(instance, name, value)


def _rate(name: str, value: float) -> float:
    rate = checks.positive_number(name, value, zero=True)
    if rate >= 0.5:
        raise ValueError(f"{name} is {rate!r}; it must be below 1/2")
    return rate


def _bell(t: FloatArray) -> FloatArray:
    return expit(t) * expit(-t)


def _cross_entropy(t: FloatArray, won: float, lost: float) -> FloatArray:
    """Return `-won log sigma(t) - lost log sigma(-t)`."""
    loss = won * np.logaddexp(0.0, -t)
    # Without the branch, lost = 0 would make a nan of t = inf.
    return loss + lost * np.logaddexp(0.0, t) if lost else loss
