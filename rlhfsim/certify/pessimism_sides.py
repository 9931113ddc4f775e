"""The regret of a learner without pessimism in ball arithmetic.

The penalized estimate is enclosed without trusting its solver: minus the log-likelihood plus
`||theta||^2/2` is 1-strongly convex, so that its minimiser is within the norm of the gradient at
any theta.  `Sigma` is rational, and so is the linear system that replaces its root:
`||v||^2 = v' Sigma^-1 v`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flint import arb, fmpq

from rlhfsim.certify.arrays import BallArray, balls
from rlhfsim.certify.ball_divergences import ZERO, BallDivergence
from rlhfsim.certify.ball_optima import solve
from rlhfsim.certify.divergences import Ball
from rlhfsim.certify.method_sides import middles, one
from rlhfsim.certify.numbers import Number
from rlhfsim.certify.sides import BallSides
from rlhfsim.claims.pessimism import GIVEN, LEAST_GAIN, counts
from rlhfsim.divergences import KL
from rlhfsim.rewards import Linear

_KL = BallDivergence((1, KL()))

#: Newton steps from the estimate in floats: each doubles its digits.
_STEPS = 12


def _solved(matrix: BallArray, right: BallArray) -> BallArray:
    """Return the solution of a small positive definite system, by elimination."""
    rows = [[*line, value] for line, value in zip(matrix.tolist(), right.tolist(), strict=True)]
    size = len(rows)
    for k in range(size):
        for i in range(k + 1, size):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    found: list[Number] = [ZERO] * size
    for k in reversed(range(size)):
        known = sum((rows[k][j] * found[j] for j in range(k + 1, size)), ZERO)
        found[k] = (rows[k][size] - known) / rows[k][k]
    return balls(found)


def _comparisons(x: Any) -> tuple[BallArray, BallArray]:
    """Return the differences `phi(winner) - phi(loser)`, (P, d), and their counts."""
    wins = np.asarray(x.wins)[0]
    prompt, winner, loser = np.nonzero(wins)
    phi = x.features[0]
    return phi[prompt, winner] - phi[prompt, loser], balls(wins[prompt, winner, loser])


def _estimate(x: Any, difference: BallArray, count: BallArray) -> BallArray:
    """Return balls around the penalized maximum likelihood estimate."""
    features = middles(x.features)[0]
    start = Linear(features, ridge=1.0).fit(counts(np.asarray(x.wins)[0])).parameter
    theta = balls(np.asarray(start, dtype=np.float64))
    unit = balls(np.eye(len(theta)))

    def gradient(point: BallArray) -> BallArray:
        missed = 1 / (1 + np.exp(difference @ point))
        return balls(point - (count * missed) @ difference)

    for _ in range(_STEPS):
        sigma = 1 / (1 + np.exp(-1 * (difference @ theta)))
        weight = count * sigma * (1 - sigma)
        hessian = balls(unit + difference.T @ (weight[:, None] * difference))
        step = _solved(hessian, gradient(theta))
        theta = balls([Number((a - b).ball.mid()) for a, b in zip(theta, step, strict=True)])
    # The sum of sizes is at least the norm.
    radius = np.abs(gradient(theta)).sum().item().ball.upper()
    return balls([Number(t.ball + arb(0, radius)) for t in theta])


def _moved(x: Any, policy: BallArray, other: BallArray) -> BallArray:
    """Return `E_x [E_policy phi - E_other phi]`."""
    weight = x.prompt_dist[0][:, None] * (policy - other)
    return balls((weight[:, :, None] * x.features[0]).sum(axis=(0, 1)))


def _without_pessimism(x: Any) -> tuple[Ball, Ball]:
    """Return the regularized regret of the KL optimum of the estimate, and the bound."""
    difference, count = _comparisons(x)
    sigma = balls(np.eye(difference.shape[1]) + difference.T @ (count[:, None] * difference))
    centre = _estimate(x, difference, count)
    p, nu, pi, rho = x.reference[0], x.baseline[0], x.comparator[0], x.prompt_dist[0]
    policy = solve(x.features[0] @ centre, p, _KL, x.beta[0]).policy
    toward = _direction(x, sigma, policy)
    truth = centre + x.radius[0] * x.depth[0] * toward
    gain = _moved(x, pi, policy) @ truth
    cost = _KL(pi, p, rho) - _KL(policy, p, rho)
    baseline = _moved(x, pi, nu)
    norm = np.sqrt(baseline @ _solved(sigma, baseline))
    return one(gain - x.beta[0] * cost), one(2 * x.radius[0] * norm)


def _direction(x: Any, sigma: BallArray, policy: BallArray) -> BallArray:
    """Return the vector of Sigma-norm 1 in which the truth lies."""
    place = int(np.asarray(x.place)[0])
    if place == GIVEN:
        # A root of Sigma in floats gives some vector; whichever it is, its norm is known exactly.
        values, vectors = np.linalg.eigh(middles(sigma))
        way = middles(x.direction)[0]
        near = balls((vectors / np.sqrt(values)) @ (way / np.linalg.norm(way)))
        return balls(near / np.sqrt(near @ (sigma @ near)))
    nu, pi = x.baseline[0], x.comparator[0]
    move = -1 * _moved(x, policy, nu) if place == LEAST_GAIN else _moved(x, pi, policy)
    covector = _solved(sigma, balls(move))
    square = (move * covector).sum().item()
    if square == Number(fmpq(0)):
        return balls(move)
    return balls(covector / square.sqrt())


#: For each claim, the function from an instance of numbers to its left and its right side.
PESSIMISM_SIDES: dict[str, BallSides] = {"regret without pessimism": _without_pessimism}
