"""Both sides of the claims about divergences in ball arithmetic, by the name of the claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flint import arb, fmpq

from rlhfsim.certify.divergences import (
    Ball,
    chi2,
    coverage,
    kl,
    log_largest_ratio,
    renyi,
    root,
    squared_hellinger,
    tv,
)
from rlhfsim.certify.rationals import ExactPair, Row, total

Divergence = Callable[[Row, Row], Ball]
#: From an `ExactPair` or an `ExactProblem` to left and right.
BallSides = Callable[[Any], tuple[Ball, Ball]]


def mean(law: Row, value: Row) -> fmpq:
    """Return `E_law[value]`."""
    return total(a * v for a, v in zip(law, value, strict=True))


def error_norm(x: ExactPair) -> arb:
    """Return `eps = sqrt(E_p[delta^2])`."""
    return root(mean(x.reference, tuple(d * d for d in x.error)))


def error_deviation(x: ExactPair) -> arb:
    """Return `eps_c = sqrt(Var_p[delta])`."""
    centre = mean(x.reference, x.error)
    return root(mean(x.reference, tuple((d - centre) * (d - centre) for d in x.error)))


def error_difference(x: ExactPair) -> fmpq:
    """Return `|E_pi[delta] - E_p[delta]|`."""
    return abs(mean(x.policy, x.error) - mean(x.reference, x.error))


def _both(left: Divergence, right: Divergence) -> BallSides:
    return lambda x: (left(x.policy, x.reference), right(x.policy, x.reference))


def _renyi(order: fmpq) -> Divergence:
    return lambda policy, reference: renyi(policy, reference, order)


def _bretagnolle_huber(policy: Row, reference: Row) -> arb:
    return root(-(-kl(policy, reference)).expm1())


def _hellinger_bound(policy: Row, reference: Row) -> arb:
    h2 = squared_hellinger(policy, reference)
    return root(h2 * (1 - h2 / 4))


def _times_norm(square: Ball, norm: arb) -> arb:
    """`sqrt(square) norm`; outside the support there is no bound, even for an error of norm 0."""
    return root(square) * norm if arb(square).is_finite() else arb.pos_inf()


def _merged(row: Row) -> Row:
    return (row[0] + row[1], *row[2:])


def _data_processing(divergence: Divergence) -> BallSides:
    return lambda x: (
        divergence(_merged(x.policy), _merged(x.reference)),
        divergence(x.policy, x.reference),
    )


def _joint_convexity(divergence: Divergence) -> BallSides:
    def sides(x: ExactPair) -> tuple[Ball, Ball]:
        t = x.weight

        def mixture(first: Row, second: Row) -> Row:
            return tuple(t * a + (1 - t) * b for a, b in zip(first, second, strict=True))

        pairs = (
            (t, x.policy, x.reference),
            (1 - t, x.other_policy, x.other_reference),
        )
        # A part of weight 0 does not count, even at infinity.
        right = [weight * divergence(pi, p) for weight, pi, p in pairs if weight > 0]
        left = divergence(
            mixture(x.policy, x.other_policy), mixture(x.reference, x.other_reference)
        )
        return left, right[0] if len(right) == 1 else right[0] + right[1]

    return sides


#: For each claim, the function from an instance to its left and its right side.
BALL_SIDES: dict[str, BallSides] = {
    "KL below chi-squared": _both(kl, chi2),
    "KL below log of coverage": _both(kl, lambda pi, p: arb(coverage(pi, p)).log()),
    "KL below twice chi-squared": _both(kl, lambda pi, p: 2 * chi2(pi, p)),
    "Pinsker": _both(tv, lambda pi, p: root(kl(pi, p) / 2)),
    "TV below chi-squared": _both(tv, lambda pi, p: root(chi2(pi, p) / 2)),
    "Bretagnolle-Huber": _both(tv, _bretagnolle_huber),
    "Hellinger below KL": _both(squared_hellinger, kl),
    "Hellinger below TV": _both(lambda pi, p: squared_hellinger(pi, p) / 2, tv),
    "TV below Hellinger": _both(tv, _hellinger_bound),
    "coverage below its maximum": _both(
        lambda pi, p: arb(coverage(pi, p)).log(), log_largest_ratio
    ),
    "Renyi order": _both(_renyi(fmpq(1, 2)), _renyi(fmpq(3))),
    "data processing, KL": _data_processing(kl),
    "data processing, D_chi2": _data_processing(chi2),
    "joint convexity, KL": _joint_convexity(kl),
    "joint convexity, D_chi2": _joint_convexity(chi2),
    "change of measure": lambda x: (
        abs(mean(x.policy, x.error)),
        _times_norm(coverage(x.policy, x.reference), error_norm(x)),
    ),
    "centred change of measure": lambda x: (
        error_difference(x),
        _times_norm(2 * chi2(x.policy, x.reference), error_deviation(x)),
    ),
    "change of measure with KL": lambda x: (
        error_difference(x),
        _times_norm(2 * kl(x.policy, x.reference), error_deviation(x)),
    ),
}
