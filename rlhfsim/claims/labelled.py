"""Labelled pairs of one prompt, and the losses of direct methods on them.

`L` is the population loss of pairs `y, z ~ p` iid, labelled by Bradley-Terry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from scipy.special import expit, log_expit

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.claims.base import RESOLUTION
from rlhfsim.claims.batches import Rows, average, betas, distributions, rewards, sorts
from rlhfsim.divergences import KL, ChiSquared, Divergence
from rlhfsim.losses.links import DivergenceLink
from rlhfsim.losses.outer import RobustLogistic
from rlhfsim.solvers import solve

#: Weights of KL beside chi-squared.
GAMMAS = (0.05, 1.0, 10.0)
#: Shares of labels that are turned round.
RATES = (0.01, 0.2, 0.45)


@dataclass(frozen=True, eq=False)
class Labelled(Rows):
    """N instances of one prompt: response 0 was chosen over response 1, or all pairs are drawn."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "policy": "simplex", "reward": "real", "feature": "real",
        "beta": "positive", "step": "positive",
    }  # fmt: skip

    reference: FloatArray  # (N, Y), Y at least 3
    policy: FloatArray  # (N, Y) of full support
    reward: FloatArray  # (N, Y)
    feature: FloatArray  # (N, Y): of log-linear policies with one parameter
    beta: FloatArray  # (N,) at least range of the reward over 20
    step: FloatArray  # (N,) learning rate
    setting: IntArray  # (N,) which of GAMMAS and RATES

    def valid(self) -> BoolArray:
        """Return whether both laws have full support, and beta suits the reward."""
        full = ((self.reference > 0) & (self.policy > 0)).all(axis=1)
        return np.asarray(full & (20.0 * self.beta >= np.ptp(self.reward, axis=1) * (1.0 - 1e-9)))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 3 to 6 responses."""
        sort, size = sorts(n, rng), int(rng.integers(3, 7))
        reference, reward = distributions(sort, (size,), rng), rewards(sort, (size,), rng)
        step = np.where(rng.random((n, 1)) < 0.3, 10.0 ** rng.uniform(-6.0, 0.0, (n, 1)), 1.0)
        policy = (1.0 - step) * reference + step * distributions(sort, (size,), rng)
        return cls(
            reference, policy, reward, rewards(sort, (size,), rng),
            np.maximum(betas(sort, rng), np.ptp(reward, axis=1) / 20.0),
            10.0 ** rng.uniform(-3.0, 1.0, size=n), rng.integers(0, len(GAMMAS), size=n),
        )  # fmt: skip


#: A divergence for each setting.
Family = Callable[[int], Divergence]


def kl(setting: int) -> Divergence:
    """Return KL, of DPO."""
    return KL()


def mixed(setting: int) -> Divergence:
    """Return chi-squared plus gamma KL, of chiPO."""
    return ChiSquared() + GAMMAS[setting] * KL()


# ---- sides ---------------------------------------------------------------------------------------


def optimum(x: Labelled, family: Family, reward: FloatArray | None = None) -> FloatArray:
    """Return `argmax E_pi[r] - beta D(pi || p)`, by default of the true reward."""
    r, policy = x.reward if reward is None else reward, np.empty_like(x.reference)
    for setting in np.unique(x.setting).tolist():
        rows = x.setting == setting
        policy[rows] = solve(r[rows], x.reference[rows], family(setting), x.beta[rows]).policy
    return policy


def scores(x: Labelled, family: Family, policy: FloatArray) -> FloatArray:
    """Return `beta f'(pi/p)`, the implicit reward."""
    result, log_ratio = np.empty_like(policy), np.log(policy) - np.log(x.reference)
    for setting in np.unique(x.setting).tolist():
        rows = x.setting == setting
        result[rows] = DivergenceLink(family(setting)).value(log_ratio[rows])
    return np.asarray(x.beta[:, None] * result)


def gaps(values: FloatArray) -> FloatArray:
    """Return (N, Y, Y) differences `v(y) - v(z)`."""
    return np.asarray(values[:, :, None] - values[:, None, :])


def _pairs(x: Labelled, values: FloatArray) -> FloatArray:
    """Return the mean of (N, Y, Y) values over `y, z ~ p`."""
    return np.asarray(np.einsum("ny,nz,nyz->n", x.reference, x.reference, values))


def likelihood(x: Labelled, reward: FloatArray) -> FloatArray:
    """Return `-E[P(y beats z) log sigma(r(y) - r(z))]` twice over ordered pairs: `L` of rewards."""
    return -2.0 * _pairs(x, expit(gaps(x.reward)) * log_expit(gaps(reward)))


def direct_loss(x: Labelled, family: Family, policy: FloatArray) -> FloatArray:
    """Return `L` of a policy."""
    return likelihood(x, scores(x, family, policy))


def borda(x: Labelled) -> FloatArray:
    """Return `E_{z ~ p}[P(y beats z)]`."""
    return np.asarray((expit(gaps(x.reward)) * x.reference[:, None, :]).sum(axis=2))


def ipo_optimum(x: Labelled) -> FloatArray:
    """Return the KL-regularized optimum of the win rate against p."""
    return optimum(x, kl, borda(x))


def ipo_loss(x: Labelled, policy: FloatArray) -> FloatArray:
    """Return `E[(u+ - u- - 1/(2 beta))^2]`, times `beta^2`."""
    h = gaps(scores(x, kl, policy))
    return 2.0 * _pairs(x, expit(gaps(x.reward)) * (h - 0.5) ** 2)


def ipo_resolution(x: Labelled) -> FloatArray:
    """Return the rounding of `ipo_loss`: of squares of differences of beta times logarithms."""
    # What a score loses: the logarithms of both probabilities, scaled.
    size = 1.0 + x.beta[:, None] * (np.abs(np.log(x.policy)) + np.abs(np.log(x.reference)))
    lost = size[:, :, None] + size[:, None, :]
    steep = 1.0 + np.abs(gaps(scores(x, kl, x.policy)))
    return RESOLUTION * _pairs(x, lost * steep)


def variance(x: Labelled, values: FloatArray) -> FloatArray:
    """Return `Var_p[values]`."""
    centred = values - average(x.reference, values)[:, None]
    return average(x.reference, centred**2)


def _softplus(z: np.ndarray) -> np.ndarray:
    """Return `log(1 + e^z)` of complex numbers."""
    high = z.real > 0
    return np.where(high, z, 0.0) + np.log1p(np.exp(np.where(high, -z, z)))


_STEP = 1e-22


def complex_step(x: Labelled, *, chipo_link: bool) -> FloatArray:
    """Return the derivative of the loss of (0 over 1) in `log pi(0)`, by a complex step."""
    u = (np.log(x.policy) - np.log(x.reference))[:, :2].astype(complex)
    u[:, 0] += 1j * _STEP
    score = np.exp(u) + u if chipo_link else u
    return np.asarray(_softplus(-x.beta * (score[:, 0] - score[:, 1])).imag / _STEP)


def formula(x: Labelled, *, chipo_link: bool) -> FloatArray:
    """Return `-beta sigma(-h) w phi'(w)`."""
    u = (np.log(x.policy) - np.log(x.reference))[:, :2]
    score = np.exp(u) + u if chipo_link else u
    steep = np.exp(u[:, 0]) + 1.0 if chipo_link else np.ones(len(x))
    return np.asarray(-x.beta * expit(-x.beta * (score[:, 0] - score[:, 1])) * steep)


def slope_resolution(x: Labelled, *, chipo_link: bool) -> FloatArray:
    """Return the rounding of h, a difference of scores, relative to the slope, and underflow."""
    u = (np.log(x.policy) - np.log(x.reference))[:, :2]
    score = np.exp(u) + np.abs(u) if chipo_link else np.abs(u)
    # 40: the logarithms of the two probabilities themselves.
    h = x.beta * (score.max(axis=1) + 40.0)
    return RESOLUTION * (1.0 + h) * np.abs(formula(x, chipo_link=chipo_link)) + 1e-270


def _tilted(x: Labelled, logits: FloatArray) -> FloatArray:
    weight = x.reference * np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def stepped(x: Labelled, feature: FloatArray) -> FloatArray:
    """Return the probability of the chosen response after a step of DPO from p.

    Over `pi ~ p exp(<theta, feature>)`; the gradient in theta at p, where h = 0, is
    `-beta/2 (phi+ - phi-)`.
    """
    pull = x.step * x.beta / 2.0
    theta = pull[:, None] * (feature[:, 0] - feature[:, 1])
    return _tilted(x, np.einsum("nk,nky->ny", theta, np.moveaxis(feature, 2, 1)))[:, 0]


def one_feature(x: Labelled) -> FloatArray:
    """Return (N, Y, 1) features."""
    return x.feature[:, :, None]


def tabular(x: Labelled) -> FloatArray:
    """Return (N, Y, Y) features, an indicator of each response: logits."""
    size = x.reference.shape[1]
    return np.broadcast_to(np.eye(size), (len(x), size, size))


def spread(values: FloatArray) -> FloatArray:
    """Return largest less smallest value."""
    return np.asarray(np.ptp(values, axis=1))


def chi_squared_range(x: Labelled) -> FloatArray:
    """Return the range of `beta f'(w)` at the chi-squared optimum."""
    policy = optimum(x, lambda _: ChiSquared())
    return x.beta * spread(policy / x.reference)


def robust(x: Labelled, *, flipped: bool) -> FloatArray:
    """Return DPO's loss at h = beta (u+ - u-), or robust DPO's mean over flips."""
    h = gaps(scores(x, kl, x.policy))[:, 0, 1]
    if not flipped:
        return -np.asarray(log_expit(h))
    result = np.empty(len(x))
    for number, rate in enumerate(RATES):
        rows, outer = x.setting == number, RobustLogistic(rate)
        result[rows] = (1 - rate) * outer.value(h[rows]) + rate * outer.value(-h[rows])
    return result
