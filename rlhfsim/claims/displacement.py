"""Likelihood displacement: what a small step of DPO does to the chosen response.

Over `pi ~ p e^(theta g)`, for one pair, 0 chosen over 1.  Source: arXiv 2410.08847.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import expit

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.labelled import Labelled

LabelledClaim = Claim[Labelled]
_SOURCE = "arXiv 2410.08847"
_STEP = 1e-30


def _feature(x: Labelled) -> FloatArray:
    """Return the feature scaled to at most 1."""
    largest = np.abs(x.feature).max(axis=1, keepdims=True)
    return x.feature / np.where(largest > 0, largest, 1.0)


def _pull(x: Labelled) -> FloatArray:
    """Return `-dL/dtheta = beta sigma(-h) (g_0 - g_1)` at the policy."""
    ratio = np.log(x.policy) - np.log(x.reference)
    g = _feature(x)
    return np.asarray(x.beta * expit(-x.beta * (ratio[:, 0] - ratio[:, 1])) * (g[:, 0] - g[:, 1]))


def _moved(x: Labelled, size: np.ndarray) -> np.ndarray:
    """Return the policy after theta has moved by `size`, complex or not."""
    g = _feature(x)
    exponent = size[:, None] * g
    weight = x.policy * np.exp(exponent - exponent.real.max(axis=1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def _derivative(x: Labelled, response: int) -> FloatArray:
    """Return `d log pi(response)/dt` under gradient flow, by a complex step."""
    moved = _moved(x, 1j * _STEP * _pull(x))
    return np.asarray(np.log(moved[:, response]).imag / _STEP)


def _alignment(x: Labelled, response: int) -> FloatArray:
    """Return `beta sigma(-h) (g_0 - g_1) (g_response - E_pi[g])`."""
    g = _feature(x)
    return _pull(x) * (g[:, response] - (x.policy * g).sum(axis=1))


def _loss(x: Labelled, policy: FloatArray) -> FloatArray:
    ratio = np.log(policy[:, :2]) - np.log(x.reference[:, :2])
    h = x.beta * (ratio[:, 0] - ratio[:, 1])
    return np.asarray(np.logaddexp(0.0, -h))


def _both_fall(x: Labelled) -> FloatArray:
    """1 where both probabilities and the loss fall in a step of size 1e-3, each visibly."""
    after = _moved(x, 1e-3 * _pull(x))
    clear = 1.0 - 1e-9
    loss_falls = _loss(x, np.maximum(after, 1e-300)) < clear * _loss(x, x.policy)
    falls = (after[:, :2] < clear * x.policy[:, :2]).all(axis=1)
    return np.asarray(falls & loss_falls, dtype=np.float64)


def _rounding(x: Labelled) -> FloatArray:
    return RESOLUTION * x.beta * (1.0 + x.beta * 60.0 * np.abs(_pull(x)) / x.beta)


def _displaced() -> Labelled:
    """Let a third response, never compared, have the largest feature: it takes the mass."""
    p = np.array([[0.2, 0.2, 0.6]])
    g = np.array([[1.0, 0.0, 2.0]])
    return Labelled(p, p, 0 * p, g, np.ones(1), np.ones(1), np.array([1]))


def _rare() -> Labelled:
    """Give the chosen response hardly any mass: hardly anything weighs against it."""
    p = np.array([[1e-4, 1.0 - 2e-4, 1e-4]])
    g = np.array([[1.0, 0.0, 0.0]])
    return Labelled(p, p, 0 * p, g, np.ones(1), np.ones(1), np.array([1]))


DISPLACEMENT_CLAIMS: tuple[LabelledClaim, ...] = (
    LabelledClaim(
        "speed of the chosen response",
        "d log pi(y+)/dt = beta sigma(-h) (g_y+ - g_y-) (g_y+ - E_pi[g]) in gradient flow of DPO",
        _SOURCE,
        "identity",
        lambda x: _derivative(x, 0),
        lambda x: _alignment(x, 0),
        _displaced,
        _rounding,
    ),
    LabelledClaim(
        "speed of the rejected response",
        "d log pi(y-)/dt = beta sigma(-h) (g_y+ - g_y-) (g_y- - E_pi[g]) in gradient flow of DPO",
        _SOURCE,
        "identity",
        lambda x: _derivative(x, 1),
        lambda x: _alignment(x, 1),
        lambda: replace(_displaced(), beta=np.array([2.0])),
        _rounding,
    ),
    LabelledClaim(
        "speed limit of the chosen response",
        "|d log pi(y+)/dt| <= beta sigma(-h) |g_y+ - g_y-| (max g - min g)",
        "derived",
        "upper",
        lambda x: np.abs(_derivative(x, 0)),
        lambda x: np.abs(_pull(x)) * np.ptp(_feature(x), axis=1),
        _rare,
        _rounding,
    ),
    LabelledClaim(
        "DPO never lowers both responses",
        "1[pi(y+), pi(y-) and the loss fall in a step] <= 0",
        f"read into arXiv 2305.18290; refuted in {_SOURCE.removeprefix('arXiv ')}",
        "false",
        _both_fall,
        lambda x: np.zeros(len(x)),
        _displaced,
    ),
)
