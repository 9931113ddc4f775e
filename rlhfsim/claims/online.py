"""Online and hybrid RLHF with linear rewards: what holds where the truth lies in the ellipsoid.

`pi1 = p e^{<theta_hat, phi>/beta}/Z` is the main agent, `pi*` the same of `theta*`, with
`||theta_hat - theta*||_Sigma <= c`; `v(q, q') = E_x[phi(x, q) - phi(x, q')]`, norms of it are those
of `Sigma^-1`, and regrets are `J_beta(pi*) - J_beta(pi1)`.

Everything deterministic follows from one line: with `Delta = theta* - theta_hat`,
`beta KL(pi* || pi1) + beta KL(pi1 || pi*) = <Delta, v(pi*, pi1)>`, of which the second term is the
regret.

Source: arXiv 2312.11456.  Its bounds on regret are linear in the error of theta, and so of order
`m^-1/2` in the batch; under KL the regret itself is quadratic in it, of order `1/m` (arXiv
2411.04625 proves such rates).

The claims on one round are here, those on sequences of comparisons in `elliptical`, those on whole
runs in `online_runs`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.elliptical import ELLIPTICAL_CLAIMS, Sequences
from rlhfsim.claims.linear_rounds import LinearRounds
from rlhfsim.claims.online_runs import ONLINE_RUN_CLAIMS
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim

_SOURCE = "arXiv 2312.11456"
_OURS = f"{_SOURCE}; constant derived"


def _resolution(x: LinearRounds) -> FloatArray:
    """Return the rounding of differences of values."""
    size = np.abs(x.features).max(axis=(1, 2, 3)) * (1.0 + np.abs(x.estimate).sum(axis=1))
    scale = size + x.radius * np.abs(x.features).max(axis=(1, 2, 3)) + 30.0 * x.beta
    return 1e-13 * (1.0 + scale)


def _one_feature(
    features: list[float], reference: list[float], estimate: float, radius: float, beta: float
) -> LinearRounds:
    """Return a round whose truth is `estimate + radius`; a second prompt has nothing at stake."""
    size = len(reference)
    phi, p = np.zeros((1, 2, size, 1)), np.full((1, 2, size), 1.0 / size)
    phi[0, 0, :, 0], p[0, 0] = features, reference
    return LinearRounds(
        p, np.full((1, 2), 0.5), phi, np.full((1, 1), estimate), np.zeros((1, 1, 1)),
        np.ones((1, 1)), np.ones(1), np.array([beta]), np.array([radius]),
    )  # fmt: skip


def _rare() -> LinearRounds:
    """Let the best response be rare, and the truth bring it up to a hundredth."""
    tilt = np.log(1e12 / 1e2)
    return _one_feature([0.0, 1.0], [1.0 - 1e-12, 1e-12], -0.1, 0.1 * tilt, 0.1)


def _sure() -> LinearRounds:
    """Let the truth be so strong that nothing but the best response counts."""
    return _one_feature([-1.0, 1.0], [0.99, 0.01], -0.001, 100.0, 0.01)


def _opposite() -> LinearRounds:
    """Let the main agent go to the one side of the reference, the truth to the other."""
    return _one_feature([-1.0, 0.0, 1.0], [0.001, 0.998, 0.001], -0.1, 1000.0, 0.01)


def _even() -> LinearRounds:
    """Let the main agent draw two responses equally often, and the truth differ by little."""
    log_odds = 1.2
    odds = np.exp(log_odds)
    p = [float(odds / (1.0 + odds)), float(1.0 / (1.0 + odds))]
    one = _one_feature([0.0, 1.0], p, 0.5 * log_odds, 0.02, 0.5)
    return replace(one, prompt_dist=np.array([[1.0 - 1e-6, 1e-6]]))


def _settled() -> LinearRounds:
    """Let both responses of a comparison be certain."""
    one = _one_feature([0.0, 1.0], [1.0 - 1e-9, 1e-9], 1.0, 0.01, 0.01)
    return replace(one, prompt_dist=np.array([[1.0 - 1e-6, 1e-6]]))


def _plateau() -> LinearRounds:
    """Let the set end where two responses of nearly equal features share the mass."""
    return _one_feature([0.0, 1.0, 1.03], [0.99 - 1e-12, 0.01, 1e-12], 0.0, 15.0, 1.0)


_TRUTH_INSIDE = "theta* in the ellipsoid"
_MOST = 200

_ROUND_CLAIMS: tuple[Claim[LinearRounds], ...] = (
    Claim[LinearRounds](
        "regret and membership share one product",
        "beta KL(pi* || pi1) + beta KL(pi1 || pi*) = <theta* - theta_hat, v(pi*, pi1)>, here with "
        "J_beta(pi*) - J_beta(pi1) for the second term",
        f"{_SOURCE}; derived from the Gibbs gap identity",
        "identity",
        lambda x: x.agents.membership + x.agents.regret,
        lambda x: x.agents.linear,
        _even,
        _resolution,
    ),
    Claim[LinearRounds](
        "the optimum is in the enhancer's set",
        "beta KL(pi* || pi1) <= c ||v(pi*, pi1)||",
        f"{_SOURCE}, its iterative algorithm",
        "upper",
        lambda x: x.agents.membership,
        lambda x: x.radius * x.agents.width,
        _rare,
        _resolution,
        _TRUTH_INSIDE,
    ),
    Claim[LinearRounds](
        "regret of the main agent",
        "J_beta(pi*) - J_beta(pi1) <= c ||v(pi*, pi1)||",
        _OURS,
        "tight",
        lambda x: x.agents.regret,
        lambda x: x.radius * x.agents.width,
        _sure,
        _resolution,
        _TRUTH_INSIDE,
    ),
    Claim[LinearRounds](
        "regret of the main agent is quadratic in the error",
        "J_beta(pi*) - J_beta(pi1) <= c^2/(8 beta) E_x max_yy' ||phi(x, y) - phi(x, y')||^2",
        f"{_SOURCE}; ours, by Hoeffding's lemma",
        "tight",
        lambda x: x.agents.regret,
        lambda x: x.radius**2 / (8.0 * x.beta) * x.spread,
        _even,
        _resolution,
        _TRUTH_INSIDE,
    ),
    Claim[LinearRounds](
        "regret of the main agent by the enhancer",
        "J_beta(pi*) - J_beta(pi1) <= c ||v(pi2, pi1)||, pi2 the enhancer that is computed",
        f"{_SOURCE}, online",
        "upper",
        lambda x: x.agents.regret,
        lambda x: x.radius * x.enhanced.width,
        _sure,
        _resolution,
        _TRUTH_INSIDE,
        _MOST,
    ),
    Claim[LinearRounds](
        "the enhancer stays in its set",
        "beta KL(pi2 || pi1) <= c ||v(pi2, pi1)||, pi2 the enhancer that is computed",
        f"{_SOURCE}, its iterative algorithm",
        "tight",
        lambda x: x.enhanced.membership,
        lambda x: x.radius * x.enhanced.width,
        _plateau,
        _resolution,
        most_instances=_MOST,
    ),
    Claim[LinearRounds](
        "regret of hybrid learning",
        "J_beta(pi*) - J_beta(pi1) <= c (||v(pi*, p)|| + ||v(pi1, p)||)",
        f"{_SOURCE}, hybrid",
        "tight",
        lambda x: x.agents.regret,
        lambda x: x.radius * x.agents.from_reference,
        _opposite,
        _resolution,
        _TRUTH_INSIDE,
    ),
    Claim[LinearRounds](
        "what is drawn is at least as uncertain as its mean",
        "||v(pi1, p)||^2 <= E ||phi(x, y1) - phi(x, y2)||^2, y1 ~ pi1, y2 ~ p",
        _SOURCE,
        "tight",
        lambda x: x.drawn[0],
        lambda x: x.drawn[1],
        _settled,
    ),
)

OnlineClaim = Claim[LinearRounds] | Claim[Sequences] | ProbabilityClaim | RateClaim

#: One round, sequences of comparisons, whole runs.
ONLINE_CLAIMS: tuple[OnlineClaim, ...] = (
    *_ROUND_CLAIMS,
    *ELLIPTICAL_CLAIMS,
    *ONLINE_RUN_CLAIMS,
)
