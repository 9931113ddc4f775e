"""Fine-tuning as distribution matching: KL control in its terms, and baselines.

`pi*` is the target `p e^(r/beta)/Z`, `g` a direction of the logits, `score = g - E_pi[g]`.  The
gradient of the matching (DPG) is `E_pi[(pi*/pi - b) score]` for any baseline b.

Source: arXiv 2206.00761.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.labelled import Labelled, kl, optimum

LabelledClaim = Claim[Labelled]
_SOURCE = "arXiv 2206.00761"
_STEP = 1e-30


def _direction(x: Labelled) -> FloatArray:
    largest = np.abs(x.feature).max(axis=1, keepdims=True)
    return x.feature / np.where(largest > 0, largest, 1.0)


def _score(x: Labelled) -> FloatArray:
    g = _direction(x)
    return np.asarray(g - (x.policy * g).sum(axis=1, keepdims=True))


def _moved(x: Labelled) -> np.ndarray:
    """Return the policy a complex step along g."""
    weight = x.policy * np.exp(1j * _STEP * _direction(x))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def _control_slope(x: Labelled) -> FloatArray:
    """`d/dt [E_pi[r] - beta KL(pi || p)]`, by a complex step."""
    moved = _moved(x)
    value = moved * (x.reward - x.beta[:, None] * (np.log(moved) - np.log(x.reference)))
    return np.asarray(value.sum(axis=1).imag / _STEP)


def _matching_slope(x: Labelled) -> FloatArray:
    """`-beta E_pi[log(pi/pi*) score]`."""
    apart = np.log(x.policy) - np.log(optimum(x, kl))
    return np.asarray(-x.beta * (x.policy * apart * _score(x)).sum(axis=1))


def _forward_slope(x: Labelled) -> FloatArray:
    """`-d/dt KL(pi* || pi)`, by a complex step."""
    return np.asarray((optimum(x, kl) * np.log(_moved(x))).sum(axis=1).imag / _STEP)


def _weight(x: Labelled) -> FloatArray:
    """`pi*/pi`."""
    return optimum(x, kl) / x.policy


def _estimate(x: Labelled, baseline: FloatArray) -> FloatArray:
    """`E_pi[(pi*/pi - b) score]`."""
    return np.asarray((x.policy * (_weight(x) - baseline[:, None]) * _score(x)).sum(axis=1))


def _second_moment(x: Labelled, baseline: FloatArray) -> FloatArray:
    """`E_pi[(pi*/pi - b)^2 score^2]`."""
    terms = (_weight(x) - baseline[:, None]) ** 2 * _score(x) ** 2
    return np.asarray((x.policy * terms).sum(axis=1))


def _best_baseline(x: Labelled) -> FloatArray:
    """`E_pi[w score^2]/E_pi[score^2]`."""
    squares = x.policy * _score(x) ** 2
    total = squares.sum(axis=1)
    mean = (squares * _weight(x)).sum(axis=1)
    return np.divide(mean, total, out=np.ones(len(x)), where=total > 0)


def _ones(x: Labelled) -> FloatArray:
    return np.ones(len(x))


def _slope_rounding(x: Labelled) -> FloatArray:
    logs = np.abs(np.log(x.policy)).max(axis=1) + np.abs(np.log(x.reference)).max(axis=1)
    return 4.0 * RESOLUTION * (np.abs(x.reward).max(axis=1) + x.beta * (1.0 + logs))


def _moment_rounding(x: Labelled) -> FloatArray:
    return RESOLUTION * (1.0 + _second_moment(x, np.zeros(len(x))) + _best_baseline(x) ** 2)


def _plain() -> Labelled:
    p, pi = np.array([[0.2, 0.3, 0.4, 0.1]]), np.array([[0.4, 0.1, 0.2, 0.3]])
    r, phi = np.array([[0.0, 1.0, 0.5, -0.5]]), np.array([[1.0, 0.25, -0.5, 0.75]])
    return Labelled(p, pi, r, phi, np.array([0.5]), np.ones(1), np.array([1]))


def _ratio_by_size() -> Labelled:
    """Let `score^2` be the same for all responses: the best baseline is the mean ratio, 1."""
    p, r = np.array([[0.25, 0.25, 0.5]]), np.array([[0.0, 1.0, 0.5]])
    g = np.array([[1.0, 1.0, -1.0]])
    return Labelled(p, p, r, g, np.ones(1), np.ones(1), np.array([1]))


def _target_elsewhere() -> Labelled:
    """Let the target leave a rare response alone, whose score is the largest."""
    p, r = np.array([[0.1, 0.9]]), np.array([[-4.0, 0.0]])
    return Labelled(p, p, r, np.array([[1.0, 0.0]]), np.ones(1), np.ones(1), np.array([1]))


DISTRIBUTION_CLAIMS: tuple[LabelledClaim, ...] = (
    LabelledClaim(
        "KL control is distribution matching",
        "d/dt [E_pi[r] - beta KL(pi || p)] = -beta d/dt KL(pi || pi*) = -beta E_pi[log(pi/pi*) "
        "score], pi_t ~ pi e^(t g)",
        _SOURCE,
        "identity",
        _control_slope,
        _matching_slope,
        _plain,
        _slope_rounding,
    ),
    LabelledClaim(
        "gradient of distribution matching",
        "-d/dt KL(pi* || pi_t) = E_pi[(pi*/pi - b) score], any baseline b, here 1",
        _SOURCE,
        "identity",
        _forward_slope,
        lambda x: _estimate(x, _ones(x)),
        _plain,
    ),
    LabelledClaim(
        "best baseline of distribution matching",
        "E[(w - b*)^2 score^2] <= E[(w - 1)^2 score^2], b* = E[w score^2]/E[score^2], w = pi*/pi",
        f"{_SOURCE}; derived",
        "upper",
        lambda x: _second_moment(x, _best_baseline(x)),
        lambda x: _second_moment(x, _ones(x)),
        _ratio_by_size,
        _moment_rounding,
    ),
    LabelledClaim(
        "the baseline 1 always lowers the variance",
        "E[(w - 1)^2 score^2] <= E[w^2 score^2], w = pi*/pi",
        f"read into {_SOURCE}",
        "false",
        lambda x: _second_moment(x, _ones(x)),
        lambda x: _second_moment(x, np.zeros(len(x))),
        _target_elsewhere,
        _moment_rounding,
    ),
    LabelledClaim(
        "no variance at the target",
        "1 + E[(w - 1)^2 score^2] = 1 at pi = pi*, by the baseline 1",
        _SOURCE,
        "identity",
        lambda x: 1.0 + _second_moment(_at_target(x), _ones(x)),
        _ones,
        _plain,
    ),
)


def _at_target(x: Labelled) -> Labelled:
    return replace(x, policy=optimum(x, kl))
