"""A policy and a reference of one shape, related in the ways that inequalities care about."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import DrawFn

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.strategies.arguments import check, check_flag
from rlhfsim.strategies.rows import draw_rows
from rlhfsim.strategies.sizes import SMALLEST_PROBABILITY, ShapeLike, draw_shape

# How a row of the policy comes from the reference's, if it does, and how often.
_OWN, _CONDITIONED, _NEARBY, _EQUAL = "own", "conditioned", "nearby", "equal"
_RELATIONS = (_OWN, _OWN, _CONDITIONED, _CONDITIONED, _NEARBY, _NEARBY, _EQUAL)

# Shares of the largest entry that are moved elsewhere, to make a policy next to the reference.
_SMALL_SHARES = (2.0**-10, 2.0**-25, 2.0**-45)


@st.composite
def policy_pairs(
    draw: DrawFn,
    shape: ShapeLike | None = None,
    *,
    absolutely_continuous: bool = True,
    policy_zeros: bool = True,
    reference_zeros: bool | None = None,
    min_positive: float = SMALLEST_PROBABILITY,
) -> tuple[FloatArray, FloatArray]:
    """Return a strategy for pairs `(policy, reference)` of arrays of one shape `(..., Y)`.

    Each row of the policy is drawn on its own, or is the reference's row: itself, conditioned on a
    set of responses (where `KL = log(1 + 2 D_chi2)`), or with a little mass moved.  They shrink
    towards point masses against uniform references.

    Parameters
    ----------
    shape : int, tuple of int, or strategy for either, optional
        `Y` or `(..., Y)`; `shapes()` by default.
    absolutely_continuous : bool
        Whether the policy only has mass where the reference has; otherwise KL and chi-squared may
        be infinite.
    policy_zeros : bool
        Whether the policy may have zeros; without them, an absolutely continuous one needs
        `reference_zeros=False`.
    reference_zeros : bool, optional
        Whether the reference may have zeros; by default exactly where `absolutely_continuous` is
        False, as full support is what makes every policy absolutely continuous.
    min_positive : float
        No positive entry of either is smaller; at most `1/Y`.
    """
    check_flag("absolutely_continuous", absolutely_continuous)
    check_flag("policy_zeros", policy_zeros)
    if reference_zeros is None:
        reference_zeros = not absolutely_continuous
    check_flag("reference_zeros", reference_zeros)
    check(
        policy_zeros or not (absolutely_continuous and reference_zeros),
        "policy_zeros=False contradicts absolutely_continuous=True with reference_zeros=True",
    )
    sides = draw_shape(draw, shape, min_positive=min_positive)
    reference = draw_rows(draw, sides, reference_zeros, min_positive)
    support = reference > 0 if absolutely_continuous else None
    policy = draw_rows(draw, sides, policy_zeros, min_positive, support)
    for own, p in zip(policy.reshape(-1, sides[-1]), reference.reshape(-1, sides[-1]), strict=True):
        _relate(draw, own, p, policy_zeros, min_positive)
    return policy, reference


def _relate(draw: DrawFn, own: FloatArray, p: FloatArray, zeros: bool, min_positive: float) -> None:
    """Put in the place of a row of the policy, perhaps, one that comes from p."""
    relation = draw(st.sampled_from(_RELATIONS))
    if relation == _CONDITIONED and zeros:
        rarest = st.just(np.zeros(p.size, dtype=bool))
        own[:] = _conditioned(p, draw(st.one_of(rarest, arrays(np.bool_, p.size))))
    elif relation in (_EQUAL, _NEARBY) and (zeros or p.all()):
        own[:] = p
        others = np.flatnonzero((p > 0) & (np.arange(p.size) != p.argmax())).tolist()
        if relation == _NEARBY and others:
            target = draw(st.sampled_from(others))
            _move(own, target, draw(st.sampled_from(_SMALL_SHARES)), min_positive)


def _conditioned(p: FloatArray, dropped: BoolArray) -> FloatArray:
    """Return p conditioned on what is not dropped.

    Where that is nothing, on its largest entries; where it is everything, on all but the smallest.
    """
    kept = (p > 0) & ~dropped
    if not kept.any():
        kept = p == p.max()
    elif (kept == (p > 0)).all() and p.max() > p[kept].min():
        kept = p > p[kept].min()
    mass = np.where(kept, p, 0.0)
    return mass / mass.sum() if (kept != (p > 0)).any() else p


def _move(row: FloatArray, target: int, share: float, min_positive: float) -> None:
    """Move a share of the largest entry to another one."""
    top = int(row.argmax())
    amount = share * row[top]
    if row[top] - amount >= min_positive:
        row[top] -= amount
        row[target] += amount
