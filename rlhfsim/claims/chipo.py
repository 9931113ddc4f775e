"""More of chiPO: its link and the Wright omega function, the path of chi-squared, its experiments.

Sources: arXiv 2407.13399 (chiPO), its authors' 2025 post (the blog).  `clip` of the practical link
is to [-88, 20].
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import lambertw, wrightomega

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.labelled import GAMMAS, Labelled, gaps
from rlhfsim.claims.optima import unclipped
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regularized import (
    CHI_SQUARED_REGULARIZER,
    MIXED_REGULARIZER,
    ProblemClaim,
    lowest,
    ratio_rounding,
    span,
    true_size,
)
from rlhfsim.divergences import KL, AlphaDivergence
from rlhfsim.losses.links import PRACTICAL_RANGE, PracticalLink
from rlhfsim.solvers import chi_squared_path

_SOURCE = "arXiv 2407.13399"


# ---- the mixed optimum in closed form ------------------------------------------------------------


def _scores(x: Problems) -> FloatArray:
    """`(r - lambda)/beta` of the mixed optimum."""
    multiplier = MIXED_REGULARIZER.optimum(x)[1]
    return np.asarray((x.reward_hat - multiplier[..., None]) / x.beta[:, None, None])


def _omega_mass(x: Problems) -> FloatArray:
    """`E_p[gamma omega((s + 1)/gamma - log gamma)]`."""
    gamma = x.gamma[:, None, None]
    ratio = gamma * np.real(wrightomega((_scores(x) + 1.0) / gamma - np.log(gamma)))
    return x.mean(np.where(x.reference > 0, x.reference * ratio, 0.0).sum(axis=-1))


def _even(x: Problems) -> Problems:
    """Return the instances at gamma = 1, with beta large enough that `e^(r/beta)` is a float."""
    least = np.ptp(x.reward_hat, axis=-1).max(axis=1) / 300.0
    return replace(x, gamma=np.ones(len(x)), beta=np.maximum(x.beta, least))


def _lambert_mass(x: Problems) -> FloatArray:
    """`E_p[W(e^(s + 1))]`."""
    y = _even(x)
    ratio = np.real(lambertw(np.exp(_scores(y) + 1.0), 0))
    return y.mean(np.where(y.reference > 0, y.reference * ratio, 0.0).sum(axis=-1))


def _ones(x: Problems) -> FloatArray:
    return np.ones(len(x))


# ---- breakpoints ---------------------------------------------------------------------------------


def breakpoints(x: Problems) -> FloatArray:
    """Return how many positive beta there are at which the first prompt's optimum bends."""
    return np.array(
        [
            float(len(chi_squared_path(r[0], p[0]).breakpoints))
            for r, p in zip(x.reward_hat, x.reference, strict=True)
        ]
    )


def _levels(x: Problems) -> FloatArray:
    """One less than the number of different rewards on the first prompt's support."""
    rows = zip(x.reward_hat[:, 0], x.reference[:, 0], strict=True)
    return np.array([np.unique(r[p > 0]).size - 1.0 for r, p in rows])


# ---- the blog's approximation --------------------------------------------------------------------


def _rise(x: Problems) -> FloatArray:
    """`r - min r` on the support, 0 elsewhere."""
    return np.where(x.reference > 0, x.reward_hat - lowest(x)[..., None], 0.0)


def _literal_error(x: Problems) -> FloatArray:
    """TV between `p r/E_p[r]`, rewards counted from their minimum, and the chi-squared optimum."""
    x = unclipped(x)
    weight = x.reference * _rise(x)
    total = weight.sum(axis=-1, keepdims=True)
    literal = np.divide(weight, total, out=x.reference.copy(), where=total > 0)
    return x.mean(0.5 * np.abs(literal - CHI_SQUARED_REGULARIZER.policy(x)).sum(axis=-1))


def _literal_formula(x: Problems) -> FloatArray:
    """`|1/E_p[r] - 1/beta| E_p|r - E_p[r]|/2`."""
    x = unclipped(x)
    rise = _rise(x)
    mean = (x.reference * rise).sum(axis=-1)
    spread = (x.reference * np.abs(rise - mean[..., None])).sum(axis=-1)
    inverse = np.divide(1.0, mean, out=np.zeros_like(mean), where=mean > 0)
    return x.mean(np.where(mean > 0, 0.5 * np.abs(inverse - 1.0 / x.beta[:, None]) * spread, 0.0))


def _distance_to_reference(x: Problems) -> FloatArray:
    x = unclipped(x)
    step = np.abs(CHI_SQUARED_REGULARIZER.policy(x) - x.reference)
    return 2.0 * x.beta * x.mean(0.5 * step.sum(axis=-1))


def _mean_deviation(x: Problems) -> FloatArray:
    rise = _rise(x)
    mean = (x.reference * rise).sum(axis=-1, keepdims=True)
    return x.mean((x.reference * np.abs(rise - mean)).sum(axis=-1))


def _literal_rounding(x: Problems) -> FloatArray:
    """Return the rounding of ratios of the optimum and of `r/E_p[r]`, whose r is a difference."""
    y = unclipped(x)
    rise = _rise(y)
    mean = (y.reference * rise).sum(axis=-1)
    lost = np.abs(y.reward_hat).max(axis=-1)
    relative = np.divide(lost, mean, out=np.zeros_like(mean), where=mean > 0)
    return ratio_rounding(y) + RESOLUTION * y.mean(relative)


# ---- regret --------------------------------------------------------------------------------------


