"""A reward that is given and not learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import log_likelihood
from rlhfsim.data.counts import as_counts, compared_in, require_pairs
from rlhfsim.frozen import Frozen
from rlhfsim.rewards.result import RewardFit


@dataclass(frozen=True, eq=False)
class Known(Frozen):
    """The reward `reward`, whatever the data say: a proxy, or the truth as an oracle.

    Parameters
    ----------
    reward : (X, Y) array
        Finite; copied and read-only.

    Raises
    ------
    ValueError
        For a reward that is not finite or no matrix; when fitting, for data of another shape.
    """

    reward: FloatArray

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        object.__setattr__(self, "reward", checks.frozen(checks.as_matrix("reward", self.reward)))

    def fit(self, data: Any, rng: np.random.Generator | None = None) -> RewardFit:
        """Return the known reward with the log-likelihood that it gives to pairwise data."""
        data = require_pairs(data)
        shape = data.n_prompts, data.n_responses
        if shape != self.reward.shape:
            raise ValueError(f"reward has shape {self.reward.shape}; the data have shape {shape}")
        return RewardFit(
            reward=self.reward,
            log_likelihood=log_likelihood(as_counts(data), self.reward),
            gradient_norm=None,
            compared=compared_in(data),
        )
