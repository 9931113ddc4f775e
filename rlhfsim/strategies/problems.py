"""Divergences, regularization strengths, and the problems that `solve` takes."""

from __future__ import annotations

import functools
import math
import operator
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from rlhfsim.checks import FloatArray
from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)
from rlhfsim.strategies.arguments import check, check_flag, check_interval
from rlhfsim.strategies.rows import draw_rows
from rlhfsim.strategies.sizes import SMALLEST_PROBABILITY, ShapeLike, draw_shape
from rlhfsim.strategies.tables import rewards

_NAMED = (KL(), ChiSquared(), ForwardKL(), SquaredHellinger(), JensenShannon())

# The limits, where formulas switch, and their neighbours.
_ORDERS = (2.0, 1.0, 0.0, 0.5, -1.0, 3.0, 1.5, 1.0 + 1e-9, 1.0 - 1e-9, 1e-9, -1e-9)

# Sums of them are exact, and so is how they are printed.
_WEIGHTS = (1.0, 0.5, 2.0, 0.125, 8.0)

_STRENGTHS = tuple(10.0**k for k in (0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6))


@st.composite
def divergences(
    draw: DrawFn,
    *,
    min_alpha: float = -1.0,
    max_alpha: float = 3.0,
    allow_combinations: bool = True,
) -> Divergence:
    """Return a strategy for divergences: every kind of the library, and sums of up to three.

    They shrink towards `KL()`.  Conditions go through `filter`, such as
    `divergences().filter(lambda d: d.recession == math.inf)` for those that are infinite where the
    policy has mass and the reference none.

    Parameters
    ----------
    min_alpha, max_alpha : float
        The range of the orders of `AlphaDivergence`, which has KL, forward KL and chi-squared as
        its members of order 1, 0 and 2.
    allow_combinations : bool
        Whether sums and multiples are drawn.
    """
    check_interval("min_alpha", min_alpha, "max_alpha", max_alpha)
    check_flag("allow_combinations", allow_combinations)
    low, high = float(min_alpha), float(max_alpha)
    orders = [order for order in _ORDERS if low <= order <= high] or [low, high]
    order = st.one_of(st.sampled_from(orders), st.floats(low, high))
    base = st.one_of(st.sampled_from(_NAMED), order.map(AlphaDivergence))
    if not allow_combinations:
        return draw(base)
    term = st.tuples(base, st.sampled_from(_WEIGHTS))
    terms = draw(st.lists(term, min_size=1, max_size=3))
    # A lone divergence stays what it is; 1.0 * AlphaDivergence(1.0) would be KL().
    scaled = [base if weight == 1 else weight * base for base, weight in terms]
    return functools.reduce(operator.add, scaled)


@st.composite
def betas(draw: DrawFn, *, min_value: float = 1e-3, max_value: float = 1e3) -> float:
    """Return a strategy for regularization strengths: powers of ten, ends, any others between.

    They shrink towards 1.

    Parameters
    ----------
    min_value, max_value : float
        Positive and finite, in reward units per nat.
    """
    check_interval("min_value", min_value, "max_value", max_value, positive=True)
    low, high = float(min_value), float(max_value)
    levels = [beta for beta in _STRENGTHS if low <= beta <= high]
    levels += [end for end in (low, high) if end not in levels]
    exponents = st.floats(math.log10(low), math.log10(high))
    between = exponents.map(lambda e: min(max(10.0**e, low), high))
    return draw(st.one_of(st.sampled_from(levels), between))


class RegularizedProblem(NamedTuple):
    """`max_pi E_pi[r] - beta D(pi || p)`; `rlhfsim.solve(*problem)` solves it."""

    reward: FloatArray
    reference: FloatArray
    divergence: Divergence
    beta: float


@st.composite
def regularized_problems(
    draw: DrawFn,
    shape: ShapeLike | None = None,
    *,
    divergences: SearchStrategy[Divergence] = divergences(),  # noqa: B008
    betas: SearchStrategy[float] = betas(),  # noqa: B008
    min_reward: float = -10.0,
    max_reward: float = 10.0,
    reference_zeros: bool = False,
    min_positive: float = SMALLEST_PROBABILITY,
) -> RegularizedProblem:
    """Return a strategy for problems: the arguments `(r, p, D, beta)` of `rlhfsim.solve`.

    They shrink towards rewards 0, uniform references, `KL()` and beta 1.

    Parameters
    ----------
    shape : int, tuple of int, or strategy for either, optional
        `Y` or `(..., Y)`; `shapes()` by default.
    divergences : strategy for divergences
    betas : strategy for numbers
    min_reward, max_reward : float
        The range of the rewards.
    reference_zeros : bool
        Whether the reference may have zeros.
    min_positive : float
        No positive probability of the reference is smaller; at most `1/Y`.
    """
    for name, value in {"divergences": divergences, "betas": betas}.items():
        check(isinstance(value, SearchStrategy), f"{name}={value!r} must be a strategy")
    check_flag("reference_zeros", reference_zeros)
    check_interval("min_reward", min_reward, "max_reward", max_reward)
    sides = draw_shape(draw, shape, min_positive=min_positive)
    reference = draw_rows(draw, sides, reference_zeros, min_positive)
    reward = draw(rewards(sides, min_value=min_reward, max_value=max_reward))
    return RegularizedProblem(reward, reference, draw(divergences), draw(betas))
