"""What families of instances share: rows of arrays, and random arrays of three sorts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from rlhfsim.checks import FloatArray, IntArray

#: Sorts of instances, a third each.
GENERIC, STRUCTURED, ADVERSARIAL = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch of instances whose fields are arrays with the instance on the first axis."""

    def __len__(self) -> int:
        """Return the number of instances."""
        return len(getattr(self, fields(self)[0].name))

    def take(self, index: int) -> Self:
        """Return the batch of one instance."""
        return type(self)(*(getattr(self, f.name)[index : index + 1] for f in fields(self)))


def sorts(n: int, rng: np.random.Generator) -> IntArray:
    """Return the (n,) sort of each instance, in random order."""
    return (rng.permutation(n) + rng.integers(3)) % 3


def distributions(sort: IntArray, shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Return (n, *shape) distributions of full support.

    Generic ones are peaked to flat; structured ones uniform, or multiples of a simple fraction;
    adversarial ones have masses down to 1e-12, or differ from uniform by 1e-6 or less.
    """
    full = (len(sort), *shape)
    which = sort.reshape(-1, *(1,) * len(shape))
    coin = rng.random((*full[:-1], 1)) < 0.5
    skew = 10.0 ** rng.uniform(-1.0, 1.0, size=(*full[:-1], 1))
    generic = np.maximum(rng.standard_gamma(np.broadcast_to(skew, full)), 1e-12)
    structured = np.where(coin, 1.0, rng.integers(1, 4, size=full))
    rare = 10.0 ** -rng.uniform(0.0, 12.0, size=full)
    near = 1.0 + 10.0 ** rng.uniform(-12.0, -6.0, size=full)
    adversarial = np.where(coin, rare, near)
    weights = np.choose(which, [generic, structured, adversarial])
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def rewards(sort: IntArray, shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Return (n, *shape) rewards.

    Generic ones are normal; structured ones small whole numbers, so with ties; adversarial ones
    nearly equal, or of any size from 1e-3 to 20.
    """
    full = (len(sort), *shape)
    which = sort.reshape(-1, *(1,) * len(shape))
    coin = rng.random((*full[:-1], 1)) < 0.5
    generic = rng.standard_normal(full)
    structured = rng.integers(0, 3, size=full).astype(np.float64)
    near = 1.0 + 10.0 ** rng.uniform(-9.0, -6.0, size=full)
    spread = rng.choice([-1.0, 1.0], size=full) * 10.0 ** rng.uniform(-3.0, 1.3, size=full)
    adversarial = np.where(coin, near, spread)
    return np.choose(which, [generic, structured, adversarial])


def betas(
    sort: IntArray, rng: np.random.Generator, least: float = 0.05, most: float = 1e3
) -> FloatArray:
    """Return (n,) positive numbers: 0.1 to 10, powers of 2, or anywhere from `least` to `most`."""
    n = len(sort)
    wide = np.exp(rng.uniform(np.log(least), np.log(most), size=n))
    usual = np.clip(10.0 ** rng.uniform(-1.0, 1.0, size=n), least, most)
    simple = np.clip(2.0 ** rng.integers(-2, 3, size=n), least, most)
    return np.choose(sort, [usual, simple, wide])


def average(policy: FloatArray, values: FloatArray) -> FloatArray:
    """Return `E_pi[values]` over the last axis."""
    return np.asarray((policy * values).sum(axis=-1))
