"""Log-likelihoods of many rewards under many counts."""

from __future__ import annotations

import math

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT, SUMS
from rlhfsim.data.counts import PairCounts
from rlhfsim.kernels.elementary import exp, log_one_plus_ratio
from rlhfsim.kernels.intrinsics import fetch_add
from rlhfsim.kernels.vectors import LANES, load, spread, store
from rlhfsim.threads import get_threads, in_parallel

_BLOCK = 1024
# Margins beyond which exp(-margin) is below the smallest float.
_FAR = 800.0


@EXACT
def _terms(
    reward: FloatArray, prompt: IntArray, winner: IntArray, loser: IntArray, count: FloatArray,
    q: FloatArray, terms: FloatArray, reach: FloatArray,
) -> None:  # fmt: skip
    """Write `count log(1 + exp(loser - winner))`, and the same times what rounding can do to it."""
    for k in range(count.size):
        up, down = reward[prompt[k], winner[k]], reward[prompt[k], loser[k]]
        terms[k] = down - up
        reach[k] = 1.0 + abs(up) + abs(down)
    for k in range(q.size):
        q[k] = exp(-min(abs(terms[k]), _FAR))
    one = spread(1.0)
    for k in range(0, q.size, LANES):
        store(q, k, log_one_plus_ratio(load(q, k), one))
    for k in range(count.size):
        terms[k] = count[k] * (q[k] + max(terms[k], 0.0))
        reach[k] *= terms[k]


@SUMS
def _sum_of(x: FloatArray) -> float:
    total = 0.0
    for k in range(x.size):
        total += x[k]
    return total


@EXACT
def _sum_blocks(
    rewards: FloatArray, prompt: IntArray, winner: IntArray, loser: IntArray, count: FloatArray,
    sums: FloatArray, counter: IntArray,
) -> None:  # fmt: skip
    """Write the sums of each block of counts under each reward until all are taken."""
    q, terms, reach = np.zeros(_BLOCK), np.zeros(_BLOCK), np.zeros(_BLOCK)
    blocks = sums.shape[1]
    while True:
        at = fetch_add(counter, 1)
        if at >= sums.shape[0] * blocks:
            return
        k, block = at // blocks, at % blocks
        begin, end = block * _BLOCK, min((block + 1) * _BLOCK, count.size)
        _terms(
            rewards[k], prompt[begin:end], winner[begin:end], loser[begin:end],
            count[begin:end], q, terms, reach,
        )  # fmt: skip
        sums[k, block, 0] = _sum_of(terms[: end - begin])
        sums[k, block, 1] = _sum_of(reach[: end - begin])


def losses(counts: PairCounts, rewards: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the (K,) log-likelihoods of the informative rows and bounds on their rounding."""
    blocks = -(-counts.count.size // _BLOCK)
    sums = np.empty((len(rewards), blocks, 2))
    arguments = (
        rewards, counts.prompt, counts.winner, counts.loser, counts.count, sums,
        np.zeros(1, dtype=np.int64),
    )  # fmt: skip
    in_parallel(_sum_blocks, [arguments] * min(get_threads(), len(rewards) * blocks))
    # In each lane of a block 128 terms may be added one after the other, then blocks in pairs.
    unit = np.finfo(np.float64).eps * (160 + math.log2(blocks))
    return -sums[..., 0].sum(axis=1), unit * sums[..., 1].sum(axis=1)
