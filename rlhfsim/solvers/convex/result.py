"""What the solvers said, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from rlhfsim.checks import FloatArray
from rlhfsim.solvers.solution import Solution, SolverError


@dataclass(frozen=True)
class SolverRun:
    """What one solver said."""

    #: Name, as cvxpy spells it.
    solver: str
    #: cvxpy's status, or the message of an error.
    status: str
    #: Objective, in reward units; nan unless the status is "optimal".
    value: float
    #: Options that the accepted answer (or the last attempt) was computed with.
    options: Mapping[str, Any]
    #: Iterations, where the solver tells.
    iterations: int | None


@dataclass(frozen=True, eq=False)
class ConvexSolution:
    """The optimum of a regularized objective under convex constraints."""

    #: (Y,) or (X, Y) optimal policy.
    policy: FloatArray
    #: Objective of `policy`, in reward units: its average over prompts, worst case included.
    value: float
    #: Dual bound minus `value`, in reward units; nan where a constraint is a cone by itself.
    gap: float
    #: Largest `|sum_y pi - 1|` of a prompt.
    feasibility: float
    #: Largest violation of a user's constraint; 0 where there are none.
    violation: float
    #: Multipliers of the user's constraints in their order, in reward units per unit of each.
    constraint_multipliers: tuple[Any, ...]
    #: (Y,) or (X, Y) reward of the ellipsoid that is worst for `policy`; `reward` without one.
    worst_reward: FloatArray
    #: The solver that made `policy`, and the one that was asked for a second opinion.
    runs: tuple[SolverRun, ...]


class ConvexSolverError(SolverError):
    """No trustworthy optimum: another status than optimal, a gap, or solvers that disagree."""

    def __init__(self, message: str, runs: tuple[SolverRun, ...]) -> None:
        super().__init__(message, cast("Solution[Any]", None))
        #: What the solvers said.
        self.runs = runs

    def __reduce__(self) -> tuple[type[ConvexSolverError], tuple[str, tuple[SolverRun, ...]]]:  # type: ignore[override]
        """Pickle with the runs."""
        return type(self), (str(self), self.runs)
