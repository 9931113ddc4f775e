"""Shapes of policies and rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from rlhfsim.strategies.arguments import check, check_integer, check_min_positive

Shape = tuple[int, ...]

#: Default for the smallest positive probability that is drawn.  Ratios of two probabilities above
#: it are finite floats.
SMALLEST_PROBABILITY = 1e-300

#: What a `shape` argument may be.
ShapeLike = int | Shape | SearchStrategy[int] | SearchStrategy[Shape] | SearchStrategy[Any]


@st.composite
def shapes(
    draw: DrawFn,
    *,
    min_prompts: int = 1,
    max_prompts: int | None = None,
    min_responses: int = 1,
    max_responses: int | None = None,
) -> tuple[int, int]:
    """Return a strategy for shapes `(X, Y)`: numbers of prompts and of responses.

    They shrink towards the least of each.

    Parameters
    ----------
    min_prompts, min_responses : int
        At least 1.
    max_prompts, max_responses : int, optional
        By default 2 more prompts and 4 more responses than the least.
    """
    sides = (
        ("prompts", min_prompts, max_prompts, 2),
        ("responses", min_responses, max_responses, 4),
    )
    ranges = []
    for name, least, most, more in sides:
        check_integer(f"min_{name}", least, 1)
        most = least + more if most is None else most
        check_integer(f"max_{name}", most, 1)
        check(least <= most, f"min_{name}={least!r} must be at most max_{name}={most!r}")
        ranges.append(st.integers(int(least), int(most)))
    return draw(ranges[0]), draw(ranges[1])


def room(min_positive: float, most: int) -> int:
    """Return how many probabilities of that size fit into 1, at most `most`."""
    return int(min(most, 1 / min_positive))


def draw_shape(
    draw: DrawFn,
    shape: ShapeLike | None,
    *,
    least_responses: int = 1,
    min_positive: float = SMALLEST_PROBABILITY,
) -> Shape:
    """Return a shape `(..., Y)` from the argument of a strategy.

    A shape that is left to us has room for probabilities of at least `min_positive`.
    """
    check_min_positive(min_positive)
    if shape is None:
        prompts, responses = room(min_positive, 3), room(min_positive, 4 + least_responses)
        shape = shapes(max_prompts=prompts, min_responses=least_responses, max_responses=responses)
    given = draw(shape) if isinstance(shape, SearchStrategy) else shape
    sides = given if isinstance(given, tuple) else (given,)
    check(len(sides) > 0, f"shape={given!r} must have at least one side, the responses")
    for side in sides:
        whole = isinstance(side, (int, np.integer)) and not isinstance(side, bool)
        check(whole, f"shape={given!r} must be an integer or a tuple of integers")
        check(side >= 1, f"shape={given!r} must have sides of at least 1")
    check(
        sides[-1] >= least_responses,
        f"shape={given!r} must have at least {least_responses} responses",
    )
    return tuple(int(side) for side in sides)


def draw_matrix_shape(
    draw: DrawFn,
    shape: ShapeLike | None,
    *,
    least_responses: int = 1,
    min_positive: float = SMALLEST_PROBABILITY,
) -> tuple[int, int]:
    """Return a shape `(X, Y)` from the argument of a strategy."""
    sides = draw_shape(draw, shape, least_responses=least_responses, min_positive=min_positive)
    check(len(sides) == 2, f"shape={sides!r} must be a pair (X, Y)")
    return sides[0], sides[1]
