"""Exact evaluation of policies of several steps: values, occupancies, divergences of trajectories.

Every function takes policies as H arrays `(..., S_h, A_h)` (`(..., X, N_h, A_h)` on a token tree).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL, Divergence
from rlhfsim.mdp import recursions
from rlhfsim.mdp.model import PerStep
from rlhfsim.mdp.process import (
    Process,
    as_process,
    finite_action_values,
    occurring,
    require_finite,
)
from rlhfsim.mdp.recursions import Levels


def value(process: Process, policy: PerStep) -> FloatArray:
    """Return `J(pi) = E_pi[sum_h r_h(s_h, a_h)]`, in reward units.

    Parameters
    ----------
    process : FiniteHorizonMDP or TokenTree
    policy : H arrays of distributions

    Returns
    -------
    (...) array, or a number for a single policy

    Raises
    ------
    ValueError
        For a policy that is none of the process, and sums of rewards beyond the floats.
    """
    return process.mean(action_values(process, policy)[1][0])


def action_values(process: Process, policy: PerStep) -> tuple[Levels, Levels]:
    """Return `Q_h`, (..., S_h, A_h), and `V_h`, (..., S_h), of a policy, in reward units."""
    process, levels = _given(process, policy)
    return finite_action_values(process, levels)


def occupancies(process: Process, policy: PerStep) -> Levels:
    """Return the probabilities `d_h(s)` of the states of each step, (..., S_h)."""
    process, levels = _given(process, policy)
    return recursions.occupancies(process.initial, process.transitions, levels)


def optimal_policy(process: Process) -> Levels:
    """Return a deterministic policy that maximises the sum of rewards, by backward induction.

    Of tied actions the one with the largest reference probability is taken, of those the first,
    as by `ContextualBandit.optimal_policy`, which this is for one step.

    Raises
    ------
    ValueError
        For what is no process, and sums of rewards beyond the floats.
    """
    process = as_process("process", process)
    found: list[FloatArray] = []
    v: FloatArray | None = None
    for h in reversed(range(len(process.reward))):
        q = process.reward[h]
        if v is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                q = q + recursions.expected(process.transitions[h], v)
            require_finite(h, q)
        if process.available is not None:
            q = np.where(process.available[h], q, -np.inf)
        tied = q == q.max(axis=-1, keepdims=True)
        best = np.where(tied, process.reference[h], -1.0).argmax(axis=-1)
        v = np.take_along_axis(q, best[..., None], axis=-1)[..., 0]
        found.append(np.eye(q.shape[-1])[best])
    return tuple(reversed(found))


def step_divergence(
    process: Process, policy: PerStep, divergence: Divergence, reference: PerStep | None = None
) -> FloatArray:
    """Return `E_pi[sum_h D(pi_h(.|s_h) || p_h(.|s_h))]`, what regularized planning charges.

    With KL it is the divergence between the laws of whole trajectories (the chain rule).  States
    that the policy does not reach do not count.

    Parameters
    ----------
    process : FiniteHorizonMDP or TokenTree
    policy : H arrays of distributions
    divergence : Divergence
    reference : H arrays of distributions, optional
        In place of the reference of the process.

    Returns
    -------
    (...) array or number, in nats; `inf` where the policy reaches what the reference forbids

    Source: Cover & Thomas 2006, theorem 2.5.3 (chain rule).
    """
    process, levels = _given(process, policy)
    if not isinstance(divergence, Divergence):
        raise ValueError(f"divergence is {divergence!r:.80}; it must be a Divergence such as KL()")
    p = process.reference if reference is None else process.policy("reference", reference)
    terms = tuple(divergence.per_prompt(level, base) for level, base in zip(levels, p, strict=True))
    total = recursions.along_steps(process.transitions, levels, terms)
    return process.mean(total)


def trajectory_kl(
    process: Process, policy: PerStep, reference: PerStep | None = None
) -> FloatArray:
    """Return `KL` between the laws of trajectories under two policies, in nats.

    `step_divergence` with KL: in a deterministic process the KL between laws of whole responses.
    """
    return step_divergence(process, policy, KL(), reference)


def trajectory_concentrability(
    process: Process, policy: PerStep, reference: PerStep | None = None
) -> FloatArray:
    """Return `C = E_pi[prod_h pi_h/p_h]` over trajectories, `1 + 2 D_chi2` between their laws.

    By `C_h(s) = sum_a pi_h(a|s)^2 / p_h(a|s) E[C_(h+1)(s') | s, a]`, `C_(H+1) = 1`: where the
    factors do not depend on the state it is their product, exponential in H.

    Returns
    -------
    (...) array or number, at least 1; `inf` where the policy reaches what the reference forbids

    Source: arXiv 2407.13399 (H = 1); arXiv 2310.17303 (trajectories).
    """
    return _over_trajectories(process, policy, reference, largest=False)


def max_trajectory_concentrability(
    process: Process, policy: PerStep, reference: PerStep | None = None
) -> FloatArray:
    """Return `C_inf = max prod_h pi_h/p_h` over trajectories that occur; as the mean one."""
    return _over_trajectories(process, policy, reference, largest=True)


def _over_trajectories(
    process: Process, policy: PerStep, reference: PerStep | None, *, largest: bool
) -> FloatArray:
    process, levels = _given(process, policy)
    p = process.reference if reference is None else process.policy("reference", reference)
    rule = recursions.largest if largest else recursions.expected_or_infinite
    follow = partial(rule, end=1.0)
    total: FloatArray | None = None
    for h in reversed(range(len(levels))):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.where(levels[h] > 0, levels[h] / p[h], 0.0)
            factor = ratio if total is None else ratio * follow(process.transitions[h], total)
        # 0 times inf: an action that is not taken does not count.
        factor = np.where(levels[h] > 0, factor, 0.0)
        total = np.asarray(factor.max(axis=-1) if largest else (levels[h] * factor).sum(axis=-1))
    assert total is not None
    if not largest:
        return process.mean(total)
    return np.asarray(np.where(occurring(process), total, 0.0).max(axis=_axes(process)))[()]


def _axes(process: Process) -> tuple[int, ...]:
    return tuple(range(-process.initial.ndim, 0))


def _given(process: Process, policy: PerStep) -> tuple[Process, Levels]:
    process = as_process("process", process)
    return process, process.policy("policy", policy)


__all__ = [
    "action_values",
    "max_trajectory_concentrability",
    "occupancies",
    "optimal_policy",
    "step_divergence",
    "trajectory_concentrability",
    "trajectory_kl",
    "value",
]
