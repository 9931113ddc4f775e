"""Preference counts drawn straight from the cell probabilities, for tests of confidence sets."""

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest

from rlhfsim.data import PairCounts, PreferenceData

REPLICATIONS = 2000


def cell_probabilities(reward, reference):
    """Return the (X, Y, Y) law of (prompt, winner, loser); prompts are uniform."""
    r, p = np.asarray(reward, dtype=float), np.asarray(reference, dtype=float)
    beats = expit(r[:, :, None] - r[:, None, :])
    # Two orders of drawing the same pair; equal pairs come up once, and win with probability 1/2.
    return 2 * p[:, :, None] * p[:, None, :] * beats / len(r)


def draw_wins(rng, reward, reference, n, size):
    """Return `size` arrays (X, Y, Y) of win counts of n rows each."""
    law = cell_probabilities(reward, reference)
    drawn = rng.multinomial(n, law.ravel() / law.sum(), size=size)
    return drawn.reshape(size, *law.shape)


def counts_of(wins):
    """Return the counts of an (X, Y, Y) array; its diagonal holds equal pairs."""
    wins = np.asarray(wins, dtype=float)
    apart = wins * ~np.eye(wins.shape[1], dtype=bool)
    prompt, winner, loser = np.nonzero(apart)
    return PairCounts(
        prompt=prompt,
        winner=winner,
        loser=loser,
        count=apart[prompt, winner, loser],
        equal_pairs=float((wins - apart).sum()),
        shape=wins.shape[:2],
    )


def data_of(wins):
    """Return the rows of an (X, Y, Y) array of whole numbers."""
    wins = np.asarray(wins, dtype=np.int64)
    prompt, chosen, rejected = np.repeat(np.nonzero(wins), wins[np.nonzero(wins)], axis=1)
    return PreferenceData(prompt, chosen, rejected, wins.shape[:2])


def log_likelihood_of(wins, reward):
    """Return the log-likelihood straight from its definition."""
    r = np.asarray(reward, dtype=float)
    return -(wins * np.logaddexp(0.0, r[:, None, :] - r[:, :, None])).sum()


def interval(misses, confidence=0.999):
    """Return the Clopper-Pearson interval of a miss probability from the count."""
    found = binomtest(misses, REPLICATIONS).proportion_ci(confidence, method="exact")
    return found.low, found.high
