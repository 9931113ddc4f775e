"""Soft values and regularized optimal policies of a process, exact, by backward induction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.divergences import Divergence
from rlhfsim.mdp.process import Process, as_process, require_finite
from rlhfsim.mdp.recursions import Levels, expected
from rlhfsim.solvers import solve

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class SoftSolution:
    """The optimum of `E_pi[sum_h r_h - beta D(pi_h(.|s_h) || p_h(.|s_h))]`, with its certificate.

    Axes before those of states and actions are those of beta, then those of the process (the
    prompts of a `TokenTree`).
    """

    #: (..., S_h, A_h) of each step: the optimal policy.
    policy: Levels
    #: (..., S_h) of each step: the soft value `V_h`, in reward units.
    values: Levels
    #: (..., S_h) of each step: the multiplier of `sum_a pi = 1`, in reward units.
    multiplier: Levels
    #: (...) regularized value averaged over first states and prompts, in reward units.
    objective: FloatArray
    #: Sum over steps of the largest duality gap of a state, in reward units: no policy is better
    #: than this one by more, up to rounding.
    gap: float
    #: Largest `gap` that rounding explains, in reward units.
    tolerance: float


def solve_steps(
    process: Process,
    divergence: Divergence,
    beta: ArrayLike,
    *,
    reward: Sequence[ArrayLike] | None = None,
) -> SoftSolution:
    """Return the exact optimum under a divergence at every step, by backward induction.

    `V_h(s) = max_pi E_(a ~ pi)[Q_h(s, a)] - beta D(pi || p_h(.|s))`,
    `Q_h(s, a) = r_h(s, a) + E[V_(h+1)(s') | s, a]`, `V_(H+1) = 0`.

    Each step is a bandit with states for prompts, solved by `solve`; a process of one step is that
    bandit, and gets its policy and values to the bit.  With KL this is also the optimum under
    `beta KL` between the laws of whole trajectories, in a deterministic process that over
    sequences; with other divergences it is not.

    Parameters
    ----------
    process : FiniteHorizonMDP or TokenTree
    divergence : Divergence
    beta : number or (n,) array
        Positive, in reward units.
    reward : H arrays, optional
        In place of the rewards of the process, of the same shapes.

    Returns
    -------
    SoftSolution

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value; values beyond the floats.
    SolverError
        Where a step has no certified optimum.

    Source: arXiv 2310.17303 (KL); arXiv 2404.12358.
    """
    process = as_process("process", process)
    strength = checks.as_positive("beta", beta)
    if strength.ndim > 1 or strength.size == 0:
        raise ValueError(
            f"beta has shape {strength.shape}; it must be a number or (n,), of at least one"
        )
    rewards = process.reward if reward is None else _as_rewards(reward, process.reward)
    return _backward(process, rewards, divergence, strength)


def _backward(
    process: Process, reward: Levels, divergence: Divergence, beta: FloatArray
) -> SoftSolution:
    transitions, available = process.transitions, process.available
    per_state = beta.reshape(*beta.shape, *(1,) * (reward[0].ndim - 1)) if beta.ndim else beta
    policy: list[FloatArray] = []
    values: list[FloatArray] = []
    multiplier: list[FloatArray] = []
    gap = tolerance = 0.0
    for h in reversed(range(len(reward))):
        q = reward[h]
        if values:
            with np.errstate(over="ignore", invalid="ignore"):
                q = q + expected(transitions[h], values[-1])
            require_finite(h, q)
            tolerance += 4 * _EPS * float(np.abs(q).max())
        if available is not None:
            q = _without_absent(q, available[h])
        solution = solve(q, process.reference[h], divergence, per_state)
        policy.append(solution.policy)
        values.append(np.asarray(solution.value))
        multiplier.append(np.asarray(solution.multiplier))
        gap += float(np.max(np.abs(solution.gap)))
        tolerance += float(np.max(solution.tolerance))
    return SoftSolution(
        policy=tuple(reversed(policy)),
        values=tuple(reversed(values)),
        multiplier=tuple(reversed(multiplier)),
        objective=process.mean(values[-1]),
        gap=gap,
        tolerance=tolerance,
    )


def _without_absent(q: FloatArray, mask: BoolArray) -> FloatArray:
    """Return q with the least value of its row in place of actions that the state lacks.

    They have no reference mass, and at that value none is worth giving to them, whatever mass
    outside the reference costs.
    """
    if mask.all():
        return q
    least = np.where(mask, q, np.inf).min(axis=-1, keepdims=True)
    return np.where(mask, q, least)


def _as_rewards(reward: Sequence[ArrayLike], own: Levels) -> Levels:
    if isinstance(reward, (str, bytes)) or not hasattr(reward, "__iter__"):
        raise ValueError(f"reward is {reward!r:.80}; it must be a sequence of arrays, one per step")
    levels = tuple(checks.as_real(f"reward[{h}]", level) for h, level in enumerate(reward))
    if len(levels) != len(own):
        raise ValueError(f"reward has {len(levels)} arrays; it must have {len(own)}, one per step")
    for h, (level, known) in enumerate(zip(levels, own, strict=True)):
        if level.shape != known.shape:
            raise ValueError(f"reward[{h}] has shape {level.shape}; it must be {known.shape}")
    return levels
