"""POWER: weighted entropy in place of a divergence, and labels that follow the policy.

Source: arXiv 2412.09544; the maximiser of the weighted entropy is derived here, the paper's own
equations were not at hand.  Weights `v` are positive, `H_v(pi) = -sum_y v(y) pi(y) log pi(y)`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import expit, log_expit, xlogy

from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.labelled import Labelled, gaps, kl, likelihood, optimum, scores
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim
from rlhfsim.laws import population_pairs
from rlhfsim.losses import power
from rlhfsim.losses.labels import updated_labels

LabelledClaim = Claim[Labelled]
_SOURCE = "arXiv 2412.09544"

_BISECTIONS = 200
#: Updates of a label, and their rate.
_UPDATES, _RATE = 5, 0.3


def weights(x: Labelled) -> FloatArray:
    """Return weights in [1/2, 2], by the feature: inverse lengths, say."""
    largest = np.abs(x.feature).max(axis=1, keepdims=True)
    return np.asarray(2.0 ** (x.feature / np.where(largest > 0, largest, 1.0)))


def tempered(x: Labelled) -> Labelled:
    """Return the instances with beta at least a fifth of the range of the reward."""
    return replace(x, beta=np.maximum(x.beta, np.ptp(x.reward, axis=1) / 5.0))


def entropy_optimum(x: Labelled, weight: FloatArray) -> FloatArray:
    """Return `argmax E_pi[r] + beta H_v(pi)`: `log pi = (r - lambda)/(beta v) - 1`."""
    reward = x.reward - x.reward.max(axis=1, keepdims=True)
    scale = x.beta[:, None] * weight

    def logs(multiplier: FloatArray) -> FloatArray:
        return (reward - multiplier[:, None]) / scale - 1.0

    # At the low end the best response alone has more than all mass, at the high end all have less.
    low = -scale.max(axis=1) * 2.0
    high = scale.max(axis=1) * np.log(float(x.reward.shape[1]))
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        heavy = np.exp(logs(middle)).sum(axis=1) > 1.0
        low, high = np.where(heavy, middle, low), np.where(heavy, high, middle)
    return np.asarray(np.exp(logs(0.5 * (low + high))))


def _value(x: Labelled, policy: FloatArray) -> FloatArray:
    """`E_pi[r] - min r + beta H_v(pi)`, positive."""
    gain = (policy * (x.reward - x.reward.min(axis=1, keepdims=True))).sum(axis=1)
    return np.asarray(gain - x.beta * (weights(x) * xlogy(policy, policy)).sum(axis=1))


def _loss(x: Labelled, policy: FloatArray) -> FloatArray:
    """Return the population loss of POWER without its imitation, of pairs drawn from p."""
    score = x.beta[:, None] * weights(x) * (1.0 + np.log(policy))
    return likelihood(x, score)


def _library_loss(x: Labelled) -> FloatArray:
    """Return the library's loss of the first two responses, less its imitation term."""
    v, logs = weights(x)[:, :2], np.log(x.policy[:, :2])
    result = np.empty(len(x))
    for k, beta in enumerate(x.beta.tolist()):
        loss = power(beta, 1.0).loss(
            logs[k, :1], logs[k, 1:], chosen_weights=v[k, :1], rejected_weights=v[k, 1:]
        )
        result[k] = loss[0] + beta * v[k, 0] * logs[k, 0]
    return result


def _written_loss(x: Labelled) -> FloatArray:
    score = x.beta[:, None] * weights(x) * (1.0 + np.log(x.policy))
    return -np.asarray(log_expit(gaps(score)[:, 0, 1]))


def _difference(x: Labelled) -> FloatArray:
    return gaps(scores(x, kl, x.policy))[:, 0, 1]


def _updated(x: Labelled) -> FloatArray:
    """`|l - sigma(h)|` after some updates from l = 1."""
    h = _difference(x)
    labels = np.ones(len(x))
    for _ in range(_UPDATES):
        labels = updated_labels(labels, h, _RATE)
    return np.abs(labels - expit(h))


def _rounding(x: Labelled) -> FloatArray:
    return 8.0 * RESOLUTION * (1.0 + 40.0 * x.beta + np.abs(x.reward).max(axis=1))


def _plain() -> Labelled:
    p, pi = np.array([[0.2, 0.3, 0.4, 0.1]]), np.array([[0.4, 0.1, 0.2, 0.3]])
    r, phi = np.array([[0.0, 1.0, 0.5, -0.5]]), np.array([[1.0, 0.25, -0.5, 0.75]])
    return Labelled(p, pi, r, phi, np.array([0.5]), np.ones(1), np.array([1]))


