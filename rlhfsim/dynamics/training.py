"""Training: the exact path of a policy under gradient steps on a direct loss."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts
from rlhfsim.dynamics import generic
from rlhfsim.dynamics.batches import Batches
from rlhfsim.dynamics.forms import form_of, optimizer_of
from rlhfsim.dynamics.optimizers import GradientDescent, Optimizer
from rlhfsim.dynamics.problem import (
    Course,
    Data,
    Path,
    Walked,
    as_columns,
    as_datasets,
    as_features,
    as_prompt_dist,
    as_rates,
    as_start,
    as_tables,
    recorded_steps,
    require_support,
)
from rlhfsim.dynamics.trajectory import RECORDED, TrainingDivergedError, Trajectory
from rlhfsim.losses import KTO, DirectLoss
from rlhfsim.threads import get_threads, in_parallel

_Walk = Callable[[Path], Walked]


def train(
    loss: DirectLoss | KTO,
    data: Data | Sequence[Data],
    reference: ArrayLike,
    *,
    steps: int,
    learning_rate: ArrayLike,
    prompt_dist: ArrayLike | None = None,
    gold: ArrayLike | None = None,
    proxy: ArrayLike | None = None,
    batch: int | Batches | None = None,
    rng: np.random.Generator | None = None,
    start: ArrayLike | None = None,
    features: ArrayLike | None = None,
    optimizer: Optimizer | None = None,
    record_every: int = 1,
    weights: ArrayLike | None = None,
    reward: ArrayLike | None = None,
) -> Trajectory:
    """Return the path of softmax policies under gradient steps on a direct loss.

    `pi_theta(y|x) ∝ p(y|x) e^{theta(x, y)}`, or `p(y|x) e^{<theta, phi(x, y)>}` with features;
    `theta` starts at 0 and follows the gradient of the mean loss over all rows of the data, or of a
    mini-batch.  With G the gradient in log pi, that in tabular `theta` is `G - pi sum_y G`.

    There is one path for each dataset.  A dataset may be repeated, for paths that differ in their
    mini-batches or starts.  Results depend on the counts of a dataset and not on the order of its
    rows, and not on the number of threads.

    Parameters
    ----------
    loss : DirectLoss or KTO
        KTO's baseline is the exact KL of the prompt, held fixed in each step.
    data : PreferenceData, PairCounts, or a sequence of S of them
        Of the shape of `reference`.  Counts may be the probabilities of a law.
    reference : (X, Y) array of distributions
        p, positive on compared responses.
    steps : int
    learning_rate : float or (steps,) array
        Positive.
    prompt_dist : (X,) array, optional
        Weights of the averages that are recorded; needed for several prompts.
    gold, proxy : (X, Y) or (S, X, Y) arrays, optional
        Rewards whose values are recorded.
    batch : int or Batches, optional
        Rows per step, without replacement if a number; all rows by default.
    rng : numpy.random.Generator
        For mini-batches; one generator is spawned from it for each path.
    start : (X, Y) or (S, X, Y) array of distributions, optional
        In place of p as the first policy and in front of `e^theta`; positive where p is.
    features : (X, Y, d) array, optional
        phi, of log-linear policies.
    optimizer : Optimizer, optional
        `GradientDescent()` by default.
    record_every : int
        Steps from one record to the next; the start and the last step are always recorded.
    weights, reward : (X, Y) arrays, optional
        Columns of the losses that read them, as for `empirical_loss`.

    Returns
    -------
    Trajectory

    Raises
    ------
    ValueError
        For input that breaks a rule above, by name, rule, index and value.
    TrainingDivergedError
        If parameters leave the floats.

    Source: arXiv 2305.18290 (DPO), 2407.13399 (overoptimization over epochs), 2410.08847 (log
    probabilities of both responses falling).
    """
    if not isinstance(loss, (DirectLoss, KTO)):
        raise ValueError(f"loss is {loss!r:.80}; it must be a DirectLoss or KTO")
    p = checks.as_distributions("reference", checks.as_matrix("reference", reference))
    shape = (p.shape[0], p.shape[1])
    datasets = as_datasets(data, shape)
    require_support(p, datasets)
    steps = checks.whole_number("steps", steps, least=1)
    course = Course(
        loss, p, as_prompt_dist(prompt_dist, shape[0]), as_rates(learning_rate, steps),
        recorded_steps(steps, record_every), _as_optimizer(optimizer), _as_batches(batch),
        as_features(features, shape), *as_columns(loss, weights, reward, shape),
    )  # fmt: skip
    paths = _paths(course, datasets, start, {"gold": gold, "proxy": proxy}, rng)
    follow, workers = _route(course)
    results = _Results(course, paths)
    results.fill(follow, min(workers, len(paths)))
    return results.trajectory()


def _as_optimizer(optimizer: Optimizer | None) -> Optimizer:
    if optimizer is None:
        return GradientDescent()
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"optimizer is {optimizer!r:.80}; it must be an Optimizer such as GradientDescent()"
        )
    return optimizer


def _as_batches(batch: int | Batches | None) -> Batches | None:
    if batch is None or isinstance(batch, Batches):
        return batch
    return Batches(checks.whole_number("batch", batch, least=1))


def _paths(
    course: Course,
    datasets: list[PairCounts],
    start: ArrayLike | None,
    values: dict[str, ArrayLike | None],
    rng: np.random.Generator | None,
) -> list[Path]:
    count = len(datasets)
    starts = as_start(start, course.reference, count)
    gold, proxy = (
        None if table is None else as_tables(name, table, course.shape, count)
        for name, table in values.items()
    )
    checks.optional_generator("rng", rng)
    streams: list[np.random.Generator] | None = None
    if course.batches is not None:
        for i, counts in enumerate(datasets):
            course.batches.require_rows(f"data[{i}]", counts)
        streams = checks.generator("rng", rng).spawn(count)  # type: ignore[arg-type]
    return [
        Path(
            counts,
            starts[s],
            None if gold is None else gold[s],
            None if proxy is None else proxy[s],
            None if streams is None else streams[s],
        )
        for s, counts in enumerate(datasets)
    ]


def _route(course: Course) -> tuple[_Walk, int]:
    """Return what follows a path, and how many threads may."""
    form, optimizer = form_of(course.loss, course.reference), optimizer_of(course.optimizer)
    if form is None or optimizer is None:
        return functools.partial(generic.walk, course), 1
    from rlhfsim.dynamics import compiled

    return functools.partial(compiled.walk, compiled.plan(course, form, optimizer)), get_threads()


class _Results:
    """The results of all paths, filled in by threads in any order."""

    def __init__(self, course: Course, paths: list[Path]) -> None:
        self.course, self.paths = course, paths
        count = len(paths)
        self.recorded = {name: np.empty((count, course.step.size)) for name in RECORDED}
        self.log_policy = np.empty((count, *course.shape))
        self.parameter = np.empty((count, course.n_parameters))
        self.diverged: list[int | None] = [None] * count
        self._next = itertools.count()

    def fill(self, follow: _Walk, workers: int) -> None:
        """Follow all paths; raise for the first that left the floats."""
        in_parallel(self._work, [(follow,)] * workers)
        for s, step in enumerate(self.diverged):
            if step is not None:
                raise TrainingDivergedError(s, step)

    def _work(self, follow: _Walk) -> None:
        while (s := next(self._next)) < len(self.paths):
            walked = follow(self.paths[s])
            for column, values in zip(self.recorded.values(), walked.recorded, strict=True):
                column[s] = values
            self.log_policy[s] = walked.log_policy
            self.parameter[s] = walked.parameter
            self.diverged[s] = walked.diverged

    def trajectory(self) -> Trajectory:
        """Return the results, read-only."""
        course, first = self.course, self.paths[0]
        totals = np.array([path.counts.total for path in self.paths])
        arrays: dict[str, NDArray[Any] | None] = {
            "step": course.step,
            "epoch": np.stack([_epochs(course, total) for total in totals]),
            **self.recorded,
            "policy": np.exp(self.log_policy),
            "log_policy": self.log_policy,
            "parameter": None if course.features is None else self.parameter,
        }
        if first.gold is None:
            arrays["gold"] = None
        if first.proxy is None:
            arrays["proxy"] = None
        for array in arrays.values():
            if array is not None:
                array.setflags(write=False)
        return Trajectory(**arrays)  # type: ignore[arg-type]


def _epochs(course: Course, total: float) -> FloatArray:
    if course.batches is None:
        return course.step.astype(np.float64)
    return course.batches.epochs(course.step, total)
