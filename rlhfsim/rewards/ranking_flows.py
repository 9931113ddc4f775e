r"""The Plackett-Luce likelihood of one prompt: flows, curvature, and an independent certificate.

Stage k of a ranking `y_1, ..., y_K` picks `y_k` among what is left with probability
`share_kk = exp(r(y_k)) / sum_{j >= k} exp(r(y_j))`.  With `share_kj` that of `y_j` at stage k, the
negative log-likelihood F of rankings with counts c has

    dF/dr_a = sum_b f_ba - sum_b f_ab,    f_ab = sum c share_kj over y_k = a, y_j = b, j > k,
    Hessian = Laplacian of the weights    w_ab = sum c share_ki share_kj over y_i = a, y_j = b,

`f_ab` being the flow from a, picked, to b, passed over.  All terms are positive, so neither
loses accuracy where probabilities are close to 0 or 1.  Two positions of one response exchange
nothing and drop out.  For K = 2 this is the Bradley-Terry likelihood.

Source: Plackett 1975 (Appl. Statist. 24, 2); Hunter 2004 (Ann. Statist. 32, 1), section 5.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray, IntArray

#: Largest number of (ranking, stage, position) triples held in memory at once.
_CHUNK = 1 << 18


class RankingFlows:
    """Flows and weights as functions of the rewards of one prompt's `P` responses.

    Parameters
    ----------
    ranking : (U, K) array of integers below P
        Best first.
    count : (U,) array
    size : int
        P.
    """

    def __init__(self, ranking: IntArray, count: FloatArray, size: int) -> None:
        self.ranking, self.count, self.size = ranking, count, size
        ranks = ranking.shape[1]
        self._better, self._worse = np.triu_indices(ranks, 1)
        self._rows = max(1, max(_CHUNK, size * size) // (ranks * ranks))

    def wins(self) -> FloatArray:
        """Return the (P, P) counts of how often the row was ranked above the column."""
        total = np.zeros((self.size, self.size))
        for start in range(0, len(self.count), self._rows):
            rows = slice(start, start + self._rows)
            count = np.broadcast_to(
                self.count[rows, None], (len(self.count[rows]), len(self._better))
            )
            total += self._scatter(rows, count)
        return _without_diagonal(total)

    def at(self, r: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the (P, P) flows and the symmetric (P, P) weights at the rewards r."""
        flow, weight = np.zeros((2, self.size, self.size))
        for start in range(0, len(self.count), self._rows):
            rows = slice(start, start + self._rows)
            share = _shares(r[self.ranking[rows]])
            count = self.count[rows, None]
            joint = np.matmul(share.transpose(0, 2, 1), share)
            flow += self._scatter(rows, count * share[:, self._better, self._worse])
            weight += self._scatter(rows, count * joint[:, self._better, self._worse])
        return _without_diagonal(flow), _without_diagonal(weight + weight.T)

    def _scatter(self, rows: slice, values: FloatArray) -> FloatArray:
        """Return the (P, P) sums of values of (better, worse) positions."""
        better = self.ranking[rows][:, self._better]
        place = better * self.size + self.ranking[rows][:, self._worse]
        total = np.bincount(place.ravel(), weights=values.ravel(), minlength=self.size**2)
        return np.asarray(total.reshape(self.size, self.size))


def log_likelihood(ranking: IntArray, count: FloatArray, reward: FloatArray) -> float:
    """Return `sum_u c_u sum_k [r(y_k) - log sum_{j >= k} exp r(y_j)]`, in nats.

    Parameters
    ----------
    ranking : (U, K) array of integers
    count : (U,) array
    reward : (U, K) array
        Rewards of the ranked responses.

    Source: Plackett 1975.
    """
    assert ranking.shape == reward.shape
    return float((count[:, None] * (reward - _log_suffix_sums(reward))).sum())


def stationarity(
    ranking: IntArray,
    count: FloatArray,
    r: FloatArray,
    bounds: tuple[float, float],
    ridge: float,
) -> float:
    """Return the largest violation of the KKT conditions at r, in rankings.

    `|dF/dr_a + ridge r_a|` between the bounds; on one, only the part that points inwards.
    """
    # From exponentials and their running sums, apart from the flows that the solver uses.
    power = np.exp(r - r.max())[ranking]
    left = power[:, ::-1].cumsum(axis=1)[:, ::-1]
    # The last stage has one response left and is certain.
    rate = np.concatenate((1.0 / left[:, :-1], np.zeros((len(left), 1))), axis=1).cumsum(axis=1)
    picked = np.ones(ranking.shape)
    picked[:, -1] = 0.0
    terms = count[:, None] * (power * rate - picked)
    gradient = np.bincount(ranking.ravel(), weights=terms.ravel(), minlength=len(r)) + ridge * r
    lower, upper = bounds
    too_high = np.where(r <= lower, 0.0, np.maximum(gradient, 0.0))
    too_low = np.where(r >= upper, 0.0, np.maximum(-gradient, 0.0))
    return float(np.maximum(too_high, too_low).max())


def _shares(value: FloatArray) -> FloatArray:
    """Return the (U, K, K) shares, stage before position; 0 for positions already picked."""
    ranks = value.shape[1]
    gap = value[:, None, :] - _log_suffix_sums(value)[:, :, None]
    left = np.triu(np.ones((ranks, ranks), dtype=np.bool_))
    return np.exp(np.where(left, gap, -np.inf))


def _log_suffix_sums(value: FloatArray) -> FloatArray:
    """Return `log sum_{j >= k} exp(value_j)` along the last axis."""
    return np.asarray(np.logaddexp.accumulate(value[:, ::-1], axis=1)[:, ::-1])


def _without_diagonal(matrix: FloatArray) -> FloatArray:
    np.fill_diagonal(matrix, 0.0)
    return matrix
