"""XPO: what optimism promises, what coverability costs, and that exploration has to be deliberate.

With `pi* = argmax J_beta`, proportional to `p e^{r/beta}`, the *implicit reward* of a policy is
`beta log(pi/p)`; that of pi* is r less its value, a constant per prompt ("implicit Q*").

Source: arXiv 2405.21046.  The instances, and every constant, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from scipy.special import logsumexp

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import Rows, average, betas, distributions, rewards, sorts
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim
from rlhfsim.claims.xpo_runs import XPO_RUN_CLAIMS
from rlhfsim.divergences import KL
from rlhfsim.online.xpo import coverability, covering_distribution
from rlhfsim.solvers import solve

_SOURCE = "arXiv 2405.21046"


# ---- values and implicit rewards -----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Policies(Rows):
    """N problems of one prompt, each with a policy and a policy that samples."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "reward": "real", "policy": "simplex", "sampler": "simplex",
        "beta": "positive",
    }  # fmt: skip

    reference: FloatArray  # (N, Y)
    reward: FloatArray  # (N, Y)
    policy: FloatArray  # (N, Y)
    sampler: FloatArray  # (N, Y): nu
    beta: FloatArray  # (N,)

    def valid(self) -> BoolArray:
        """Return whether all policies have full support."""
        every = np.stack((self.reference, self.policy, self.sampler))
        return np.asarray((every > 0).all(axis=(0, 2)))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random problems of 2 to 6 responses."""
        sort, size = sorts(n, rng), int(rng.integers(2, 7))
        p, pi, nu = (distributions(sort, (size,), rng) for _ in range(3))
        return cls(p, rewards(sort, (size,), rng), pi, nu, betas(sort, rng, least=0.3))


def _optimum(x: Policies) -> FloatArray:
    """Return pi*."""
    return solve(x.reward, x.reference, KL(), x.beta).policy


def _value(x: Policies, policy: FloatArray) -> FloatArray:
    """Return `J_beta`."""
    return average(policy, x.reward) - x.beta * KL()(policy[:, None], x.reference[:, None])


def _implicit(x: Policies, policy: FloatArray) -> FloatArray:
    """Return the implicit reward."""
    return x.beta[:, None] * (np.log(policy) - np.log(x.reference))


def _rounding(x: Policies) -> FloatArray:
    logs = np.abs(np.log(x.reference)).max(axis=1) + np.abs(np.log(x.policy)).max(axis=1)
    return 2.0 * RESOLUTION * (np.abs(x.reward).max(axis=1) + x.beta * (1.0 + logs))


def _decomposition(x: Policies) -> FloatArray:
    gap = _implicit(x, x.policy) - _implicit(x, _optimum(x))
    error = _implicit(x, x.policy) - x.reward
    return average(x.sampler, gap) + average(x.policy, error) - average(x.sampler, error)


def _generic() -> Policies:
    one = np.array
    return Policies(
        one([[0.5, 0.3, 0.2]]), one([[0.3, 1.0, -0.2]]), one([[0.2, 0.2, 0.6]]),
        one([[0.1, 0.5, 0.4]]), one([0.7]),
    )  # fmt: skip


# ---- optimism ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Classes(Rows):
    """N classes of optima of K rewards at one prompt, of which the first is the truth."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "rewards": "real", "sampler": "simplex", "beta": "positive",
        "alpha": "positive",
    }  # fmt: skip

    reference: FloatArray  # (N, Y)
    rewards: FloatArray  # (N, K, Y)
    sampler: FloatArray  # (N, Y): draws the responses that optimism moves away from
    beta: FloatArray  # (N,)
    alpha: FloatArray  # (N,)

    def valid(self) -> BoolArray:
        """Return whether the reference has full support."""
        return np.asarray((self.reference > 0).all(axis=1))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random classes of 2 to 6 policies over 2 to 6 responses."""
        sort, size = sorts(n, rng), int(rng.integers(2, 7))
        p, nu = (distributions(sort, (size,), rng) for _ in range(2))
        values = np.clip(rewards(sort, (int(rng.integers(2, 7)), size), rng), -5.0, 5.0)
        alpha = 10.0 ** rng.uniform(-2.0, 1.0, size=n)
        return cls(p, values, nu, betas(sort, rng, least=0.3), alpha)


def _class_logs(x: Classes) -> FloatArray:
    """Return the (N, K, Y) log-probabilities of the class."""
    logits = np.log(x.reference)[:, None] + x.rewards / x.beta[:, None, None]
    return np.asarray(logits - logsumexp(logits, axis=-1, keepdims=True))


def _losses(x: Classes, logs: FloatArray) -> FloatArray:
    """Return the (N, K) expected DPO losses of a comparison of two draws from the reference."""
    score = x.beta[:, None, None] * (logs - np.log(x.reference)[:, None])
    margin = score[..., :, None] - score[..., None, :]
    truth = x.rewards[:, 0, :, None] - x.rewards[:, 0, None, :]
    wins = np.exp(-np.logaddexp(0.0, -truth))
    # Either of the two draws may be the winner.
    weight = 2.0 * x.reference[:, :, None] * x.reference[:, None, :] * wins
    return np.asarray((weight[:, None] * np.logaddexp(0.0, -margin)).sum(axis=(-2, -1)))


def _chosen(x: Classes) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return (N, Y) logs of what XPO takes and of pi*, and the (N,) losses of the two."""
    logs = _class_logs(x)
    losses = _losses(x, logs)
    objective = x.alpha[:, None] * average(x.sampler[:, None], logs) + losses
    rows, best = np.arange(len(x)), objective.argmin(axis=1)
    return logs[rows, best], logs[:, 0], losses[rows, best], losses[:, 0]


