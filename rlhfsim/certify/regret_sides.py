"""Both sides of claims about the regret of regularized policies, by the name of the claim.

Regret of chi-squared and its sharp bound are rational numbers: their comparison is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flint import arb, fmpq

from rlhfsim.certify.divergences import Ball, kl, root
from rlhfsim.certify.problem_sides import chi2_ratios, kl_ratios
from rlhfsim.certify.rationals import ExactProblem, Row, total
from rlhfsim.certify.sides import BallSides

#: The constant of the false claims of `rlhfsim.claims.regret`.
_CONSTANT = 1000

Ratios = Callable[[Row, Row, fmpq], Sequence[Ball]]


@dataclass(frozen=True)
class Prompt:
    """One prompt, on the support of its reference; `compared` is `E_pi*[r*]` on all responses."""

    weight: fmpq
    reference: Row
    reward: Row
    reward_hat: Row
    comparator: Row
    compared: fmpq

    @property
    def delta(self) -> Row:
        """Return `r* - r^`, centred under p."""
        gap = [r - h for r, h in zip(self.reward, self.reward_hat, strict=True)]
        mean = total(p * g for p, g in zip(self.reference, gap, strict=True))
        return tuple(g - mean for g in gap)

    @property
    def excess(self) -> Row:
        """Return `w* - 1`."""
        cells = zip(self.comparator, self.reference, strict=True)
        return tuple(star / p - 1 for star, p in cells)

    def squared_norm(self, value: Sequence[fmpq]) -> fmpq:
        """Return `rho(x) E_p[value^2]`."""
        cells = zip(self.reference, value, strict=True)
        return self.weight * total(p * v * v for p, v in cells)


def prompts(x: ExactProblem) -> list[Prompt]:
    """Return the prompts of positive weight."""
    found = []
    for k, weight in enumerate(x.prompt_dist):
        if weight > 0:
            kept = [y for y, p in enumerate(x.reference[k]) if p > 0]
            p, r, r_hat, star = (
                tuple(field[k][y] for y in kept)
                for field in (x.reference, x.reward, x.reward_hat, x.comparator)
            )
            cells = zip(x.comparator[k], x.reward[k], strict=True)
            found.append(Prompt(weight, p, r, r_hat, star, total(a * b for a, b in cells)))
    return found


def covered(x: ExactProblem) -> bool:
    """Return whether the reference gives whatever the comparator gives."""
    return all(total(prompt.comparator) == 1 for prompt in prompts(x))


def chi2_regret(x: ExactProblem) -> fmpq:
    """Return `J(pi*) - J(pi^)` of chi-squared regularization, a rational number."""
    regret = fmpq(0)
    for prompt in prompts(x):
        ratios = chi2_ratios(prompt.reference, prompt.reward_hat, x.beta)
        cells = zip(prompt.reference, prompt.reward, ratios, strict=True)
        regret += prompt.weight * (prompt.compared - total(p * r * w for p, r, w in cells))
    return regret


def kl_regret(x: ExactProblem) -> arb:
    """Return `J(pi*) - J(pi^)` of KL regularization."""
    regret = arb(0)
    for prompt in prompts(x):
        ratios = kl_ratios(prompt.reference, prompt.reward_hat, x.beta)
        cells = zip(prompt.reference, prompt.reward, ratios, strict=True)
        learned = sum((arb(p * r) * w for p, r, w in cells), arb(0))
        regret += arb(prompt.weight) * (arb(prompt.compared) - learned)
    return regret


def sharp_bound(x: ExactProblem) -> Ball:
    """Return `||delta + beta (w* - 1)||_p^2 / (4 beta)`, a rational number."""
    if not covered(x):
        return arb.pos_inf()
    squares = (
        prompt.squared_norm(
            [d + x.beta * a for d, a in zip(prompt.delta, prompt.excess, strict=True)]
        )
        for prompt in prompts(x)
    )
    return total(squares) / (4 * x.beta)


def squared_error(x: ExactProblem) -> fmpq:
    """Return `eps_c^2`, a rational number."""
    return total(prompt.squared_norm(prompt.delta) for prompt in prompts(x))


def twice_cost(x: ExactProblem) -> fmpq:
    """Return `2 D* = C* - 1` of a comparator that is covered, a rational number."""
    return total(prompt.squared_norm(prompt.excess) for prompt in prompts(x))


def bound_in_norms(x: ExactProblem) -> Ball:
    """Return `(eps_c + beta sqrt(2 D*))^2 / (4 beta)`, opened: one product may be irrational."""
    if not covered(x):
        return arb.pos_inf()
    error, cost = squared_error(x), twice_cost(x)
    return (error + x.beta * x.beta * cost) / (4 * x.beta) + root(error * cost) / 2


def textbook_bound(x: ExactProblem) -> Ball:
    """Return `sqrt(2 D*) eps_c + beta D* + eps_c^2/(2 beta)`."""
    if not covered(x):
        return arb.pos_inf()
    error, cost = squared_error(x), twice_cost(x)
    return root(error * cost) + x.beta * cost / 2 + error / (2 * x.beta)


def _bound_in_kl(x: ExactProblem) -> arb:
    """Return `(eps_c + beta sqrt(2 KL(pi* || p)))^2 / (4 beta)`."""
    if not covered(x):
        return arb.pos_inf()
    cost = arb(0)
    for prompt in prompts(x):
        cost += arb(prompt.weight) * kl(prompt.comparator, prompt.reference)
    whole = root(squared_error(x)) + arb(x.beta) * root(2 * cost)
    return whole * whole / (4 * arb(x.beta))


def pair_error(x: ExactProblem) -> fmpq:
    """Return `E[(gap of r* - gap of r^)^2]` over all pairs, a rational number."""
    terms = (
        prompt.weight * p * q * (d - e) * (d - e)
        for prompt in prompts(x)
        for p, d in zip(prompt.reference, prompt.delta, strict=True)
        for q, e in zip(prompt.reference, prompt.delta, strict=True)
    )
    return total(terms)


#: For each claim, the function from an `ExactProblem` to its left and its right side.
REGRET_SIDES: dict[str, BallSides] = {
    "sharp chi2 regret": lambda x: (chi2_regret(x), sharp_bound(x)),
    "sharp chi2 regret in norms": lambda x: (chi2_regret(x), bound_in_norms(x)),
    "textbook chi2 regret": lambda x: (chi2_regret(x), textbook_bound(x)),
    "chi2 regret for KL regularization": lambda x: (kl_regret(x), _CONSTANT * bound_in_norms(x)),
    "KL coverage in the chi2 regret": lambda x: (chi2_regret(x), _CONSTANT * _bound_in_kl(x)),
    "error of pairs": lambda x: (pair_error(x), 2 * squared_error(x)),
}
