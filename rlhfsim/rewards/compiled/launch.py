"""From tables to fits: which kernel, which threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.kernels.vectors import LANES
from rlhfsim.rewards.compiled import boxed, conjugate, crew, graph, lanes
from rlhfsim.rewards.compiled.layout import CERTIFIED, FIELDS, GRADIENT, LENGTH, LOSS
from rlhfsim.rewards.compiled.tables import Tables
from rlhfsim.threads import get_threads, in_parallel

#: Largest entry of the gradient that a fit may have, per comparison.
SLOPE_PER_COMPARISON = 1e-10
# Length of a Newton step after which the error, of the order of its square, is below rounding.
_FINAL_STEP = 1e-8
# A last step of conjugate gradients may be longer: the gradient after it is within rounding.
_FINAL_LONG_STEP = 1e-6
# A common shift of all rewards, which a ridge alone determines, needs this much of it.
_LEAST_RIDGE_SHARE = 1e-6
# Pairs of responses below which waking a thread costs more than it saves.
_WORTH_A_THREAD = 1 << 13
_WORTH_A_SEARCH = 1 << 21
_WORTH_A_CREW = 1 << 16


@dataclass(frozen=True)
class Fits:
    """What kernels found for each prompt; not worth anything where not `certified`."""

    #: (P, Y) rewards, with mean 0 over the responses compared (or in the box), 0 for the others.
    reward: FloatArray
    #: (P,) largest entry of the gradient, in comparisons.
    gradient: FloatArray
    #: (P,) length of the last Newton step.
    step: FloatArray
    #: (P,) negative log-likelihood of the comparisons, in nats.
    loss: FloatArray
    #: (P,)
    certified: BoolArray


def connected(tables: Tables, *, strong: bool) -> BoolArray:
    """Return for each prompt whether it compares anything and its graph is connected.

    Strongly: over edges from winner to loser; otherwise over edges of either direction.
    """
    answer = np.empty(tables.size.size, dtype=np.bool_)
    work = int((tables.size * tables.size).sum())
    workers = min(get_threads(), answer.size, max(1, work // _WORTH_A_SEARCH))
    cuts = [answer.size * k // workers for k in range(workers + 1)]
    parts = [slice(cuts[k], cuts[k + 1]) for k in range(workers)]
    in_parallel(
        graph.connected,
        [(tables.table, tables.start[p], tables.size[p], strong, answer[p]) for p in parts],
    )
    return answer


def fit_tables(tables: Tables, wanted: BoolArray, ridge: float = 0.0) -> Fits:
    """Fit the wanted prompts, whose graphs are connected, strongly where there is no ridge.

    Minimises `sum_ij W_ij log(1 + exp(r_j - r_i)) + (ridge/2) sum_i r_i^2` for each.
    """
    if ridge > 0:
        # Conjugate gradients are not made for a ridge.
        small = tables.size <= lanes.LARGEST
        wanted = wanted & small & (ridge >= _LEAST_RIDGE_SHARE * tables.total)
    order = _by_size(tables, wanted)
    reward, fields = np.zeros(tables.compared.shape), np.zeros((wanted.size, FIELDS))
    few = int(np.searchsorted(tables.size[order], lanes.LARGEST, side="right"))
    allowed = SLOPE_PER_COMPARISON * tables.total
    _fit_few(lanes.fit_lanes, tables, order[:few], ridge, allowed, reward, fields)
    _fit_many(tables, order[few:], allowed, reward, fields)
    return _fits(reward, fields)


def fit_boxed_tables(tables: Tables, wanted: BoolArray, r_max: float) -> Fits:
    """Fit the wanted prompts within `[0, r_max]`, whatever their graphs; large ones are declined.

    Minimises `sum_ij W_ij log(1 + exp(r_j - r_i))` for each.
    """
    order = _by_size(tables, wanted & (tables.size <= lanes.LARGEST))
    reward, fields = np.zeros(tables.compared.shape), np.zeros((wanted.size, FIELDS))
    allowed = SLOPE_PER_COMPARISON * tables.total
    _fit_few(boxed.fit_boxed_lanes, tables, order, r_max, allowed, reward, fields)
    return _fits(reward, fields)


def _by_size(tables: Tables, wanted: BoolArray) -> IntArray:
    order = np.nonzero(wanted)[0]
    return order[np.argsort(tables.size[order], kind="stable")]


def _fits(reward: FloatArray, fields: FloatArray) -> Fits:
    gradient, step, loss = (fields[:, k].copy() for k in (GRADIENT, LENGTH, LOSS))
    return Fits(reward, gradient, step, loss, fields[:, CERTIFIED] > 0)


def _fit_few(
    fit: Callable[..., None], tables: Tables, order: IntArray, setting: float, allowed: FloatArray,
    reward: FloatArray, fields: FloatArray,
) -> None:  # fmt: skip
    """Fit prompts of few responses, eight at a time, with a ridge or an `r_max`."""
    if order.size == 0:
        return
    arguments = (
        tables.table, tables.start, tables.size, order, setting, tables.least, _FINAL_STEP,
        allowed, tables.members, tables.first, reward, fields, np.zeros(1, dtype=np.int64),
    )  # fmt: skip
    size = tables.size[order]
    work = int((size * size).sum())
    groups = -(-order.size // LANES)
    workers = min(get_threads(), groups, max(1, work // _WORTH_A_THREAD))
    in_parallel(fit, [arguments] * workers)


def _fit_many(
    tables: Tables, order: IntArray, allowed: FloatArray, reward: FloatArray, fields: FloatArray
) -> None:
    """Fit prompts of many responses: threads share the prompts, or else the pairs of each."""
    threads = get_threads()
    if order.size >= 2 * threads:
        shares = [order[k::threads] for k in range(threads)]
        in_parallel(_fit_alone, [(tables, share, allowed, reward, fields) for share in shares])
        return
    for x in order:
        worth = tables.size[x] ** 2 >= _WORTH_A_CREW
        _fit_one(tables, int(x), allowed, reward, fields, threads if worth else 1)


def _fit_alone(
    tables: Tables, order: IntArray, allowed: FloatArray, reward: FloatArray, fields: FloatArray
) -> None:
    for x in order:
        _fit_one(tables, int(x), allowed, reward, fields, 1)


def _fit_one(
    tables: Tables, x: int, allowed: FloatArray, reward: FloatArray, fields: FloatArray,
    threads: int,
) -> None:  # fmt: skip
    size = int(tables.size[x])
    blocks = conjugate.blocks_of(size)
    board = np.zeros(crew.BOARD + 1, dtype=np.int64)
    weight = np.empty(size * (size - 1) // 2, dtype=np.float32)
    rows = np.empty((conjugate.ROWS, size))
    sums = np.empty((blocks, conjugate.SUMS_OF_BLOCK, size))
    numbers = np.zeros(conjugate.NUMBERS)
    workers = min(threads, blocks)
    calls = [
        (
            tables.table, int(tables.start[x]), k == workers - 1, board, weight, rows, sums,
            numbers, _FINAL_LONG_STEP, float(allowed[x]), fields[x],
        )
        for k in range(workers)
    ]  # fmt: skip
    in_parallel(conjugate.fit_together, calls)
    reward[x, tables.members_of(x)] = rows[conjugate.R]
