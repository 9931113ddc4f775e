"""From arrays to kernels: which kernel, which threads, and what the rows come to."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.divergences import KL, ChiSquared, Combination, Divergence
from rlhfsim.kernels import blocks, rows
from rlhfsim.threads import get_threads, in_parallel

_NO_AXES = np.empty(0, dtype=np.int64)
_NO_STRIDES = np.empty((4, 0), dtype=np.int64)
_NO_GUESS = np.array(np.nan)
# Entries below which waking a thread costs more than it saves, by kernel.
_WORTH_A_THREAD = {rows.KL: 1 << 17, rows.CHI_SQUARED: 1 << 17, rows.MIXED: 1 << 14}
# Entries that a thread takes at a time.
_GRAIN = 1 << 14
# Responses from which every row is divided among threads.  By size alone, because the entry points
# for such rows are other machine code than that for many rows.
_LONG = 1 << 21


def kernel_for(divergence: Divergence) -> tuple[int, FloatArray] | None:
    """Return the kernel of a divergence and the weights of chi-squared and KL, or None."""
    # A user's divergence need not be hashable, and a subclass may compute what it likes.
    if type(divergence) in (KL, ChiSquared, Combination):
        return _kernel_of(divergence)
    return None


@functools.lru_cache(maxsize=1024)
def _kernel_of(divergence: Divergence) -> tuple[int, FloatArray] | None:
    weights: dict[type, float] = {ChiSquared: 0.0, KL: 0.0}
    for weight, base in divergence.terms():
        if type(base) not in weights:
            return None
        weights[type(base)] += weight
    pair = np.array([weights[ChiSquared], weights[KL]])
    pair.setflags(write=False)
    return (rows.KL if pair[0] == 0 else rows.CHI_SQUARED if pair[1] == 0 else rows.MIXED), pair


def solve_rows(
    kernel: tuple[int, FloatArray],
    reward: NDArray[Any],
    reference: NDArray[Any],
    beta: FloatArray,
    batch: tuple[int, ...],
    out: NDArray[Any],
    guess: FloatArray = _NO_GUESS,
) -> tuple[FloatArray, int]:
    """Solve every row of a broadcast problem into `out`.

    Parameters
    ----------
    kernel : from `kernel_for`
    reward, reference : (..., Y) C-contiguous arrays, both float64 or both float32
    beta : (...) C-contiguous float64 array
    batch : broadcast shape of the prompt axes
    out : (*batch, Y) C-contiguous array of the same dtype
    guess : (...) C-contiguous float64 array, optional
        Of the multiplier; NaN where there is none.

    Returns
    -------
    fields : (N, FIELDS) array
        One row per prompt of the flattened batch; `STATUS` is DONE, GENERAL or BAD.
    left : int
        How many are not DONE.
    """
    kind, weights = kernel
    size = out.shape[-1]
    per_row = reward.shape[:-1], reference.shape[:-1], beta.shape, guess.shape
    shape, strides = _layout(batch, size, *per_row)
    n_rows = out.size // size
    fields = np.empty((n_rows, blocks.FIELDS))
    flat = _flat(reward), _flat(reference), _flat(beta), _flat(guess)
    o = out.reshape(-1)
    eps = 2.220446049250313e-16 if out.dtype == np.float64 else 1.1920928955078125e-07
    threads = get_threads() if out.size >= _WORTH_A_THREAD[kind] else 1
    if size >= _LONG:
        left = 0
        for n in range(n_rows):
            at = _offsets(n, shape, strides)
            views = (flat[0][at[0] : at[0] + size], flat[1][at[1] : at[1] + size])
            row = o[n * size : (n + 1) * size]
            beta_n, guess_n = float(flat[2][at[2]]), float(flat[3][at[3]])
            left += _solve_long_row(
                kind, *views, beta_n, guess_n, row, weights, eps, fields[n], threads
            )
        return fields, left
    grain = max(1, _GRAIN // size)
    arguments = (
        kind, *flat, o, size, shape, strides, weights, eps, fields, np.zeros(1, np.int64), grain,
    )  # fmt: skip
    if threads == 1:
        return fields, rows.solve_rows(*arguments)
    workers = min(threads, -(-n_rows // grain))
    return fields, sum(in_parallel(rows.solve_rows, [arguments] * workers))


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """Return a one-dimensional read-only view: one type for the compiler, whatever was given."""
    flat = array.reshape(-1)
    flat.flags.writeable = False
    return flat


def _layout(
    batch: tuple[int, ...], size: int, *shapes: tuple[int, ...]
) -> tuple[IntArray, IntArray]:
    """Return the axes of the batch and the strides of reward, reference, beta, guess along them.

    In entries; 0 along axes that are broadcast.
    """
    if not batch:
        return _NO_AXES, _NO_STRIDES
    strides = np.zeros((4, len(batch)), dtype=np.int64)
    for j, shape in enumerate(shapes):
        step = size if j < 2 else 1
        for k in range(len(shape)):
            if shape[-1 - k] != 1:
                strides[j, -1 - k] = step
            step *= shape[-1 - k]
    return np.array(batch, dtype=np.int64), strides


def _offsets(n: int, shape: IntArray, strides: IntArray) -> list[int]:
    index = np.array(np.unravel_index(n, tuple(shape)) if shape.size else [], dtype=np.int64)
    return [int(x) for x in strides @ index]


def _solve_long_row(
    kind: int, r: NDArray[Any], p: NDArray[Any], beta: float, guess: float, o: NDArray[Any],
    weights: FloatArray, eps: float, fields: FloatArray, threads: int,
) -> int:  # fmt: skip
    """Solve one row with its blocks divided among threads; return 1 where it is not DONE."""
    n_blocks = -(-r.size // blocks.BLOCK)
    state, sums = np.empty(blocks.STATE), np.empty((n_blocks, blocks.WIDTH))
    desks = [np.empty(3 * blocks.SAMPLE) for _ in range(threads)]
    work = rows.start(kind, r, p, beta, weights, guess, state, desks[0])
    cuts = [n_blocks * k // threads for k in range(threads + 1)]
    while work > 0:
        in_parallel(
            rows.run,
            [
                (kind, work, r, p, o, state, sums, cuts[k], cuts[k + 1], desks[k])
                for k in range(threads)
            ],
        )
        work = rows.decide(kind, work, r.size, state, sums, n_blocks, eps, fields)
    fields[blocks.STATUS] = work
    return int(work != blocks.DONE)
