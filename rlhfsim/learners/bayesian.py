"""KL-regularized RLHF as Bayesian inference: prior `p`, likelihood `e^(r/beta)`.

The KL optimum is the posterior `p e^(r/beta)/Z`, and `J_beta(pi) = E_pi[r] - beta KL(pi || p)` the
evidence lower bound:

    J_beta(pi) = beta log Z - beta KL(pi || posterior).

Source: arXiv 2205.11275.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL
from rlhfsim.learners.base import Learned
from rlhfsim.learners.explicit import require_model
from rlhfsim.learners.rlhf import RLHF
from rlhfsim.rewards import RewardModel, Tabular
from rlhfsim.solvers import solve


def posterior(reward: ArrayLike, reference: ArrayLike, beta: float) -> FloatArray:
    """Return `p(y) e^(r(y)/beta) / Z`, the posterior of prior p and likelihood `e^(r/beta)`.

    Parameters
    ----------
    reward, reference : (..., Y) arrays, broadcast against each other
    beta : float
        Positive, in reward units.

    Returns
    -------
    (..., Y) array of distributions

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2205.11275, section 3.
    """
    r, p = _pair(reward, reference)
    return solve(r, p, KL(), checks.positive_number("beta", beta)).policy


def evidence(reward: ArrayLike, reference: ArrayLike, beta: float) -> FloatArray:
    """Return `beta log Z = beta log E_p[e^(r/beta)]`, the maximum of `J_beta`.

    Parameters
    ----------
    reward, reference : (..., Y) arrays, broadcast against each other
    beta : float
        Positive, in reward units.

    Returns
    -------
    (...) array, in reward units

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2205.11275, section 3; the Gibbs variational principle.
    """
    r, p = _pair(reward, reference)
    return np.asarray(solve(r, p, KL(), checks.positive_number("beta", beta)).value)[()]


def evidence_lower_bound(
    policy: ArrayLike, reward: ArrayLike, reference: ArrayLike, beta: float
) -> FloatArray:
    """Return `J_beta(pi) = E_pi[r] - beta KL(pi || p)`, at most the evidence.

    Parameters
    ----------
    policy, reward, reference : (..., Y) arrays, broadcast against each other
    beta : float
        Positive, in reward units.

    Returns
    -------
    (...) array, in reward units; `-inf` where the policy has mass and the reference none

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2205.11275, eq. 4.
    """
    pi, r, p = _triple(policy, reward, reference)
    strength = checks.positive_number("beta", beta)
    return np.asarray((pi * r).sum(axis=-1) - strength * _kl(pi, p))[()]


def evidence_gap(
    policy: ArrayLike, reward: ArrayLike, reference: ArrayLike, beta: float
) -> FloatArray:
    """Return `beta KL(pi || posterior)`, what the evidence lower bound of a policy is short of it.

    Parameters
    ----------
    policy, reward, reference : (..., Y) arrays, broadcast against each other
    beta : float
        Positive, in reward units.

    Returns
    -------
    (...) array, in reward units, at least 0; `inf` where the policy has mass and the reference none

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2205.11275, eq. 5.
    """
    pi, r, p = _triple(policy, reward, reference)
    strength = checks.positive_number("beta", beta)
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        score = (r - _best(r, p)) / strength
        weight = np.where(p > 0, p * np.exp(np.minimum(score, 0.0)), 0.0)
        total = weight.sum(axis=-1, keepdims=True)
        near = _kl(pi, weight / total)
        # Where the posterior underflows but the policy does not, by logarithms.
        terms = pi * (np.log(pi) - np.log(p) - score)
        far = np.where(pi > 0, terms, 0.0).sum(axis=-1) + np.log(total[..., 0])
    return np.asarray(strength * np.where(np.isfinite(near), near, far))[()]


def collapsed_policy(reward: ArrayLike, reference: ArrayLike) -> FloatArray:
    """Return p conditioned on its best responses: the posterior in the limit of beta to 0.

    Parameters
    ----------
    reward, reference : (..., Y) arrays, broadcast against each other

    Returns
    -------
    (..., Y) array of distributions, `p` restricted to the argmax of r in its support

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2205.11275, section 2 (distribution collapse).
    """
    r, p = _pair(reward, reference)
    kept = np.where(r == _best(r, p), p, 0.0)
    return np.asarray(kept / kept.sum(axis=-1, keepdims=True))


def collapse_distance(reward: ArrayLike, reference: ArrayLike, beta: float) -> FloatArray:
    """Return the total variation distance of the posterior from the collapsed policy.

    `s/(m + s)` with m the mass of the best responses and `s = sum p e^(-shortfall/beta)` that of
    the others: at most `(1 - m)/m e^(-gap/beta)`, gap between the best and the second best.

    Parameters
    ----------
    reward, reference : (..., Y) arrays, broadcast against each other
    beta : float
        Positive, in reward units.

    Returns
    -------
    (...) array of numbers in `[0, 1)`

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: derived; the limit is that of arXiv 2205.11275, section 2.
    """
    r, p = _pair(reward, reference)
    strength = checks.positive_number("beta", beta)
    shortfall = _best(r, p) - r
    best = shortfall == 0
    with np.errstate(under="ignore", over="ignore"):
        rest = np.where(best, 0.0, p * np.exp(-np.maximum(shortfall, 0.0) / strength)).sum(axis=-1)
        mass = np.where(best, p, 0.0).sum(axis=-1)
        return np.asarray(rest / (mass + rest))[()]


@dataclass(frozen=True)
class BayesianPosterior:
    """The posterior of prior p and likelihood `e^(r^/beta)`, `r^` the fitted reward.

    The policy is that of `RLHF(beta, KL(), model)`; what is learned besides is Bayesian.

    What is learned: `reward` is `r^`; `objective` the evidence lower bound of the policy, averaged
    over the prompts, or None where there are several and no `prompt_dist`; `residual` the largest
    `evidence_gap` of a prompt, in reward units.  `diagnostics` has those of `RLHF`, and per
    prompt the `evidence` and the `collapse_distance`.

    Parameters
    ----------
    beta : float
        Positive, in reward units.
    model : RewardModel

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Fitting raises what `fit_reward` and `solve` raise.

    Source: arXiv 2205.11275.
    """

    beta: float
    model: RewardModel = field(default_factory=Tabular)

    def __post_init__(self) -> None:
        """Validate."""
        checks.positive_number("beta", self.beta)
        require_model(self.model)

    @property
    def name(self) -> str:
        """`Bayesian posterior`."""
        return "Bayesian posterior"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the posterior; see the class.  `rng` breaks the ties of a finite reward class."""
        learned = RLHF(self.beta, KL(), self.model).fit(
            data, reference, prompt_dist=prompt_dist, rng=rng
        )
        assert learned.reward is not None  # RLHF always fits one
        problem = learned.reward, reference, self.beta
        notes = {"evidence": evidence(*problem), "collapse_distance": collapse_distance(*problem)}
        return replace(
            learned,
            residual=float(evidence_gap(learned.policy, *problem).max()),
            diagnostics=dict(learned.diagnostics) | notes,
        )


def _pair(reward: ArrayLike, reference: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the checked arrays, broadcast."""
    p = checks.as_distributions("reference", reference)
    r = checks.as_real("reward", reward)
    shape = checks.same_responses(reward=r, reference=p)
    return np.broadcast_to(r, shape), np.broadcast_to(p, shape)


def _triple(
    policy: ArrayLike, reward: ArrayLike, reference: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    pi = checks.as_distributions("policy", policy)
    r, p = _pair(reward, reference)
    shape = checks.same_responses(policy=pi, reward=r)
    return np.broadcast_to(pi, shape), np.broadcast_to(r, shape), np.broadcast_to(p, shape)


def _best(r: FloatArray, p: FloatArray) -> FloatArray:
    """Return the (..., 1) largest reward in the support of p."""
    return np.where(p > 0, r, -np.inf).max(axis=-1, keepdims=True)


def _kl(policy: FloatArray, reference: FloatArray) -> FloatArray:
    """Return the (...) divergences, one per prompt."""
    return np.asarray(KL()(policy[..., None, :], reference[..., None, :]))
