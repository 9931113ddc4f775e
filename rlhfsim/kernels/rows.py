"""One loop for all kernels: pass after pass over a row, row after row."""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels import active_set, gibbs, mixed
from rlhfsim.kernels.blocks import (
    BLOCK,
    FIELDS,
    SAMPLE,
    STATE,
    STATUS,
    WIDTH,
)
from rlhfsim.kernels.intrinsics import borrow, fetch_add

KL, CHI_SQUARED, MIXED = range(3)


@EXACT
def start(
    kind: int, r: FloatArray, p: FloatArray, beta: float, weights: FloatArray, guess: float,
    state: FloatArray, sample: FloatArray,
) -> int:  # fmt: skip
    """Prepare a row; return the first pass.  A guess of the multiplier may be NaN."""
    if kind == KL:
        return gibbs.start(r, p, beta, weights, guess, state, sample)
    if kind == CHI_SQUARED:
        return active_set.start(r, p, beta, weights, guess, state, sample)
    return mixed.start(r, p, beta, weights, guess, state, sample)


@EXACT
def run(
    kind: int, work: int, r: FloatArray, p: FloatArray, o: FloatArray, state: FloatArray,
    sums: FloatArray, first: int, last: int, desk: FloatArray,
) -> None:  # fmt: skip
    """Make one pass over blocks `first` to `last - 1` of a row."""
    if kind == KL:
        gibbs.run(work, r, p, o, state, sums, first, last, desk)
    elif kind == CHI_SQUARED:
        active_set.run(work, r, p, o, state, sums, first, last, desk)
    else:
        mixed.run(work, r, p, o, state, sums, first, last, desk)


@EXACT
def decide(
    kind: int, work: int, size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float,
    fields: FloatArray,
) -> int:  # fmt: skip
    """Digest the partial sums of a pass; return the next pass, or what became of the row."""
    if kind == KL:
        return gibbs.decide(work, size, state, sums, n_blocks, eps, fields)
    if kind == CHI_SQUARED:
        return active_set.decide(work, size, state, sums, n_blocks, eps, fields)
    return mixed.decide(work, size, state, sums, n_blocks, eps, fields)


@EXACT
def solve_rows(
    kind: int, r: FloatArray, p: FloatArray, b: FloatArray, g: FloatArray, o: FloatArray, size: int,
    shape: IntArray, strides: IntArray, weights: FloatArray, eps: float, fields: FloatArray,
    counter: IntArray, grain: int,
) -> int:  # fmt: skip
    """Solve rows taken `grain` at a time from the shared counter; return how many are not DONE.

    `r`, `p`, `b` and the guesses `g` are flat; the row of batch index `(i_0, i_1, ...)` starts at
    `sum_k i_k strides[j, k]`, j = 0, ..., 3, in them, and row n of the policy at `n size` in `o`.
    """
    n_rows, n_blocks, axes = fields.shape[0], (size + BLOCK - 1) // BLOCK, shape.size
    state, sample = np.empty(STATE), np.empty(3 * SAMPLE)
    sums = np.empty((n_blocks, WIDTH))
    left = 0
    while True:
        begin = fetch_add(counter, grain)
        if begin >= n_rows:
            return left
        for n in range(begin, min(begin + grain, n_rows)):
            at_r, at_p, at_b, at_g, rest = 0, 0, 0, 0, n
            for k in range(axes - 1, -1, -1):
                i = rest % shape[k]
                rest //= shape[k]
                at_r += i * strides[0, k]
                at_p += i * strides[1, k]
                at_b += i * strides[2, k]
                at_g += i * strides[3, k]
            rn, pn = borrow(r, at_r, size), borrow(p, at_p, size)
            on, found = borrow(o, n * size, size), borrow(fields, n * FIELDS, FIELDS)
            work = start(kind, rn, pn, b[at_b], weights, g[at_g], state, sample)
            while work > 0:
                run(kind, work, rn, pn, on, state, sums, 0, n_blocks, sample)
                work = decide(kind, work, size, state, sums, n_blocks, eps, found)
            fields[n, STATUS] = work
            left += work != 0
