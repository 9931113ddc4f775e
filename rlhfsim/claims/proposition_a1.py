"""Proposition A.1 of arXiv 2407.13399 in the sample size: KL loses 1/log n, chi-squared 1/sqrt n.

On `instances.proposition_a1(n)`, by what happens when the wrong reward `r~` is learned, and by how
often that is.  The KL-regularized regret is slow to reach its rate (its relative distance to the
limit is of order `ln ln n / ln n`), so it is evaluated as a function of `ln n`, up to n = e^(10^6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from rlhfsim.bounds import proposition_a1_floor_by_log as kl_floor
from rlhfsim.bounds import sharp_chi_squared_bound
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.batches import Rows
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.instances import proposition_a1
from rlhfsim.laws import population_pairs
from rlhfsim.rewards import FiniteClass, fit_reward
from rlhfsim.sampling import sample_preferences
from rlhfsim.solvers import solve

_SOURCE = "arXiv 2407.13399, prop. A.1"
#: Points of a grid over beta, and how often it is refined around its best point.
_POINTS, _ROUNDS = 256, 4


@dataclass(frozen=True, eq=False)
class LogSizes(Rows):
    """Sample sizes, by their logarithm."""

    parametrization: ClassVar[dict[str, str]] = {"log_n": "positive"}

    log_n: FloatArray  # (N,) at least ln 3

    def valid(self) -> BoolArray:
        """Return whether n is at least 3."""
        return np.asarray(self.log_n >= np.log(3.0))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return logarithms: of 3 to 10^15, of powers of 10, and from ln 3 to 10^6."""
        least = np.log(3.0)
        wide = least * np.exp(rng.uniform(0.0, np.log(1e6 / least), size=n))
        powers = np.log(10.0) * rng.integers(1, 300, size=n)
        usual = rng.uniform(least, np.log(1e15), size=n)
        return cls(np.choose(rng.permutation(n) % 3, [usual, powers, wide]))


def kl_regret(log_n: FloatArray, depth: FloatArray) -> FloatArray:
    """Return the regret after learning `r~` at `beta = 1 / (2 (ln n - depth))`.

    The policy is proportional to `(1/2, (1/2 - 1/n) e^(-Delta/beta), e^(1/(2 beta))/n)`, whose
    last weight is `e^-depth`, and `Delta/beta = 1 - depth / ln n`.

    Parameters
    ----------
    log_n : (N, 1) array
    depth : (N, K) array
        At most `ln n`, which is beta = infinity.

    Returns
    -------
    (N, K) array, in reward units
    """
    second = np.log(0.5 - np.exp(-log_n)) - (1.0 - depth / log_n)
    first = np.full_like(second, np.log(0.5))
    logs = np.stack([first, second, -depth])
    weights = np.exp(logs - logs.max(axis=0))
    policy = weights / weights.sum(axis=0)
    return np.asarray(policy[1] / (2.0 * log_n) + 0.5 * policy[2])


def least_kl_regret(log_n: FloatArray) -> FloatArray:
    """Return the (N,) least regret over beta after learning `r~`, by a grid that is refined."""
    sizes = np.asarray(log_n, dtype=np.float64)[:, None]
    # The best depth is near ln ln n; the grid goes evenly up to 10, then geometrically to ln n.
    middle = np.minimum(10.0, 0.5 * sizes)
    share = np.linspace(0.0, 1.0, _POINTS)
    near = -6.0 + (middle + 6.0) * share
    far = middle * (sizes / middle) ** share
    grid = np.concatenate([near, far[:, 1:]], axis=1)
    regret = kl_regret(sizes, grid)
    for _ in range(_ROUNDS):
        best = regret.argmin(axis=1)[:, None]
        low = np.take_along_axis(grid, np.maximum(best - 1, 0), axis=1)
        high = np.take_along_axis(grid, np.minimum(best + 1, grid.shape[1] - 1), axis=1)
        grid = low + (high - low) * share
        regret = kl_regret(sizes, grid)
    return regret.min(axis=1)


def wrong_regret(n: float, kl_weight: float) -> float:
    """Return the regret of `D_chi2 + kl_weight KL` at `beta = 1/sqrt n` after learning `r~`."""
    instance = proposition_a1(int(n))
    divergence = ChiSquared() + kl_weight * KL() if kl_weight else ChiSquared()
    policy = solve(instance.reward_class[1], instance.bandit.reference, divergence, n**-0.5).policy
    return float(instance.bandit.regret(policy, instance.comparator))


