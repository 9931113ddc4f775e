"""Poisson probabilities in logarithms, accurate for counts of any size.

Written out, `k log(m) - m - log(k!)` subtracts terms of the size of `k log k` and leaves an
absolute error of `eps k log k`: 1e-7 at k = 1e8.  Here each term is of the size of the result.

Source: Loader 2000, "Fast and accurate computation of binomial probabilities".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL

# log(k!) - log(sqrt(2 pi k) (k/e)^k) for k = 0 .. 15 (entry 0 is not used); mpmath, 40 digits.
_SMALL = np.array(
    [
        0.0,
        0.08106146679532725822,
        0.041340695955409294094,
        0.027677925684998339149,
        0.020790672103765093112,
        0.016644691189821192163,
        0.013876128823070747999,
        0.011896709945891770095,
        0.010411265261972096497,
        0.0092554621827127329177,
        0.0083305634333628712565,
        0.007573675487951840795,
        0.0069428401072095298657,
        0.0064089941880042070684,
        0.0059513701127588477356,
        0.005554733551962801371,
    ]
)
# Coefficients of 1/k, 1/k^3, ...; at k = 16 the first one left out is 1.4e-18.
_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


def stirling_error(count: ArrayLike) -> FloatArray:
    """Return `log(k!) - log(sqrt(2 pi k) (k/e)^k)` for whole numbers `k >= 1`."""
    k = np.asarray(count, dtype=np.float64)
    small = k < len(_SMALL)
    inverse = 1.0 / np.where(small, len(_SMALL), k)
    square = inverse * inverse
    series = np.zeros_like(inverse)
    for coefficient in reversed(_SERIES):
        series = series * square + coefficient
    table = _SMALL[np.where(small, k, 0).astype(np.int64)]
    return np.where(small, table, series * inverse)


def log_poisson(count: ArrayLike, mean: ArrayLike) -> FloatArray:
    """Return `log(m^k e^(-m) / k!)`, the log-probability of k under a Poisson law of mean m.

    It is `-(k log(k/m) - k + m) - log(2 pi k)/2 - stirling_error(k)`, and `-m` at k = 0; the first
    bracket is the generator of KL, without cancellation near k = m.

    Parameters
    ----------
    count : array of whole numbers, at least 0
    mean : array, positive

    Returns
    -------
    array of the common shape, in nats
    """
    k, m = np.broadcast_arrays(np.asarray(count, dtype=np.float64), mean)
    least = np.maximum(k, 1.0)
    rest = 0.5 * np.log(2.0 * np.pi * least) + stirling_error(least)
    return -KL().perspective(k, m) - np.where(k > 0, rest, 0.0)
