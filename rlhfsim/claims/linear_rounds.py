"""One round of online RLHF with linear rewards: random instances, with both agents worked out.

The notation is that of `claims.online`: `pi1` is the main agent, `pi2` the enhancer, `p` the
reference, `v(q, q') = E_x[phi(x, q) - phi(x, q')]`, and norms of it are those of `Sigma^-1`.

Source: arXiv 2312.11456.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.batches import Rows, betas, distributions, rewards, sorts
from rlhfsim.online.linear import most_uncertain_policy


class Agents(NamedTuple):
    """What follows from an instance."""

    factor: FloatArray  # (N, d, d) Cholesky factor of Sigma
    delta: FloatArray  # (N, d)
    main: FloatArray  # (N, X, Y)
    regret: FloatArray  # (N,)
    membership: FloatArray  # (N,) beta KL(pi* || pi1)
    width: FloatArray  # (N,) ||v(pi*, pi1)||
    linear: FloatArray  # (N,) <Delta, v(pi*, pi1)>
    from_reference: FloatArray  # (N,) ||v(pi*, p)|| + ||v(pi1, p)||


class Enhanced(NamedTuple):
    """Where the enhancer is, as computed."""

    width: FloatArray  # (N,) ||v(pi2, pi1)||
    membership: FloatArray  # (N,) beta KL(pi2 || pi1)


@dataclass(frozen=True, eq=False)
class LinearRounds(Rows):
    """N rounds of a main agent whose estimate is within c of the truth."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "prompt_dist": "simplex", "features": "real", "estimate": "real",
        "root": "real", "direction": "real", "depth": "unit", "beta": "positive",
        "radius": "positive",
    }  # fmt: skip

    reference: FloatArray  # (N, X, Y)
    prompt_dist: FloatArray  # (N, X)
    features: FloatArray  # (N, X, Y, d)
    estimate: FloatArray  # (N, d)
    root: FloatArray  # (N, d, d): Sigma = I + root' root
    direction: FloatArray  # (N, d)
    depth: FloatArray  # (N,) in [0, 1]: 1 is the boundary of the ellipsoid
    beta: FloatArray  # (N,)
    radius: FloatArray  # (N,)

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random rounds of 1 to 3 prompts, 2 to 5 responses and 1 to 3 features."""
        sort, prompts, size = sorts(n, rng), int(rng.integers(1, 4)), int(rng.integers(2, 6))
        shape, d = (prompts, size), int(rng.integers(1, 4))
        return cls(
            distributions(sort, shape, rng), distributions(sort, (prompts,), rng),
            np.clip(rewards(sort, (*shape, d), rng), -3.0, 3.0), rng.standard_normal((n, d)),
            rng.standard_normal((n, d, d)) * 10.0 ** rng.uniform(-1.0, 1.0, size=(n, 1, 1)),
            rng.standard_normal((n, d)),
            rng.choice([0.0, 0.5, 1.0, 1.0], size=n) ** rng.choice([1.0, 4.0], size=n),
            betas(sort, rng), 10.0 ** rng.uniform(-2.0, 1.0, size=n),
        )  # fmt: skip

    @cached_property
    def agents(self) -> Agents:
        """Return both agents and what sets them apart."""
        sigma = np.eye(self.root.shape[2]) + np.einsum("nij,nik->njk", self.root, self.root)
        factor = np.linalg.cholesky(sigma)
        length = np.linalg.norm(self.direction, axis=1, keepdims=True)
        unit = np.divide(
            self.direction, length, out=np.zeros_like(self.direction), where=length > 0
        )
        whitened = (self.radius * self.depth)[:, None] * unit
        delta = np.linalg.solve(np.swapaxes(factor, 1, 2), whitened[..., None])[..., 0]
        truth = self.estimate + delta
        log_main, log_best = self._gibbs(self.estimate), self._gibbs(truth)
        main, best = np.exp(log_main), np.exp(log_best)
        logs = np.log(self.reference)
        reward = np.einsum("nxyd,nd->nxy", self.features, truth)
        regularized = [
            self._mean(q * (reward - self.beta[:, None, None] * (log_q - logs)))
            for q, log_q in ((best, log_best), (main, log_main))
        ]
        move = self._move(best, main)
        return Agents(
            factor, delta, main, regularized[0] - regularized[1],
            self.beta * self._mean(best * (log_best - log_main)),
            _norm(factor, move), (delta * move).sum(axis=1),
            _norm(factor, self._move(best, self.reference))
            + _norm(factor, self._move(main, self.reference)),
        )  # fmt: skip

    @cached_property
    def enhanced(self) -> Enhanced:
        """Return what the enhancer reaches, and at which cost."""
        made, found = self.agents, np.empty((2, len(self)))
        for k in range(len(self)):
            second = most_uncertain_policy(
                made.main[k] / made.main[k].sum(axis=1, keepdims=True), self.features[k],
                made.factor[k] @ made.factor[k].T, beta=float(self.beta[k]),
                radius=float(self.radius[k]), prompt_dist=self.prompt_dist[k], steps=100,
            )  # fmt: skip
            found[:, k] = second.uncertainty, second.divergence
        return Enhanced(found[0], self.beta * found[1])

    @property
    def spread(self) -> FloatArray:
        """Return the (N,) means over prompts of the largest `||phi(x, y) - phi(x, y')||^2`."""
        apart = self.features[:, :, :, None] - self.features[:, :, None]
        inverse = np.linalg.inv(self.agents.factor)
        white = np.einsum("nij,nxyzj->nxyzi", inverse, apart)
        largest = (white**2).sum(axis=-1).max(axis=(2, 3))
        return np.asarray((self.prompt_dist * largest).sum(axis=1))

    @property
    def drawn(self) -> tuple[FloatArray, FloatArray]:
        """Return `||v(pi1, p)||^2` and the mean of `||phi(x, y1) - phi(x, y2)||^2` over draws."""
        made = self.agents
        inverse = np.linalg.inv(made.factor)
        white = np.einsum("nij,nxyj->nxyi", inverse, self.features)
        apart = ((white[:, :, :, None] - white[:, :, None]) ** 2).sum(axis=-1)
        mean = np.einsum("nxy,nxz,nxyz->nx", made.main, self.reference, apart)
        move = _norm(made.factor, self._move(made.main, self.reference))
        return move**2, np.asarray((self.prompt_dist * mean).sum(axis=1))

    def _gibbs(self, parameter: FloatArray) -> FloatArray:
        """Return the logarithms of `p e^{<theta, phi>/beta}/Z`."""
        reward = np.einsum("nxyd,nd->nxy", self.features, parameter)
        logs = np.log(self.reference) + reward / self.beta[:, None, None]
        logs = logs - logs.max(axis=2, keepdims=True)
        return np.asarray(logs - np.log(np.exp(logs).sum(axis=2, keepdims=True)))

    def _mean(self, values: FloatArray) -> FloatArray:
        return np.asarray((self.prompt_dist * values.sum(axis=2)).sum(axis=1))

    def _move(self, one: FloatArray, other: FloatArray) -> FloatArray:
        return np.asarray(
            np.einsum("nx,nxy,nxyd->nd", self.prompt_dist, one - other, self.features)
        )


def _norm(factor: FloatArray, v: FloatArray) -> FloatArray:
    """Return `||v||_{Sigma^-1}`."""
    return np.asarray(np.linalg.norm(np.linalg.solve(factor, v[..., None])[..., 0], axis=1))
