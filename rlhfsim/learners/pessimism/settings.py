"""What the pessimistic learners share: the baseline, the prompts, the certificate."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import Divergence
from rlhfsim.learners.base import Learned, LearnerError, Problem
from rlhfsim.learners.pessimism.descent import ACCEPTED


def check_settings(learner: Any) -> None:
    """Check the fields `beta`, `divergence` and `baseline`; make the last a read-only copy."""
    checks.positive_number("beta", learner.beta)
    if not isinstance(learner.divergence, Divergence):
        raise ValueError(
            f"divergence is {learner.divergence!r:.80}; it must be a Divergence such as KL()"
        )
    if learner.baseline is not None:
        nu = checks.as_distributions("baseline", checks.as_matrix("baseline", learner.baseline))
        object.__setattr__(learner, "baseline", checks.frozen(nu))


def baseline_of(learner: Any, problem: Problem) -> FloatArray:
    """Return the (X, Y) baseline policy nu, the reference where none is given."""
    if learner.baseline is None:
        return problem.reference
    return checks.as_matrix("baseline", learner.baseline, problem.shape)


def prompts_of(problem: Problem) -> FloatArray:
    """Return the (X,) distribution of prompts, which may be left out for a single prompt."""
    if problem.prompt_dist is not None:
        return problem.prompt_dist
    count = problem.shape[0]
    if count > 1:
        raise ValueError(
            f"prompt_dist is missing; with {count} prompts, which one worst case couples, it must "
            "be given"
        )
    return np.ones(1)


def relative(reward: FloatArray, baseline: FloatArray) -> FloatArray:
    """Return `r(x, y, ...) - E_nu[r(x, .)]` of an (X, Y) or (X, Y, k) array."""
    # Less the first response's first: what is common to a prompt then cancels exactly.
    moved = reward - reward[:, :1]
    weight = baseline / baseline.sum(axis=1, keepdims=True)
    return np.asarray(moved - np.einsum("xy,xy...->x...", weight, moved)[:, None])


def certified(learned: Learned, gap: float, size: float) -> Learned:
    """Return what was learned, or raise when the gap of its saddle point is too large for `size`.

    The policy's own gap, against the worst reward, is for `solve` to judge.
    """
    # Written so that NaN fails.
    if not gap <= ACCEPTED * size:
        raise LearnerError(
            f"no certified saddle point: duality gap {gap:.3g}, allowed {ACCEPTED * size:.3g}; "
            "a beta that is larger against the rewards makes the problem smoother",
            learned,
        )
    return learned
