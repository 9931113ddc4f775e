"""Regularized optima of any f-divergence: one equation, one direct loss.

Sources: arXiv 2309.16240 (f-DPO: the reward of a policy is `beta f'(pi/p)` up to a constant
wherever `f'(0+) = -inf`), 2305.18290 (every policy is the optimum of some reward), 2407.13399.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.labelled import GAMMAS, Labelled
from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)
from rlhfsim.losses.links import DivergenceLink
from rlhfsim.solvers import solve

LabelledClaim = Claim[Labelled]


@dataclass(frozen=True)
class Member:
    """A divergence and its link, written apart from the library's."""

    divergence: Divergence
    #: `f'(w)`.
    link: Callable[[FloatArray], FloatArray]


MEMBERS: dict[str, Member] = {
    "forward KL": Member(ForwardKL(), lambda w: 1.0 - 1.0 / w),
    "JS": Member(JensenShannon(), lambda w: 0.5 * (np.log(w) - np.log1p(w) + np.log(2.0))),
    "H^2": Member(SquaredHellinger(), lambda w: 1.0 - 1.0 / np.sqrt(w)),
    "D_alpha at 0.3": Member(AlphaDivergence(0.3), lambda w: (1.0 - w**-0.7) / 0.7),
    "D_chi2 + forward KL": Member(ChiSquared() + ForwardKL(), lambda w: w - 1.0 / w),
}

#: Where the optimum may leave responses out: it is no direct loss, but an optimum all the same.
_FINITE = {"D_alpha at 3": AlphaDivergence(3.0)}


# ---- sides ---------------------------------------------------------------------------------------


def optimum(x: Labelled, divergence: Divergence, reward: FloatArray | None = None) -> FloatArray:
    """Return `argmax E_pi[r] - beta D(pi || p)`."""
    r = x.reward if reward is None else reward
    return solve(r, x.reference, divergence, x.beta).policy


def _gain(x: Labelled, divergence: Divergence, policy: FloatArray) -> FloatArray:
    """`E_pi[r] - E_p[r] - beta D(pi || p)`."""
    gain = ((policy - x.reference) * x.reward).sum(axis=1)
    return np.asarray(gain - x.beta * divergence.per_prompt(policy, x.reference))


def _worst_gap(x: Labelled, values: FloatArray) -> FloatArray:
    """`v(y) - v(z)` of the best and the worst response by the reward."""
    rows = np.arange(len(x))
    return np.asarray(values[rows, x.reward.argmax(axis=1)] - values[rows, x.reward.argmin(axis=1)])


def _implicit(member: Member) -> Callable[[Labelled], FloatArray]:
    def side(x: Labelled) -> FloatArray:
        ratio = optimum(x, member.divergence) / x.reference
        return _worst_gap(x, x.beta[:, None] * member.link(ratio))

    return side


def _mean(x: Labelled, policy: FloatArray) -> FloatArray:
    """`E_pi[g]`, the feature scaled to at most 1 and made positive."""
    largest = np.abs(x.feature).max(axis=1, keepdims=True)
    probe = 2.0 + x.feature / np.where(largest > 0, largest, 1.0)
    return np.asarray((policy * probe).sum(axis=1))


def near(x: Labelled) -> Labelled:
    """Return the instances with the policy's ratios clipped to 1/20 and 20, up to a factor."""
    ratio = np.clip(x.policy / x.reference, 0.05, 20.0)
    policy = ratio * x.reference
    return replace(x, policy=policy / policy.sum(axis=1, keepdims=True))


def _recovered(divergence: Divergence) -> Callable[[Labelled], FloatArray]:
    """Return `E[g]` under the optimum of the implicit reward of the policy."""

    def side(x: Labelled) -> FloatArray:
        y = near(x)
        log_ratio = np.log(y.policy) - np.log(y.reference)
        implicit = y.beta[:, None] * DivergenceLink(divergence).value(log_ratio)
        return _mean(y, optimum(y, divergence, implicit))

    return side


# ---- rounding ------------------------------------------------------------------------------------


def _score_rounding(x: Labelled) -> FloatArray:
    """Return the rounding of beta times a link, whose largest size is the range of r over beta."""
    return 8.0 * RESOLUTION * (1.0 + x.beta + np.abs(x.reward).max(axis=1))


def _gain_rounding(x: Labelled) -> FloatArray:
    return RESOLUTION * (np.abs(x.reward).max(axis=1) + x.beta)


# ---- witnesses -----------------------------------------------------------------------------------


def _plain() -> Labelled:
    p, pi = np.array([[0.2, 0.3, 0.4, 0.1]]), np.array([[0.4, 0.1, 0.2, 0.3]])
    r, phi = np.array([[0.0, 1.0, 0.5, -0.5]]), np.array([[1.0, 0.25, -0.5, 0.75]])
    return Labelled(p, pi, r, phi, np.array([0.5]), np.ones(1), np.array([1]))


def _at_optimum(divergence: Divergence) -> Callable[[], Labelled]:
    def witness() -> Labelled:
        x = _plain()
        return replace(x, policy=optimum(x, divergence))

    return witness


#: Divergences without a closed inverse are slow.
_MOST = 3000


# ---- the list ------------------------------------------------------------------------------------


def _beats(name: str, divergence: Divergence) -> LabelledClaim:
    return LabelledClaim(
        f"optimum of {name} beats every policy",
        "E_pi[r] - beta D(pi || p) <= that of the optimum (both less E_p[r])",
        "arXiv 2309.16240",
        "upper",
        lambda x: _gain(x, divergence, x.policy),
        lambda x: _gain(x, divergence, optimum(x, divergence)),
        _at_optimum(divergence),
        _gain_rounding,
        most_instances=_MOST,
    )


def _reward_of(name: str, member: Member) -> LabelledClaim:
    return LabelledClaim(
        f"implicit reward of f-DPO, {name}",
        "beta (f'(w_y) - f'(w_z)) = r(y) - r(z) at the optimum, of the best and the worst",
        "arXiv 2309.16240",
        "identity",
        _implicit(member),
        lambda x: _worst_gap(x, x.reward),
        _plain,
        _score_rounding,
        most_instances=_MOST,
    )


def _bijection(name: str, divergence: Divergence, source: str) -> LabelledClaim:
    return LabelledClaim(
        f"every policy is an optimum of {name}",
        "E[g] under the optimum of r = beta f'(pi/p) equals E_pi[g]",
        source,
        "identity",
        _recovered(divergence),
        lambda x: _mean(x, near(x).policy),
        _plain,
        lambda x: np.full(len(x), 8.0 * RESOLUTION),
        "full support",
        _MOST,
    )


GENERAL_OPTIMA_CLAIMS: tuple[LabelledClaim, ...] = (
    *(_beats(name, member.divergence) for name, member in MEMBERS.items()),
    *(_beats(name, divergence) for name, divergence in _FINITE.items()),
    *(_reward_of(name, member) for name, member in MEMBERS.items()),
    _bijection("KL", KL(), "arXiv 2305.18290, thm 1"),
    _bijection("D_chi2 + KL", ChiSquared() + GAMMAS[1] * KL(), "arXiv 2407.13399"),
    *(_bijection(name, member.divergence, "arXiv 2309.16240") for name, member in MEMBERS.items()),
)
