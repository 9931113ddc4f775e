"""The policy against a reward that may be the worst of a family.

    max_pi min_{u in U} E_x E_pi[b + <u, F>] - beta D(pi || p)

b and F are rewards relative to a baseline.  The objective is concave in pi and linear in u, and U
is convex and compact, so the two may change places.  `G(u)`, the maximum over pi at one u, is
convex and differentiable; its policy is what `solve` returns for the reward `b + <u, F>`, its
gradient is `E_x E_pi[F]` at that policy, and the policy at the minimiser of G over U is optimal.

The certificate owes nothing to how u was found.  At any u with policy pi, `G(u)` is at least the
optimum, and pi's own worst case, `min_{u' in U}` of the objective, at most.  They differ by
`max_{u' in U} <grad G(u), u - u'>`, plus the duality gap of `solve`.

Source: Sion 1958 (Pacific J. Math. 8); Danskin 1967.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.divergences import Divergence
from rlhfsim.rewards.features import weighted_gram
from rlhfsim.solvers import solve


@dataclass(frozen=True, eq=False)
class Response:
    """The best policy against one u."""

    #: (k,) the u.
    point: FloatArray
    #: (X, Y) `b + <u, F>`.
    reward: FloatArray
    #: (X, Y) the policy that is best against it.
    policy: FloatArray
    #: (k,) `E_x E_pi[F]`, the gradient of G.
    gradient: FloatArray
    #: Average duality gap of `solve`, in reward units.
    gap: float


@dataclass(frozen=True, eq=False)
class Game:
    """The problem of the module's docstring, without the set U."""

    #: (X, Y) b.
    base: FloatArray
    #: (X, Y, k) F.
    factor: FloatArray
    #: (X, Y) distributions p.
    reference: FloatArray
    divergence: Divergence
    beta: float
    #: (X,) distribution.
    prompt_dist: FloatArray

    @cached_property
    def size(self) -> float:
        """The largest reward in play, in reward units: what gaps and rounding are measured by."""
        allowed = self.reference > 0
        if np.isfinite(self.divergence.recession):
            allowed = np.ones_like(allowed)
        spread = np.sqrt((self.factor**2).sum(axis=2))
        return float((np.abs(self.base) + spread)[allowed].max())

    def respond(self, point: FloatArray) -> Response:
        """Return the best policy against `point`.

        Raises
        ------
        SolverError
            Where `solve` does.
        """
        reward = self.base + np.einsum("xyk,k->xy", self.factor, point)
        solution = solve(reward, self.reference, self.divergence, self.beta)
        weight = self.prompt_dist[:, None] * solution.policy
        gradient = np.asarray(np.einsum("xy,xyk->k", weight, self.factor))
        gap = float(self.prompt_dist @ np.abs(solution.gap))
        return Response(point, reward, solution.policy, gradient, gap)

    def curvature(self, response: Response, chosen: IntArray | None = None) -> FloatArray:
        """Return the Hessian of G at a response, over the chosen coordinates (all by default).

        `E_x[sum_y q (F - F_q)(F - F_q)'] / beta` with `q = p / f''(pi/p)` where pi has mass, and
        `F_q` the mean of F under q: how `pi = p (f')^{-1}((r - lambda)/beta)` follows r.  For KL
        q is the policy itself.
        """
        p, policy = self.reference, response.policy
        moves = (p > 0) & (policy > 0)
        ratio = np.where(moves, policy, 1.0) / np.where(moves, p, 1.0)
        with np.errstate(over="ignore", divide="ignore"):
            q = np.where(moves, p / self.divergence.link_slope(ratio), 0.0)
        total = q.sum(axis=1, keepdims=True)
        factor = self.factor if chosen is None else self.factor[:, :, chosen]
        mean = np.einsum("xy,xyk->xk", q / np.where(total > 0, total, 1.0), factor)
        weight = self.prompt_dist[:, None] * q / self.beta
        return weighted_gram((factor - mean[:, None]).reshape(q.size, -1), weight.ravel())

    def value(self, response: Response) -> float:
        """Return `E_x E_pi[b + <u, F>] - beta D(pi || p)`."""
        gain = np.where(response.policy > 0, response.policy * response.reward, 0.0).sum(axis=1)
        cost = self.divergence(response.policy, self.reference, self.prompt_dist)
        return float(self.prompt_dist @ gain - self.beta * cost)
