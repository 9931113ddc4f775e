"""Real coordinates for batches of instances, in which a search may step anywhere.

A family of instances says how its arrays may vary by a class attribute, such as
`parametrization = {"policy": "simplex", "beta": "positive"}`:

- `simplex`: the last axis holds distributions; searched by their logits, zeros kept;
- `interior`: distributions without zeros;
- `positive`: searched by the logarithm;
- `non_negative`: as `positive`, zeros kept;
- `unit`: numbers in [0, 1], searched by their log-odds;
- `real`: searched as they are.

Arrays that are not named stay as they were sampled.  A family whose arrays have to fit each other
may have a method `valid()`, one boolean per instance: a search drops the instances that are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.falsify.evaluation import arrays_of, rebuilt

Kind = Literal["simplex", "interior", "positive", "non_negative", "unit", "real"]

#: Kinds whose last axis holds distributions.
ROWS: tuple[Kind, ...] = ("simplex", "interior")

#: Least logarithm of a probability relative to the largest of its row.
_LEAST_LOGIT = -80.0

#: Largest size of the logarithm of a positive number, or of log-odds.
_LARGEST_LOGARITHM = 40.0


def parametrization_of(family: type) -> Mapping[str, Kind]:
    """Return how the arrays of a family may vary; empty where the family does not say.

    Raises
    ------
    ValueError
        For a kind that does not exist.
    """
    kinds: Mapping[str, Kind] = getattr(family, "parametrization", {})
    for name, kind in kinds.items():
        if kind not in get_args(Kind):
            raise ValueError(
                f"parametrization[{name!r}] of {family.__name__} is {kind!r}; "
                f"it must be one of {', '.join(get_args(Kind))}"
            )
    return kinds


class Coordinates:
    """The map between batches and `(N, d)` arrays of reals.

    Zeros of a distribution are no coordinate: a point takes them, and all arrays that do not vary,
    from a batch of `parents`.

    Parameters
    ----------
    batch : batch of instances
        Of the shape to be searched.
    kinds : mapping from names of arrays to kinds
    """

    def __init__(self, batch: Any, kinds: Mapping[str, Kind]) -> None:
        self.kinds = dict(kinds)
        self._slices: dict[str, slice] = {}
        self.size = 0
        for name in self.kinds:
            length = getattr(batch, name)[0].size
            self._slices[name] = slice(self.size, self.size + length)
            self.size += length

    def encode(self, batch: Any) -> tuple[FloatArray, FloatArray]:
        """Return the coordinates of each instance, and the length of a natural step in each."""
        points = np.empty((len(batch), self.size))
        steps = np.ones_like(points)
        for name, where in self._slices.items():
            array = getattr(batch, name).reshape(len(batch), -1)
            kind = self.kinds[name]
            points[:, where] = _to_real(kind, array)
            if kind == "real":
                largest = np.abs(array).max(axis=1, keepdims=True)
                steps[:, where] = np.where(largest > 0, largest, 1.0)
        return points, steps

    def decode(self, points: FloatArray, parents: Any) -> Any:
        """Return the instances at these coordinates, one for each parent."""
        arrays = arrays_of(parents)
        for name, where in self._slices.items():
            parent = arrays[name]
            values = points[:, where].reshape(parent.shape)
            arrays[name] = _from_real(self.kinds[name], values, parent > 0)
        return rebuilt(parents, arrays)

    def without_zeroed(self, instance: Any) -> list[Any]:
        """Return versions of a batch of one with one more probability or number at 0."""
        found = []
        for name, kind in self.kinds.items():
            if kind not in ("simplex", "non_negative"):
                continue
            array = getattr(instance, name)
            for index in zip(*np.nonzero(array), strict=True):
                if kind == "simplex" and (array[index[:-1]] > 0).sum() == 1:
                    continue
                changed = array.copy()
                changed[index] = 0.0
                if kind == "simplex":
                    changed[index[:-1]] /= changed[index[:-1]].sum()
                found.append(rebuilt(instance, {**arrays_of(instance), name: changed}))
        return found


def _to_real(kind: Kind, array: FloatArray) -> FloatArray:
    if kind == "real":
        return array
    with np.errstate(divide="ignore"):
        if kind == "unit":
            return np.clip(
                np.log(array) - np.log1p(-array), -_LARGEST_LOGARITHM, _LARGEST_LOGARITHM
            )
        return np.where(array > 0, np.log(np.where(array > 0, array, 1.0)), 0.0)


def _from_real(kind: Kind, values: FloatArray, kept: BoolArray) -> FloatArray:
    if kind == "real":
        return values
    bounded = np.clip(values, -_LARGEST_LOGARITHM, _LARGEST_LOGARITHM)
    if kind == "unit":
        return 1.0 / (1.0 + np.exp(-bounded))
    if kind == "positive":
        return np.exp(bounded)
    if kind == "non_negative":
        return np.where(kept, np.exp(bounded), 0.0)
    logits = np.where(kept, values, -np.inf)
    logits = np.maximum(logits - logits.max(axis=-1, keepdims=True), _LEAST_LOGIT)
    masses = np.where(kept, np.exp(logits), 0.0)
    return masses / masses.sum(axis=-1, keepdims=True)
