"""The checked arguments of `train`: what all paths share, and what each has of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts
from rlhfsim.dynamics.batches import Batches
from rlhfsim.dynamics.optimizers import Optimizer
from rlhfsim.losses import KTO, DirectLoss

Data = PreferenceData | PairCounts


@dataclass(frozen=True, eq=False)
class Course:
    """What all paths share."""

    loss: DirectLoss | KTO
    #: (X, Y) distributions, and (X,).
    reference: FloatArray
    prompt_dist: FloatArray
    #: (steps,) learning rates.
    rates: FloatArray
    #: (T,) numbers of steps after which a record is made, the first 0 and the last `steps`.
    step: IntArray
    optimizer: Optimizer
    batches: Batches | None
    #: (X, Y, d) features of log-linear policies, or None.
    features: FloatArray | None
    #: (X, Y) columns of losses that read them.
    weights: FloatArray | None
    reward: FloatArray | None

    @property
    def shape(self) -> tuple[int, int]:
        """`(X, Y)`."""
        return self.reference.shape[0], self.reference.shape[1]

    @property
    def steps(self) -> int:
        """How many steps are taken."""
        return self.rates.size

    @property
    def n_parameters(self) -> int:
        """Parameters of a policy."""
        return self.reference.size if self.features is None else self.features.shape[2]


class Path(NamedTuple):
    """What one path has of its own."""

    counts: PairCounts
    #: (X, Y) logarithms of the first policy.
    start: FloatArray
    #: (X, Y) tables, or None.
    gold: FloatArray | None
    proxy: FloatArray | None
    #: For mini-batches.
    rng: np.random.Generator | None


class Walked(NamedTuple):
    """Where a path led."""

    #: (8, T) the quantities of `trajectory.RECORDED`.
    recorded: FloatArray
    #: (X, Y) the last policy.
    log_policy: FloatArray
    #: (P,) what was added to the logits, in parameters.
    parameter: FloatArray
    #: None, or the step after which the parameters were not finite.
    diverged: int | None


def as_datasets(data: Data | Sequence[Data], shape: tuple[int, int]) -> list[PairCounts]:
    """Return the counts of one dataset or of several, all of this shape."""
    several = [data] if isinstance(data, (PreferenceData, PairCounts)) else list(data)
    if not several:
        raise ValueError("data is empty; it must hold at least one dataset")
    # A dataset may be given many times over, for paths that differ in their mini-batches.
    known: dict[int, PairCounts] = {}
    for i, one in enumerate(several):
        if id(one) in known:
            continue
        name = "data" if one is data else f"data[{i}]"
        if not isinstance(one, (PreferenceData, PairCounts)):
            raise ValueError(
                f"{name} is a {type(one).__name__}; it must be a PreferenceData or PairCounts"
            )
        counts = as_counts(one)
        if counts.shape != shape:
            raise ValueError(
                f"{name} has shape {counts.shape}; it must have that of reference, {shape}"
            )
        if counts.total <= 0:
            raise ValueError(f"{name} holds no comparisons; there must be some")
        known[id(one)] = counts
    return [known[id(one)] for one in several]


def require_support(reference: FloatArray, datasets: list[PairCounts]) -> None:
    """Raise unless the reference is positive on all compared responses."""
    if (reference > 0).all():
        return
    for counts in datasets:
        missing = counts.compared & (reference == 0)
        if missing.any():
            x, y = (int(i[0]) for i in np.nonzero(missing))
            raise ValueError(f"reference[{x}, {y}] is 0; it must be positive on compared responses")


def as_start(start: ArrayLike | None, reference: FloatArray, paths: int) -> FloatArray:
    """Return the (S, X, Y) logarithms of the first policies."""
    if start is None:
        pi = reference
    else:
        pi = checks.as_distributions("start", start)
        _require_shape("start", pi, reference.shape, paths)
    differs = (pi > 0) != (reference > 0)
    if differs.any():
        index = tuple(int(i[0]) for i in np.nonzero(differs))
        raise ValueError(
            f"start[{', '.join(map(str, index))}] is {pi[index].item()!r} and the reference "
            f"{reference[index[-2:]].item()!r}; a softmax path neither leaves nor reaches 0, so "
            "start must be positive where the reference is, and only there"
        )
    with np.errstate(divide="ignore"):
        return np.broadcast_to(np.log(pi), (paths, *reference.shape))


def as_tables(name: str, value: ArrayLike, shape: tuple[int, ...], paths: int) -> FloatArray:
    """Return (S, X, Y) numbers, one table for each path or the same for all."""
    array = checks.as_real(name, value)
    _require_shape(name, array, shape, paths)
    return np.broadcast_to(array, (paths, *shape))


def _require_shape(name: str, array: FloatArray, shape: tuple[int, ...], paths: int) -> None:
    if array.shape not in (shape, (paths, *shape)):
        raise ValueError(
            f"{name} has shape {array.shape}; it must have shape {shape} or {(paths, *shape)}"
        )


def as_rates(learning_rate: ArrayLike, steps: int) -> FloatArray:
    """Return (steps,) positive learning rates."""
    rates = checks.as_positive("learning_rate", learning_rate)
    if rates.shape not in ((), (steps,)):
        raise ValueError(
            f"learning_rate has shape {rates.shape}; it must be a number or have shape ({steps},)"
        )
    return np.array(np.broadcast_to(rates, (steps,)))


def as_prompt_dist(prompt_dist: ArrayLike | None, prompts: int) -> FloatArray:
    """Return the (X,) distribution of prompts, which may be left out for a single one."""
    if prompt_dist is None:
        if prompts != 1:
            raise ValueError(f"prompt_dist is missing; with {prompts} prompts it must be given")
        return np.ones(1)
    rho = checks.as_distributions("prompt_dist", prompt_dist)
    if rho.shape != (prompts,):
        raise ValueError(f"prompt_dist has shape {rho.shape}; it must be ({prompts},)")
    return rho


def as_features(features: ArrayLike | None, shape: tuple[int, int]) -> FloatArray | None:
    """Return (X, Y, d) features, or None."""
    if features is None:
        return None
    array = checks.as_real("features", features)
    if array.ndim != 3 or array.shape[:2] != shape or array.shape[2] == 0:
        raise ValueError(
            f"features has shape {array.shape}; it must have shape ({shape[0]}, {shape[1]}, d)"
        )
    return array


def as_columns(
    loss: DirectLoss | KTO,
    weights: ArrayLike | None,
    reward: ArrayLike | None,
    shape: tuple[int, int],
) -> tuple[FloatArray | None, FloatArray | None]:
    """Return the tables that the loss reads, and no other."""
    given = {"weights": weights is not None, "rewards": reward is not None}
    if isinstance(loss, DirectLoss):
        loss.require_columns(**given)
    elif any(given.values()):
        raise ValueError(f"{loss.name} reads no weights or reward")
    v = None if weights is None else checks.as_matrix("weights", weights, shape)
    return (
        None if v is None else checks.as_positive("weights", v),
        None if reward is None else checks.as_matrix("reward", reward, shape),
    )


def recorded_steps(steps: int, record_every: int) -> IntArray:
    """Return 0, every so many steps, and the last."""
    every = checks.whole_number("record_every", record_every, least=1)
    at = np.arange(0, steps, every, dtype=np.int64)
    return np.append(at, steps)
