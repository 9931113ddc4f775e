"""Rankings of K responses: the whole likelihood against the one of all pairs.

Rankings are Plackett-Luce, `P(first, second, ...) = prod_i e^r(i) / sum_{j >= i} e^r(j)`.  The
split estimate maximises the likelihood of all pairs of a ranking as if they were independent.

Source: arXiv 2301.11270.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from scipy.special import expit, softmax

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import Rows, rewards, sorts

_SOURCE = "arXiv 2301.11270"
#: Largest reward: beyond it covariances of differences lose their digits.
_LARGEST = 3.0


@dataclass(frozen=True, eq=False)
class Ranked(Rows):
    """N instances of K responses that are ranked, all of them each time."""

    parametrization: ClassVar[dict[str, str]] = {"reward": "real", "direction": "real"}

    reward: FloatArray  # (N, K), K at least 2, at most 3 in size
    direction: FloatArray  # (N, K): the combination of rewards that is estimated, not constant

    def valid(self) -> BoolArray:
        """Return whether the reward is moderate and the direction tells responses apart."""
        moderate = np.abs(self.reward).max(axis=1) <= _LARGEST
        spread = np.ptp(self.direction, axis=1)
        return np.asarray(moderate & (spread > 1e-6) & (spread < 1e6))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 2 to 4 responses."""
        sort, size = sorts(n, rng), int(rng.integers(2, 5))
        reward = np.clip(rewards(sort, (size,), rng), -_LARGEST, _LARGEST)
        whole = rng.permuted(np.broadcast_to(np.arange(size) == 0, (n, size)), axis=1)
        return cls(
            reward, np.where(rng.random((n, 1)) < 0.5, whole, rng.standard_normal((n, size)))
        )


def orders(size: int) -> IntArray:
    """Return all rankings of `size` responses, best first, (K!, K)."""
    return np.array(list(itertools.permutations(range(size))))


def law(x: Ranked) -> FloatArray:
    """Return the (N, K!) probabilities of the rankings."""
    ranked = x.reward[:, orders(x.reward.shape[1])]
    strength = np.exp(ranked - ranked.max(axis=2, keepdims=True))
    left = np.cumsum(strength[:, :, ::-1], axis=2)[:, :, ::-1]
    return np.asarray((strength / left).prod(axis=2))


def ranking_scores(x: Ranked) -> FloatArray:
    """Return the (N, K!, K) gradients of the log-likelihood of each ranking."""
    size = x.reward.shape[1]
    result = np.zeros((len(x), len(orders(size)), size))
    for k, order in enumerate(orders(size)):
        for stage in range(size - 1):
            rest = order[stage:]
            strength = np.exp(x.reward[:, rest] - x.reward[:, rest].max(axis=1, keepdims=True))
            result[:, k, rest] -= strength / strength.sum(axis=1, keepdims=True)
            result[:, k, order[stage]] += 1.0
    return result


def pair_scores(x: Ranked) -> FloatArray:
    """Return the (N, K!, K) gradients of the log-likelihood of all pairs of each ranking."""
    size = x.reward.shape[1]
    result = np.zeros((len(x), len(orders(size)), size))
    for k, order in enumerate(orders(size)):
        for winner, loser in itertools.combinations(order, 2):
            surprise = expit(x.reward[:, loser] - x.reward[:, winner])
            result[:, k, winner] += surprise
            result[:, k, loser] -= surprise
    return result


def _second_moment(x: Ranked, score: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("nk,nki,nkj->nij", law(x), score, score))


def _pair_information(x: Ranked) -> FloatArray:
    """Return the expected Hessian of the split likelihood, the Laplacian of `sigma'(gaps)`."""
    gap = x.reward[:, :, None] - x.reward[:, None, :]
    weight = expit(gap) * expit(-gap) * (1.0 - np.eye(x.reward.shape[1]))
    return np.asarray(np.eye(gap.shape[1]) * weight.sum(axis=2)[:, :, None] - weight)


def _solved(matrix: FloatArray, x: Ranked) -> FloatArray:
    """Return `M^+ d`, d the direction less its mean; the kernel of M is the constants."""
    size = x.reward.shape[1]
    centred = x.direction - x.direction.mean(axis=1, keepdims=True)
    # Adding the constants' projection makes M invertible and changes nothing on their complement.
    return _eliminated(matrix + 1.0 / size, centred)


