"""From a path to the compiled kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.dynamics import kernels
from rlhfsim.dynamics.batches import Drawn, drawn
from rlhfsim.dynamics.forms import Form
from rlhfsim.dynamics.problem import Course, Path, Walked
from rlhfsim.dynamics.trajectory import RECORDED

# Stands for -inf: whatever is added to it or subtracted from it, it stays finite.
_BELOW = -1e308
_ALL = Drawn(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


class Plan(NamedTuple):
    """What the kernel takes of the course."""

    course: Course
    form: Form
    optimizer: int
    settings: FloatArray
    #: (d, X Y); d is 0 for tabular policies.
    features: FloatArray
    #: (steps + 1,) column of the record after so many steps, or -1.
    place: IntArray
    #: (X Y) logarithms of the reference.
    log_reference: FloatArray


def plan(course: Course, form: Form, optimizer: tuple[int, FloatArray]) -> Plan:
    """Return what is the same for all paths."""
    size = course.reference.size
    features = np.empty((0, size))
    if course.features is not None:
        features = np.ascontiguousarray(course.features.reshape(size, -1).T)
    place = np.full(course.steps + 1, -1)
    place[course.step] = np.arange(course.step.size)
    with np.errstate(divide="ignore"):
        logs = _finite(np.log(course.reference))
    return Plan(course, form, *optimizer, _own(features), place, logs)


def walk(planned: Plan, path: Path) -> Walked:
    """Follow one path from its start to the last step."""
    course, form, counts = planned.course, planned.form, path.counts
    first, second = (
        counts.prompt * counts.n_responses + side for side in (counts.winner, counts.loser)
    )
    columns = _columns(course, path, first, second)
    tables = _tables(planned, path, first, second, columns)
    recorded = np.zeros((len(RECORDED), course.step.size))
    parameter = np.zeros(course.n_parameters)
    moments, log_policy = np.zeros((2, parameter.size)), np.zeros(course.reference.size)
    tied = form.tied * counts.equal_pairs / counts.total
    parts = iter([_ALL])
    if course.batches is not None and path.rng is not None:
        parts = drawn(course.batches, counts, course.steps, path.rng)
    begin, diverged = 0, -1
    for part in parts:
        end = begin + part.starts.size - 1 if part.starts.size else course.steps
        diverged = kernels.walk(
            form.outer, form.numbers, form.imitation, tied, counts.n_responses, tables,
            planned.features, first, second, columns, planned.optimizer, planned.settings,
            course.rates, planned.place, _own(part.rows), _own(part.starts), begin, end, parameter,
            moments, recorded, log_policy,
        )  # fmt: skip
        begin = end
        if diverged >= 0:
            break
    if not counts.count.size:
        recorded[-2:] = np.nan
    log_policy = np.where(course.reference > 0, log_policy.reshape(course.shape), -np.inf)
    return Walked(recorded, log_policy, parameter, diverged if diverged >= 0 else None)


def _columns(course: Course, path: Path, winner: IntArray, loser: IntArray) -> FloatArray:
    columns = np.zeros((kernels.COLUMNS, winner.size))
    columns[kernels.SHARE] = path.counts.count / path.counts.total
    columns[kernels.CHOSEN_WEIGHT] = columns[kernels.REJECTED_WEIGHT] = 1.0
    if course.weights is not None:
        flat = course.weights.reshape(-1)
        columns[kernels.CHOSEN_WEIGHT] = flat[winner]
        columns[kernels.REJECTED_WEIGHT] = flat[loser]
    if course.reward is not None:
        flat = course.reward.reshape(-1)
        columns[kernels.GAP] = flat[winner] - flat[loser]
    return columns


def _tables(
    planned: Plan, path: Path, winner: IntArray, loser: IntArray, columns: FloatArray
) -> FloatArray:
    course, counts, size = planned.course, path.counts, planned.log_reference.size
    rho = course.prompt_dist[:, None]
    tables = np.zeros((kernels.TABLES, size))
    tables[kernels.BASE] = _finite(path.start)
    if not planned.form.reference_free:
        tables[kernels.LINK_REFERENCE] = planned.log_reference
    tables[kernels.LOG_REFERENCE] = planned.log_reference
    tables[kernels.MASS] = (rho * course.reference).reshape(-1)
    for k, table in ((kernels.GOLD, path.gold), (kernels.PROXY, path.proxy)):
        if table is not None:
            tables[k] = (rho * table).reshape(-1)
    wanted = planned.form.imitation * columns[kernels.SHARE] * columns[kernels.CHOSEN_WEIGHT]
    tables[kernels.IMITATED] = np.bincount(winner, weights=wanted, minlength=size)
    if counts.count.size:
        share = counts.count / counts.count.sum()
        for k, side in ((kernels.CHOSEN, winner), (kernels.REJECTED, loser)):
            tables[k] = np.bincount(side, weights=share, minlength=size)
    return tables


def _finite(logs: FloatArray) -> FloatArray:
    return np.where(np.isneginf(logs), _BELOW, logs).reshape(-1)


def _own(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a contiguous array that may be written to: one type for the compiler."""
    return np.require(array, requirements=["C", "W"])