def _value(x: Problems, policy: FloatArray) -> FloatArray:
    """`J(pi) - min r*`."""
    least = x.reward.min(axis=-1, keepdims=True)
    return x.mean((policy * (x.reward - least)).sum(axis=-1))


# ---- the practical link --------------------------------------------------------------------------


def _inside(x: Labelled, alpha: float) -> FloatArray:
    """`log w` where the practical link clips nothing."""
    low, high = (end / alpha for end in PRACTICAL_RANGE)
    return np.clip(np.log(x.policy) - np.log(x.reference), low, high)


def _practical(alpha: float, x: Labelled) -> FloatArray:
    """Difference of practical links of the first two responses, divided by their sum of sizes."""
    gamma, u = GAMMAS[1], _inside(x, alpha)
    return gaps(PracticalLink(alpha, gamma).value(u))[:, 0, 1]


def _mixed_link(x: Labelled) -> FloatArray:
    """`w + gamma log w`."""
    u = _inside(x, 1.0)
    return gaps(np.exp(u) + GAMMAS[1] * u)[:, 0, 1]


def _quarter_link(x: Labelled) -> FloatArray:
    """`f'(w)` of `D_5/4 / 4 + gamma KL`."""
    ratio = np.exp(_inside(x, 0.25))
    divergence = 0.25 * AlphaDivergence(1.25) + GAMMAS[1] * KL()
    return gaps(divergence.link(ratio))[:, 0, 1]


def _link_rounding(alpha: float, x: Labelled) -> FloatArray:
    u = _inside(x, alpha)[:, :2]
    return (
        4.0 * RESOLUTION * (1.0 + (np.exp(alpha * u) * (1.0 + np.abs(u)) + np.abs(u)).max(axis=1))
    )


def _labelled() -> Labelled:
    p, pi = np.array([[0.2, 0.3, 0.5]]), np.array([[0.5, 0.1, 0.4]])
    return Labelled(p, pi, 0 * p, 0 * p, np.ones(1), np.ones(1), np.array([1]))


def _generic(beta: float = 0.7, gamma: float = 0.5) -> Problems:
    return single([0.5, 0.3, 0.2], [1.0, 0.25, -0.5], beta=beta, gamma=gamma)


CHIPO_CLAIMS: tuple[ProblemClaim | Claim[Labelled], ...] = (
    ProblemClaim(
        "mixed optimum by the Wright omega function",
        "w = gamma omega((r - lambda + beta)/(beta gamma) - log gamma) has E_p[w] = 1",
        _SOURCE,
        "identity",
        _omega_mass,
        _ones,
        _generic,
        ratio_rounding,
    ),
    ProblemClaim(
        "mixed optimum by Lambert's function",
        "w = W(e^((r - lambda + beta)/beta)) has E_p[w] = 1, at gamma = 1",
        _SOURCE,
        "identity",
        _lambert_mass,
        _ones,
        _generic,
        lambda x: ratio_rounding(_even(x)),
    ),
    ProblemClaim(
        "breakpoints of the chi2 path",
        "number of beta > 0 where a response leaves = number of different rewards - 1 < |Y|",
        "derived: stationarity",
        "identity",
        breakpoints,
        _levels,
        lambda: single([0.4, 0.3, 0.2, 0.1], [3.0, 1.0, 0.5, -1.0]),
        most_instances=300,
    ),
    ProblemClaim(
        "error of the chi2 optimum as printed",
        "TV(p r/E_p[r], pi_beta) = |1/E_p[r] - 1/beta| E_p|r - E_p[r]|/2, r from its minimum",
        "blog 2025 (as printed: pi ~ p r/beta); error derived",
        "identity",
        _literal_error,
        _literal_formula,
        lambda: _generic(beta=2.0),
        _literal_rounding,
        "beta > E_p[r] - min r",
    ),
    ProblemClaim(
        "chi2 optimum approaches the reference",
        "2 beta TV(pi_beta, p) = E_p|r - E_p[r]|",
        "derived: stationarity",
        "identity",
        _distance_to_reference,
        _mean_deviation,
        lambda: _generic(beta=2.0),
        lambda x: unclipped(x).beta * ratio_rounding(unclipped(x)),
        "beta > E_p[r] - min r",
    ),
    ProblemClaim(
        "regret is never negative",
        "J(pi_beta) <= J(pi*) for any comparator",
        "the word, read as a statement",
        "false",
        lambda x: _value(x, CHI_SQUARED_REGULARIZER.policy(x)),
        lambda x: _value(x, x.comparator),
        lambda: single([0.5, 0.5], [1.0, 0.0], comparator=[0.25, 0.75]),
        lambda x: RESOLUTION * true_size(x) * (1.0 + x.mean(span(x)) / x.beta),
    ),
    Claim[Labelled](
        "practical link of chiPO at alpha 1",
        "exp(clip(log w)) + gamma log w = w + gamma log w, inside the clip",
        f"{_SOURCE}, experiments",
        "identity",
        lambda x: _practical(1.0, x),
        _mixed_link,
        _labelled,
        lambda x: _link_rounding(1.0, x),
    ),
    Claim[Labelled](
        "practical link of chiPO at alpha 1/4",
        "exp(clip(log(w)/4)) + gamma log w is f'(w) + 1 of D_5/4 / 4 + gamma KL, inside the clip",
        f"{_SOURCE}, experiments; the divergence derived",
        "identity",
        lambda x: _practical(0.25, x),
        _quarter_link,
        _labelled,
        lambda x: _link_rounding(0.25, x),
    ),
)
