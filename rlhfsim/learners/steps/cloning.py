"""Behavior cloning step by step, and planning around the clone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.data import DemonstrationData
from rlhfsim.divergences import KL
from rlhfsim.learners.demonstrations import behavior_cloning, require_demonstrations
from rlhfsim.mdp import FiniteHorizonMDP, PrefixTree, SoftSolution, Trajectories, solve_steps
from rlhfsim.mdp.recursions import Levels
from rlhfsim.mdp.tree import require_responses, token_policy


def clone_tokens(
    demonstrations: DemonstrationData,
    prefixes: PrefixTree,
    *,
    smoothing: float = 1.0,
    reference: ArrayLike | None = None,
) -> Levels:
    """Return the clone of an expert that writes responses, as next-token probabilities.

    `pi_h(a | prefix) = (N(prefix a) + kappa) / (N(prefix) + kappa A)`, `behavior_cloning` at each
    prefix, over its A tokens; uniform at prefixes that no demonstration has.  For an expert that
    needs few prefixes it is closer than the clone over whole responses, which smooths all of them.

    Parameters
    ----------
    demonstrations : DemonstrationData
        Whole responses.
    prefixes : PrefixTree
    smoothing : float
        `kappa`, at least 0.
    reference : (X, Y) array of distributions, optional
        Only tokens that it can give, or that were demonstrated, are smoothed over.

    Returns
    -------
    H arrays (X, N_h, A_h) of distributions

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value; without smoothing, for a prompt without
        demonstrations.

    Source: arXiv 2310.17303.
    """
    require_demonstrations(demonstrations)
    n, size = demonstrations.n_prompts, demonstrations.n_responses
    require_responses(prefixes, size)
    cells = demonstrations.prompt * size + demonstrations.response
    shown = np.bincount(cells, minlength=n * size).reshape(n, size).astype(np.float64)
    edges, _ = prefixes.summed(shown)
    found = []
    for h, mask in enumerate(_masks(prefixes, n, reference)):
        count = edges[h].reshape(-1, edges[h].shape[-1]).astype(np.int64)
        row, action = np.nonzero(count)
        many = count[row, action]
        clone = _clone(row.repeat(many), action.repeat(many), mask, smoothing, whole=h == 0)
        found.append(clone.reshape(edges[h].shape))
    return tuple(found)


def clone_trajectories(
    trajectories: Trajectories, mdp: FiniteHorizonMDP, *, smoothing: float = 1.0
) -> Levels:
    """Return the clone of an expert from trajectories: `behavior_cloning` at each state of a step.

    Smoothed over the actions of positive reference probability; uniform over these at states that
    no demonstration reaches, but for first states without smoothing, which are refused.

    Parameters
    ----------
    trajectories : Trajectories
    mdp : FiniteHorizonMDP
    smoothing : float
        `kappa`, at least 0.

    Returns
    -------
    H arrays (S_h, A_h) of distributions

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2310.17303.
    """
    if not isinstance(trajectories, Trajectories):
        kind = type(trajectories).__name__
        raise ValueError(f"trajectories is a {kind}; it must be Trajectories")
    if not isinstance(mdp, FiniteHorizonMDP):
        raise ValueError(f"mdp is a {type(mdp).__name__}; it must be a FiniteHorizonMDP")
    if trajectories.horizon != mdp.horizon:
        raise ValueError(
            f"trajectories has {trajectories.horizon} steps; the process has {mdp.horizon}"
        )
    found = []
    for h, shape in enumerate(mdp.shapes):
        _, state, action = trajectories.taken("trajectories", h, shape)
        mask = mdp.reference[h] > 0
        found.append(_clone(state, action, mask, smoothing, whole=h == 0))
    return tuple(found)


def plan_around_clone(
    trajectories: Trajectories,
    mdp: FiniteHorizonMDP,
    beta: float,
    *,
    smoothing: float = 1.0,
    reward: Sequence[ArrayLike] | None = None,
) -> SoftSolution:
    """Return `argmax_pi E_pi[sum_h r_h] - beta KL(trajectories of pi || of the clone)`, exactly.

    `J(pi_E) - J(pi) <= beta KL(pi_E || clone)` with the true rewards.

    Parameters
    ----------
    trajectories : Trajectories
        Of the expert.
    mdp : FiniteHorizonMDP
    beta : float
        Positive, in reward units.
    smoothing : float
    reward : H arrays (S_h, A_h), optional
        Learned rewards; those of the process by default.

    Raises
    ------
    ValueError
        As `clone_trajectories` and `solve_steps`.

    Source: arXiv 2310.17303.
    """
    clone = clone_trajectories(trajectories, mdp, smoothing=smoothing)
    strength = checks.positive_number("beta", beta)
    return solve_steps(replace(mdp, reference=clone), KL(), strength, reward=reward)


def _masks(prefixes: PrefixTree, n_prompts: int, reference: ArrayLike | None) -> list[BoolArray]:
    """Return for each level which tokens are smoothed over, (X N_h, A_h)."""
    if reference is not None:
        p = checks.as_distributions("reference", reference)
        if p.shape != (n_prompts, prefixes.n_sequences):
            raise ValueError(
                f"reference has shape {p.shape}; it must have that of the demonstrations, "
                f"{(n_prompts, prefixes.n_sequences)}"
            )
        levels: Any = [level > 0 for level in token_policy(prefixes, p)]
    else:
        own = prefixes.available
        levels = [np.ones(s, dtype=bool) for s in prefixes.shapes] if own is None else own
    return [
        np.broadcast_to(level, (n_prompts, *level.shape[-2:])).reshape(-1, level.shape[-1])
        for level in levels
    ]


def _clone(
    row: IntArray, action: IntArray, mask: BoolArray, smoothing: float, *, whole: bool
) -> FloatArray:
    """Return `behavior_cloning` at the rows that were seen, or at all; else uniform."""
    if whole and row.size:
        shown = DemonstrationData(row, action, mask.shape)
        return behavior_cloning(shown, smoothing=smoothing, available=mask)
    clone = mask / mask.sum(axis=1, keepdims=True)
    if row.size:
        seen, place = np.unique(row, return_inverse=True)
        shown = DemonstrationData(place, action, (seen.size, mask.shape[1]))
        clone[seen] = behavior_cloning(shown, smoothing=smoothing, available=mask[seen])
    return np.asarray(clone)