def _regret_chosen(x: Classes) -> FloatArray:
    taken, truth, _, _ = _chosen(x)
    return x.beta * average(np.exp(taken), taken - truth)


def _promised(x: Classes) -> FloatArray:
    taken, _, loss, true_loss = _chosen(x)
    error = x.beta[:, None] * (taken - np.log(x.reference)) - x.rewards[:, 0]
    shift = average(np.exp(taken), error) - average(x.sampler, error)
    return x.beta / x.alpha * (true_loss - loss) + shift


def _class_rounding(x: Classes) -> FloatArray:
    taken, _, loss, true_loss = _chosen(x)
    size = np.abs(x.rewards).max(axis=(1, 2)) + x.beta * np.abs(taken).max(axis=1)
    size = size + x.beta * np.abs(np.log(x.reference)).max(axis=1)
    return 4.0 * RESOLUTION * (1.0 + size + x.beta / x.alpha * (loss + true_loss))


def _at_odds() -> Classes:
    """Return the truth and a rival to which optimism is just drawn."""
    p, nu, beta = np.array([[0.7, 0.3]]), np.array([[0.9, 0.1]]), np.array([0.5])
    found = Classes(p, np.array([[[0.0, 0.4], [0.0, 1.0]]]), nu, beta, np.ones(1))
    logs = _class_logs(found)
    losses, promise = _losses(found, logs)[0], average(nu[:, None], logs)[0]
    alpha = (losses[1] - losses[0]) / (promise[0] - promise[1]) * (1.0 + 1e-6)
    return Classes(p, found.rewards, nu, beta, np.array([alpha]))


