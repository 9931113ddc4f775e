"""The chi-squared optimum over laws of whole trajectories, where chance moves between the steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.mdp import recursions
from rlhfsim.mdp.process import Process, as_process, finite_action_values, occurring
from rlhfsim.mdp.recursions import Levels


class TrajectoryOptimum(NamedTuple):
    """What `chi_squared_over_trajectories` returns, averaged over first states and prompts."""

    #: `J(p) + E_p[sum_h A_h^2] / (2 beta)`, in reward units: no policy has more, and where
    #: `least_ratio` is not negative one has as much.
    value: FloatArray
    #: `J(p)`, in reward units.
    reference_value: FloatArray
    #: Least of `1 + sum_h A_h/beta` over trajectories that the reference can take, from first
    #: states (and prompts) of positive probability.
    least_ratio: float
    #: (..., S_h, A_h) of each step: the advantages `A_h = Q_h - V_h` of the reference.
    advantage: Levels


def chi_squared_over_trajectories(process: Process, beta: float) -> TrajectoryOptimum:
    """Return `max E_pi[R] - beta D_chi2(trajectories of pi || of p)`, where none is clipped.

    R is the sum of rewards; policies may remember.  The ratio W of the two laws is a martingale
    under p that moves with actions only and starts at 1; so is the part of R that actions decide,
    whose moves are the reference's advantages `A_h`.  Moves of different steps are uncorrelated:
    `E_p[W R] - beta/2 E_p[(W - 1)^2]` is largest at `W = 1 + sum_h A_h(s_h, a_h)/beta`, that is
    `pi_h/p_h = 1 + A_h/(beta W_(h-1))`, a policy where W is never negative (`least_ratio`).
    Elsewhere `value` is an upper bound.  In a deterministic process the sum of advantages is the
    reward less its mean, and this is the bandit's optimum over responses.

    Parameters
    ----------
    process : FiniteHorizonMDP or TokenTree
    beta : float
        Positive, in reward units.

    Returns
    -------
    TrajectoryOptimum

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: ours; for one step arXiv 2407.13399.
    """
    process = as_process("process", process)
    strength = checks.positive_number("beta", beta)
    p = process.reference
    q, v = finite_action_values(process, p)
    advantage = tuple(a - b[..., None] for a, b in zip(q, v, strict=True))
    squares = tuple((pi * a**2).sum(axis=-1) for pi, a in zip(p, advantage, strict=True))
    spread = recursions.along_steps(process.transitions, p, squares)
    base = process.mean(v[0])
    return TrajectoryOptimum(
        value=base + process.mean(spread) / (2.0 * strength),
        reference_value=base,
        least_ratio=1.0 + _least(process, advantage) / strength,
        advantage=recursions.read_only(list(advantage)),
    )


def _least(process: Process, advantage: Levels) -> float:
    """Return the least sum of advantages along trajectories that the reference can take."""
    total: FloatArray | None = None
    for h in reversed(range(len(advantage))):
        sums = advantage[h]
        if total is not None:
            sums = sums - recursions.largest(process.transitions[h], -total, end=0.0)
        total = np.where(process.reference[h] > 0, sums, np.inf).min(axis=-1)
    assert total is not None
    return float(np.where(occurring(process), total, np.inf).min())
