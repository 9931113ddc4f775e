"""What pessimism over an ellipsoid of linear rewards guarantees when the truth lies in it.

`E phi_pi = E_x E_pi[phi]`, `nu` is the baseline, and norms are those of `Sigma^-1`,
`Sigma = I + sum_i d_i d_i'`.  "Gain" is `J(pi_hat) - J(nu)`; regrets are regularized,
`[J(pi) - beta KL(pi || p)] - [J(pi_hat) - beta KL(pi_hat || p)]`.

Source: arXiv 2312.11456 (options I and II), 2301.11270.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.batches import Rows, betas, distributions, rewards, sorts
from rlhfsim.data import PairCounts
from rlhfsim.divergences import KL
from rlhfsim.learners.pessimism import FixedRadius, PessimisticMLE
from rlhfsim.rewards import Linear
from rlhfsim.solvers import solve

#: Where the truth lies in the ellipsoid: in a given direction, where the learned policy gains
#: least, or where the comparator beats it by most.
GIVEN, LEAST_GAIN, MOST_REGRET = 0, 1, 2


class Outcome(NamedTuple):
    """What a learner attains on each instance, and what is guaranteed; all (N,)."""

    #: By the estimate and by the truth.
    estimated_gain: FloatArray
    gain: FloatArray
    #: Guaranteed gain.
    lower_bound: FloatArray
    regret: FloatArray
    regret_bound: FloatArray


@dataclass(frozen=True, eq=False)
class LinearProblems(Rows):
    """N instances of pessimism from pairs, with the true parameter inside the ellipsoid."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "baseline": "simplex", "comparator": "simplex",
        "prompt_dist": "simplex", "features": "real", "direction": "real", "beta": "positive",
        "radius": "positive",
    }  # fmt: skip

    reference: FloatArray  # (N, X, Y)
    baseline: FloatArray  # (N, X, Y)
    comparator: FloatArray  # (N, X, Y)
    prompt_dist: FloatArray  # (N, X)
    features: FloatArray  # (N, X, Y, d)
    wins: IntArray  # (N, X, Y, Y): how often y beat z; not all 0
    direction: FloatArray  # (N, d), not 0
    depth: FloatArray  # (N,) in [0, 1]: 1 is the boundary of the ellipsoid
    place: IntArray  # (N,) GIVEN, LEAST_GAIN or MOST_REGRET
    beta: FloatArray  # (N,)
    radius: FloatArray  # (N,)

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 1 to 3 prompts, 2 to 5 responses and 1 to 3 features."""
        sort, prompts, size = sorts(n, rng), int(rng.integers(1, 4)), int(rng.integers(2, 6))
        shape, d = (prompts, size), int(rng.integers(1, 4))
        wins = rng.integers(0, 4, size=(n, *shape, size)) * (1 - np.eye(size, dtype=np.int64))
        wins[:, 0, 0, 1] += 1
        return cls(
            distributions(sort, shape, rng), distributions(sort, shape, rng),
            distributions(sort, shape, rng), distributions(sort, (prompts,), rng),
            np.clip(rewards(sort, (*shape, d), rng), -3.0, 3.0), wins,
            rng.standard_normal((n, d)) + 1e-12,
            np.where(rng.random(n) < 0.5, 1.0, rng.random(n)), rng.integers(0, 3, size=n),
            betas(sort, rng), 10.0 ** rng.uniform(-2.0, 1.0, size=n),
        )  # fmt: skip

    @cached_property
    def worst_case(self) -> Outcome:
        """Return the outcome of option I."""
        return _outcome(self, pointwise=False)

    @cached_property
    def pointwise(self) -> Outcome:
        """Return the outcome of option II."""
        return _outcome(self, pointwise=True)

    @cached_property
    def greedy(self) -> Outcome:
        """Return the outcome of the KL optimum of the estimate, with the bounds of option I."""
        return _outcome(self, pointwise=False, greedy=True)


ProblemClaim = Claim[LinearProblems]


def _outcome(x: LinearProblems, *, pointwise: bool, greedy: bool = False) -> Outcome:
    results = [_one(x, k, pointwise, greedy) for k in range(len(x))]
    return Outcome(*(np.array(column) for column in zip(*results, strict=True)))


def _one(
    x: LinearProblems, k: int, pointwise: bool, greedy: bool
) -> tuple[float, float, float, float, float]:
    p, nu, pi, rho = x.reference[k], x.baseline[k], x.comparator[k], x.prompt_dist[k]
    phi, beta = x.features[k], float(x.beta[k])
    rule = FixedRadius(float(x.radius[k]))
    learner = PessimisticMLE(
        beta, Linear(phi, ridge=1.0), rule, KL(), pointwise=pointwise, baseline=nu
    )
    learned = learner.fit(counts(x.wins[k]), p, prompt_dist=rho)
    region = learned.diagnostics["confidence"]
    assert learned.reward is not None
    policy = solve(learned.reward, p, KL(), beta).policy if greedy else learned.policy
    # Sigma^{-1/2}, by a route of its own.
    values, vectors = np.linalg.eigh(region.covariance)
    root = (vectors / np.sqrt(values)).T

    def whitened(one: FloatArray, other: FloatArray) -> FloatArray:
        move: FloatArray = root @ np.einsum("x,xy,xyd->d", rho, one - other, phi)
        return move

    toward = (x.direction[k], -whitened(policy, nu), whitened(pi, policy))[int(x.place[k])]
    length = float(np.linalg.norm(toward))
    way = toward / length if length > 0 else toward
    truth = phi @ (region.centre + x.radius[k] * x.depth[k] * (root.T @ way))

    def gain(reward: FloatArray, one: FloatArray, other: FloatArray) -> float:
        # Less the baseline's value, so that what is common to a prompt cancels.
        value = ((one - other) * (reward - reward[:, :1])).sum(axis=1)
        return float(rho @ value)

    cost = float(KL()(pi, p, rho)) - float(KL()(policy, p, rho))
    penalty = _penalty(x, k, root, pi, pointwise)
    return (
        gain(phi @ region.centre, policy, nu),
        gain(truth, policy, nu),
        gain(phi @ region.centre, policy, nu) - _penalty(x, k, root, policy, pointwise),
        gain(truth, pi, policy) - beta * cost,
        2.0 * penalty,
    )


def _penalty(
    x: LinearProblems, k: int, root: FloatArray, policy: FloatArray, pointwise: bool
) -> float:
    """Return `c ||E phi_pi - E phi_nu||`, or `c E_pi ||phi - phi_nu||` pointwise."""
    phi, nu, rho = x.features[k], x.baseline[k], x.prompt_dist[k]
    if pointwise:
        moved = phi - np.einsum("xy,xyd->xd", nu, phi)[:, None]
        width = np.linalg.norm(moved @ root.T, axis=2)
        return float(x.radius[k] * (rho @ (policy * width).sum(axis=1)))
    move = np.einsum("x,xy,xyd->d", rho, policy - nu, phi)
    return float(x.radius[k] * np.linalg.norm(root @ move))


def counts(wins: IntArray) -> PairCounts:
    """Return the counts of an (X, Y, Y) table of wins."""
    prompt, winner, loser = np.nonzero(wins)
    count = wins[prompt, winner, loser].astype(np.float64)
    return PairCounts(prompt, winner, loser, count, 0.0, wins.shape[:2])


# ---- witnesses -----------------------------------------------------------------------------------


def _policies(first: list[float]) -> FloatArray:
    """Return the policies of two prompts, the second one uniform."""
    return np.array([[first, [1.0 / 3.0] * 3]])


def _one_feature(beta: float, strength: float, reference: list[float]) -> LinearProblems:
    """Responses of features 1, 0, -1; at `strength` 1 the estimate just outweighs the penalty.

    At a second prompt nothing is at stake: what counts is the weight of the first.
    """
    features = np.array([[[[1.0], [0.0], [-1.0]], [[0.0], [0.0], [0.0]]]])
    wins = np.zeros((1, 2, 3, 3), dtype=np.int64)
    wins[0, 0, 0, 2] = 3
    fit = Linear(features[0], ridge=1.0).fit(counts(wins[0]))
    assert fit.parameter is not None
    # Sigma = 1 + 3 * 2^2.
    radius = float(fit.parameter[0]) * np.sqrt(13.0) * strength
    p = _policies(reference)
    return LinearProblems(
        p, p, _policies([0.9, 0.1, 0.0]), np.full((1, 2), 0.5), features, wins, np.ones((1, 1)),
        np.ones(1), np.array([GIVEN]), np.array([beta]), np.array([radius]),
    )  # fmt: skip


def _least_gain() -> LinearProblems:
    return replace(_one_feature(0.1, 0.5, [0.3, 0.4, 0.3]), place=np.array([LEAST_GAIN]))


def _pointwise_least_gain() -> LinearProblems:
    """Let the policy, like the truth, leave the baseline to one side."""
    x = replace(_least_gain(), beta=np.array([1e-2]))
    return replace(x, baseline=_policies([0.0, 0.0, 1.0]))


def _greedy_loses() -> LinearProblems:
    """Let the data favour a response wrongly, which matters little to the comparator."""
    x = replace(_one_feature(1e-2, 2.0, [0.3, 0.4, 0.3]), place=np.array([LEAST_GAIN]))
    return replace(x, comparator=_policies([0.3, 0.5, 0.2]))


# ---- the list ------------------------------------------------------------------------------------


def _resolution(x: LinearProblems) -> FloatArray:
    """Return what rounding and the learner's duality gap can make of a difference of values."""
    size = np.abs(x.features).max(axis=(1, 2, 3)) * (10.0 + x.radius)
    return 1e-11 * (1.0 + size)


