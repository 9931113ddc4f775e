"""The simplex method in rational arithmetic, for games that floating point cannot tell apart."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from rlhfsim.checks import FloatArray

_Row = list[Fraction]


def maximize(cost: FloatArray, matrix: FloatArray, bound: FloatArray) -> list[Fraction]:
    """Return a vertex that maximises `c x` over `A x <= b, x >= 0`, exactly.

    The numbers are taken as the rationals that they are.  Bland's rule, so that it ends.

    Parameters
    ----------
    cost : (n,) array
    matrix : (m, n) array
    bound : (m,) array
        At least 0, so that x = 0 is feasible.

    Returns
    -------
    list of n Fractions

    Raises
    ------
    ValueError
        For a negative bound, and a problem whose maximum is infinite.

    Source: Bland 1977 (Math. Oper. Res. 2).
    """
    if (bound < 0).any():
        raise ValueError(f"bound is {bound.min()!r}; it must not be negative")
    rows = [
        [*map(Fraction, line), *(Fraction(int(i == k)) for i in range(len(bound))), Fraction(b)]
        for k, (line, b) in enumerate(zip(matrix.tolist(), bound.tolist(), strict=True))
    ]
    last: _Row = [*(-Fraction(c) for c in cost.tolist()), *[Fraction(0)] * (len(bound) + 1)]
    basis = list(range(len(cost), len(cost) + len(bound)))
    while True:
        entering = next((j for j, v in enumerate(last[:-1]) if v < 0), None)
        if entering is None:
            break
        leaving = _leaving(rows, basis, entering)
        _pivot(rows, last, leaving, entering)
        basis[leaving] = entering
    point = [Fraction(0)] * (len(cost) + len(bound))
    for k, j in enumerate(basis):
        point[j] = rows[k][-1]
    return point[: len(cost)]


def _leaving(rows: list[_Row], basis: list[int], entering: int) -> int:
    ratios = [
        (row[-1] / row[entering], basis[k], k) for k, row in enumerate(rows) if row[entering] > 0
    ]
    if not ratios:
        raise ValueError("cost has no maximum: it is unbounded over the constraints")
    return min(ratios)[2]


def _pivot(rows: list[_Row], last: _Row, leaving: int, entering: int) -> None:
    pivot = rows[leaving][entering]
    row = rows[leaving] = [v / pivot if v else v for v in rows[leaving]]
    used = [j for j, v in enumerate(row) if v]
    for other in (*rows, last):
        factor = other[entering]
        if other is not row and factor:
            for j in used:
                other[j] -= factor * row[j]


def exact_winner(game: FloatArray) -> FloatArray:
    """Return the `(Y,)` masses of a minimax winner that uses all that some winner uses.

    It is computed exactly and rounded once.  Where winners are many it is one of them, not the
    most spread one, and may depend on the names of the responses.

    Parameters
    ----------
    game : (Y, Y) array
        Skew-symmetric to the last bit.
    """
    cost, matrix, bound = complementary_program(game)
    point = maximize(cost, matrix, bound)
    mass = point[: len(game)]
    return np.array([float(v / sum(mass)) for v in mass])


def complementary_program(game: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return c, A, b of `max sum t` over `pi - l pi >= t, t <= 1, l pi <= 0, pi, t >= 0`.

    The winners, scaled, are the `pi >= 0` with `l pi <= 0`; for each of them and every response
    `pi(y) l(y, pi) = 0`.  Some winner is strictly complementary, with `pi(y) - l(y, pi) > 0` for
    all y (Goldman and Tucker 1956), so at the maximum t = 1 throughout: what has mass at it is
    what some winner uses.
    """
    size = len(game)
    one, none = np.eye(size), np.zeros((size, size))
    matrix = np.block([[game, none], [game - one, one], [none, one]])
    bound = np.concatenate([np.zeros(2 * size), np.ones(size)])
    return np.concatenate([np.zeros(size), np.ones(size)]), matrix, bound
