"""The three passes one after another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from rlhfsim.checks import ROW_SUM_TOLERANCE, FloatArray
from rlhfsim.divergences import Divergence
from rlhfsim.solvers.sums.certificate import Certificate, certificate
from rlhfsim.solvers.sums.multiplier import find_multiplier
from rlhfsim.solvers.sums.passes import Blocks, Sums
from rlhfsim.solvers.sums.policy import Multiplier
from rlhfsim.solvers.sums.survey import combine_survey, refuse_bad, survey

# The sample that finds a first multiplier: responses per prompt, in all, and too few to be of use.
_SAMPLE = 2**16
_SAMPLE_IN_ALL = 2**20
_SAMPLE_LEAST = 32


def solve_blocks(
    blocks: Blocks,
    beta: FloatArray,
    divergence: Divergence,
    locate: Callable[[str, int, int | None], str],
    row_sum_tolerance: float = ROW_SUM_TOLERANCE,
) -> tuple[Multiplier, Certificate]:
    """Return the multiplier of every prompt, and the certificate for the caller to require."""
    per_prompt = min(_SAMPLE, _SAMPLE_IN_ALL // blocks.n_prompts)
    share = per_prompt / blocks.n_responses if per_prompt >= _SAMPLE_LEAST else 0.0
    found = blocks.reduce(
        partial(survey, divergence=divergence, share=share),
        combine_survey,
        np.arange(blocks.n_prompts),
        {"beta": beta},
    )
    refuse_bad(found, locate, row_sum_tolerance)
    root = find_multiplier(blocks, found, beta, divergence)
    _refuse_mass_outside(found, root, beta, divergence)
    return root, certificate(blocks, root, beta, divergence)


def _refuse_mass_outside(
    found: Sums, root: Multiplier, beta: FloatArray, divergence: Divergence
) -> None:
    """Raise where a response without reference mass is worth the recession that it costs."""
    with np.errstate(over="ignore", invalid="ignore"):
        best = (found["outside"] - root.anchor) / beta - (root.offset - root.bound)
    worth = np.flatnonzero(best > divergence.recession * (1 + np.finfo(np.float64).eps))
    if worth.size:
        k = int(worth[0])
        raise ValueError(
            f"reward {float(found['outside'][k])!r} of prompt {k} belongs to a response of "
            f"reference mass 0 that the optimum under {divergence} uses; in blocks only responses "
            "of positive reference mass are supported"
        )
