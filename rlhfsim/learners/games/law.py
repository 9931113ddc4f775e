"""A learner that is given the law of the preferences in place of data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.learners.base import Learned, Learner


@dataclass(frozen=True, eq=False)
class OnLaw:
    """Another learner, fitted to a law of comparisons whatever data there are: infinite data.

    What is learned is what that learner learns.

    Parameters
    ----------
    learner : Learner
    law : PairCounts
        Such as `population_pairs` of a bandit and its preference model.

    Raises
    ------
    ValueError
        For another learner or law.
    """

    learner: Learner
    law: PairCounts

    def __post_init__(self) -> None:
        """Validate."""
        if not isinstance(self.learner, Learner):
            raise ValueError(f"learner is a {type(self.learner).__name__}; it must be a Learner")
        if not isinstance(self.law, PairCounts):
            raise ValueError(f"law is a {type(self.law).__name__}; it must be a PairCounts")

    @property
    def name(self) -> str:
        """The name of the learner, with `infinite data`."""
        return f"{self.learner.name}, infinite data"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return what the learner learns from the law; `data` are not looked at."""
        return self.learner.fit(self.law, reference, prompt_dist=prompt_dist, rng=rng)
