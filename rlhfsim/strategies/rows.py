"""Distributions, one or many: weights that are whole numbers, and rare entries.

The weights of all rows are one draw of `hypothesis.extra.numpy.arrays`, most of it a fill value: it
makes ties and zeros common, and lets a shape shrink without upsetting what is drawn after it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import DrawFn, SearchStrategy

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.strategies.arguments import check, check_flag, check_integer, check_min_positive
from rlhfsim.strategies.sizes import SMALLEST_PROBABILITY, Shape, ShapeLike, draw_shape, room

_RARE = (1e-6, 1e-12, 1e-100, 1e-300)
_HEAVIEST = 1000


@st.composite
def distributions(
    draw: DrawFn,
    size: int | SearchStrategy[int] | None = None,
    *,
    allow_zeros: bool = True,
    min_positive: float = SMALLEST_PROBABILITY,
) -> FloatArray:
    """Return a strategy for `(size,)` distributions: point masses, ties, zeros, rare entries.

    Entries are ratios of whole numbers, scaled to leave room for the rare ones, which are powers
    of ten down to `min_positive`; sums are 1 to rounding.  They shrink towards the point mass
    on the first entry; without zeros, towards the uniform distribution.

    Parameters
    ----------
    size : int or strategy for one, optional
        From 1 to 5 by default.
    allow_zeros : bool
    min_positive : float
        No positive entry is smaller; at most `1/size`.
    """
    return _draw_one(draw, "size", size, 5, allow_zeros, min_positive)


@st.composite
def prompt_dists(
    draw: DrawFn,
    n_prompts: int | SearchStrategy[int] | None = None,
    *,
    allow_zeros: bool = True,
    min_positive: float = SMALLEST_PROBABILITY,
) -> FloatArray:
    """Return a strategy for `(X,)` distributions of prompts, by default of 1 to 3; as above.

    Zeros are prompts that never occur: averages must leave them out, even at `inf`.
    """
    return _draw_one(draw, "n_prompts", n_prompts, 3, allow_zeros, min_positive)


@st.composite
def policies(
    draw: DrawFn,
    shape: ShapeLike | None = None,
    *,
    allow_zeros: bool = True,
    min_positive: float = SMALLEST_PROBABILITY,
) -> FloatArray:
    """Return a strategy for policies: `(..., Y)` arrays whose rows are `distributions`.

    Parameters
    ----------
    shape : int, tuple of int, or strategy for either, optional
        `Y` or `(..., Y)`; `shapes()` by default.
    allow_zeros : bool
    min_positive : float
        No positive entry is smaller; at most `1/Y`.
    """
    return draw_rows(
        draw, draw_shape(draw, shape, min_positive=min_positive), allow_zeros, min_positive
    )


@st.composite
def references(
    draw: DrawFn,
    shape: ShapeLike | None = None,
    *,
    allow_zeros: bool = False,
    min_positive: float = SMALLEST_PROBABILITY,
) -> FloatArray:
    """Return a strategy for reference policies: `policies` of full support, unless `allow_zeros`.

    They shrink towards uniform rows; with zeros, towards point masses.
    """
    return draw_rows(
        draw, draw_shape(draw, shape, min_positive=min_positive), allow_zeros, min_positive
    )


def _draw_one(
    draw: DrawFn,
    name: str,
    size: int | SearchStrategy[int] | None,
    most: int,
    allow_zeros: bool,
    min_positive: float,
) -> FloatArray:
    """Return one distribution, of 1 to `most` entries where no size is given."""
    check_min_positive(min_positive)
    sizes = st.integers(1, room(min_positive, most)) if size is None else size
    count = draw(sizes) if isinstance(sizes, SearchStrategy) else sizes
    check_integer(name, count, 1)
    return draw_rows(draw, (int(count),), allow_zeros, min_positive)


def draw_rows(
    draw: DrawFn,
    shape: Shape,
    allow_zeros: bool,
    min_positive: float,
    support: BoolArray | None = None,
) -> FloatArray:
    """Return an array of distributions of that shape, or raise `InvalidArgument`.

    With `support`, an array of bool of that shape, the distributions are 0 outside it.
    """
    check_flag("allow_zeros", allow_zeros)
    check_min_positive(min_positive)
    size = shape[-1]
    check(min_positive <= 1 / size, f"min_positive={min_positive!r} must be at most 1/{size}")
    entries = draw(_entries((math.prod(shape[:-1]), size), allow_zeros, float(min_positive)))
    inside = np.ones(entries.shape, dtype=bool) if support is None else support.reshape(-1, size)
    least = 0.0 if allow_zeros else 1.0
    pairs = zip(entries, inside, strict=True)
    return np.array([_normalized(row, within, least) for row, within in pairs]).reshape(shape)


@lru_cache(maxsize=64)
def _entries(
    shape: tuple[int, int], allow_zeros: bool, min_positive: float
) -> SearchStrategy[FloatArray]:
    """Return the strategy for whole weights, less the least one, and rare entries below 1."""
    size = shape[1]
    # Weights up to this leave every common entry at least min_positive, also after the rare ones
    # have taken up to 1/4.  Equal weights always do.
    most = _HEAVIEST if size == 1 else min(_HEAVIEST, (0.75 / min_positive - 1) / (size - 1))
    spread = int(max(most, 1.0)) - (0 if allow_zeros else 1)
    rare = [entry for entry in _RARE if min_positive <= entry <= 0.25 / size**2]
    entry = st.one_of(st.integers(0, min(2, spread)), st.integers(0, spread))
    if rare:
        entry = st.one_of(entry, st.sampled_from(rare))
    return arrays(np.float64, shape, elements=entry, fill=entry)


def _normalized(entries: FloatArray, support: BoolArray, least: float) -> FloatArray:
    """Return the row of the weights on its support, where rare entries stay as they are.

    Where all are rare, the first is not; where no weight is left, the first has all of it.
    """
    row = np.zeros(entries.size)
    drawn = entries[support]
    rare = (drawn > 0) & (drawn < 1)
    rare[0] &= not rare.all()
    weights = np.where(rare, 0.0, np.floor(drawn) + least)
    if not weights.any():
        weights[rare.argmin()] = 1.0
    left = 1.0 - drawn[rare].sum()
    row[support] = np.where(rare, drawn, weights / weights.sum() * left)
    return row
