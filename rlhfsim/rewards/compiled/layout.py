"""How the comparisons of a prompt lie in memory, and what a kernel says about its fit.

A prompt that compares K responses takes `K (K - 1)` float64 numbers.  The first half holds, for
each pair `i < j` in the order (0, 1), (0, 2), ..., (K-2, K-1), how often i beat j; the second half,
in the same order, how often j beat i.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT

#: Fields of a fit: largest entry of the gradient, length of the last Newton step, negative
#: log-likelihood, and whether the kernel vouches for it.
GRADIENT, LENGTH, LOSS, CERTIFIED = range(4)
FIELDS = 4

#: Steps of Newton's method after which a prompt is left to the general route.
MOST_STEPS = 60
#: Rewards further apart are left to the general route: their exponentials would leave the floats.
FARTHEST = 600.0


@EXACT
def entry(table: FloatArray, index: int) -> float:
    """Return `table[index]`, without the test for an index that counts from the end."""
    return table[np.uint64(index)]


@EXACT
def row_start(i: int, size: int) -> int:
    """Return the place of the pair `(i, i + 1)`; the pair `(i, j)` is at `j - i - 1` from there."""
    return (i * (2 * size - i - 1)) >> 1


@EXACT
def pairs(size: int) -> int:
    """Return the number of pairs."""
    return (size * (size - 1)) >> 1
