"""What a solver returns, and what it raises when its own certificate is bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from rlhfsim.checks import FloatArray

Array = TypeVar("Array")
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Solution(Generic[Array]):
    """The optimum of `max_pi E_pi[r] - beta D(pi || p)` for each prompt, with its certificate.

    All fields but `policy` have one entry per prompt (and per leading axis); for a single
    `(Y,)` problem they are 0-dimensional.  They are arrays of the kind that was given: numpy,
    torch or dask.
    """

    #: (..., Y) optimal policy.
    policy: Array
    #: (...) multiplier `lambda` of `sum_y pi = 1`, in reward units;
    #: `pi/p = inverse_link((r - lambda)/beta)`.
    multiplier: Array
    #: (...) attained objective `E_pi[r] - beta D(pi || p)`, in reward units.
    value: Array
    #: (...) dual value minus attained value, in reward units; 0 up to rounding, never clipped.
    gap: Array
    #: (...) `|sum_y pi - 1|`.
    feasibility: Array
    #: (...) largest `gap` that rounding explains, in reward units.
    tolerance: Array

    @property
    def dual(self) -> Array:
        """(...) dual value `lambda + beta sum_y p f*((r - lambda)/beta)`: value plus gap."""
        total: Array = self.value + self.gap  # type: ignore[operator]
        return total


class SolverError(RuntimeError):
    """A solver's answer failed its own certificate; the answer is in `solution`."""

    def __init__(self, message: str, solution: Solution[Any]) -> None:
        super().__init__(message)
        self.solution = solution

    def __reduce__(self) -> tuple[type[SolverError], tuple[str, Solution[Any]]]:
        """Pickle with the solution, so that the error survives a process pool."""
        return type(self), (str(self), self.solution)


def require_certified(solution: Solution[FloatArray], eps: float = _EPS) -> Solution[FloatArray]:
    """Return `solution`, or raise `SolverError` naming the first prompt with a bad certificate.

    `eps` is the spacing of the policy's floats at 1.
    """
    margin = rounding(solution.policy.shape[-1], eps)
    feasible = solution.feasibility <= margin
    # Written so that NaN fails; an infinite gap must not pass against an infinite tolerance.
    good = np.isfinite(solution.gap) & (np.abs(solution.gap) <= solution.tolerance) & feasible
    if np.all(good):
        return solution
    bad = np.nonzero(np.atleast_1d(~np.asarray(good)))
    index = tuple(int(i[0]) for i in bad) if np.ndim(good) else ()
    where = f" at prompt {list(index)}" if index else ""
    raise SolverError(
        f"no certified optimum{where}: duality gap {solution.gap[index]:.3g} "
        f"(allowed {solution.tolerance[index]:.3g}), |sum(policy) - 1| = "
        f"{solution.feasibility[index]:.3g} (allowed {margin:.3g})",
        solution,
    )


def rounding(size: int, eps: float = _EPS) -> float:
    """Return the relative error that a pairwise sum of `size` rounded terms may carry."""
    return float(eps * (16 + np.log2(size)))
