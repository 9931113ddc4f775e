"""Whether a policy has given moments, by a linear program."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhfsim.checks import FloatArray

#: Share of the reference that some policy with the moments must keep everywhere.
_LEAST_SHARE = 1e-8


def require_attainable(
    reference: FloatArray, centred: FloatArray, prompt_dist: FloatArray, moments: FloatArray
) -> None:
    """Raise unless a policy `t p + s`, `s >= 0`, `t > 0`, has the moments.

    That is when an exponential tilt of p has them: the minimum of the dual is attained.

    Parameters
    ----------
    reference : (X, Y) array
    centred : (X, Y, d) array
        Features minus their moments, in units of their ranges.
    prompt_dist : (X,) array
    moments : (d,) array
        For the message.

    Raises
    ------
    ValueError
        If no policy has the moments, or only policies that leave out responses of the reference.
    ArithmeticError
        If the linear program is not solved.
    """
    from scipy.optimize import linprog

    prompt, response = np.nonzero((reference > 0) & (prompt_dist > 0)[:, None])
    equal, right = _constraints(
        np.unique(prompt, return_inverse=True)[1],
        reference[prompt, response],
        prompt_dist[prompt],
        centred[prompt, response],
    )
    cost = np.append(np.zeros(prompt.size), -1.0)
    result: Any = linprog(cost, A_eq=equal, b_eq=right, bounds=(0, None), method="highs")
    if result.status == 2:
        raise ValueError(f"moments is {moments}; no policy in the support of the reference has it")
    if result.status != 0:
        raise ArithmeticError(f"the linear program of the moments failed: {result.message}")
    if -result.fun < _LEAST_SHARE:
        raise ValueError(
            f"moments is {moments}; only policies that leave out responses of the reference have "
            "it, and no exponential tilt does"
        )


def _constraints(
    row: Any, kept: FloatArray, weight: FloatArray, centred: FloatArray
) -> tuple[Any, FloatArray]:
    """Return the equations of `(s, t)`: rows of `s + t p` sum to 1, their moments are met."""
    import scipy.sparse as sp

    rows, size = int(row.max()) + 1, len(row)
    sums = sp.csr_array((np.ones(size), (row, np.arange(size))), shape=(rows, size))
    moment = (weight[:, None] * centred).T
    of_reference = np.concatenate([np.bincount(row, weights=kept), moment @ kept])
    left: Any = sp.vstack([sums, sp.csr_array(moment)])
    equal = sp.hstack([left, sp.csr_array(of_reference[:, None])])
    return equal, np.append(np.ones(rows), np.zeros(len(moment)))