_MOST = 60

PESSIMISM_CLAIMS: tuple[ProblemClaim, ...] = (
    ProblemClaim(
        "pessimism delivers its lower bound",
        "J(pi_hat) - J(nu) >= <theta_hat, E phi - E phi_nu> - c ||E phi - E phi_nu||, here: "
        "estimated gain - gain <= c ||E phi - E phi_nu||",
        "arXiv 2312.11456, option I",
        "upper",
        lambda x: x.worst_case.estimated_gain - x.worst_case.gain,
        lambda x: x.worst_case.estimated_gain - x.worst_case.lower_bound,
        _least_gain,
        _resolution,
        "theta* in the ellipsoid",
        _MOST,
    ),
    ProblemClaim(
        "regret of pessimism",
        "regularized regret <= 2 c ||E phi_pi - E phi_nu||",
        "arXiv 2312.11456, option I",
        "upper",
        lambda x: x.worst_case.regret,
        lambda x: x.worst_case.regret_bound,
        lambda: _one_feature(1e-4, 1.0, [0.3, 0.4, 0.3]),
        _resolution,
        "theta* in the ellipsoid",
        _MOST,
    ),
    ProblemClaim(
        "pointwise pessimism delivers its lower bound",
        "estimated gain - gain <= c E_x E_pi_hat ||phi - phi_nu||",
        "arXiv 2312.11456, option II",
        "upper",
        lambda x: x.pointwise.estimated_gain - x.pointwise.gain,
        lambda x: x.pointwise.estimated_gain - x.pointwise.lower_bound,
        _pointwise_least_gain,
        _resolution,
        "theta* in the ellipsoid",
        _MOST,
    ),
    ProblemClaim(
        "regret of pointwise pessimism",
        "regularized regret <= 2 c E_x E_pi ||phi - phi_nu||",
        "arXiv 2312.11456, option II",
        "upper",
        lambda x: x.pointwise.regret,
        lambda x: x.pointwise.regret_bound,
        lambda: _one_feature(1e-5, 1.0, [1e-4, 1.0 - 2e-4, 1e-4]),
        _resolution,
        "theta* in the ellipsoid",
        _MOST,
    ),
    ProblemClaim(
        "regret without pessimism",
        "regularized regret of p e^(r_hat/beta)/Z <= 2 c ||E phi_pi - E phi_nu||",
        "arXiv 2312.11456, option I without its penalty",
        "false",
        lambda x: x.greedy.regret,
        lambda x: x.greedy.regret_bound,
        _greedy_loses,
        _resolution,
        "theta* in the ellipsoid",
        _MOST,
    ),
)