def _at_optimum() -> Labelled:
    x = _plain()
    return replace(x, policy=entropy_optimum(x, weights(x)))


# ---- reward hacking ------------------------------------------------------------------------------

_N, _GAP = 1000, 1.0


def misled(n: int, gap: float) -> float:
    """Return P(a response of mass 1/n is compared, and all its comparisons end the wrong way).

    A response worse by `gap` than all others that wins whenever it is compared looks best (type I
    reward hacking); one that is better and always loses looks worst (type II): likewise.
    """
    law = population_pairs(
        ContextualBandit(np.ones(1), np.array([[1.0 - 1.0 / n, 1.0 / n]]), np.array([[gap, 0.0]]))
    )
    right = float(law.count[(law.winner == 0) & (law.loser == 1)].sum())
    wrong = float(law.count[(law.winner == 1) & (law.loser == 0)].sum())
    return float(np.exp(n * np.log1p(-right)) - np.exp(n * np.log1p(-right - wrong)))


def misled_limit(gap: float) -> float:
    """Return `e^-2 (e^(2 sigma(-gap)) - 1)`, the limit of `misled` as n grows."""
    return float(np.exp(-2.0) * np.expm1(2.0 * expit(-gap)))


POWER_CLAIMS: tuple[LabelledClaim | ProbabilityClaim | RateClaim, ...] = (
    LabelledClaim(
        "optimum of the weighted entropy",
        "E_pi[r] + beta H_v(pi) <= that of log pi = (r - lambda)/(beta v) - 1 (r from its minimum)",
        _SOURCE,
        "upper",
        lambda x: _value(tempered(x), x.policy),
        lambda x: _value(tempered(x), entropy_optimum(tempered(x), weights(x))),
        _at_optimum,
        lambda x: _rounding(tempered(x)),
    ),
    LabelledClaim(
        "weights of 1 give KL from uniform",
        "E[g] under the optimum of the entropy = E[g] under e^(r/beta)/Z, v = 1, g = 2 + sigma(r)",
        _SOURCE,
        "identity",
        lambda x: (
            entropy_optimum(tempered(x), np.ones_like(x.reward)) * (2.0 + expit(x.reward))
        ).sum(axis=1),
        lambda x: (_from_uniform(tempered(x)) * (2.0 + expit(x.reward))).sum(axis=1),
        _plain,
        lambda x: np.full(len(x), 40.0 * RESOLUTION),
    ),
    LabelledClaim(
        "population minimiser of POWER",
        "L(optimum of r* with weighted entropy) <= L(pi), L without imitation",
        _SOURCE,
        "upper",
        lambda x: _loss(tempered(x), entropy_optimum(tempered(x), weights(x))),
        lambda x: _loss(tempered(x), x.policy),
        _at_optimum,
        lambda x: _rounding(tempered(x)),
    ),
    LabelledClaim(
        "loss of POWER",
        "loss + eta beta v+ log pi(y+) = -log sigma(beta [v+ (1 + log pi(y+)) "
        "- v- (1 + log pi(y-))]), at eta = 1",
        _SOURCE,
        "identity",
        _library_loss,
        _written_loss,
        _plain,
        _rounding,
        most_instances=1000,
    ),
    LabelledClaim(
        "dynamic labels become stationary",
        "|l_k - sigma(h)| = (1 - rate)^k |1 - sigma(h)|, l_0 = 1, k = 5, rate = 3/10",
        f"{_SOURCE} (POWER-DL)",
        "identity",
        _updated,
        lambda x: (1.0 - _RATE) ** _UPDATES * expit(-_difference(x)),
        _plain,
    ),
    ProbabilityClaim(
        name="a rare response misleads with constant probability",
        formula="P(a response of mass 1/n is compared, always with the wrong outcome) "
        f">= e^-2 (e^(2 sigma(-1)) - 1), at n = {_N} and a gap of 1",
        source=f"{_SOURCE} (reward hacking of types I and II)",
        delta=misled_limit(_GAP),
        exact=lambda: misled(_N, _GAP),
        bound="at least",
    ),
    RateClaim(
        name="how often a rare response misleads",
        formula="|P(misled) - e^-2 (e^(2 sigma(-1)) - 1)| ~ 1/n",
        source=f"{_SOURCE} (reward hacking of types I and II)",
        exponent=-1.0,
        measure=lambda n, _: abs(misled(int(n), _GAP) - misled_limit(_GAP)),
        sizes=(100.0, 300.0, 1e3, 3e3, 1e4, 1e5),
    ),
)


def _from_uniform(x: Labelled) -> FloatArray:
    return optimum(replace(x, reference=np.full(x.reference.shape, 1.0 / x.reference.shape[1])), kl)
