"""Regularized optima under further convex constraints, by conic solvers that must agree.

`max_pi E_pi[r] - beta D(pi || p)` with whatever convex constraints a user adds, over one prompt or
several coupled by `prompt_dist`, optionally against the worst reward of an ellipsoid.  An
interior-point method solves it, another method solves it again, and the two values must agree.

How digits are kept.  The variables are the ratios `w = pi/p` for the first solver, which suits
interior points, and the masses for the second, which suits splitting methods.  Rewards are
relative to the best of their prompt, and the objective is divided by `max(beta, max r - min r)`.
The value that is reported is not the solver's: it is the objective of its policy, evaluated in
floating point.

The certificate owes nothing to the solver's tolerances either.  For any multipliers `mu >= 0` of
the constraints `c(pi) <= 0`, made linear at the policy `pi0` that was found, and any reward
`r + A u` of the ellipsoid, no policy has a higher objective than
`max_pi E_pi[r + A u - mu dc/dpi] - beta D(pi || p) - mu (c(pi0) - dc/dpi pi0)`, which `solve`
evaluates exactly.

Source: arXiv 2301.11270 and 2312.11456 (ellipsoids); the rest derived.
"""

from rlhfsim.solvers.convex.expressions import EXPRESSIONS, expression
from rlhfsim.solvers.convex.result import ConvexSolution, ConvexSolverError, SolverRun
from rlhfsim.solvers.convex.solving import AGREEMENT, solve_convex

__all__ = [
    "AGREEMENT",
    "EXPRESSIONS",
    "ConvexSolution",
    "ConvexSolverError",
    "SolverRun",
    "expression",
    "solve_convex",
]
