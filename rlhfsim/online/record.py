"""What an online run leaves behind: the exact regret of every policy that it played."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.frozen import Frozen


@dataclass(frozen=True, eq=False)
class OnlineRecord(Frozen):
    """T rounds of preference collection, measured against the true reward; arrays are read-only.

    In round t the learner plays `pi_t`, which it made of the data before the round.  Regret is
    exact: only prompts, responses and labels are drawn.

    Parameters
    ----------
    policy : (X, Y) array of distributions
        What is learned from all rounds.
    regret : (T,) array
        `J(pi*) - J(pi_t)`, in reward units.
    regularized_regret : (T,) array
        `J_beta(pi*_beta) - J_beta(pi_t)`, in reward units.
    comparisons : (T,) array of integers
        New comparisons up to and including round t.

    Raises
    ------
    ValueError
        For a policy that is none, and for arrays of other shapes or with NaN.

    Source: arXiv 2312.11456; arXiv 2405.21046.
    """

    policy: FloatArray
    regret: FloatArray
    regularized_regret: FloatArray
    comparisons: IntArray

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        policy = checks.as_distributions("policy", checks.as_matrix("policy", self.policy))
        object.__setattr__(self, "policy", checks.frozen(policy))
        rounds = np.shape(self.regret)
        for name in ("regret", "regularized_regret"):
            values = checks.as_real(name, getattr(self, name))
            if values.ndim != 1 or values.shape != rounds:
                raise ValueError(f"{name} has shape {values.shape}; it must be (T,), {rounds}")
            object.__setattr__(self, name, checks.frozen(values))
        made = np.asarray(self.comparisons)
        if made.shape != rounds or made.dtype.kind not in "iu":
            raise ValueError(
                f"comparisons has shape {made.shape} and dtype {made.dtype}; "
                f"it must be integers of shape {rounds}"
            )
        object.__setattr__(self, "comparisons", checks.frozen(made.astype(np.int64)))

    @property
    def rounds(self) -> int:
        """T."""
        return len(self.regret)

    @property
    def cumulative_regret(self) -> FloatArray:
        """(T,) sums of the regrets up to and including each round."""
        return np.cumsum(self.regret)

    @property
    def cumulative_regularized_regret(self) -> FloatArray:
        """(T,) sums of the regularized regrets up to and including each round."""
        return np.cumsum(self.regularized_regret)
