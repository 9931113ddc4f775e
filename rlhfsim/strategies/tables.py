"""Reward tables: bounded, with ties."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import DrawFn, SearchStrategy

from rlhfsim.checks import FloatArray
from rlhfsim.strategies.arguments import check_interval
from rlhfsim.strategies.sizes import Shape, ShapeLike, draw_shape

_LEVELS = (0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0)


@st.composite
def rewards(
    draw: DrawFn,
    shape: ShapeLike | None = None,
    *,
    min_value: float = -10.0,
    max_value: float = 10.0,
) -> FloatArray:
    """Return a strategy for rewards: `(..., Y)` arrays in `[min_value, max_value]`, with ties.

    Entries are whole numbers, the ends of the range, or any normal floats in it; they shrink
    towards 0, then 1.

    Parameters
    ----------
    shape : int, tuple of int, or strategy for either, optional
        `Y` or `(..., Y)`; `shapes()` by default.
    min_value, max_value : float
        Finite, in reward units.
    """
    sides = draw_shape(draw, shape)
    check_interval("min_value", min_value, "max_value", max_value)
    return draw(_tables(sides, float(min_value), float(max_value)))


@lru_cache(maxsize=64)
def _tables(shape: Shape, low: float, high: float) -> SearchStrategy[FloatArray]:
    """Return the strategy for valid arguments; to build it takes longer than to draw from it."""
    levels = [level for level in _LEVELS if low <= level <= high] or [low, high]
    between = st.floats(low, high, allow_subnormal=False)
    elements = st.one_of(st.sampled_from(levels), st.sampled_from([low, high]), between)
    return arrays(np.float64, shape, elements=elements)
