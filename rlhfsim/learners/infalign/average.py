"""The average of an objective over prompts, where it is determined."""

from __future__ import annotations

from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import average_over_prompts


def averaged(values: FloatArray, prompt_dist: ArrayLike | None) -> float | None:
    """Return the average of (X,) values, or None where there are several and no `prompt_dist`."""
    if prompt_dist is None and len(values) > 1:
        return None
    return float(average_over_prompts(values, prompt_dist))
