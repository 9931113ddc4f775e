"""Instances as exact rational numbers.

A float is a rational number, and a row of floats sums to 1 only up to rounding, while the claims
are about distributions.  A certificate therefore speaks of the distribution `row / sum(row)`,
divided exactly, which is within 1e-9 of the row in total variation: a row further off is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
from flint import fmpq

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.claims import Pairs
from rlhfsim.claims.problems import Problems

Row = tuple[fmpq, ...]


@dataclass(frozen=True)
class ExactPair:
    """One instance of `Pairs`; the rows of policies and references sum to exactly 1."""

    policy: Row
    reference: Row
    other_policy: Row
    other_reference: Row
    weight: fmpq
    error: Row


@dataclass(frozen=True)
class ExactProblem:
    """One instance of `Problems`, a row for each prompt; distributions sum to exactly 1."""

    prompt_dist: Row
    reference: tuple[Row, ...]
    reward: tuple[Row, ...]
    reward_hat: tuple[Row, ...]
    beta: fmpq
    gamma: fmpq
    comparator: tuple[Row, ...]
    policy: tuple[Row, ...]


def require_one(instance: Any) -> None:
    """Raise `ValueError` unless this is a batch of one instance."""
    if not is_dataclass(instance) or isinstance(instance, type):
        raise ValueError(
            f"instance is a {type(instance).__name__}; it must be a batch of instances"
        )
    if len(instance) != 1:  # type: ignore[arg-type]
        count = len(instance)  # type: ignore[arg-type]
        raise ValueError(f"instance holds {count} instances; it must hold one: use take(index)")


def exact(instance: Pairs | Problems) -> ExactPair | ExactProblem:
    """Return the one instance of the batch in rational numbers."""
    require_one(instance)
    return exact_pair(instance) if isinstance(instance, Pairs) else exact_problem(instance)


def exact_pair(pairs: Pairs) -> ExactPair:
    """Return the one instance of the batch."""
    policy, reference, other_policy, other_reference = (
        distribution(checks.as_distributions(name, getattr(pairs, name))[0])
        for name in ("policy", "reference", "other_policy", "other_reference")
    )
    return ExactPair(
        policy,
        reference,
        other_policy,
        other_reference,
        number(checks.as_real("weight", pairs.weight)[0]),
        row(checks.as_real("error", pairs.error)[0]),
    )


def exact_problem(problems: Problems) -> ExactProblem:
    """Return the one instance of the batch."""

    def rows(name: str) -> tuple[Row, ...]:
        return tuple(row(values) for values in checks.as_real(name, getattr(problems, name))[0])

    def laws(name: str) -> tuple[Row, ...]:
        checked = checks.as_distributions(name, getattr(problems, name))[0]
        return tuple(distribution(law) for law in checked)

    return ExactProblem(
        distribution(checks.as_distributions("prompt_dist", problems.prompt_dist)[0]),
        laws("reference"),
        rows("reward"),
        rows("reward_hat"),
        number(checks.as_positive("beta", problems.beta)[0]),
        number(checks.as_positive("gamma", problems.gamma)[0]),
        laws("comparator"),
        laws("policy"),
    )


def distribution(law: FloatArray) -> Row:
    """Return the row divided by its sum."""
    entries = row(law)
    whole = total(entries)
    return tuple(entry / whole for entry in entries)


def row(floats: FloatArray) -> Row:
    """Return the floats as they are."""
    return tuple(number(value) for value in floats)


def number(value: np.float64) -> fmpq:
    """Return the rational number that the float is."""
    return fmpq(*float(value).as_integer_ratio())


def total(terms: Iterable[fmpq]) -> fmpq:
    """Return the exact sum."""
    return sum(terms, fmpq(0))
