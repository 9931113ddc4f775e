"""Behavior cloning of an expert from N demonstrations: how far the clone is, exactly.

The clone is `(N(y) + 1)/(N + Y)`, of N demonstrations drawn from the expert, N(y) of them y.

Source: arXiv 2310.17303 (demonstration-regularized RLHF), whose regret is `beta KL(pi_E || clone)`
and an error of rewards: claim "regret around a clone".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from scipy.stats import binom

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.batches import Rows, distributions, sorts
from rlhfsim.claims.statistical import RateClaim
from rlhfsim.data import DemonstrationData
from rlhfsim.divergences import KL
from rlhfsim.learners.demonstrations import behavior_cloning

_SOURCE = "arXiv 2310.17303"
#: Most demonstrations in a sampled instance.
_MOST = 200


@dataclass(frozen=True, eq=False)
class Experts(Rows):
    """N experts of one prompt, and numbers of demonstrations."""

    parametrization: ClassVar[dict[str, str]] = {"expert": "simplex"}

    expert: FloatArray  # (N, Y)
    n: FloatArray  # (N,) whole numbers, from 0 to 200

    def valid(self) -> BoolArray:
        """Return whether the numbers of demonstrations are whole."""
        return np.asarray((self.n >= 0) & (self.n == np.floor(self.n)))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random experts of 2 to 6 responses, a third of them deterministic."""
        sort, size = sorts(n, rng), int(rng.integers(2, 7))
        expert = distributions(sort, (size,), rng)
        sure = (expert == expert.max(axis=1, keepdims=True)) & (np.cumsum(expert, axis=1) > 0)
        first = np.eye(size)[sure.argmax(axis=1)]
        expert = np.where(rng.random((n, 1)) < 0.3, first, expert)
        return cls(expert, np.floor((_MOST + 1.0) ** rng.random(n)) - 1.0)


def expected_kl(expert: FloatArray, n: FloatArray) -> FloatArray:
    """Return `E[KL(expert || clone)]`, a sum over the binomial law of each count."""
    rows, size = expert.shape
    count = np.arange(int(n.max()) + 1)
    mass = binom.pmf(count, n[:, None, None], expert[:, :, None])
    logs = mass @ np.log(count + 1.0)
    clone = logs - np.log(n + size)[:, None]
    entropy = np.where(expert > 0, expert * np.log(np.where(expert > 0, expert, 1.0)), 0.0)
    return np.asarray((entropy - expert * clone).sum(axis=1).reshape(rows))


def _bound(x: Experts) -> FloatArray:
    """`log((N + Y)/(N + 1))`."""
    return np.log1p((x.expert.shape[1] - 1.0) / (x.n + 1.0))


def _listed(x: Experts) -> FloatArray:
    """Return `E[KL(expert || clone)]` by cloning every dataset of 0, 1 or 2 demonstrations."""
    size, result = x.expert.shape[1], np.zeros(len(x))
    few = _few(x)
    for k, expert in enumerate(x.expert):
        for draws in np.ndindex(*(size,) * int(few[k])):
            chosen = np.array(draws, dtype=np.int64)
            data = DemonstrationData(np.zeros_like(chosen), chosen, (1, size)) if draws else None
            clone = np.full(size, 1.0 / size) if data is None else behavior_cloning(data)[0]
            result[k] += expert[chosen].prod() * float(KL()(expert, clone))
    return result


def _few(x: Experts) -> FloatArray:
    return np.asarray(x.n % 3)


def _certain() -> Experts:
    return Experts(np.array([[1.0, 0.0, 0.0]]), np.array([7.0]))


def _mixed() -> Experts:
    return Experts(np.array([[0.5, 0.3, 0.2]]), np.array([5.0]))


def _clone_distance(n: float, _: np.random.Generator) -> float:
    return float(expected_kl(np.array([[0.5, 0.3, 0.2]]), np.array([n]))[0])


DEMONSTRATION_CLAIMS: tuple[Claim[Experts] | RateClaim, ...] = (
    Claim[Experts](
        "distance of a clone",
        "E[KL(pi_E || clone)] <= log((N + Y)/(N + 1)) <= (Y - 1)/(N + 1), N demonstrations",
        f"{_SOURCE}; constant derived (Jensen)",
        "upper",
        lambda x: expected_kl(x.expert, x.n),
        _bound,
        _certain,
    ),
    Claim[Experts](
        "expected distance of a clone",
        "E[KL(pi_E || clone)] from binomial counts = that over all datasets",
        _SOURCE,
        "identity",
        lambda x: expected_kl(x.expert, _few(x)),
        _listed,
        _mixed,
        most_instances=150,
    ),
    RateClaim(
        name="distance of a clone falls like 1/N",
        formula="E[KL(pi_E || clone)] ~ (Y - 1)/(2 N) for an expert of full support",
        source=_SOURCE,
        exponent=-1.0,
        measure=_clone_distance,
        sizes=(100.0, 300.0, 1e3, 3e3, 1e4),
        ceiling=lambda n: 1.05 * 2.0 / (2.0 * n),
        floor=lambda n: 0.9 * 2.0 / (2.0 * n),
    ),
)
