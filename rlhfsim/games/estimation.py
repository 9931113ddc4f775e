"""A preference model estimated from comparisons: the shares of wins, smoothed."""

from __future__ import annotations

import numpy as np

from rlhfsim import checks
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts
from rlhfsim.preferences import GeneralPreference


def estimated_preference(
    data: PreferenceData | PairCounts, *, smoothing: float = 1.0
) -> GeneralPreference:
    """Return `P^(y beats y') = (N(y beats y') + kappa/2) / (N(y, y') + kappa)`, 1/2 where unseen.

    Parameters
    ----------
    data : PreferenceData or PairCounts
        Counts may be fractional.
    smoothing : float
        `kappa`, at least 0: so many further comparisons of each pair, won half each.  0 gives the
        maximum of the likelihood.

    Returns
    -------
    GeneralPreference
        Of the shape of the data.

    Raises
    ------
    ValueError
        For data of another kind, and a negative smoothing.

    Source: arXiv 2312.00886 (general preferences); the estimate is that of a binomial share.
    """
    counts = as_counts(data)
    kappa = checks.positive_number("smoothing", smoothing, zero=True)
    x, y = counts.shape
    wins = np.zeros((x, y, y))
    wins[counts.prompt, counts.winner, counts.loser] = counts.count
    total = wins + np.swapaxes(wins, 1, 2) + kappa
    seen = total > 0
    # The share of losses from the differences, so that P + P^T = 1 to the last bit.
    margin = np.where(seen, (wins - np.swapaxes(wins, 1, 2)) / np.where(seen, total, 1.0), 0.0)
    return GeneralPreference(0.5 + 0.5 * margin)
