"""Exact optima of regularized bandit objectives, certified.

For each prompt, `max_pi E_pi[r] - beta D_f(pi || p)` has the optimum `pi = p w`,
`w = inverse_link((r - lambda) / beta)`, where the one number lambda makes `pi` sum to 1.
`rlhfsim.solvers.general` does the work.

Source: arXiv 2407.13399 (mixed divergence), 2205.11275 (KL).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import Divergence
from rlhfsim.solvers.general import solve_rows
from rlhfsim.solvers.solution import Solution, require_certified


def solve(
    reward: ArrayLike, reference: ArrayLike, divergence: Divergence, beta: ArrayLike
) -> Solution[FloatArray]:
    """Return the exact maximiser of `E_pi[r] - beta D(pi || p)` over all policies, per prompt.

    Parameters
    ----------
    reward : (..., Y) array
        Finite rewards; entries where `reference` is 0 do not matter.
    reference : (..., Y) array of distributions
        The sampling policy `p`; responses of mass 0 get mass 0.
    divergence : Divergence
        `KL()`, `ChiSquared()`, or a positive combination such as `ChiSquared() + 0.5 * KL()`.
    beta : number or array
        Positive regularization strengths, broadcast against the *prompt* axes `(...)` of the two
        arrays: a grid for an `(X, Y)` problem is `beta[:, None]` and gives an `(n_beta, X, Y)`
        policy.

    Returns
    -------
    Solution
        `policy` of the broadcast shape; `multiplier`, `value`, `gap`, `feasibility` per prompt.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    SolverError
        The duality gap or the feasibility exceeds what rounding explains.

    Examples
    --------
    >>> solve([1.0, 0.0], [0.5, 0.5], ChiSquared(), 1.0).policy
    array([0.75, 0.25])
    """
    r = checks.as_real("reward", reward)
    p = checks.as_distributions("reference", reference)
    b = checks.as_positive("beta", beta)
    if r.ndim == 0 or r.shape[-1] != p.shape[-1]:
        raise ValueError(
            f"reward has shape {r.shape} and reference {p.shape}; "
            "their last axes must hold the same responses"
        )
    if not isinstance(divergence, Divergence):
        raise ValueError(f"divergence is {divergence!r}; it must be a Divergence such as KL()")
    batch = checks.broadcast(reward=r[..., 0], reference=p[..., 0], beta=b)
    size = r.shape[-1]
    rows = (int(np.prod(batch, dtype=np.int64)), size)
    # C order makes every row sum run the same way whatever the caller's strides are.
    r = np.ascontiguousarray(np.broadcast_to(r, (*batch, size))).reshape(rows)
    p = np.ascontiguousarray(np.broadcast_to(p, (*batch, size))).reshape(rows)
    b = np.ascontiguousarray(np.broadcast_to(b, batch)).reshape(rows[0])
    solution = solve_rows(r, p, b, divergence)

    def restore(field: FloatArray) -> FloatArray:
        return field.reshape(batch)[()]

    return require_certified(
        Solution(
            policy=solution.policy.reshape(*batch, size),
            multiplier=restore(solution.multiplier),
            value=restore(solution.value),
            gap=restore(solution.gap),
            feasibility=restore(solution.feasibility),
            tolerance=restore(solution.tolerance),
        )
    )
