"""Calibrated rewards: what they do not depend on, and how far they spread.

`c(y) = P_{z ~ p}(r(z) < r(y)) + 1/2 P(r(z) = r(y))`.  Source: arXiv 2412.19792 (CTRL).
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import average
from rlhfsim.claims.draws import Draws
from rlhfsim.divergences import KL
from rlhfsim.inference import best_of_n, calibrated_reward
from rlhfsim.solvers import solve

DrawsClaim = Claim[Draws]
_SOURCE = "arXiv 2412.19792"


def _calibrated(x: Draws) -> FloatArray:
    return calibrated_reward(x.reward, x.reference)


def _ranks(x: Draws) -> FloatArray:
    """Return an increasing transform of the reward: how many responses are worse."""
    return np.asarray((x.reward[:, None, :] < x.reward[:, :, None]).sum(axis=2, dtype=np.float64))


def _listed(x: Draws) -> FloatArray:
    """`E_p[c g]` from its definition, over pairs of a response and an opponent."""
    above = np.sign(x.reward[:, :, None] - x.reward[:, None, :])
    wins = 0.5 * (1.0 + above) * x.reference[:, None, :]
    return average(x.reference, wins.sum(axis=2) * x.probe)


def _tilted(x: Draws, reward: FloatArray) -> FloatArray:
    """`E[g]` under `p e^(c/beta)/Z`, c calibrated from this reward."""
    policy = solve(calibrated_reward(reward, x.reference), x.reference, KL(), x.temperature).policy
    return average(policy, x.probe)


def _win_rate(x: Draws) -> FloatArray:
    """`P(best-of-n beats p) + 1/2 P(they tie)`, over pairs of responses."""
    above = np.sign(x.reward[:, :, None] - x.reward[:, None, :])
    law = best_of_n(x.reference, x.reward, x.n)
    return np.asarray(np.einsum("ny,nz,nyz->n", law, x.reference, 0.5 * (1.0 + above)))


def _uniform(size: int) -> Draws:
    p = np.full((1, size), 1.0 / size)
    r = np.arange(size, dtype=np.float64)[None]
    return Draws(p, r, np.array([4.0]), np.ones(1), 1.0 + r / size)


def _tied() -> Draws:
    p, r = np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([[1.0, 0.0, 1.0, 2.0]])
    probe = np.array([[1.0, 1.25, 1.5, 1.75]])
    return Draws(p, r, np.array([3.0]), np.array([0.5]), probe)


CALIBRATION_CLAIMS: tuple[DrawsClaim, ...] = (
    DrawsClaim(
        "calibrated reward",
        "E_p[c g] = E_{y, z ~ p}[(1[r(z) < r(y)] + 1/2 1[r(z) = r(y)]) g(y)]",
        _SOURCE,
        "identity",
        lambda x: average(x.reference, _calibrated(x) * x.probe),
        _listed,
        _tied,
    ),
    DrawsClaim(
        "calibration forgets the scale of the reward",
        "E[g] under p e^(c/beta)/Z = the same with c of any increasing transform of r",
        _SOURCE,
        "identity",
        lambda x: _tilted(x, x.reward),
        lambda x: _tilted(x, _ranks(x)),
        _tied,
        lambda x: RESOLUTION * (1.0 + 1.0 / x.temperature),
    ),
    DrawsClaim(
        "spread of the calibrated reward",
        "Var_p[c] <= 1/12, and = 1/12 where no two responses tie and none has mass",
        _SOURCE,
        "upper",
        lambda x: average(x.reference, (_calibrated(x) - 0.5) ** 2),
        lambda x: np.full(len(x), 1.0 / 12.0),
        lambda: _uniform(400),
    ),
    DrawsClaim(
        "win rate is a mean of the calibrated reward",
        "P(best-of-n beats p), ties half = E[c] under best-of-n",
        _SOURCE,
        "identity",
        _win_rate,
        lambda x: average(best_of_n(x.reference, x.reward, x.n), _calibrated(x)),
        _tied,
    ),
)
