"""Instances of regularized problems `max_pi E_pi[r] - beta D(pi || p)`, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray

#: Smallest positive mass of a sampled reference.
RAREST = 1e-12

#: Number of different `gamma` in a sampled batch: `solve` takes one divergence at a time.
_GAMMAS = 12


@dataclass(frozen=True, eq=False)
class Problems:
    """N instances with X prompts and Y responses each.

    Claims about optima regularize `reward_hat`; claims about regret hold the outcome against
    `reward`, the true one.
    """

    #: How a search may move each array.
    parametrization: ClassVar[dict[str, str]] = {
        "prompt_dist": "simplex",
        "reference": "simplex",
        "reward": "real",
        "reward_hat": "real",
        "beta": "positive",
        "gamma": "positive",
        "comparator": "simplex",
        "policy": "simplex",
    }

    prompt_dist: FloatArray  # (N, X)
    reference: FloatArray  # (N, X, Y)
    reward: FloatArray  # (N, X, Y): r*
    reward_hat: FloatArray  # (N, X, Y): r^
    beta: FloatArray  # (N,) positive
    gamma: FloatArray  # (N,) positive: the weight of KL in the mixed divergence
    comparator: FloatArray  # (N, X, Y): pi*
    policy: FloatArray  # (N, X, Y): any policy on the support of the reference

    def __len__(self) -> int:
        """Return N."""
        return len(self.beta)

    def take(self, index: int) -> Problems:
        """Return the batch of one instance."""
        return Problems(*(getattr(self, f.name)[index : index + 1] for f in fields(self)))

    def mean(self, per_prompt: FloatArray) -> FloatArray:
        """Return `E_x` of (N, X) numbers; prompts of weight 0 do not count, even at `inf`."""
        rho = self.prompt_dist
        return np.asarray((np.where(rho > 0, per_prompt, 0.0) * rho).sum(axis=1))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Problems:
        """Return n random instances: generic, structured and adversarial ones, a third each.

        X in 1..3 and Y in 2..6 are drawn once per batch.
        """
        shape = (n, int(rng.integers(1, 4)), int(rng.integers(2, 7)))
        third = rng.integers(0, 3, size=n)
        parts = [kind(shape, rng) for kind in (_generic, _structured, _adversarial)]
        rows = np.arange(n)
        return cls(
            *(np.stack([getattr(part, f.name) for part in parts])[third, rows] for f in fields(cls))
        )

    def valid(self) -> BoolArray:
        """Return whether the policy lies on the support of the reference."""
        return np.asarray(((self.policy <= 0) | (self.reference > 0)).all(axis=(1, 2)))

    def simpler(self) -> Iterator[Problems]:
        """Yield smaller or rounder versions of a batch of one."""
        yield from _fewer(self)
        yield from _rounder(self)


# ---- random instances ----------------------------------------------------------------------------

_Shape = tuple[int, int, int]


def _distributions(shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Peaked to flat, no mass below `RAREST`."""
    skew = 10.0 ** rng.uniform(-1.0, 1.0, size=(*shape[:-1], 1))
    weights = rng.standard_gamma(np.broadcast_to(skew, shape)) + 1e-290
    weights /= weights.sum(axis=-1, keepdims=True)
    weights = np.maximum(weights, 2.0 * RAREST)
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _conditioned(policy: FloatArray, keep: BoolArray) -> FloatArray:
    """`policy` on the kept responses, which are to include its mode."""
    kept = np.where(keep, policy, 0.0)
    return np.asarray(kept / kept.sum(axis=-1, keepdims=True))


def _modes(policy: FloatArray) -> BoolArray:
    return np.asarray(policy == policy.max(axis=-1, keepdims=True))


