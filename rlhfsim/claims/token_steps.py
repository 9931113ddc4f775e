"""Responses made of tokens: what KL does not see, and what chi-squared does.

Source: arXiv 2404.12358; the statements on chi-squared by token are ours.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.processes import Tokens
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.mdp import (
    chi_squared_over_trajectories,
    sequence_policy,
    solve_steps,
    step_divergence,
    trajectory_kl,
)
from rlhfsim.solvers import solve

_TOKENS = "arXiv 2404.12358"
_OURS = "ours"


def _whole_kl(x: Tokens) -> FloatArray:
    return KL().per_prompt(x.policy, x.reference)


def _kl_by_token(x: Tokens) -> FloatArray:
    return trajectory_kl(x.process(), x.split(x.policy))


def _kl_optimum_by_token(x: Tokens) -> FloatArray:
    """Return the mean of the probe under the KL optimum by token."""
    best = solve_steps(x.process(in_beta=True), KL(), 1.0).policy
    return np.asarray((sequence_policy(x.prefixes(), best) * x.probe).sum(axis=-1))


def _kl_optimum(x: Tokens) -> FloatArray:
    best = solve(x.reward, x.reference, KL(), x.beta).policy
    return np.asarray((best * x.probe).sum(axis=-1))


def _ratios_by_token(x: Tokens) -> FloatArray:
    """`sum_y probe sum_h beta log(pi_h/p_h)` of the KL optimum by token."""
    process = x.process(in_beta=True)
    best = solve_steps(process, KL(), 1.0).policy
    logs = tuple(np.log(a / b) for a, b in zip(best, process.reference, strict=True))
    return np.asarray(x.beta * (x.probe * x.prefixes().sums_along(logs)).sum(axis=-1))


def _reward_less_value(x: Tokens) -> FloatArray:
    """`sum_y probe (r(y) - beta log E_p[e^(r/beta)])`."""
    best = solve(x.reward, x.reference, KL(), x.beta).value
    return np.asarray((x.probe * (x.reward - best[:, None])).sum(axis=-1))


def _ratio_rounding(x: Tokens) -> FloatArray:
    logs = np.abs(np.log(x.reference)).max(axis=-1)
    size = np.abs(x.reward).max(axis=-1) + x.beta * (1.0 + logs)
    return RESOLUTION * size * x.probe.sum(axis=-1)


def _chi_squared_by_token(x: Tokens) -> FloatArray:
    return step_divergence(x.process(), x.split(x.policy), ChiSquared())


def _chi_squared(x: Tokens) -> FloatArray:
    return ChiSquared().per_prompt(x.policy, x.reference)


def _chi_squared_optimum(x: Tokens) -> FloatArray:
    """Return what the bandit's optimum has beyond the reference."""
    base = (x.reference * x.reward).sum(axis=-1)
    return np.asarray(solve(x.reward, x.reference, ChiSquared(), x.beta).value - base)


def _from_advantages(x: Tokens) -> FloatArray:
    """`E_p[sum_h A_h^2]/(2 beta)`, advantages of the reference token by token."""
    best = chi_squared_over_trajectories(x.process(in_beta=True), 1.0)
    return np.asarray(x.beta * (best.value - best.reference_value))


def _value_rounding(x: Tokens) -> FloatArray:
    size = np.abs(x.reward).max(axis=-1)
    return RESOLUTION * (size + size**2 / x.beta)


def _token_regret(x: Tokens) -> FloatArray:
    """Regret against the policy of the chi-squared optimum by token for `reward_hat`."""
    best = solve_steps(x.process(in_beta=True, learned=True), ChiSquared(), 1.0).policy
    found = sequence_policy(x.prefixes(), best)
    return np.asarray(((x.policy - found) * x.reward).sum(axis=-1))


def _sequence_bound(x: Tokens) -> FloatArray:
    """`(eps_c + beta sqrt(2 D))^2 / (4 beta)`, D by token."""
    error = x.reward - x.reward_hat
    centred = error - (x.reference * error).sum(axis=-1, keepdims=True)
    epsilon = np.sqrt((x.reference * centred**2).sum(axis=-1))
    away = np.sqrt(2.0 * _chi_squared_by_token(x))
    return np.asarray((epsilon + x.beta * away) ** 2 / (4.0 * x.beta))