def _eliminated(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Return `M^-1 d` of positive definite matrices, by elimination: plain arithmetic."""
    size = right.shape[1]
    rows = [[matrix[:, i, j] for j in range(size)] + [right[:, i]] for i in range(size)]
    for k in range(size):
        rows[k] = [entry / rows[k][k] for entry in rows[k]]
        for i in range(size):
            if i != k:
                factor = rows[i][k]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return np.stack([row[size] for row in rows], axis=1)


def whole_variance(x: Ranked) -> FloatArray:
    """Return the asymptotic variance, times n, of `<d, r^>` by the likelihood of rankings."""
    information = _second_moment(x, ranking_scores(x))
    solved = _solved(information, x)
    return np.asarray(np.einsum("ni,nij,nj->n", solved, information, solved))


def split_variance(x: Ranked) -> FloatArray:
    """Return the asymptotic variance, times n, of `<d, r^>` by the split likelihood: a sandwich."""
    solved = _solved(_pair_information(x), x)
    return np.asarray(np.einsum("ni,nij,nj->n", solved, _second_moment(x, pair_scores(x)), solved))


def _beats(x: Ranked) -> FloatArray:
    """`P(0 is ranked before 1)`, summed over rankings."""
    order = orders(x.reward.shape[1])
    first = (order == 0).argmax(axis=1) < (order == 1).argmax(axis=1)
    return np.asarray((law(x) * first).sum(axis=1))


def _first(x: Ranked) -> FloatArray:
    """`P(0 is ranked first)`, summed over rankings."""
    return np.asarray((law(x) * (orders(x.reward.shape[1])[:, 0] == 0)).sum(axis=1))


def _mean_score(x: Ranked, score: FloatArray) -> FloatArray:
    """`1 + E[<d, score>]`, d scaled to at most 1."""
    scaled = x.direction / np.abs(x.direction).max(axis=1, keepdims=True)
    return 1.0 + np.einsum("nk,nki,ni->n", law(x), score, scaled)


def _ones(x: Ranked) -> FloatArray:
    return np.ones(len(x))


def _variance_rounding(x: Ranked) -> FloatArray:
    # Inverses of information as small as e^-6 of its largest entry.
    return 1e5 * RESOLUTION * whole_variance(x)


def _three() -> Ranked:
    return Ranked(np.array([[1.0, 0.0, -1.0]]), np.array([[1.0, 0.0, 0.0]]))


def _last_of_four() -> Ranked:
    """One response is nearly always last: pairs with it say little, and count in full."""
    return Ranked(np.array([[3.0, 3.0, 3.0, -3.0]]), np.array([[1.0, 0.0, 0.0, 0.0]]))


def _two() -> Ranked:
    return Ranked(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]))


KWISE_CLAIMS: tuple[Claim[Ranked], ...] = (
    Claim[Ranked](
        "rankings beat their pairs",
        "asymptotic variance of <d, r^> by whole rankings <= that by all pairs of each",
        _SOURCE,
        "upper",
        whole_variance,
        split_variance,
        _two,
        _variance_rounding,
    ),
    Claim[Ranked](
        "pairs are as good as rankings",
        "asymptotic variance of <d, r^> by all pairs of each ranking <= that by whole rankings",
        f"refuted in {_SOURCE}",
        "false",
        split_variance,
        whole_variance,
        _last_of_four,
        _variance_rounding,
    ),
    Claim[Ranked](
        "pairs of a ranking are Bradley-Terry",
        "P(0 is ranked before 1) = sigma(r(0) - r(1))",
        "Luce 1959",
        "identity",
        _beats,
        lambda x: expit(x.reward[:, 0] - x.reward[:, 1]),
        _three,
    ),
    Claim[Ranked](
        "first of a ranking is the maximum entropy policy",
        "P(0 is ranked first) = e^r(0)/sum_y e^r(y), the likelihood of max-entropy IRL",
        _SOURCE,
        "identity",
        _first,
        lambda x: softmax(x.reward, axis=1)[:, 0],
        _three,
    ),
    Claim[Ranked](
        "the likelihood of rankings is consistent",
        "E[gradient of the log-likelihood] = 0 at the truth, here 1 + <d, E[gradient]> = 1",
        _SOURCE,
        "identity",
        lambda x: _mean_score(x, ranking_scores(x)),
        _ones,
        _three,
    ),
    Claim[Ranked](
        "the likelihood of all pairs is consistent",
        "E[gradient of the split log-likelihood] = 0 at the truth, here 1 + <d, E[gradient]> = 1",
        _SOURCE,
        "identity",
        lambda x: _mean_score(x, pair_scores(x)),
        _ones,
        _three,
    ),
)
