"""What the solvers of games return, and what they raise when their certificate is bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.solvers import SolverError

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class NashSolution(Frozen):
    """An equilibrium policy of each prompt's game, with its certificate; arrays are read-only."""

    #: (..., X, Y) the policy that both players play.
    policy: FloatArray
    #: (..., X) exact duality gap of the game that was solved, regularized or not, in units of `l`;
    #: 0 up to rounding, never clipped.
    gap: FloatArray
    #: (..., X) what the policy is sure to get, `min_y l(pi, y)` (in a regularized game with both
    #: penalties): minus half the gap, since the value of a symmetric game is 0.
    value: FloatArray
    #: (..., X) largest `gap` that rounding explains.
    tolerance: FloatArray

    def __post_init__(self) -> None:
        """Copy and freeze."""
        for name in ("policy", "gap", "value", "tolerance"):
            object.__setattr__(self, name, checks.frozen(np.asarray(getattr(self, name))))

    @property
    def support(self) -> BoolArray:
        """(..., X, Y) which responses have mass."""
        return np.asarray(self.policy > 0)


class GameError(SolverError):
    """An equilibrium failed its own certificate; what was reached is in `solution`."""

    solution: NashSolution  # type: ignore[assignment]

    def __init__(self, message: str, solution: NashSolution) -> None:
        super().__init__(message, cast("Any", solution))

    def __reduce__(self) -> tuple[type[GameError], tuple[str, NashSolution]]:  # type: ignore[override]
        """Pickle with the solution."""
        return type(self), (str(self), self.solution)


def require_equilibrium(solution: NashSolution) -> NashSolution:
    """Return `solution`, or raise `GameError` naming the first prompt with a bad certificate."""
    off = np.abs(solution.policy.sum(axis=-1) - 1.0)
    margin = rounding(solution.policy.shape[-1])
    # Written so that NaN fails.
    good = (np.abs(solution.gap) <= solution.tolerance) & (off <= margin)
    good &= (solution.policy >= 0).all(axis=-1)
    if np.all(good):
        return solution
    index = tuple(int(i[0]) for i in np.nonzero(np.atleast_1d(~good))) if good.ndim else ()
    where = f" at prompt {list(index)}" if index else ""
    raise GameError(
        f"no certified equilibrium{where}: duality gap {solution.gap[index]:.3g} "
        f"(allowed {solution.tolerance[index]:.3g}), |sum(policy) - 1| = {off[index]:.3g} "
        f"(allowed {margin:.3g}), least mass {solution.policy[index].min():.3g}",
        solution,
    )


def rounding(size: int) -> float:
    """Return the relative error that sums of `size` products may carry here."""
    return 4.0 * _EPS * (16.0 + float(np.log2(size)))