def _tokens(
    reference: FloatArray, *, policy: FloatArray | None = None, beta: float = 1.0,
    reward: FloatArray | None = None, reward_hat: FloatArray | None = None,
) -> Tokens:  # fmt: skip
    zero = np.zeros(reference.size)
    probe = 1.0 + np.arange(reference.size) / reference.size
    return Tokens(
        *(
            np.asarray(row, dtype=np.float64)[None]
            for row in (
                reference, reference if policy is None else policy,
                zero if reward is None else reward, zero if reward_hat is None else reward_hat,
                probe, beta,
            )
        )
    )  # fmt: skip


def _generic_tokens() -> Tokens:
    reference = np.array([0.3, 0.1, 0.4, 0.2])
    policy, reward = np.array([0.2, 0.5, 0.2, 0.1]), np.array([1.0, -0.3, 0.2, 0.6])
    return _tokens(reference, policy=policy, beta=0.7, reward=reward)


def _unclipped() -> Tokens:
    return replace(_generic_tokens(), beta=np.array([4.0]))


def _detour() -> Tokens:
    """Where the reference nearly always goes, the policy goes half the time, then far away."""
    first, second = np.array([0.98, 0.02]), np.array([[1e-4, 1 - 1e-4], [0.5, 0.5]])
    there = np.array([0.5, 0.0, 0.25, 0.25])
    return _tokens((first[:, None] * second).ravel(), policy=there)


def _overestimated() -> Tokens:
    """One response, rare at both tokens, is thought good and is bad."""
    one = np.array([0.05, 0.95])
    reference, first = np.outer(one, one).ravel(), np.eye(4)[0]
    return _tokens(reference, reward=-first, reward_hat=first, beta=0.1)


TOKEN_CLAIMS: tuple[Claim[Tokens], ...] = (
    Claim[Tokens](
        "chi-squared over responses from advantages by token",
        "max_pi E_pi[r] - beta D_chi2(pi || p) - J(p) <= E_p[sum_h A_h^2]/(2 beta)",
        f"{_OURS}; equality where no response is clipped",
        "tight",
        _chi_squared_optimum,
        _from_advantages,
        _unclipped,
        _value_rounding,
    ),
    Claim[Tokens](
        "chain rule of KL",
        "sum_h E_pi[KL(pi_h || p_h)] = KL(pi || p) between whole responses",
        "Cover & Thomas 2006, theorem 2.5.3",
        "identity",
        _kl_by_token,
        _whole_kl,
        _generic_tokens,
        lambda x: RESOLUTION * (1.0 + _whole_kl(x)),
    ),
    Claim[Tokens](
        "KL by token is KL by response",
        "the soft optimum token by token with KL = the bandit's KL optimum over responses",
        _TOKENS,
        "identity",
        _kl_optimum_by_token,
        _kl_optimum,
        _generic_tokens,
        lambda x: 8 * RESOLUTION * (1.0 + np.abs(x.reward).max(axis=-1) / x.beta),
    ),
    Claim[Tokens](
        "log-ratios are advantages that telescope",
        "sum_h beta log(pi_h/p_h)(y) = r(y) - V(x), so DPO by token is DPO by response",
        _TOKENS,
        "identity",
        _ratios_by_token,
        _reward_less_value,
        _generic_tokens,
        _ratio_rounding,
    ),
    Claim[Tokens](
        "chi-squared by token below that of responses",
        "sum_h E_pi[D_chi2(pi_h || p_h)] <= D_chi2(pi || p) between responses",
        f"{_OURS}; it would follow if chi-squared had a chain rule",
        "false",
        _chi_squared_by_token,
        _chi_squared,
        _detour,
    ),
    Claim[Tokens](
        "the sharp bound with chi-squared by token",
        "J(pi*) - J(pi^) <= (eps_c + beta sqrt(2 D*))^2/(4 beta), pi^ and D* by token",
        f"{_OURS}; for chi-squared between responses it holds (2407.13399)",
        "false",
        _token_regret,
        _sequence_bound,
        _overestimated,
    ),
)
