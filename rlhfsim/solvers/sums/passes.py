"""What a pass is: blocks of responses, kernels on them, and sums that travel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from rlhfsim.checks import FloatArray, IntArray

#: What a kernel returns for n prompts: arrays of shape (n,) or (n, k), by name.
Sums = dict[str, FloatArray]
#: `(reward (n, y), reference (n, y), index of the first response, numbers per prompt) -> Sums`.
Kernel = Callable[[FloatArray, FloatArray, int, Sums], Sums]
Combine = Callable[[Iterable[Sums]], Sums]


class Blocks(Protocol):
    """Rewards and references of N prompts, cut into blocks of consecutive responses."""

    n_prompts: int
    n_responses: int

    def reduce(self, kernel: Kernel, combine: Combine, prompts: IntArray, given: Sums) -> Sums:
        """Return the combined sums of some prompts; `given` holds one row for each of them."""


_MAXIMA = frozenset({"stiffness"})


def combine_sums(parts: Iterable[Sums]) -> Sums:
    """Add up block after block with compensation (Neumaier): no digits are lost to their number."""
    total: Sums = {}
    lost: Sums = {}
    for part in parts:
        for name, x in part.items():
            if name not in total:
                total[name], lost[name] = x, np.zeros_like(x)
            elif name in _MAXIMA:
                total[name] = np.maximum(total[name], x)
            else:
                total[name], error = two_sum(total[name], x)
                lost[name] = lost[name] + error
    return {name: x + np.where(np.isfinite(lost[name]), lost[name], 0) for name, x in total.items()}


def two_sum(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return `x + y` rounded, and what the rounding left out."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = x + y
        share = total - x
        return total, (x - (total - share)) + (y - share)
