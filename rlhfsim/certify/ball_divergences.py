"""Divergences of rows of `Number`s: the formulas of `rlhfsim.divergences`, written out once more.

A divergence without a formula here raises `TypeError`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flint import fmpq

from rlhfsim.certify.arrays import BallArray, balls
from rlhfsim.certify.numbers import Number
from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)

#: One distribution, or the rewards of one prompt.
Numbers = Sequence[Number]

ZERO = Number(fmpq(0))
INFINITY = Number.of(float("inf"))


def total(terms: Any) -> Number:
    """Return the sum."""
    found: Number = sum(terms, ZERO)
    return found


def _kl(policy: Numbers, reference: Numbers) -> Number:
    """Return `sum_y pi log(pi/p)`."""
    cells = [(a, b) for a, b in zip(policy, reference, strict=True) if a > 0]
    if any(b == 0 for _, b in cells):
        return INFINITY
    return total(a * (a / b).log() for a, b in cells)


def _chi2(policy: Numbers, reference: Numbers) -> Number:
    """Return `1/2 sum_y (pi - p)^2/p`."""
    cells = list(zip(policy, reference, strict=True))
    if any(b == 0 and a > 0 for a, b in cells):
        return INFINITY
    return total((a - b).square() / b for a, b in cells if b > 0) / 2


def _hellinger(policy: Numbers, reference: Numbers) -> Number:
    """Return `sum_y (sqrt(pi) - sqrt(p))^2`."""
    cells = zip(policy, reference, strict=True)
    return total((a.sqrt() - b.sqrt()).square() for a, b in cells)


def _jensen_shannon(policy: Numbers, reference: Numbers) -> Number:
    """Return `1/2 KL(pi || m) + 1/2 KL(p || m)`."""
    middle = [(a + b) / 2 for a, b in zip(policy, reference, strict=True)]
    return (_kl(policy, middle) + _kl(reference, middle)) / 2


def _moment(policy: Numbers, reference: Numbers, order: Number) -> Number:
    """Return `sum_y pi^a p^(1 - a)`."""
    cells = list(zip(policy, reference, strict=True))
    if (order > 1 and any(a > 0 and b == 0 for a, b in cells)) or (
        order < 0 and any(b > 0 and a == 0 for a, b in cells)
    ):
        return INFINITY
    # A rational ratio keeps equal rows and conditioned ones free of rounding in the power.
    return total(b * (a / b) ** order for a, b in cells if a > 0 and b > 0)


def _alpha(divergence: AlphaDivergence, policy: Numbers, reference: Numbers) -> Number:
    """Return `(sum_y pi^a p^(1 - a) - 1)/(a (a - 1))`."""
    order = Number.of(divergence.alpha)
    return (_moment(policy, reference, order) - 1) / (order * (order - 1))


def renyi(policy: Any, reference: Any, order: float) -> BallArray:
    """Return `log(sum_y pi^a p^(1 - a))/(a - 1)`; its limits are KL and the largest log ratio."""
    a = Number.of(order)

    def of_rows(pi: Numbers, p: Numbers) -> Number:
        if order == 1:
            return _kl(pi, p)
        if a == INFINITY:
            ratios = [u / v for u, v in zip(pi, p, strict=True) if u > 0]
            return functools.reduce(Number.maximum, ratios).log()
        return _moment(pi, p, a).log() / (a - 1)

    return by_rows(of_rows, policy, reference)


_DIVERGENCES: dict[type, Callable[[Numbers, Numbers], Number]] = {
    KL: _kl,
    ChiSquared: _chi2,
    SquaredHellinger: _hellinger,
    ForwardKL: lambda policy, reference: _kl(reference, policy),
    JensenShannon: _jensen_shannon,
}


def _of(base: Divergence) -> Callable[[Numbers, Numbers], Number]:
    if isinstance(base, AlphaDivergence):
        return functools.partial(_alpha, base)
    if type(base) not in _DIVERGENCES:
        raise TypeError(f"{base!r} has no formula in ball arithmetic")
    return _DIVERGENCES[type(base)]


class BallDivergence:
    """A sum of divergences, with weights, that is evaluated on arrays of numbers."""

    def __init__(self, *terms: tuple[Any, Divergence]) -> None:
        self._terms = tuple((Number.of(weight), base) for weight, base in terms)

    def terms(self) -> tuple[tuple[Number, Divergence], ...]:
        """Return `((weight, base), ...)`."""
        return self._terms

    def per_prompt(self, policy: Any, reference: Any) -> BallArray:
        """Return the divergence of each prompt."""
        return by_rows(self._of_rows, policy, reference)

    def __call__(self, policy: Any, reference: Any, prompt_dist: Any = None) -> Any:
        """Return the divergence, averaged over prompts."""
        values = self.per_prompt(policy, reference)
        if prompt_dist is None:
            if values.ndim and values.shape[-1] != 1:
                raise ValueError("prompt_dist is missing")
            return values[..., 0] if values.ndim else values
        weights = balls(prompt_dist)
        return (np.where(weights > 0, values, 0) * weights).sum(axis=-1)

    def link(self, log_ratio: Any) -> BallArray:
        """Return `f'(w)` of `u = log w`: u for KL, `w - 1` for chi-squared."""
        u = balls(log_ratio)
        found = balls(np.zeros(u.shape))
        for weight, base in self._terms:
            if type(base) not in (KL, ChiSquared):
                raise TypeError(f"the link of {base!r} has no formula in ball arithmetic")
            found = found + weight * (u if type(base) is KL else np.expm1(u))
        return found

    def __add__(self, other: BallDivergence) -> BallDivergence:
        return BallDivergence(*self._terms, *other._terms)

    def __mul__(self, weight: Any) -> BallDivergence:
        return BallDivergence(*((Number.of(weight) * w, base) for w, base in self._terms))

    __rmul__ = __mul__

    def _of_rows(self, policy: Numbers, reference: Numbers) -> Number:
        found = ZERO
        for weight, base in self._terms:
            found = found + weight * _of(base)(policy, reference)
        return found


def by_rows(function: Callable[..., Number], *arrays: Any) -> BallArray:
    """Return a number for each row of arrays whose leading axes broadcast."""
    lifted = [balls(array) for array in arrays]
    shape = np.broadcast_shapes(*(array.shape[:-1] for array in lifted))
    found = np.empty(shape, dtype=object)
    for index in itertools.product(*map(range, shape)):
        found[index] = function(*(row_of(array, shape, index) for array in lifted))
    return balls(found)


def row_of(array: BallArray, shape: tuple[int, ...], index: tuple[int, ...]) -> list[Number]:
    """Return one row of an array that is broadcast to the leading axes."""
    row: list[Number] = np.broadcast_to(array, (*shape, array.shape[-1]))[index].tolist()
    return row
