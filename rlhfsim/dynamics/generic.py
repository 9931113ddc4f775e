"""One path of any direct loss, with any optimizer, in numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.dynamics.batches import drawn
from rlhfsim.dynamics.problem import Course, Path, Walked
from rlhfsim.dynamics.trajectory import RECORDED
from rlhfsim.losses import DirectLoss, Rows, table_rows


def walk(course: Course, path: Path) -> Walked:
    """Follow one path from its start to the last step."""
    walker = _Walker(course, path)
    parameter = np.zeros(course.n_parameters)
    moments = np.zeros((2, parameter.size))
    recorded = np.zeros((len(RECORDED), course.step.size))
    place = {int(step): t for t, step in enumerate(course.step)}
    masses = _masses(course, path)
    log_policy = walker.log_policy(parameter)
    # What overflows ends in parameters that are not finite, and those are looked for.
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(course.steps + 1):
            if step in place:
                recorded[:, place[step]] = walker.quantities(log_policy)
            if step == course.steps:
                break
            gradient, rate = walker.gradient(log_policy, next(masses)), float(course.rates[step])
            course.optimizer.move(parameter, gradient, rate, step + 1, moments)
            log_policy = walker.log_policy(parameter)
            if np.isnan(log_policy).any():
                return Walked(recorded, log_policy, parameter, step + 1)
    return Walked(recorded, log_policy, parameter, None)


def _masses(course: Course, path: Path) -> Iterator[FloatArray]:
    """Yield for each step the share of its rows that each distinct comparison has."""
    counts = path.counts
    if course.batches is None or path.rng is None:
        while True:
            yield counts.count / counts.total
    size = counts.count.size + 1
    for part in drawn(course.batches, counts, course.steps, path.rng):
        for rows in np.split(part.rows, part.starts[1:-1]):
            yield np.bincount(rows, minlength=size)[:-1] / rows.size


class _Walker:
    """The functions of the parameters of one path."""

    def __init__(self, course: Course, path: Path) -> None:
        self.course, self.path = course, path
        with np.errstate(divide="ignore"):
            self.log_reference = np.log(course.reference)

    def log_policy(self, parameter: FloatArray) -> FloatArray:
        """Return `log softmax(log start + logits)`; all NaN for parameters beyond the floats."""
        shape, features = self.course.shape, self.course.features
        if not np.isfinite(parameter).all():
            return np.full(shape, np.nan)
        moved = parameter.reshape(shape) if features is None else features @ parameter
        logits = self.path.start + moved
        logits = logits - logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def gradient(self, log_policy: FloatArray, masses: FloatArray) -> FloatArray:
        """Return the gradient in the parameters of `sum_u masses_u loss_u`."""
        counts, features = self.path.counts, self.course.features
        chosen, rejected = self.course.loss.slopes(self._rows(log_policy))
        table = np.zeros(counts.shape)
        np.add.at(table, (counts.prompt, counts.winner), masses * chosen)
        np.add.at(table, (counts.prompt, counts.loser), masses * rejected)
        table -= np.exp(log_policy) * table.sum(axis=1, keepdims=True)
        flat = table.reshape(-1)
        return flat if features is None else flat @ features.reshape(flat.size, -1)

    def quantities(self, log_policy: FloatArray) -> list[float]:
        """Return what is recorded, in the order of `RECORDED`."""
        course, counts = self.course, self.path.counts
        rows, policy = self._rows(log_policy), np.exp(log_policy)
        share = counts.count / counts.total
        tied = course.loss.tied_value() if isinstance(course.loss, DirectLoss) else 0.0
        loss = share @ course.loss.values(rows) + counts.equal_pairs / counts.total * tied
        informative = counts.count.sum()
        pair = policy, course.reference, course.prompt_dist
        return [
            float(loss),
            float(np.linalg.norm(self.gradient(log_policy, share))),
            self._value(policy, self.path.gold),
            self._value(policy, self.path.proxy),
            float(KL()(*pair)),
            float(ChiSquared()(*pair)),
            float(counts.count @ rows.chosen / informative) if informative else np.nan,
            float(counts.count @ rows.rejected / informative) if informative else np.nan,
        ]

    def _rows(self, log_policy: FloatArray) -> Rows:
        return table_rows(
            self.course.loss,
            log_policy,
            self.log_reference,
            self.path.counts,
            weights=self.course.weights,
            reward=self.course.reward,
        )

    def _value(self, policy: FloatArray, table: FloatArray | None) -> float:
        return 0.0 if table is None else float(self.course.prompt_dist @ (policy * table).sum(1))
