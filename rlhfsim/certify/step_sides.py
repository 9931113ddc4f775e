"""Both sides of claims about responses made of tokens, by the name of the claim.

The instances are batches of one with `Number`s in place of floats; responses are all sequences of
a length, in lexicographic order, so that those with a common prefix stand side by side.
"""

from __future__ import annotations

from itertools import pairwise
from math import comb
from typing import Any

from rlhfsim.certify.arrays import BallArray, balls
from rlhfsim.certify.ball_divergences import ZERO
from rlhfsim.certify.ball_optima import optimum_of
from rlhfsim.certify.divergences import Ball
from rlhfsim.certify.numbers import Number
from rlhfsim.certify.sides import BallSides
from rlhfsim.claims.processes import full_tree
from rlhfsim.divergences import ChiSquared


def _masses(law: BallArray) -> list[BallArray]:
    """Return the masses of all prefixes, shortest first; the last are the responses."""
    found = [law]
    for nodes, tokens in reversed(full_tree(law.size).shapes):
        found.append(balls(found[-1].reshape(nodes, tokens).sum(axis=1)))
    return found[::-1]


def _chi_squared_by_token(x: Any) -> Number:
    """`sum_h E_pi[D_chi2(pi_h || p_h)]`, a prefix after the other."""
    total = ZERO
    pi, p = (_masses(balls(law[0])) for law in (x.policy, x.reference))
    for (nodes, edges), (nodes_p, edges_p) in zip(pairwise(pi), pairwise(p), strict=True):
        width = edges.size // nodes.size
        for k, mass in enumerate(nodes.tolist()):
            if mass == 0:
                continue
            own = slice(k * width, (k + 1) * width)
            for edge, edge_p in zip(edges[own].tolist(), edges_p[own].tolist(), strict=True):
                if edge > 0:
                    total = total + edge * edge * nodes_p[k] / (mass * edge_p) / 2
            total = total - mass / 2
    return total


def _chi_squared(x: Any) -> Number:
    pi, p = x.policy[0].tolist(), x.reference[0].tolist()
    terms = (a * a / b if a > 0 else ZERO for a, b in zip(pi, p, strict=True))
    return (sum(terms, ZERO) - 1) / 2


def _optimum_by_token(x: Any) -> BallArray:
    """Return the law of responses of the chi-squared optimum by token for `reward_hat`.

    The reference must reach every prefix.
    """
    masses, values = _masses(balls(x.reference[0])), x.reward_hat[0].tolist()
    beta, optimum, steps = Number.of(x.beta[0]), optimum_of(ChiSquared()), []
    for nodes, edges in list(pairwise(masses))[::-1]:
        width, level, above = edges.size // nodes.size, [], []
        for k, mass in enumerate(nodes.tolist()):
            own = slice(k * width, (k + 1) * width)
            p, r = [edge / mass for edge in edges[own].tolist()], values[own]
            ratios, _ = optimum(p, r, beta)
            policy = [a * w for a, w in zip(p, ratios, strict=True)]
            spent = sum((a * (w - 1) ** 2 for a, w in zip(p, ratios, strict=True)), ZERO) / 2
            gained = sum((a * q for a, q in zip(policy, r, strict=True)), ZERO)
            level += policy
            above.append(gained - beta * spent)
        steps.append(level)
        values = above
    law = [Number.of(1)]
    for level in reversed(steps):
        width = len(level) // len(law)
        law = [law[k // width] * mass for k, mass in enumerate(level)]
    return balls(law)


def _sharp_bound(x: Any) -> tuple[Ball, Ball]:
    p, reward, learned = (row[0].tolist() for row in (x.reference, x.reward, x.reward_hat))
    moved = zip(x.policy[0].tolist(), _optimum_by_token(x).tolist(), reward, strict=True)
    lost = sum(((a - b) * r for a, b, r in moved), ZERO)
    error = [r - s for r, s in zip(reward, learned, strict=True)]
    mean = sum((a * e for a, e in zip(p, error, strict=True)), ZERO)
    spread = sum((a * (e - mean) ** 2 for a, e in zip(p, error, strict=True)), ZERO)
    beta = Number.of(x.beta[0])
    both = spread.sqrt() + beta * (2 * _chi_squared_by_token(x)).sqrt()
    return lost.value, (both**2 / (4 * beta)).value


def _mean_log(mass: Number, n: int, shift: int) -> Number:
    """`E[log(N + shift)]` of a binomial N of n trials."""
    terms = (
        comb(n, k) * mass**k * (1 - mass) ** (n - k) * Number.of(k + shift).log()
        for k in range(n + 1)
    )
    return sum(terms, ZERO)


def _clone_distance(levels: list[BallArray], n: int) -> Number:
    """Return `E[KL(expert || clone)]` of clones at each prefix of the levels."""
    total = ZERO
    for nodes, edges in pairwise(levels):
        width = edges.size // nodes.size
        for mass in nodes.tolist():
            total = total + mass * _mean_log(mass, n, width)
        for mass in edges.tolist():
            total = total - mass * _mean_log(mass, n, 1)
    for mass in levels[-1].tolist():
        if mass > 0:
            total = total + mass * mass.log()
    return total


def _clones(x: Any) -> tuple[Ball, Ball]:
    levels, n = _masses(balls(x.expert[0])), int(float(Number.of(x.n[0]).ball.mid()))
    return _clone_distance(levels, n).value, _clone_distance([levels[0], levels[-1]], n).value


#: For each claim, the function from an instance of numbers to its left and its right side.
STEP_SIDES: dict[str, BallSides] = {
    "chi-squared by token below that of responses": lambda x: (
        _chi_squared_by_token(x).value,
        _chi_squared(x).value,
    ),
    "the sharp bound with chi-squared by token": _sharp_bound,
    "a clone by token is nearer for every expert": _clones,
}
