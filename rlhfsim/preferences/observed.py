"""The preferences that a dataset shows."""

from __future__ import annotations

import numpy as np

from rlhfsim.data import PairCounts, PreferenceData, count_pairs
from rlhfsim.preferences.general import GeneralPreference


def observed_preference(data: PreferenceData | PairCounts) -> GeneralPreference:
    """Return the shares of wins, `P(y beats y' | x) = wins(y, y') / (wins(y, y') + wins(y', y))`.

    Pairs that were never compared tie.  The winners and the transitivity of the result are those
    of the data: a sample from a transitive model may be cyclic, its law (exact probabilities in
    place of counts) is not.

    Parameters
    ----------
    data : PreferenceData or PairCounts
        The result takes `X Y Y` floats.

    Raises
    ------
    ValueError
        If `data` is neither.
    """
    counts = data if isinstance(data, PairCounts) else count_pairs(data)
    wins = np.zeros((*counts.shape, counts.shape[1]))
    np.add.at(wins, (counts.prompt, counts.winner, counts.loser), counts.count)
    total = wins + np.swapaxes(wins, 1, 2)
    share = np.full_like(wins, 0.5)
    np.divide(wins, total, out=share, where=total > 0)
    return GeneralPreference(share)
