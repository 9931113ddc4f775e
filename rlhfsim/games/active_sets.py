"""Two small active-set methods: a simplex in floating point, and non-negative least squares.

The first is a guess that is verified by who calls it.  The second is not `scipy.optimize.nnls`,
which ends the process on some degenerate systems (scipy 1.17).
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray

#: Relative size of what is rounding.
_ROUNDING = 1e-12


def guessed_support(game: FloatArray) -> BoolArray | None:
    """Return which responses a minimax winner uses, as far as a simplex method sees it.

    With payoffs shifted to be positive, `M = l + 2`, the winner is proportional to the maximiser of
    `sum x` over `M x <= 1, x >= 0`.  Dantzig's rule; None where it does not end.

    Parameters
    ----------
    game : (Y, Y) array
        Skew-symmetric, with entries in [-1, 1].

    Source: Dantzig 1951.
    """
    size = len(game)
    table = np.ones((size + 1, 2 * size + 1))
    table[:size, :size] = game + 2.0
    table[:, size : 2 * size] = np.eye(size + 1, size)
    table[size, :size], table[size, -1] = -1.0, 0.0
    basis = np.arange(size, 2 * size)
    for _ in range(20 * size):
        entering = int(table[-1, :-1].argmin())
        if table[-1, entering] >= -_ROUNDING:
            break
        column = table[:size, entering]
        rises = column > _ROUNDING
        if not rises.any():
            return None
        ratio = np.where(rises, table[:size, -1] / np.where(rises, column, 1.0), np.inf)
        leaving = int(ratio.argmin())
        table[leaving] /= table[leaving, entering]
        factor = table[:, entering].copy()
        factor[leaving] = 0.0
        table -= factor[:, None] * table[leaving]
        basis[leaving] = entering
    else:
        return None
    used = np.zeros(2 * size, dtype=np.bool_)
    used[basis[table[:size, -1] > _ROUNDING]] = True
    return used[:size]


def non_negative_least_squares(matrix: FloatArray, goal: FloatArray) -> FloatArray:
    """Return the u >= 0 of least `|A u - b|`, by the method of Lawson and Hanson.

    Parameters
    ----------
    matrix : (m, n) array
    goal : (m,) array

    Returns
    -------
    (n,) array
        Where the method does not end in 10 n steps, what it has reached.

    Source: Lawson and Hanson 1974, chapter 23.
    """
    size = matrix.shape[1]
    free, point = np.zeros(size, dtype=np.bool_), np.zeros(size)
    scale = _ROUNDING * np.linalg.norm(matrix, axis=0) * max(np.linalg.norm(goal), 1.0)
    for _ in range(10 * size):
        slope = np.where(free, -np.inf, matrix.T @ (goal - matrix @ point) - scale)
        if slope.max() <= 0.0:
            break
        free[int(slope.argmax())] = True
        while True:
            trial = np.zeros(size)
            trial[free] = np.linalg.lstsq(matrix[:, free], goal, rcond=_ROUNDING)[0]
            blocked = free & (trial <= 0.0)
            if not blocked.any():
                break
            room = point[blocked] / (point[blocked] - trial[blocked])
            point = point + float(room.min()) * (trial - point)
            stopped = np.flatnonzero(blocked)[room <= room.min()]
            free[stopped], point[stopped] = False, 0.0
        point = trial
    return point
