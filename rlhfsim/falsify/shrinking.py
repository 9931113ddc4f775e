"""Smaller and rounder instances that keep a violation: the ones to read and to print."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.falsify.axes import Axes, freedom_of
from rlhfsim.falsify.climbing import Found, climb, polish
from rlhfsim.falsify.coordinates import ROWS, Kind
from rlhfsim.falsify.evaluation import (
    Batch,
    Evaluator,
    arrays_of,
    joined,
    rebuilt,
    score,
    shapes,
)

_DENOMINATORS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 40, 50, 100, 200, 1000, 10_000, 10**6)

#: Cost of a number that is no simple fraction, and of every entry of an array.
_ODD, _ENTRY = 100.0, 200.0

#: Evaluations for the search that follows the removal of a response.
_ALLOWANCE = 6000

#: Candidates evaluated together.
_CHUNK = 64

Keep = Callable[[float], bool]


@lru_cache(maxsize=100_000)
def _fraction(value: float) -> Fraction | None:
    """Return the simple fraction that this float is the rounding of, if there is one."""
    if not math.isfinite(value):
        return None
    near = Fraction(value).limit_denominator(10**6)
    return near if float(near) == value and abs(near.numerator) <= 10**6 else None


@lru_cache(maxsize=100_000)
def _cost(value: float) -> float:
    if value == 0:
        return 0.0
    fraction = _fraction(value)
    if not math.isfinite(value):
        return _ODD
    if fraction is None:
        digits, _, exponent = f"{Decimal(repr(value)).normalize():e}".partition("e")
        return min(_ODD, 20.0 + 4.0 * len(digits) + abs(int(exponent)) / 10.0)
    parts = math.log2(abs(fraction.numerator)) + math.log2(fraction.denominator)
    return 1.0 + parts + (0.5 if value < 0 else 0.0)


def cost(instance: object) -> float:
    """Return how hard a batch of one is to read: its size, then its fractions."""
    entries = [np.ravel(array) for array in arrays_of(instance).values()]
    return sum(_ENTRY * len(values) + sum(_cost(float(v)) for v in values) for values in entries)


def written(value: float) -> str:
    """Return a number as a fraction where it is one with a small denominator."""
    fraction = _fraction(value)
    return str(fraction) if fraction is not None else repr(value)


def shrink(
    evaluator: Evaluator,
    found: Found[Batch],
    kinds: Mapping[str, Kind],
    keep: Keep,
    rng: np.random.Generator,
) -> Found[Batch]:
    """Return a smaller and rounder instance whose ratio `keep` accepts."""
    freedom = freedom_of(found.instance, rng)
    while not evaluator.exhausted:
        smaller = _fewer(evaluator, found, kinds, keep, freedom.axes, rng)
        if smaller is None:
            break
        found = smaller
    while not evaluator.exhausted:
        candidates = [
            *_rounded(found.instance, kinds),
            *_lower(found.instance, kinds, freedom.whole),
        ]
        rounder = _simplest(evaluator, found, candidates, keep)
        if rounder is None:
            break
        found = rounder
    return found


def _fewer(
    evaluator: Evaluator,
    found: Found[Batch],
    kinds: Mapping[str, Kind],
    keep: Keep,
    groups: Iterable[Axes],
    rng: np.random.Generator,
) -> Found[Batch] | None:
    """Return an instance with one index less on some axes, searched again where it has to be."""
    for axes in groups:
        dropped = list(_dropped(found.instance, kinds, axes))
        smaller = _simplest(evaluator, found, dropped, keep)
        if smaller is None and dropped:
            starts = joined(dropped)
            again = climb(evaluator, starts, kinds, rng, _ALLOWANCE)
            again = polish(evaluator, again, kinds)
            smaller = again if keep(again.ratio) else None
        if smaller is not None:
            return smaller
    return None


def _simplest(
    evaluator: Evaluator, found: Found[Batch], candidates: Iterable[Batch], keep: Keep
) -> Found[Batch] | None:
    """Return the easiest candidate to read among those that `keep` accepts, if one is easier."""
    now = cost(found.instance)
    priced = [(cost(candidate), shapes(candidate), candidate) for candidate in candidates]
    # Cheapest first, those of one shape together.
    priced = sorted((c for c in priced if c[0] < now), key=lambda c: c[0])
    while priced and not evaluator.exhausted:
        shape = priced[0][1]
        chunk = [c for c in priced if c[1] == shape][:_CHUNK]
        priced = [c for c in priced if not any(c is other for other in chunk)]
        ratios = evaluator.ratios(joined([batch for _, _, batch in chunk]))
        accepted = [
            (price, -float(score(ratio)), Found(batch, float(ratio)))
            for (price, _, batch), ratio in zip(chunk, ratios, strict=True)
            if keep(float(ratio))
        ]
        if accepted:
            return min(accepted, key=lambda entry: entry[:2])[2]
    return None


def _dropped(instance: Batch, kinds: Mapping[str, Kind], axes: Axes) -> Iterator[Batch]:
    """Yield the versions with one index less on these axes."""
    arrays = arrays_of(instance)
    size = axes.size(arrays)
    if size is None or size <= axes.least:
        return
    for index in range(size):
        smaller = axes.without(arrays, index)
        for name, array in arrays.items():
            if axes.last_of(name, array) and _is_distribution(name, array, kinds):
                rest = smaller[name]
                sums = rest.sum(axis=-1, keepdims=True)
                rest = np.where(sums > 0, rest / np.where(sums > 0, sums, 1.0), 1.0 / (size - 1))
                smaller[name] = rest
        yield rebuilt(instance, smaller)


def _lower(
    instance: Batch, kinds: Mapping[str, Kind], whole: Mapping[str, tuple[float, float]]
) -> Iterator[Batch]:
    """Yield versions with smaller whole numbers, where these are no coordinates of the search."""
    arrays = arrays_of(instance)
    for name, (least, most) in whole.items():
        array = arrays[name]
        if name in kinds or array.size == 0:
            continue
        largest = float(array.max())
        for limit in {least, least + 1, least + 2, least + 4, largest // 2, largest - 1}:
            if least <= limit < min(largest, most + 1):
                lowered = np.minimum(array, np.asarray(limit, dtype=array.dtype))
                yield rebuilt(instance, {**arrays, name: lowered})


def _is_distribution(name: str, array: FloatArray, kinds: Mapping[str, Kind]) -> bool:
    if name in kinds:
        return kinds[name] in ROWS
    # An array that does not matter for the claim, or does not vary.
    return bool((array >= 0).all() and (np.abs(array.sum(axis=-1) - 1) < 1e-9).all())


def _rounded(instance: Batch, kinds: Mapping[str, Kind]) -> Iterator[Batch]:
    """Yield rounder versions: every array alone, then all at once with one denominator."""
    arrays = arrays_of(instance)
    versions = {name: list(_versions(kinds[name], arrays[name])) for name in kinds}
    for name, options in versions.items():
        for option in options:
            if _may_be(kinds[name], option):
                yield rebuilt(instance, {**arrays, name: option})
    for denominator in _DENOMINATORS:
        together = {name: _multiples(kinds[name], arrays[name], denominator) for name in kinds}
        if all(_may_be(kinds[name], option) for name, option in together.items()):
            yield rebuilt(instance, {**arrays, **together})
    if hasattr(instance, "valid"):
        # Arrays that the search left alone may have to fit each other, which `valid` tells.
        for name in sorted(arrays.keys() - kinds.keys()):
            if arrays[name].dtype.kind == "f":
                for denominator in _DENOMINATORS:
                    option = _multiples("real", arrays[name], denominator)
                    yield rebuilt(instance, {**arrays, name: option})
    simpler = getattr(instance, "simpler", None)
    if simpler is not None:
        yield from simpler()


def _may_be(kind: Kind, option: FloatArray) -> bool:
    return kind != "interior" or bool((option > 0).all())


def _versions(kind: Kind, array: FloatArray) -> Iterator[FloatArray]:
    for denominator in _DENOMINATORS:
        yield _multiples(kind, array, denominator)
    if kind in ROWS:
        yield np.full_like(array, 1.0 / array.shape[-1])
        for digits in (1, 2):
            yield from _small_masses(array, digits)
        for denominator in _DENOMINATORS:
            raised = np.where(array > 0, np.maximum(array, 1.0 / denominator), 0.0)
            yield _multiples(kind, raised / raised.sum(axis=-1, keepdims=True), denominator)
        return
    for digits in (1, 2, 3):
        yield _significant(array, digits)
    if kind == "real":
        flat = array.reshape(len(array), -1)
        low, high = flat.min(), flat.max()
        yield np.zeros_like(array)
        yield np.sign(array)
        if high > low:
            yield (array == high).astype(np.float64)
            yield np.round((array - low) / (high - low))
            yield array - low
    if kind in ("positive", "non_negative"):
        yield np.ones_like(array)
        yield np.where(array > 0, 10.0 ** np.round(np.log10(np.where(array > 0, array, 1.0))), 0.0)


def _multiples(kind: Kind, array: FloatArray, denominator: int) -> FloatArray:
    """Return the nearest multiples of 1/denominator; rows of a simplex still sum to 1."""
    scaled = array * denominator
    if kind not in ROWS:
        nearest = np.round(scaled) / denominator
        return np.where(nearest > 0, nearest, array) if kind == "positive" else nearest
    whole = np.floor(scaled)
    rest = np.round(denominator - whole.sum(axis=-1, keepdims=True))
    order = np.argsort(np.argsort(-(scaled - whole), axis=-1, kind="stable"), axis=-1)
    return (whole + (order < rest)) / denominator


def _small_masses(array: FloatArray, digits: int) -> Iterator[FloatArray]:
    """Yield distributions with all but the largest mass rounded to few digits."""
    top = array == array.max(axis=-1, keepdims=True)
    top &= np.cumsum(top, axis=-1) == 1
    small = np.where(top, 0.0, _significant(array, digits))
    rest = 1.0 - small.sum(axis=-1, keepdims=True)
    if (rest > 0).all():
        yield np.where(top, rest, small)


def _significant(array: FloatArray, digits: int) -> FloatArray:
    rounded = [float(f"{v:.{digits - 1}e}") for v in array.ravel()]
    return np.array(rounded, dtype=np.float64).reshape(array.shape)


def plain(instance: Batch, kinds: Mapping[str, Kind], used: Iterable[str]) -> Batch:
    """Return the instance with the arrays that the claim does not read set to the plainest."""
    arrays = arrays_of(instance)
    for name, kind in kinds.items():
        if name not in set(used):
            array = arrays[name]
            uniform = 1.0 / array.shape[-1]
            plainest = {"simplex": uniform, "interior": uniform, "positive": 1.0, "unit": 0.5}
            arrays[name] = np.full_like(array, plainest.get(kind, 0.0))
    return rebuilt(instance, arrays)