def wrong_bound(n: float, kl_weight: float) -> float:
    """Return the sharp bound on `wrong_regret`."""
    instance = proposition_a1(int(n))
    return float(
        sharp_chi_squared_bound(
            instance.bandit.reward, instance.reward_class[1], instance.bandit.reference,
            n**-0.5, instance.comparator, instance.bandit.prompt_dist, kl_weight=kl_weight,
        )
    )  # fmt: skip


def unseen_probability(n: float) -> tuple[float, float]:
    """Return P(no pair of n contains `a_2`), and its distance to `e^-2` with all its digits."""
    law = population_pairs(proposition_a1(int(n)).bandit)
    with_rare = law.count[(law.winner == 2) | (law.loser == 2)].sum()
    rare = proposition_a1(int(n)).bandit.reference[0, 2]
    exponent = n * np.log1p(-(with_rare + rare**2))
    return float(np.exp(exponent)), float(np.exp(-2.0) * abs(np.expm1(exponent + 2.0)))


def wrong_fits(n: int, replications: int, rng: np.random.Generator) -> int:
    """Return how often maximum likelihood with fair tie-breaks takes `r~`."""
    instance = proposition_a1(n)
    model = FiniteClass(instance.reward_class)
    fits = (
        fit_reward(sample_preferences(instance.bandit, n, rng), model, rng=rng)
        for _ in range(replications)
    )
    return sum(fit.index == 1 for fit in fits)


def _powers(first: int, last: int) -> tuple[float, ...]:
    return tuple(float(10**k) for k in range(first, last + 1))


def _chi_squared_rate(name: str, divergence: str, kl_weight: float) -> RateClaim:
    return RateClaim(
        name=name,
        formula=f"regret({divergence}, r~, beta = 1/sqrt n) ~ n^(-1/2), = (1 +- 4 %)/(4 sqrt n) "
        "<= sharp bound",
        source=_SOURCE,
        exponent=-0.5,
        measure=lambda n, _: wrong_regret(n, kl_weight),
        sizes=_powers(6, 14),
        floor=lambda n: 0.24 / n**0.5,
        # The sharp bound is twice that, and five times with KL, of which it counts all.
        ceiling=lambda n: min(0.26 / n**0.5, wrong_bound(n, kl_weight)),
    )


_N = 1000

PROPOSITION_A1_CLAIMS: tuple[Claim[LogSizes] | RateClaim | ProbabilityClaim, ...] = (
    Claim[LogSizes](
        name="KL regret has a floor at every beta",
        formula="min over beta of regret(KL, r~) >= (1 - 2/n) / (e + 1 - 2/n) / (2 ln n)",
        source=_SOURCE,
        kind="lower",
        left=lambda x: least_kl_regret(x.log_n),
        right=lambda x: kl_floor(x.log_n),
        witness=lambda: LogSizes(np.array([1e6])),
        assumptions="r~ is learned",
    ),
    RateClaim(
        name="KL regret falls like 1/log n at the best beta",
        formula="min over beta of regret(KL, r~) ~ 1/(2 (e + 1) ln n)",
        source=_SOURCE,
        exponent=-1.0,
        measure=lambda size, _: float(least_kl_regret(np.array([size]))[0]),
        sizes=tuple(np.geomspace(100.0, 1e6, 9).tolist()),
        variable="ln n",
        floor=lambda size: float(kl_floor(np.array([size]))[0]),
    ),
    _chi_squared_rate(
        "chi-squared regret falls like 1/sqrt n",
        "D_chi2",
        0.0,
    ),
    _chi_squared_rate(
        "mixed regret falls like 1/sqrt n",
        "D_chi2 + KL",
        1.0,
    ),
    RateClaim(
        name="the rare response stays unseen with probability e^-2",
        formula="|P(no pair contains a_2) - e^-2| = |(1 - 1/n)^(2n) - e^-2| ~ e^-2 / n",
        source=_SOURCE,
        exponent=-1.0,
        measure=lambda n, _: unseen_probability(n)[1],
        sizes=_powers(2, 8),
    ),
    ProbabilityClaim(
        name="the wrong reward is learned with constant probability",
        formula=f"P(maximum likelihood takes r~) >= (1 - 1/n)^(2n) / 2 at n = {_N}",
        source=_SOURCE,
        delta=0.5 * unseen_probability(_N)[0],
        violations=lambda replications, rng: wrong_fits(_N, replications, rng),
        replications=1000,
        bound="at least",
    ),
)
