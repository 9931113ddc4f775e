"""Directions along which a sum of comparisons does not rise.

Far out in the direction d, or on the spot where the loss has kinks, a loss of comparisons grows as

    F'(d) = sum_r count_r (right_r max(0, delta_r) + left_r max(0, -delta_r)),

`delta_r = d(y+_r) - d(y-_r)`, with slopes `right` to the right and `left` to the left.  It is
convex where `right + left >= 0`.  A convex loss that never falls has a minimiser, and only one up
to constants, when `F'(d) > 0` in every direction that is not constant, at infinity or at the
minimiser.

Source: Rockafellar 1970, theorem 27.1.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csr_array, hstack, vstack

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.learners.direct.programs import identity, linear_program
from rlhfsim.learners.direct.prompts import PromptRows

#: An entry of a direction in [-1, 1] that is smaller is 0.
_ZERO = 1e-7


def incidence(rows: PromptRows) -> csr_array:
    """Return the (R, K) matrix of `s -> s(y+) - s(y-)`."""
    number = np.arange(len(rows.count))
    entries = np.concatenate((np.ones(number.size), -np.ones(number.size)))
    at = np.concatenate((number, number)), np.concatenate((rows.winner, rows.loser))
    return csr_array(coo_array((entries, at), (number.size, rows.size)))


def flat_direction(rows: PromptRows, right: FloatArray, left: FloatArray) -> FloatArray | None:
    """Return a direction, not constant, with `F'(d) <= 0`; None if there is none.

    Parameters
    ----------
    rows : PromptRows
    right, left : (R,) arrays
        Slopes, `right + left >= 0`.

    Returns
    -------
    (K,) array with entries in [-1, 1], or None

    Raises
    ------
    RuntimeError
        If the linear program fails.
    """
    size, number = rows.size, len(rows.count)
    scale = rows.count / rows.count.max()
    differences = incidence(rows)
    diagonal = identity(number)
    rise = csr_array(np.concatenate((np.zeros(size), scale))[None])
    above = vstack(
        (
            hstack((differences.multiply(right[:, None]), -diagonal)),
            hstack((differences.multiply(-left[:, None]), -diagonal)),
            rise,
        )
    )
    # One response stays, which rules constants out; whoever leaves has a weight in `seen`, and no
    # cone but 0 has two signs of it at most 0, unless it is orthogonal to these odd numbers.
    bounds = [(0.0, 0.0)] + [(-1.0, 1.0)] * (size - 1) + [(None, None)] * number
    seen = np.concatenate((_odd_numbers(size), np.zeros(number)))
    for sign in (-1.0, 1.0):
        where = f"prompt {rows.prompt}"
        result = linear_program(sign * seen, above, np.zeros(2 * number + 1), bounds, where)
        direction = np.asarray(result.x[:size])
        if np.abs(direction).max() > _ZERO:
            return direction
    return None


def far_side(direction: FloatArray) -> IntArray:
    """Return the places at which a direction is largest."""
    return np.nonzero(direction >= direction.max() - _ZERO)[0]


def _odd_numbers(size: int) -> FloatArray:
    """Return fixed weights without simple relations between them."""
    return np.asarray(0.5 + np.modf(np.sqrt(np.arange(2, size + 2)) * np.pi)[0])
