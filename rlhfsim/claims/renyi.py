"""Renyi divergences of every order: orders 0, 1, 2 and infinity, convexity, capacity.

Source: arXiv 1206.2459 (van Erven & Harremoes), whose theorems are numbered here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.special import rel_entr

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.pairs import Pairs
from rlhfsim.coverage import concentrability, max_concentrability
from rlhfsim.divergences import KL, renyi

_SOURCE = "arXiv 1206.2459"

Side = Callable[[Pairs], FloatArray]


# ---- sides ---------------------------------------------------------------------------------------


def power_sum(policy: FloatArray, reference: FloatArray, order: FloatArray | float) -> FloatArray:
    """Return `log sum_y pi^a p^(1 - a)`, by logarithms alone; orders above 0, one per row."""
    a = np.broadcast_to(np.asarray(order, dtype=np.float64), policy.shape[:1])[:, None]
    both = (policy > 0) & (reference > 0)
    log_pi, log_p = (np.log(np.where(both, rows, 1.0)) for rows in (policy, reference))
    exponent = np.where(both, a * log_pi + (1.0 - a) * log_p, -np.inf)
    top = np.maximum(exponent.max(axis=1, keepdims=True), -1e300)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(exponent - top).sum(axis=1)) + top[:, 0]
    outside = ((policy > 0) & (reference == 0)).any(axis=1)
    return np.where(outside & (a[:, 0] > 1.0), np.inf, np.where(both.any(axis=1), total, -np.inf))


def of_order(order: float) -> Side:
    """Return `D_a(pi || p)` as the library has it."""
    return lambda x: renyi(x.policy, x.reference, order)


def _by_definition(order: float) -> Side:
    """Return `log(sum_y pi^a p^(1 - a)) / (a - 1)`."""
    return lambda x: power_sum(x.policy, x.reference, order) / (order - 1.0)


def _naive_kl(x: Pairs) -> FloatArray:
    return np.asarray(rel_entr(x.policy, x.reference).sum(axis=1))


def _support_share(x: Pairs) -> FloatArray:
    """`-log p(pi > 0)`, the order 0."""
    missed = np.where(x.policy > 0, 0.0, x.reference).sum(axis=1)
    kept = np.where(x.policy > 0, x.reference, 0.0).sum(axis=1)
    # The logarithm of whichever of the two masses has the digits.
    with np.errstate(divide="ignore"):
        return np.where(missed < 0.5, -np.log1p(-np.minimum(missed, 0.5)), -np.log(kept))


def _log_coverage(x: Pairs) -> FloatArray:
    return np.log(concentrability(x.policy[:, None], x.reference[:, None]))


def _log_largest_ratio(x: Pairs) -> FloatArray:
    return np.log(max_concentrability(x.policy[:, None], x.reference[:, None]))


def _order_of(x: Pairs) -> FloatArray:
    """Return an order inside (0, 1) for each instance."""
    return 0.01 + 0.98 * x.weight


def _chernoff(x: Pairs) -> FloatArray:
    """`(1 - a) D_a(pi || p)`."""
    return -power_sum(x.policy, x.reference, _order_of(x))


def _two_costs(x: Pairs) -> FloatArray:
    """Return `a KL(q || pi) + (1 - a) KL(q || p)`, q the other policy."""
    a = _order_of(x)
    to_policy = KL().per_prompt(x.other_policy, x.policy)
    return a * to_policy + (1.0 - a) * KL().per_prompt(x.other_policy, x.reference)


def _on_support(x: Pairs) -> Pairs:
    """Condition the reference on the support of the policy, where it has mass there."""
    kept = np.where(x.policy > 0, x.reference, 0.0)
    mass = kept.sum(axis=1, keepdims=True)
    return replace(x, reference=np.where(mass > 0, kept / np.where(mass > 0, mass, 1.0), kept))


def _projected(x: Pairs) -> FloatArray:
    """`D_3(pi || q) + D_3(q || p)`, q = p conditioned on the support of pi."""
    mass = np.where(x.policy > 0, x.reference, 0.0).sum(axis=1)
    inside = replace(x, reference=np.where(mass[:, None] > 0, x.reference, x.policy))
    cost = renyi(inside.policy, _on_support(inside).reference, 3.0) + _support_share(x)
    return np.where(mass > 0, cost, np.inf)


def _mixed(x: Pairs) -> tuple[FloatArray, FloatArray]:
    t = x.weight[:, None]
    return (
        t * x.policy + (1 - t) * x.other_policy,
        t * x.reference + (1 - t) * x.other_reference,
    )


def _of_mixture(order: float) -> Side:
    return lambda x: renyi(*_mixed(x), order)


def _parts(x: Pairs, order: float) -> tuple[FloatArray, FloatArray]:
    return renyi(x.policy, x.reference, order), renyi(x.other_policy, x.other_reference, order)


def _counted(weight: FloatArray, value: FloatArray) -> FloatArray:
    """`weight value`; a part of weight 0 does not count, even at infinity."""
    return weight * np.where(weight > 0, value, 0.0)


def _mixture_of(order: float) -> Side:
    def side(x: Pairs) -> FloatArray:
        first, second = _parts(x, order)
        return _counted(x.weight, first) + _counted(1 - x.weight, second)

    return side


def _largest_part(x: Pairs) -> FloatArray:
    first, second = _parts(x, 3.0)
    return np.maximum(np.where(x.weight > 0, first, 0.0), np.where(x.weight < 1, second, 0.0))


def _second_mixed(x: Pairs) -> FloatArray:
    return renyi(x.policy, _mixed(x)[1], 3.0)


def _second_parts(x: Pairs) -> FloatArray:
    first = renyi(x.policy, x.reference, 3.0)
    second = renyi(x.policy, x.other_reference, 3.0)
    return _counted(x.weight, first) + _counted(1 - x.weight, second)


def _merged(x: Pairs) -> Pairs:
    cuts = [0, *range(2, x.policy.shape[1])]
    return replace(
        x,
        policy=np.add.reduceat(x.policy, cuts, axis=1),
        reference=np.add.reduceat(x.reference, cuts, axis=1),
    )


def _information(x: Pairs) -> FloatArray:
    """`w KL(pi_1 || m) + (1 - w) KL(pi_2 || m)`, m the mixture: what the channel transmits."""
    mean = _mixed(x)[0]
    first, second = (KL().per_prompt(row, mean) for row in (x.policy, x.other_policy))
    return _counted(x.weight, first) + _counted(1 - x.weight, second)


def _worst_redundancy(x: Pairs) -> FloatArray:
    rows = (x.policy, x.other_policy)
    first, second = (KL().per_prompt(row, x.reference) for row in rows)
    return np.maximum(first, second)


def _logarithmic(x: Pairs) -> FloatArray:
    """Return the rounding of a logarithm of powers of masses, over the distance of orders to 1."""
    largest = np.zeros(len(x))
    for rows in (x.policy, x.reference):
        largest = np.maximum(largest, np.abs(np.log(np.where(rows > 0, rows, 1.0))).max(axis=1))
    return 4.0 * RESOLUTION * (1.0 + largest)


# ---- witnesses -----------------------------------------------------------------------------------


def _two(
    policy: list[float], reference: list[float], other_policy: list[float] | None = None,
    other_reference: list[float] | None = None, weight: float = 0.5,
) -> Pairs:  # fmt: skip
    pi, p = np.array([policy]), np.array([reference])
    return Pairs(
        pi, p, pi if other_policy is None else np.array([other_policy]),
        p if other_reference is None else np.array([other_reference]),
        np.array([weight]), np.zeros_like(p),
    )  # fmt: skip


def _generic() -> Pairs:
    return _two([0.7, 0.2, 0.1], [0.2, 0.3, 0.5])


def _conditioned() -> Pairs:
    return _two([0.75, 0.25, 0.0], [0.3, 0.1, 0.6])


def _between() -> Pairs:
    """Let q be proportional to `pi^a p^(1 - a)`, a = 1/2."""
    pi, p = np.array([0.8, 0.2]), np.array([0.1, 0.9])
    q = np.sqrt(pi * p) / np.sqrt(pi * p).sum()
    return _two(pi.tolist(), p.tolist(), q.tolist())


def _channel() -> Pairs:
    return _two([0.8, 0.2], [0.5, 0.5], [0.2, 0.8])


def _one_pair_twice() -> Pairs:
    return _two([0.7, 0.2, 0.1], [0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.2, 0.3, 0.5], 0.3)


def _far_and_equal() -> Pairs:
    """Mix a pair far apart with a pair that is equal: the mixture is nearly as far."""
    return _two([1.0, 0.0], [1e-6, 1.0 - 1e-6], [0.0, 1.0], [0.0, 1.0], 0.1)


def _alike() -> Pairs:
    return _two([0.2, 0.4, 0.4], [0.1, 0.2, 0.7])


# ---- the list ------------------------------------------------------------------------------------


def _claim(
    name: str, formula: str, where: str, kind: str, left: Side, right: Side,
    witness: Callable[[], Pairs], resolution: Side = _logarithmic,
) -> Claim[Pairs]:  # fmt: skip
    source = f"{_SOURCE}, {where}"
    return Claim[Pairs](name, formula, source, kind, left, right, witness, resolution)  # type: ignore[arg-type]


def _in_order(low: float, high: float) -> Claim[Pairs]:
    return _claim(
        f"Renyi order, {low:g} to {high:g}", f"D_{low:g} <= D_{high:g}", "thm 3", "upper",
        of_order(low), of_order(high), _conditioned,
    )  # fmt: skip


def _defined(order: float) -> Claim[Pairs]:
    return _claim(
        f"Renyi divergence of order {order:g}",
        f"D_{order:g} = log(sum_y pi^{order:g} p^(1 - {order:g})) / ({order:g} - 1)",
        "section II", "identity", of_order(order), _by_definition(order), _generic,
    )  # fmt: skip


def _processed(order: float) -> Claim[Pairs]:
    return _claim(
        f"data processing, Renyi of order {order:g}",
        f"D_{order:g}(merged pi || merged p) <= D_{order:g}(pi || p)", "thm 1", "upper",
        lambda x: of_order(order)(_merged(x)), of_order(order), _alike,
    )  # fmt: skip


RENYI_CLAIMS: tuple[Claim[Pairs], ...] = (
    _defined(0.3),
    _defined(3.0),
    _claim(
        "Renyi divergence of order 1", "D_1 = KL", "abstract", "identity",
        of_order(1.0), _naive_kl, _generic,
    ),
    _claim(
        "Renyi divergence of order 2", "D_2 = log C", "section II", "identity",
        of_order(2.0), _log_coverage, _generic,
    ),
    _claim(
        "Renyi divergence of infinite order", "D_inf = log C_inf", "thm 6", "identity",
        of_order(np.inf), _log_largest_ratio, _generic,
    ),
    _claim(
        "Renyi divergence of order 1/2", "D_1/2 = -2 log sum_y sqrt(pi p)", "section II",
        "identity",
        of_order(0.5), _by_definition(0.5), _generic,
    ),
    _claim(
        "Renyi divergence above order 0", "-log p(pi > 0) <= D_a for every a > 0, here 1/1000",
        "thm 4", "upper", _support_share, of_order(1e-3), _conditioned,
    ),
    _claim(
        "skew symmetry of Renyi divergences", "(1 - a) D_a(pi || p) = a D_1-a(p || pi), a = 3/10",
        "prop 2", "identity", lambda x: 0.7 * renyi(x.policy, x.reference, 0.3),
        lambda x: -power_sum(x.reference, x.policy, 0.7), _generic,
    ),
    _in_order(0.1, 0.9),
    _in_order(0.9, 1.0),
    _in_order(1.0, 1.1),
    _in_order(3.0, 10.0),
    _claim(
        "variational form of Renyi divergences",
        "(1 - a) D_a(pi || p) <= a KL(q || pi) + (1 - a) KL(q || p)", "thm 30", "upper",
        _chernoff, _two_costs, _between,
    ),
    _processed(0.5),
    _processed(3.0),
    _claim(
        "joint convexity, Renyi of order 1/2", "D_1/2(mixture || mixture) <= mixture of D_1/2",
        "thm 11", "upper", _of_mixture(0.5), _mixture_of(0.5), _one_pair_twice,
    ),
    _claim(
        "joint convexity, Renyi of order 3", "D_3(mixture || mixture) <= mixture of D_3",
        "thm 11, read for orders above 1", "false", _of_mixture(3.0), _mixture_of(3.0),
        _far_and_equal,
    ),
    _claim(
        "joint quasi-convexity of Renyi divergences",
        "D_3(mixture || mixture) <= the larger D_3", "thm 13", "upper",
        _of_mixture(3.0), _largest_part, _one_pair_twice,
    ),
    _claim(
        "Renyi divergences are convex in the reference",
        "D_3(pi || mixture) <= mixture of D_3(pi || .)", "thm 12", "upper",
        _second_mixed, _second_parts, _one_pair_twice,
    ),
    _claim(
        "Pythagoras for Renyi divergences",
        "D_3(pi || p) = D_3(pi || p|A) + D_3(p|A || p), A = {pi > 0}", "thm 14, with equality",
        "identity", of_order(3.0), _projected, _conditioned,
    ),
    _claim(
        "capacity is at most the redundancy",
        "w KL(pi_1 || m) + (1 - w) KL(pi_2 || m) <= max_i KL(pi_i || q), m the mixture, any q",
        "abstract, at order 1", "upper", _information, _worst_redundancy, _channel,
    ),
)  # fmt: skip
