"""Which of the rewards that differ by a constant per prompt a fit returns.

Preferences determine a prompt's rewards only up to a constant.  A gauge fixes it: it shifts each
row of a table, the responses that were never compared included, and changes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.frozen import Frozen


@runtime_checkable
class Gauge(Protocol):
    """What fits and `centre` ask of a gauge."""

    def offset(self, reward: FloatArray, compared: BoolArray) -> FloatArray:
        """Return the (X,) numbers to subtract from the rows of an `(X, Y)` reward.

        `compared` says which responses the data compare; a row may have none.
        """
        ...


@dataclass(frozen=True)
class UniformGauge:
    """The compared responses of each prompt have mean 0."""

    def offset(self, reward: FloatArray, compared: BoolArray) -> FloatArray:
        """Return the mean over the compared responses; 0 where there are none."""
        number = np.maximum(compared.sum(axis=1), 1)
        return np.asarray(np.where(compared, reward, 0.0).sum(axis=1) / number)


@dataclass(frozen=True, eq=False)
class ReferenceGauge(Frozen):
    """`E_{y ~ p(.|x)}[r(x, y)] = 0` for each prompt, over all responses.

    Parameters
    ----------
    reference : (X, Y) array of distributions
        Copied in and read-only.

    Raises
    ------
    ValueError
        For rows that are no distributions.
    """

    reference: FloatArray

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        reference = checks.as_distributions("reference", self.reference)
        checks.as_matrix("reference", reference)
        object.__setattr__(self, "reference", checks.frozen(reference))

    def offset(self, reward: FloatArray, compared: BoolArray) -> FloatArray:
        """Return the mean of each row under the reference."""
        if reward.shape != self.reference.shape:
            raise ValueError(
                f"reference has shape {self.reference.shape}; it must have the shape of the "
                f"reward, {reward.shape}"
            )
        # Divided by its sum, which is 1 only within 1e-9.
        return np.asarray((self.reference * reward).sum(axis=1) / self.reference.sum(axis=1))


@dataclass(frozen=True)
class FirstResponse:
    """`r(x, 0) = 0` for each prompt."""

    def offset(self, reward: FloatArray, compared: BoolArray) -> FloatArray:
        """Return the reward of the first response."""
        return reward[:, 0].copy()


def as_gauge(name: str, value: Gauge) -> Gauge:
    """Return `value` if it is a gauge, and not a class of gauges."""
    if isinstance(value, type) or not isinstance(value, Gauge):
        raise ValueError(f"{name} is {value!r:.80}; it must be a gauge, for example UniformGauge()")
    return value


def centre(reward: ArrayLike, gauge: Gauge, compared: ArrayLike | None = None) -> FloatArray:
    """Return the reward less a constant per prompt, `r(x, y) - c(x)`, in a gauge.

    Parameters
    ----------
    reward : (X, Y) array
    gauge : Gauge
        `UniformGauge()`, `ReferenceGauge(reference)` or `FirstResponse()`.
    compared : (X, Y) array of bool, optional
        The responses that the data compare, which `UniformGauge` asks for; all by default.

    Returns
    -------
    (X, Y) array, in reward units

    Raises
    ------
    ValueError
        For a reward that is not a finite (X, Y) array, a `compared` that is not an array of
        booleans of its shape, or a gauge of another shape.
    """
    r = checks.as_matrix("reward", reward)
    gauge = as_gauge("gauge", gauge)
    mask = np.ones(r.shape, dtype=np.bool_) if compared is None else np.asarray(compared)
    if mask.dtype != np.bool_ or mask.shape != r.shape:
        raise ValueError(
            f"compared has shape {mask.shape} and dtype {mask.dtype}; "
            f"it must be an array of booleans of shape {r.shape}"
        )
    return np.asarray(r - gauge.offset(r, mask)[:, None])
