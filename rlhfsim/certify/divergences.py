"""Divergences of rational distributions: rational numbers where they are, balls elsewhere.

A divergence that is infinite is the exact ball `+inf`.  Nothing here is shared with
`rlhfsim.divergences`: the formulas are written out once more.
"""

from __future__ import annotations

from flint import arb, fmpq

from rlhfsim.certify.rationals import Row, total

Ball = arb | fmpq


def kl(policy: Row, reference: Row) -> arb:
    """Return `KL(pi || p) = sum_y pi log(pi/p)`."""
    if outside(policy, reference):
        return arb.pos_inf()
    terms = ((a, a / b) for a, b in zip(policy, reference, strict=True) if a > 0)
    return sum((arb(a) * arb(ratio).log() for a, ratio in terms), arb(0)).nonnegative_part()


def chi2(policy: Row, reference: Row) -> Ball:
    """Return `D_chi2(pi || p) = 1/2 sum_y (pi - p)^2/p`, a rational number."""
    if outside(policy, reference):
        return arb.pos_inf()
    cells = zip(policy, reference, strict=True)
    return total((a - b) * (a - b) / b for a, b in cells if b > 0) / 2


def tv(policy: Row, reference: Row) -> fmpq:
    """Return `TV(pi, p) = 1/2 sum_y |pi - p|`, a rational number."""
    return total(abs(a - b) for a, b in zip(policy, reference, strict=True)) / 2


def squared_hellinger(policy: Row, reference: Row) -> Ball:
    """Return `H^2(pi, p) = sum_y (sqrt(pi) - sqrt(p))^2 = 2 - 2 sum_y sqrt(pi p)`."""
    if policy == reference:
        return fmpq(0)
    affinity = sum((root(a * b) for a, b in zip(policy, reference, strict=True)), arb(0))
    return (2 - 2 * affinity).nonnegative_part()


def renyi(policy: Row, reference: Row, order: fmpq) -> arb:
    """Return `log(sum_y pi^order p^(1 - order)) / (order - 1)`, for an order other than 1."""
    shared = [(a, b) for a, b in zip(policy, reference, strict=True) if a > 0 and b > 0]
    if not shared or (order > 1 and outside(policy, reference)):
        return arb.pos_inf()
    # A rational ratio keeps equal rows and conditioned ones free of rounding in the power.
    moment = sum((arb(b) * arb(a / b) ** arb(order) for a, b in shared), arb(0))
    return moment.log() / (arb(order) - 1)


def coverage(policy: Row, reference: Row) -> Ball:
    """Return `C = E_pi[pi/p] = 1 + 2 D_chi2`, a rational number."""
    return 1 + 2 * chi2(policy, reference)


def log_largest_ratio(policy: Row, reference: Row) -> arb:
    """Return `log C_inf = max_y log(pi/p)` over the responses that the policy gives."""
    if outside(policy, reference):
        return arb.pos_inf()
    cells = zip(policy, reference, strict=True)
    return arb(max(a / b for a, b in cells if a > 0)).log()


def outside(policy: Row, reference: Row) -> bool:
    """Return whether the policy gives a response that the reference never does."""
    return any(a > 0 and b == 0 for a, b in zip(policy, reference, strict=True))


def root(square: Ball) -> arb:
    """Return the square root of a number that is not negative, whatever its ball may hold."""
    return arb(square).nonnegative_part().sqrt()
