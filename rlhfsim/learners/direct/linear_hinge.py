"""The hinge over log-linear policies: a linear program in the parameter."""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.learners.direct.programs import sum_of_hinges
from rlhfsim.learners.direct.task import Task
from rlhfsim.losses import DirectLoss, Hinge


def minimize_linear_hinge(
    task: Task, loss: DirectLoss, features: FloatArray
) -> tuple[FloatArray, float, float]:
    """Return theta, the dual residual, and the gap between the two programs, per comparison.

    Without a reference the policies still contain it: `log pi(y+) - log pi(y-)` is that of the
    reference plus `<theta, phi(y+) - phi(y-)>`.

    Parameters
    ----------
    task : Task
    loss : DirectLoss
        With a hinge and a log link, nothing else.
    features : (X, Y, d) array

    Raises
    ------
    RuntimeError
        If the linear program fails.
    """
    assert isinstance(loss.outer, Hinge)
    counts = task.counts
    up, down = (counts.prompt, counts.winner), (counts.prompt, counts.loser)
    difference = loss.beta * (features[up] - features[down])
    least = np.full(len(counts.count), loss.outer.margin)
    if loss.reference_free:
        least = least - loss.beta * (task.log_reference[up] - task.log_reference[down])
    if task.reward is not None:
        least = least + (task.reward[up] - task.reward[down])
    share = counts.count / counts.total
    theta, flow, gap = sum_of_hinges(difference, least, share, "the log-linear policies")
    return theta, float(np.abs(flow @ difference).max()), abs(gap)
