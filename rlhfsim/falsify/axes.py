"""What shrinking may leave out of an instance: read off the instances that a family samples.

Axes belong together when they have the same size in every sample: leaving out a response takes it
out of every array, and out of both axes of a table of pairs.  A size that never varies stays, and
none falls below the smallest sampled.  Whole numbers stay within the sampled range.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.falsify.evaluation import Batch, arrays_of

#: Samples that are looked at.
_PROBES = 64


@dataclass(frozen=True)
class Axes:
    """Axes of one size: pairs of an array's name and an axis, and the least size."""

    members: tuple[tuple[str, int], ...]
    least: int

    def size(self, arrays: dict[str, FloatArray]) -> int | None:
        """Return the size in an instance; None where its axes differ."""
        sizes = {arrays[name].shape[axis] for name, axis in self.members}
        return sizes.pop() if len(sizes) == 1 else None

    def without(self, arrays: dict[str, FloatArray], index: int) -> dict[str, FloatArray]:
        """Return the arrays without one index on every axis."""
        left = dict(arrays)
        for name, axis in self.members:
            left[name] = np.delete(left[name], index, axis=axis)
        return left

    def last_of(self, name: str, array: FloatArray) -> bool:
        """Return whether the last axis of the array is among them."""
        return (name, array.ndim - 1) in self.members


@dataclass(frozen=True)
class Freedom:
    """How a family's instances may become smaller."""

    axes: tuple[Axes, ...]
    #: Least and largest value of every array of whole numbers.
    whole: dict[str, tuple[float, float]]


def freedom_of(instance: Batch, rng: np.random.Generator) -> Freedom:
    """Return what may be left out of instances of this family."""
    samples = [arrays_of(type(instance).sample(1, rng)) for _ in range(_PROBES)]
    sizes: dict[tuple[int, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, array in samples[0].items():
        for axis in range(1, array.ndim):
            sizes[tuple(sample[name].shape[axis] for sample in samples)].append((name, axis))
    axes = tuple(
        Axes(tuple(members), min(found))
        for found, members in sizes.items()
        if min(found) < max(found)
    )
    whole = {
        name: (
            float(min(sample[name].min() for sample in samples)),
            float(max(sample[name].max() for sample in samples)),
        )
        for name in samples[0]
        if all(_is_whole(sample[name]) for sample in samples)
    }
    return Freedom(axes, whole)


def _is_whole(array: FloatArray) -> bool:
    if array.dtype.kind not in "if" or array.size == 0:
        return False
    return bool(np.isfinite(array).all() and (array == np.floor(array)).all())
