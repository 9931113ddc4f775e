"""Exact tests of a median of 0: the sign test and Wilcoxon's signed ranks, with ties."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr
from scipy.stats import binom, rankdata

from rlhfsim.checks import FloatArray, IntArray

#: Most differences for which the law of the signed ranks is summed exactly.
MOST_EXACT = 200


def sign_test(differences: FloatArray) -> float:
    """Return the two-sided p-value of `P(d > 0 | d != 0) = 1/2`, exact; 1 if all are 0.

    `min(1, 2 P(Binomial(m, 1/2) >= max(wins, losses)))`, m the number that are not 0.

    Parameters
    ----------
    differences : (n,) array
    """
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return min(1.0, 2.0 * float(binom.sf(max(wins, losses) - 1, wins + losses, 0.5)))


def signed_rank_test(differences: FloatArray) -> tuple[float, bool]:
    """Return the two-sided p-value of symmetry about 0, and whether it is exact.

    W is the sum of the ranks of `|d|` (ties share their mean rank, zeros are left out) over
    positive d.  Given `|d|` all signs are equally likely, and p = min(1, 2 min(P(W <= w),
    P(W >= w))) is summed over them for at most 200 differences; for more, the normal law with the
    variance `sum rank^2 / 4` and a continuity correction.

    Parameters
    ----------
    differences : (n,) array

    Source: Wilcoxon 1945 (Biometrics Bulletin 1, 80).
    """
    nonzero = differences[differences != 0]
    if nonzero.size == 0:
        return 1.0, True
    # Twice the ranks are whole numbers, also those that ties share.
    doubled = np.rint(2.0 * rankdata(np.abs(nonzero))).astype(np.int64)
    found = int(doubled[nonzero > 0].sum())
    if nonzero.size <= MOST_EXACT:
        law = signed_rank_law(doubled)
        tail = min(float(law[: found + 1].sum()), float(law[found:].sum()))
        return min(1.0, 2.0 * tail), True
    away = abs(found - 0.5 * float(doubled.sum()))
    deviation = 0.5 * math.sqrt(float(np.square(doubled.astype(np.float64)).sum()))
    return min(1.0, 2.0 * float(ndtr(-max(0.0, away - 1.0) / deviation))), False


def signed_rank_law(ranks: IntArray) -> FloatArray:
    """Return the `(sum + 1,)` probabilities of the sums of a random half of whole-numbered ranks.

    Each rank is in the sum with probability 1/2, independently.
    """
    law = np.zeros(int(ranks.sum()) + 1)
    law[0], reach = 1.0, 0
    for rank in ranks.tolist():
        law[rank : reach + rank + 1] += law[: reach + 1].copy()
        reach += rank
        law[: reach + 1] *= 0.5
    return law
