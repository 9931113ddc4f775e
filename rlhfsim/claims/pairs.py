"""Instances of divergence inequalities, and random ones: generic, structured and adversarial."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from rlhfsim.checks import FloatArray

#: Numbers of responses that `Pairs.sample` draws from.
_LEAST_RESPONSES, _MOST_RESPONSES = 2, 8

#: Weights below this are raised to it, so that no row is all zeros.
_SMALLEST_WEIGHT = 1e-290


@dataclass(frozen=True, eq=False)
class Pairs:
    """N instances: two (policy, reference) pairs, a mixing weight, and a reward error.

    Inequalities that need one pair read `policy` and `reference` alone.
    """

    policy: FloatArray  # (N, Y)
    reference: FloatArray  # (N, Y)
    other_policy: FloatArray  # (N, Y)
    other_reference: FloatArray  # (N, Y)
    weight: FloatArray  # (N,) in [0, 1]
    error: FloatArray  # (N, Y): r* - r^

    #: How a search may move the arrays: "simplex" (rows), "unit" ([0, 1]), "positive" or "real".
    parametrization: ClassVar[dict[str, str]] = {
        "policy": "simplex", "reference": "simplex", "other_policy": "simplex",
        "other_reference": "simplex", "weight": "unit", "error": "real",
    }  # fmt: skip

    def __len__(self) -> int:
        """Return N."""
        return len(self.policy)

    def take(self, index: int) -> Pairs:
        """Return the batch of one instance."""
        return Pairs(*(getattr(self, f.name)[index : index + 1] for f in fields(self)))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Pairs:
        """Return `n` instances of 2 to 8 responses: generic, structured, adversarial, n/3 each.

        Structured: uniform, two-point, tied and conditioned distributions, errors aligned with the
        ratios.  Adversarial: masses down to 1e-12, policies that nearly equal their reference,
        errors on the rarest response.  A batch has one number of responses.
        """
        size = int(rng.integers(_LEAST_RESPONSES, _MOST_RESPONSES + 1))
        parts = np.arange(n) % 3
        generic = sample_pairs(n, size, rng)
        structured, adversarial = _structured(n, size, rng), _adversarial(n, size, rng)
        return Pairs(*(
            np.choose(parts if a.ndim == 1 else parts[:, None], (a, b, c))
            for a, b, c in zip(*map(_arrays, (generic, structured, adversarial)), strict=True)
        ))  # fmt: skip


def sample_pairs(n: int, n_responses: int, rng: np.random.Generator) -> Pairs:
    """Return random instances: peaked to flat, some conditioned on a set, some nearly equal."""

    def distributions() -> FloatArray:
        skew = 10.0 ** rng.uniform(-1.0, 1.0, size=(n, 1))
        weights = np.maximum(
            rng.standard_gamma(np.broadcast_to(skew, (n, n_responses))), _SMALLEST_WEIGHT
        )
        return weights / weights.sum(axis=1, keepdims=True)

    reference, other_reference = distributions(), distributions()
    policy, other_policy = distributions(), distributions()
    # A third of the policies are the reference conditioned on a random set: the tight direction.
    kept = rng.random((n, n_responses)) < rng.random((n, 1))
    kept[np.arange(n), reference.argmax(axis=1)] = True
    conditioned = np.where(kept, reference, 0.0)
    conditioned /= conditioned.sum(axis=1, keepdims=True)
    # Another third are small steps from the reference: the local regime.
    step = 10.0 ** rng.uniform(-6.0, 0.0, size=(n, 1))
    nearby = (1.0 - step) * reference + step * policy
    third = rng.integers(0, 3, size=(n, 1))
    policy = np.where(third == 0, policy, np.where(third == 1, conditioned, nearby))
    return Pairs(
        policy, reference, other_policy, other_reference, rng.random(n),
        rng.standard_normal((n, n_responses)),
    )  # fmt: skip


def _arrays(x: Pairs) -> list[FloatArray]:
    return [getattr(x, f.name) for f in fields(x)]


def _normalised(weights: FloatArray) -> FloatArray:
    return weights / weights.sum(axis=1, keepdims=True)


def _simple(n: int, size: int, rng: np.random.Generator) -> FloatArray:
    """Uniform, two-point and tied distributions."""
    tied = rng.integers(0, 4, size=(n, size)).astype(float)
    two = np.zeros((n, size))
    rows = np.arange(n)
    first = rng.integers(0, size, size=n)
    two[rows, first] = rng.integers(1, 5, size=n)
    two[rows, (first + rng.integers(1, size, size=n)) % size] = rng.integers(0, 5, size=n)
    weights = np.choose(rng.integers(0, 3, size=(n, 1)), (np.ones((n, size)), two, tied))
    weights[rows, first] += weights.sum(axis=1) == 0
    return _normalised(weights)


def _conditioned(reference: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Condition each row on a random set that holds its largest entry."""
    n, size = reference.shape
    kept = rng.random((n, size)) < rng.random((n, 1))
    kept[np.arange(n), reference.argmax(axis=1)] = True
    return _normalised(np.where(kept, reference, 0.0))


def _structured(n: int, size: int, rng: np.random.Generator) -> Pairs:
    # Policies outside the support of the reference make most claims vacuous: one in four.
    reference, other_reference = _supported(_simple(n, size, rng), rng), _simple(n, size, rng)
    coin = rng.random((n, 1)) < 0.5
    policy = np.where(coin, _simple(n, size, rng), _conditioned(reference, rng))
    # Half of the second pairs have the first pair's ratios, or are the first pair.
    other_policy = np.where(coin, policy, _simple(n, size, rng))
    other_reference = np.where(coin, reference, other_reference)
    ratios = np.divide(policy, reference, out=np.zeros_like(policy), where=reference > 0)
    error = np.choose(
        rng.integers(0, 4, size=(n, 1)),
        (ratios, ratios - 1.0, rng.integers(0, 2, size=(n, size)), np.ones((n, size))),
    )
    weight = rng.integers(0, 5, size=n) / 4.0
    return Pairs(policy, reference, other_policy, other_reference, weight, error.astype(float))


def _supported(rows: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Give three in four rows full support."""
    full = rng.random((len(rows), 1)) < 0.75
    return np.where(full, _normalised(rows + 1.0 / rows.shape[1]), rows)


def _adversarial(n: int, size: int, rng: np.random.Generator) -> Pairs:
    def skewed() -> FloatArray:
        return _normalised(10.0 ** rng.uniform(-12.0, 0.0, size=(n, size)))

    reference, other_reference = skewed(), skewed()
    step = 10.0 ** rng.uniform(-12.0, 0.0, size=(n, 1))
    nearby = _normalised((1.0 - step) * reference + step * skewed())
    rare = (reference == reference.min(axis=1, keepdims=True)).astype(float)
    leaked = _normalised((1.0 - step) * reference + step * rare)
    policy = np.choose(rng.integers(0, 3, size=(n, 1)), (skewed(), nearby, leaked))
    other_policy = _normalised((1.0 - step) * other_reference + step * policy)
    scale = 10.0 ** rng.uniform(-6.0, 6.0, size=(n, 1))
    error = np.where(rng.random((n, 1)) < 0.5, rare, rng.standard_normal((n, size)))
    weight = 10.0 ** rng.uniform(-12.0, 0.0, size=n)
    return Pairs(policy, reference, other_policy, other_reference, weight, scale * error)