def _powers(low: float, high: float, size: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    return np.asarray(10.0 ** rng.uniform(low, high, size=size))


def _gammas(low: float, high: float, n: int, rng: np.random.Generator) -> FloatArray:
    return _powers(low, high, (_GAMMAS,), rng)[rng.integers(0, _GAMMAS, size=n)]


def _generic(shape: _Shape, rng: np.random.Generator) -> Problems:
    n = shape[0]
    column = (n, 1, 1)
    reward = _powers(-1.0, 1.0, column, rng) * rng.standard_normal(shape)
    greedy = rng.random(column) < 0.5
    return Problems(
        prompt_dist=_distributions(shape[:2], rng),
        reference=_distributions(shape, rng),
        reward=reward,
        reward_hat=reward + _powers(-2.0, 1.0, column, rng) * rng.standard_normal(shape),
        beta=_powers(-2.0, 1.5, (n,), rng),
        gamma=_gammas(-2.0, 1.0, n, rng),
        comparator=np.where(greedy, _modes(reward), _distributions(shape, rng)),
        policy=_distributions(shape, rng),
    )


def _structured(shape: _Shape, rng: np.random.Generator) -> Problems:
    """Half: equality in the sharp bound.  Half: uniform references, ties, holes in the support."""
    x = _generic(shape, rng)
    scale = x.beta[:, None, None]
    error = scale * rng.uniform(-0.5, 0.5, size=shape)
    error -= (x.reference * error).sum(axis=-1, keepdims=True)
    spread = _distributions(shape, rng)
    aligned = 0.5 * (error + scale * (spread / x.reference - 1.0))
    equality = rng.random((shape[0], 1, 1)) < 0.5
    whole = rng.integers(0, 3, size=shape).astype(np.float64)
    uniform = np.full(shape, 1.0 / shape[2])
    flat = np.where(rng.random((shape[0], 1, 1)) < 0.5, uniform, x.reference)
    keep = (rng.random(shape) < 0.8) | _modes(flat)
    holed = _conditioned(flat, keep)
    single = rng.random((shape[0], 1)) < 0.2
    return replace(
        x,
        prompt_dist=np.where(single, np.eye(shape[1])[0], x.prompt_dist),
        reference=np.where(equality, x.reference, holed),
        reward=np.where(equality, aligned, whole),
        reward_hat=np.where(equality, aligned - error, rng.integers(0, 3, size=shape)),
        comparator=np.where(equality, spread, _conditioned(holed, _modes(flat))),
        policy=np.where(equality, x.policy, holed),
    )


def _adversarial(shape: _Shape, rng: np.random.Generator) -> Problems:
    """Rare responses, overestimated or underestimated; extreme beta; near equality."""
    x = _generic(shape, rng)
    n, column = shape[0], (shape[0], 1, 1)
    rare = _powers(np.log10(2.0 * RAREST), -1.0, column, rng)
    first = np.arange(shape[2]) == 0
    rest = np.where(first, 0.0, np.maximum(x.reference, 2e-6))
    reference = np.where(first, rare, (1.0 - rare) * rest / rest.sum(axis=-1, keepdims=True))
    reference = np.maximum(reference, RAREST)
    reference /= reference.sum(axis=-1, keepdims=True)
    step = _powers(-8.0, 0.0, column, rng)
    near = rng.random(column) < 0.5
    over = np.where(first, _powers(-1.0, 1.0, column, rng) * rng.choice([-1.0, 1.0], column), 0.0)
    reward = np.where(near, step, 1.0) * x.reward
    return replace(
        x,
        reference=reference,
        reward=reward,
        reward_hat=reward + np.where(near, step * rng.standard_normal(shape), over),
        beta=_powers(-6.0, 6.0, (n,), rng),
        gamma=_gammas(-6.0, 6.0, n, rng),
        comparator=np.where(near, (1.0 - step) * reference + step * x.comparator, x.comparator),
        policy=np.where(near, (1.0 - step) * reference + step * x.policy, x.policy),
    )


def single(
    reference: Sequence[float],
    reward_hat: Sequence[float],
    *,
    reward: Sequence[float] | None = None,
    beta: float = 1.0,
    gamma: float = 1.0,
    comparator: Sequence[float] | None = None,
    policy: Sequence[float] | None = None,
) -> Problems:
    """Return a batch of one instance with one prompt; what is left out is as learned."""

    def rows(values: Sequence[float]) -> FloatArray:
        return np.array([[values]], dtype=np.float64)

    return Problems(
        prompt_dist=np.ones((1, 1)),
        reference=rows(reference),
        reward=rows(reward_hat if reward is None else reward),
        reward_hat=rows(reward_hat),
        beta=np.array([beta]),
        gamma=np.array([gamma]),
        comparator=rows(reference if comparator is None else comparator),
        policy=rows(reference if policy is None else policy),
    )


def two_prompts(first: Problems, second: Problems) -> Problems:
    """Return an instance of two equally likely prompts; beta and gamma are those of the first."""
    arrays = {
        name: np.concatenate([getattr(first, name), getattr(second, name)], axis=1)
        for name in _RESPONSES
    }
    return replace(first, prompt_dist=np.full((1, 2), 0.5), **arrays)


# ---- shrinking -----------------------------------------------------------------------------------

_POLICIES = ("reference", "comparator", "policy")
_RESPONSES = (*_POLICIES, "reward", "reward_hat")


def _fewer(x: Problems) -> Iterator[Problems]:
    """Leave out a prompt or a response, and renormalise."""
    prompts, responses = x.reference.shape[1:]
    for k in range(prompts if prompts > 1 else 0):
        rho = np.delete(x.prompt_dist, k, axis=1)
        if rho.sum() > 0:
            arrays = {name: np.delete(getattr(x, name), k, axis=1) for name in _RESPONSES}
            yield replace(x, prompt_dist=rho / rho.sum(), **arrays)
    for k in range(responses if responses > 2 else 0):
        arrays = {name: np.delete(getattr(x, name), k, axis=2) for name in _RESPONSES}
        if all((arrays[name].sum(axis=2) > 0).all() for name in _POLICIES):
            for name in _POLICIES:
                arrays[name] = arrays[name] / arrays[name].sum(axis=2, keepdims=True)
            yield replace(x, **arrays)


def _rounder(x: Problems) -> Iterator[Problems]:
    """Replace one array by a simpler one: uniform, deterministic, whole numbers, few digits."""
    candidates: list[tuple[str, FloatArray]] = [("beta", np.ones(1)), ("gamma", np.ones(1))]
    for name in ("prompt_dist", *_POLICIES):
        rows: FloatArray = getattr(x, name)
        candidates.append((name, np.full(rows.shape, 1.0 / rows.shape[-1])))
        if name != "reference":
            candidates.append((name, np.eye(rows.shape[-1])[rows.argmax(axis=-1)]))
        candidates += [(name, c) for c in (_rounded_rows(rows, d) for d in (1, 2))]
    for name in ("reward", "reward_hat"):
        values: FloatArray = getattr(x, name)
        candidates += [(name, np.zeros(values.shape)), (name, _modes(values).astype(np.float64))]
    for name in ("reward", "reward_hat", "beta", "gamma"):
        candidates += [(name, _significant(getattr(x, name), digits)) for digits in (1, 2)]
    candidates += [("policy", x.reference), ("comparator", x.reference), ("reward_hat", x.reward)]
    for name, array in candidates:
        if not np.array_equal(array, getattr(x, name)):
            yield replace(x, **{name: array})


def _significant(values: FloatArray, digits: int) -> FloatArray:
    return np.array([float(f"{v:.{digits - 1}e}") for v in values.ravel()]).reshape(values.shape)


def _rounded_rows(rows: FloatArray, digits: int) -> FloatArray:
    """Round every mass but the largest, which takes the rest."""
    rounded = _significant(rows, digits)
    largest = np.arange(rows.shape[-1]) == rows.argmax(axis=-1)[..., None]
    rest = 1.0 - np.where(largest, 0.0, rounded).sum(axis=-1, keepdims=True)
    return np.where(largest, np.maximum(rest, 0.0), rounded) if (rest > 0).all() else rows
