"""What all kernels share: how a row is cut, scanned and checked.

A row is a sequence of blocks; a pass leaves partial sums of each block in its row of `sums`, which
are then added up in block order with compensation.  So the order of additions is a function of the
number of responses alone.
"""

from __future__ import annotations

import math

import numpy as np

from rlhfsim.checks import ROW_SUM_TOLERANCE, FloatArray
from rlhfsim.compiling import EXACT, SUMS
from rlhfsim.kernels.intrinsics import bits, fma, larger, prefetch, prefetch_to_write, smaller
from rlhfsim.kernels.vectors import LANES, spread, store, take, total

#: Responses per block: reward, reference and policy of a block together fit in a first-level cache.
BLOCK = 1024
#: Responses whose terms go to one partial sum per lane, of which a block has several.
STRIDE = 256
#: Responses up to which it pays to ask for a row's policy, and for the next row, a pass ahead: all
#: three fit in a second-level cache.  Longer rows are fetched in time as they are read.
NEAR = 8 * BLOCK
#: Partial sums that a pass may leave per block.
WIDTH = 8
#: Numbers that a row may carry from pass to pass.
STATE = 32
#: Responses in the sample from which the first multiplier of a long row comes.
SAMPLE = 1024
_WHOLE, _FEW, _PIECES = 128, 128, 16

# What becomes of a row: a positive number is the next pass.
DONE = 0
#: Left to the general route.
GENERAL = -1
#: NaN, infinity, a negative probability or a bad row sum.
BAD = -2

# Columns of the fields of a row.
MULTIPLIER, VALUE, GAP, FEASIBILITY, TOLERANCE, STATUS = range(6)
FIELDS = 6

_EPS = float(np.finfo(np.float64).eps)
_MAGNITUDE = 0x7FFFFFFFFFFFFFFF
_INFINITY = 0x7FF0000000000000
_LARGE = 1e300
_SMALL_BETA, _LARGE_BETA = 1e-280, 1e280


@SUMS
def scan(r: FloatArray, p: FloatArray) -> tuple[float, float, float, float, bool]:
    """Return max r, min r, sum p, min p, and whether every entry is finite and no p negative."""
    high, low, total, rarest = -np.inf, np.inf, 0.0, np.inf
    word_r, word_p = np.int64(0), np.int64(0)
    for i in range(r.size):
        x, q = np.float64(r[i]), np.float64(p[i])
        high, low = larger(high, x), smaller(low, x)
        rarest = smaller(rarest, q)
        total += q
        # As integers, magnitudes are ordered like the numbers, with NaN above infinity.
        word_r = max(word_r, bits(x) & _MAGNITUDE)
        word_p = max(word_p, bits(q) & _MAGNITUDE)
    clean = bool(word_r < _INFINITY) and bool(word_p < _INFINITY) and rarest >= 0.0
    return high, low, total, rarest, clean


@EXACT
def fetch_policy(o: FloatArray, begin: int, length: int) -> None:
    """Ask for entries of the policy that a later pass will write."""
    if o.size <= NEAR:
        for i in range(begin, begin + length, 8):
            prefetch_to_write(o, i)


@EXACT
def fetch_next(r: FloatArray, p: FloatArray, begin: int, length: int) -> None:
    """Ask for entries of the next row, or further down."""
    if r.size <= NEAR:
        ahead = max(r.size, BLOCK)
        for i in range(begin + ahead, begin + ahead + length, 8):
            prefetch(r, i)
            prefetch(p, i)


@EXACT
def supported(r: FloatArray, p: FloatArray) -> tuple[float, float]:
    """Return max and min of r where p > 0: `(-inf, inf)` where it is nowhere."""
    high, low = -np.inf, np.inf
    for i in range(r.size):
        if p[i] > 0.0:
            high, low = max(high, r[i]), min(low, r[i])
    return high, low


@EXACT
def take_sample(r: FloatArray, p: FloatArray, sample: FloatArray) -> tuple[int, float, float]:
    """Copy pieces from all over the row to `sample`; return their number, mass and mean reward.

    A short row is copied whole, and filled up with responses of mass 0.  Rows may be sorted, so the
    pieces are spread evenly.
    """
    pieces, length, stride = 1, -(-r.size // LANES) * LANES, 0
    if r.size > _WHOLE:
        pieces = _PIECES
        length = (_FEW if r.size <= 8 * BLOCK else SAMPLE) // pieces
        stride = (r.size - length) // (pieces - 1)
    mass, weighted, n = spread(0.0), spread(0.0), 0
    for k in range(pieces):
        for i in range(k * stride, k * stride + length, LANES):
            x, q = take(r, i, r.size, r[0]), take(p, i, r.size, 0.0)
            store(sample, n, x)
            store(sample, SAMPLE + n, q)
            mass, weighted, n = mass + q, fma(q, x, weighted), n + LANES
    share = total(mass)
    return n, share, total(weighted) / share


@EXACT
def total_of(sums: FloatArray, column: int, n_blocks: int) -> float:
    """Return the sum of a column, by Neumaier's compensated summation."""
    value, lost = 0.0, 0.0
    for b in range(n_blocks):
        x = sums[b, column]
        new = value + x
        lost += (value - new) + x if abs(value) >= abs(x) else (x - new) + value
        value = new
    return value + lost


@EXACT
def rounding(size: int, eps: float) -> float:
    """Return the relative error that a pairwise sum of `size` rounded terms may carry."""
    return eps * (16.0 + math.log2(size))


@EXACT
def usable(high: float, low: float, beta: float) -> bool:
    """Return whether the kernels' arithmetic stays far from the ends of the floats."""
    spread = high - low
    return (
        _SMALL_BETA < beta < _LARGE_BETA
        and max(abs(high), abs(low)) < _LARGE
        and spread < _LARGE * min(beta, 1.0)
    )


@EXACT
def sums_to_one(mass: float, size: int, eps: float) -> bool:
    """Return whether a row sum is within tolerance; see `checks.row_sum_tolerance`."""
    slack = 0.0 if eps == _EPS else eps * (16.0 + math.sqrt(size))
    return abs(mass - 1.0) <= ROW_SUM_TOLERANCE + slack


@EXACT
def certify(
    fields: FloatArray,
    multiplier: float,
    value: float,
    gap: float,
    mass: float,
    tolerance: float,
    margin: float,
) -> int:
    """Write the fields of a row and return DONE, or GENERAL where the certificate is bad."""
    fields[0] = multiplier
    fields[1] = value
    fields[2] = gap
    fields[3] = abs(mass - 1.0)
    fields[4] = tolerance
    good = abs(gap) <= tolerance and fields[3] <= margin and tolerance < np.inf
    return DONE if good and abs(value) < np.inf else GENERAL
