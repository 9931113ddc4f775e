"""Psi-PO: what RLHF, DPO and IPO have in common, and why IPO stays near the reference.

Source: arXiv 2310.12036, whose objective is `E_{y ~ pi, z ~ p}[Psi(P(y beats z))] - beta KL`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import log_expit

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.dpo import probe
from rlhfsim.claims.labelled import Labelled, borda, gaps, ipo_optimum, kl, optimum, scores, spread

LabelledClaim = Claim[Labelled]
_SOURCE = "arXiv 2310.12036"


def _mean_log_odds(x: Labelled) -> FloatArray:
    """`E_{z ~ p}[log(P/(1 - P))]`, P the probability that y beats z."""
    gap = gaps(x.reward)
    odds = log_expit(gap) - log_expit(-gap)
    return np.asarray((odds * x.reference[:, None, :]).sum(axis=2))


def _range_of(policy: Callable[[Labelled], FloatArray]) -> Callable[[Labelled], FloatArray]:
    """Return the range of `beta log(pi/p)`."""
    return lambda x: spread(scores(x, kl, policy(x)))


def _rounding(x: Labelled) -> FloatArray:
    return RESOLUTION * (1.0 + np.abs(x.reward).max(axis=1) * (1.0 + 1.0 / x.beta))


def _score_rounding(x: Labelled) -> FloatArray:
    return 8.0 * RESOLUTION * (1.0 + x.beta * 40.0)


def _certain() -> Labelled:
    """Return preferences that are certain, a best and a worst response that are rare."""
    rare = 1e-6
    p = np.array([[rare, 1.0 - 2.0 * rare, rare]])
    r = np.array([[40.0, 0.0, -40.0]])
    return Labelled(p, p, r, r, np.array([4.0]), np.ones(1), np.array([1]))


def _plain() -> Labelled:
    p, pi = np.array([[0.2, 0.3, 0.4, 0.1]]), np.array([[0.4, 0.1, 0.2, 0.3]])
    r, phi = np.array([[0.0, 1.0, 0.5, -0.5]]), np.array([[1.0, 0.25, -0.5, 0.75]])
    return Labelled(p, pi, r, phi, np.array([0.5]), np.ones(1), np.array([1]))


IPO_CLAIMS: tuple[LabelledClaim, ...] = (
    LabelledClaim(
        "Psi-PO with log-odds is RLHF",
        "E[g] under the optimum of E_{z ~ p}[log(P/(1 - P))] = E[g] under that of r",
        f"{_SOURCE}, prop 1",
        "identity",
        lambda x: probe(x, optimum(x, kl, _mean_log_odds(x))),
        lambda x: probe(x, optimum(x, kl)),
        _plain,
        _rounding,
    ),
    LabelledClaim(
        "IPO stays near the reference",
        "beta (log w_y - log w_z) <= 1 at IPO's optimum, whatever the preferences",
        _SOURCE,
        "upper",
        _range_of(ipo_optimum),
        lambda x: np.ones(len(x)),
        _certain,
        _score_rounding,
    ),
    LabelledClaim(
        "IPO moves by the win rates",
        "range of beta log w at IPO's optimum = range of E_{z ~ p}[P(y beats z)]",
        _SOURCE,
        "identity",
        _range_of(ipo_optimum),
        lambda x: spread(borda(x)),
        _plain,
        _score_rounding,
    ),
    LabelledClaim(
        "DPO stays near the reference",
        "beta (log w_y - log w_z) <= 1 at DPO's optimum, whatever the preferences",
        f"{_SOURCE} (refuted there for certain preferences)",
        "false",
        _range_of(lambda x: optimum(x, kl)),
        lambda x: np.ones(len(x)),
        _certain,
        _score_rounding,
    ),
)
