"""Bradley-Terry labels: `u < sigma(t)`, exact to a few ulp, mostly without computing sigma.

A response has a code: the whole part of its log-odds above the lowest of its prompt, in units of a
step d.  Codes that differ by k bound the log-odds of a pair, `d (k - 1) < t < d (k + 1)`, and a
uniform number outside `[sigma(d (k - 1)), sigma(d (k + 1))]` decides the label at once; the others,
a share of at most d/2, get the exponential.  One step serves all prompts.

Source: Bradley and Terry 1952.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.elementary import exp

# The least step, so that no quotient of rewards by it overflows.
_LEAST_STEP = 2.0**-30
# In steps, for the rounding of codes, which is below 2^-40 of them.
_SLACK = 2.0**-10


@EXACT
def first_wins(u: float, odds: float) -> bool:
    """Return whether `u < sigma(odds)`; the probability is right to a few ulp of itself."""
    e = exp(-abs(odds))
    return u * (1.0 + e) < (1.0 if odds >= 0.0 else e)


@EXACT
def widest(reward: FloatArray, temperature: float, first: int, last: int) -> float:
    """Return the largest range of log-odds in the prompts from `first` to before `last`.

    Where it is finite, no difference of two rewards of a prompt overflows.
    """
    most = 0.0
    for x in range(first, last):
        low, high = reward[x, 0], reward[x, 0]
        for y in range(reward.shape[1]):
            low = min(low, reward[x, y])
            high = max(high, reward[x, y])
        most = max(most, (high - low) / temperature)
    return most


@EXACT
def code_of(reward: float, lowest: float, temperature: float, step: float) -> np.uint64:
    """Return the code of a response."""
    return np.uint64(np.int64((reward - lowest) / temperature / step))


def step_for(width: float, code_bits: int) -> float:
    """Return the step with which codes of log-odds up to `width` stay below `2^code_bits`."""
    # One code less than there are, as the quotient of the largest may be rounded up.
    return max(width / ((1 << code_bits) - 1), _LEAST_STEP)


def bounds_of(step: float, code_bits: int) -> FloatArray:
    """Return bounds of `P(first wins)` for every difference of codes.

    Returns
    -------
    (2^(code_bits + 1), 2) array
        Row `k + 2^code_bits`: a lower and an upper bound where codes differ by k.
    """
    most = 1 << code_bits
    k = np.arange(-most, most, dtype=np.float64)
    steps = np.stack((k - (1 + _SLACK), k + (1 + _SLACK)), axis=1)
    return np.asarray(expit(steps * step))