# ---- coverability --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sequences(Rows):
    """N sequences of T policies at one prompt, and a distribution that may cover them."""

    parametrization: ClassVar[dict[str, str]] = {"policies": "simplex", "cover": "simplex"}

    policies: FloatArray  # (N, T, Y)
    cover: FloatArray  # (N, Y): mu

    def valid(self) -> BoolArray:
        """Return whether mu has full support."""
        return np.asarray((self.cover > 0).all(axis=1))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random sequences of 1 to 8 policies of 2 to 6 responses, some of them sure."""
        sort, size = sorts(n, rng), int(rng.integers(2, 7))
        policies = distributions(sort, (int(rng.integers(1, 9)), size), rng)
        sure = np.eye(size)[rng.integers(size, size=policies.shape[:2])]
        policies = np.where(rng.random((n, 1, 1)) < 0.3, sure, policies)
        return cls(policies, distributions(sort, (size,), rng))


def _coverabilities(x: Sequences) -> FloatArray:
    return np.array([coverability(pi[:, None], np.ones(1)) for pi in x.policies])


def _ratio_to_cover(x: Sequences) -> FloatArray:
    return np.asarray((x.policies / x.cover[:, None]).max(axis=(1, 2)))


def _potential(x: Sequences) -> FloatArray:
    """Return `sum_t sum_y pi_t^2/(m + sum_{i<t} pi_i)`, `m = max_t pi_t`."""
    most = x.policies.max(axis=1, keepdims=True)
    before = np.cumsum(x.policies, axis=1) - x.policies
    under = np.where(most > 0, most + before, 1.0)
    return np.asarray((x.policies**2 / under).sum(axis=(1, 2)))


def _potential_bound(x: Sequences) -> FloatArray:
    covered = x.policies.max(axis=1).sum(axis=1)
    return np.asarray(covered * np.log2(1.0 + x.policies.shape[1] / covered))


def _covered_best() -> Sequences:
    policies = np.array([[[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]])
    return Sequences(policies, covering_distribution(policies[0][:, None], np.ones(1)))


def _all_sure() -> Sequences:
    return Sequences(np.eye(3)[None], np.full((1, 3), 1.0 / 3.0))


def _one_policy() -> Sequences:
    return Sequences(np.array([[[0.5, 0.3, 0.2]]]), np.full((1, 3), 1.0 / 3.0))


XPO_CLAIMS: tuple[
    Claim[Policies] | Claim[Classes] | Claim[Sequences] | RateClaim | ProbabilityClaim, ...
] = (
    Claim(
        "implicit reward of the regularized optimum",
        "E_nu[r - beta log(pi*/p)] = beta log E_p e^(r/beta) for every nu",
        f"{_SOURCE}, implicit Q*-approximation",
        "identity",
        lambda x: average(x.sampler, x.reward - _implicit(x, _optimum(x))),
        lambda x: x.beta * logsumexp(np.log(x.reference) + x.reward / x.beta[:, None], axis=1),
        _generic,
        resolution=_rounding,
    ),
    Claim(
        "regret from implicit rewards",
        "J_beta(pi*) - J_beta(pi) = E_nu[beta log pi - beta log pi*] + (E_pi - E_nu)"
        "[beta log(pi/p) - r] for every nu",
        f"{_SOURCE}, regret decomposition",
        "identity",
        lambda x: _value(x, _optimum(x)) - _value(x, x.policy),
        _decomposition,
        _generic,
        resolution=_rounding,
    ),
    Claim(
        "optimism",
        "J_beta(pi*) - J_beta(q) <= (beta/alpha)(L(pi*) - L(q)) + (E_q - E_nu)[beta log(q/p) - r], "
        "q of least alpha E_nu[log q] + L(q) in a class with pi*",
        f"{_SOURCE}, proof of theorem 3.1",
        "tight",
        _regret_chosen,
        _promised,
        _at_odds,
        resolution=_class_rounding,
    ),
    Claim(
        "coverability is a minimum",
        "max_{k, y} pi_k/mu >= sum_y max_k pi_k(y) for every mu",
        f"{_SOURCE}, section 3; arXiv 2210.04157",
        "lower",
        _ratio_to_cover,
        _coverabilities,
        _covered_best,
    ),
    Claim(
        "coverability counts",
        "C_cov <= min(K, Y), and any mu: C_cov <= max_{k, y} pi_k/mu",
        f"{_SOURCE}, section 3",
        "tight",
        _coverabilities,
        lambda x: np.minimum(np.full(len(x), min(x.policies.shape[1:])), _ratio_to_cover(x)),
        _all_sure,
    ),
    Claim(
        "coverability bounds what is new",
        "sum_t sum_y pi_t^2/(max_i pi_i + sum_{i<t} pi_i) <= C_cov log(1 + T/C_cov)/log 2",
        f"arXiv 2210.04157, which {_SOURCE} rests on; constant derived",
        "tight",
        _potential,
        _potential_bound,
        _one_policy,
    ),
    *XPO_RUN_CLAIMS,
)
