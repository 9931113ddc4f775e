"""Local search for large ratios: evolution from many starts, then pattern search from the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from rlhfsim.falsify.coordinates import Coordinates, Kind
from rlhfsim.falsify.evaluation import (
    REFUSALS,
    Batch,
    Evaluator,
    arrays_of,
    joined,
    rebuilt,
    rows,
    score,
    sides,
)
from rlhfsim.falsify.evolution import Evolution

#: Generations without a better ratio after which a climb ends.
_PATIENCE = 40

#: A gain in the logarithm of the ratio below this is none.
_LEAST_GAIN = 1e-7

#: Logarithm of a ratio that needs no improvement.
_ENOUGH = float(np.log(1e9))

#: Step lengths of the pattern search, in natural steps.
_LENGTHS = 4.0 ** -np.arange(10)


@dataclass(frozen=True)
class Found(Generic[Batch]):
    """One instance, as a batch of one, and its ratio."""

    instance: Batch
    ratio: float

    @property
    def score(self) -> float:
        """The logarithm of the ratio, which ranks ratios of 0 and infinity as well."""
        return float(score(np.array([self.ratio]))[0])


def best_of(evaluator: Evaluator, batch: Batch) -> Found[Batch]:
    """Return the instance of the largest ratio."""
    ratios = evaluator.ratios(batch)
    k = int(np.argmax(score(ratios)))
    return Found(rows(batch, slice(k, k + 1)), float(ratios[k]))


def relevant(evaluator: Evaluator, batch: Any, kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """Return the arrays on which the claim depends: those whose exchange changes a side."""
    kept: dict[str, Kind] = {}
    evaluator.evaluations += (1 + len(kinds)) * len(batch)
    try:
        left, right = sides(evaluator.claim, batch)
        for name, kind in kinds.items():
            arrays = arrays_of(batch)
            arrays[name] = np.roll(arrays[name], 1, axis=0)
            other_left, other_right = sides(evaluator.claim, rebuilt(batch, arrays))
            same = np.array_equal(left, other_left, equal_nan=True)
            if not (same and np.array_equal(right, other_right, equal_nan=True)):
                kept[name] = kind
    except REFUSALS:
        return dict(kinds)
    return kept


def climb(
    evaluator: Evaluator,
    parents: Batch,
    kinds: Mapping[str, Kind],
    rng: np.random.Generator,
    allowance: int,
) -> Found[Batch]:
    """Return the best instance that evolution finds from the parents, one run for each."""
    best = best_of(evaluator, parents)
    coordinates = Coordinates(parents, kinds)
    if coordinates.size == 0:
        return best
    points, steps = coordinates.encode(parents)
    # Small first steps for starts on a ridge or in the local regime, large ones for the others.
    sizes = 10.0 ** rng.uniform(-2.5, 0.0, size=len(points))
    evolution = Evolution(points, steps, sizes)
    index = np.repeat(np.arange(len(points)), evolution.population)
    family = rows(parents, index)
    end, idle = evaluator.evaluations + allowance, 0
    while evaluator.evaluations < end and not evaluator.exhausted and idle < _PATIENCE:
        candidates = evolution.ask(rng)
        batch = coordinates.decode(candidates.reshape(len(index), -1), family)
        ratios = evaluator.ratios(batch)
        scores = score(ratios)
        evolution.tell(scores.reshape(len(points), -1))
        k = int(np.argmax(scores))
        idle = 0 if scores[k] > best.score + _LEAST_GAIN else idle + 1
        if scores[k] > best.score:
            best = Found(rows(batch, slice(k, k + 1)), float(ratios[k]))
        if best.score >= _ENOUGH:
            break
    return best


def polish(evaluator: Evaluator, found: Found[Batch], kinds: Mapping[str, Kind]) -> Found[Batch]:
    """Return the end of a pattern search: one coordinate at a time, or one more zero."""
    coordinates = Coordinates(found.instance, kinds)
    if coordinates.size == 0:
        return found
    directions = np.concatenate([np.eye(coordinates.size), -np.eye(coordinates.size)])
    moves = (_LENGTHS[:, None, None] * directions).reshape(-1, coordinates.size)
    while not evaluator.exhausted and found.score < _ENOUGH:
        point, step = coordinates.encode(found.instance)
        parents = rows(found.instance, np.zeros(len(moves), dtype=np.int64))
        moved = coordinates.decode(point + moves * step, parents)
        best = best_of(evaluator, joined([moved, *coordinates.without_zeroed(found.instance)]))
        if best.score <= found.score + _LEAST_GAIN:
            break
        found = best
    return found
