"""More of DPO: equivalent rewards, rankings, and where its loss is convex.

Sources: arXiv 2305.18290 (DPO; lemmas 1 and 2, theorem 1, its Plackett-Luce form), 2407.13399
(chiPO, whose loss is not convex).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.special import expit

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.labelled import (
    Family,
    Labelled,
    direct_loss,
    gaps,
    kl,
    mixed,
    optimum,
    scores,
    spread,
)

LabelledClaim = Claim[Labelled]
_SOURCE = "arXiv 2305.18290"


# ---- sides ---------------------------------------------------------------------------------------


def probe(x: Labelled, policy: FloatArray) -> FloatArray:
    """Return `E_pi[g]`, g the feature scaled into [1, 3]."""
    largest = np.abs(x.feature).max(axis=1, keepdims=True)
    values = 2.0 + x.feature / np.where(largest > 0, largest, 1.0)
    return np.asarray((policy * values).sum(axis=1))


def _shifted(x: Labelled) -> FloatArray:
    """Return the reward plus a constant."""
    return x.reward + x.step[:, None]


def _preferred(x: Labelled, reward: FloatArray) -> FloatArray:
    """`E_{z ~ p}[P(0 beats z)]`."""
    return np.asarray((expit(gaps(reward)[:, 0]) * x.reference).sum(axis=1))


def _ranking(values: FloatArray) -> FloatArray:
    """`P(0, then 1, then 2)` of Plackett and Luce, among the first three responses."""
    v = values[:, :3]
    first = 1.0 / np.exp(v - v[:, :1]).sum(axis=1)
    return np.asarray(first * expit(v[:, 1] - v[:, 2]))


def _tilted(x: Labelled, size: FloatArray) -> FloatArray:
    """Return `p e^(size g)/Z`, g the feature scaled to a range of at most 1."""
    wide = np.maximum(spread(x.feature), 1e-9)[:, None]
    logits = size[:, None] * (x.feature - x.feature.max(axis=1, keepdims=True)) / wide
    weight = x.reference * np.exp(logits)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def _ends(x: Labelled) -> tuple[FloatArray, FloatArray]:
    """Return two parameters of log-linear policies."""
    return np.zeros(len(x)), 2.0 * x.step


def _half_way(family: Family) -> Callable[[Labelled], FloatArray]:
    def side(x: Labelled) -> FloatArray:
        low, high = _ends(x)
        return direct_loss(x, family, _tilted(x, 0.5 * (low + high)))

    return side


def _chord(family: Family) -> Callable[[Labelled], FloatArray]:
    def side(x: Labelled) -> FloatArray:
        first, second = (direct_loss(x, family, _tilted(x, end)) for end in _ends(x))
        return 0.5 * (first + second)

    return side


def _shift_rounding(x: Labelled) -> FloatArray:
    largest = np.abs(x.reward).max(axis=1) + np.abs(x.step)
    return RESOLUTION * (1.0 + largest * (1.0 + 1.0 / x.beta))


def _ranking_rounding(x: Labelled) -> FloatArray:
    return 8.0 * RESOLUTION * (1.0 + x.beta + np.abs(x.reward).max(axis=1))


def _loss_rounding(x: Labelled) -> FloatArray:
    logs = np.abs(np.log(x.reference)).max(axis=1)
    return 8.0 * RESOLUTION * (1.0 + x.beta * (np.exp(2.0 * x.step.clip(max=20.0)) + logs))


# ---- witnesses -----------------------------------------------------------------------------------


def _plain() -> Labelled:
    p, pi = np.array([[0.2, 0.3, 0.4, 0.1]]), np.array([[0.4, 0.1, 0.2, 0.3]])
    r, phi = np.array([[0.0, 1.0, 0.5, -0.5]]), np.array([[1.0, 0.25, -0.5, 0.75]])
    return Labelled(p, pi, r, phi, np.array([0.5]), np.ones(1), np.array([1]))


def _nearly_flat() -> Labelled:
    """Two parameters close together: the loss between them is nearly affine."""
    return replace(_plain(), step=np.array([1e-3]))


def _bent() -> Labelled:
    """Return parameters that give a bad response of mass 1/100 nearly all mass, or none."""
    p, r = np.array([[0.01, 0.98, 0.01]]), np.array([[-3.0, 0.0, 0.0]])
    phi = np.array([[1.0, 0.0, 0.0]])
    return Labelled(p, p, r, phi, np.array([5.0]), np.array([8.0]), np.array([1]))


DPO_CLAIMS: tuple[LabelledClaim, ...] = (
    LabelledClaim(
        "equivalent rewards have the same preferences",
        "P(y beats z) of r + c = P(y beats z) of r",
        f"{_SOURCE}, lemma 1",
        "identity",
        lambda x: _preferred(x, _shifted(x)),
        lambda x: _preferred(x, x.reward),
        _plain,
        _shift_rounding,
    ),
    LabelledClaim(
        "equivalent rewards have the same optimum",
        "E[g] under the optimum of r + c = E[g] under the optimum of r",
        f"{_SOURCE}, lemma 2",
        "identity",
        lambda x: probe(x, optimum(x, kl, _shifted(x))),
        lambda x: probe(x, optimum(x, kl)),
        _plain,
        _shift_rounding,
    ),
    LabelledClaim(
        "DPO of rankings",
        "P(0, then 1, then 2) by beta log w at the optimum of r = that by r, Plackett-Luce",
        f"{_SOURCE}, appendix A.3",
        "identity",
        lambda x: _ranking(scores(x, kl, optimum(x, kl))),
        lambda x: _ranking(x.reward),
        _plain,
        _ranking_rounding,
    ),
    LabelledClaim(
        "DPO is convex over log-linear policies",
        "L at (a + b)/2 <= (L at a + L at b)/2, pi ~ p e^(theta g), theta = a, b",
        f"{_SOURCE}; logistic regression",
        "upper",
        _half_way(kl),
        _chord(kl),
        _nearly_flat,
        _loss_rounding,
    ),
    LabelledClaim(
        "chiPO is convex over log-linear policies",
        "L at (a + b)/2 <= (L at a + L at b)/2, pi ~ p e^(theta g), theta = a, b",
        "arXiv 2407.13399, read as for DPO",
        "false",
        _half_way(mixed),
        _chord(mixed),
        _bent,
        _loss_rounding,
    ),
)
