"""Losses of comparisons that are Bradley-Terry likelihoods, of the data or of other counts.

The logistic loss of a comparison is minus the log-likelihood of its scores as rewards.  With
smoothed labels, `(1 - eps) softplus(-h) + eps softplus(h)`, it is that of counts in which a share
eps of every comparison went the other way.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.learners.direct.task import Task
from rlhfsim.learners.explicit import fit_once
from rlhfsim.learners.sharing import once
from rlhfsim.losses import DirectLoss, Logistic
from rlhfsim.rewards import MLEDoesNotExistError, RewardFit, Tabular

_CURE = "bound the implicit reward, TabularPolicies(r_max=...), or regularize it, ...(ridge=...)"


def is_likelihood(loss: DirectLoss) -> bool:
    """Return whether the loss is a likelihood of its scores, but for a clip."""
    outer = loss.outer
    logistic = isinstance(outer, Logistic) and outer.margin == 0
    return logistic and not loss.extra and not loss.needs_rewards


def likelihood_data(task: Task) -> PreferenceData | PairCounts:
    """Return data with as many wins as the logistic outer loss sees."""
    assert isinstance(task.loss, DirectLoss)
    assert isinstance(task.loss.outer, Logistic)
    eps = task.loss.outer.label_smoothing
    if eps == 0:
        return task.data
    return once(lambda: smoothed(task.counts, eps), "smoothed", task.data, key=(eps,))


def smoothed(counts: PairCounts, rate: float) -> PairCounts:
    """Return counts in which a share `rate` of each comparison went the other way."""
    prompt = np.concatenate((counts.prompt, counts.prompt))
    winner = np.concatenate((counts.winner, counts.loser))
    loser = np.concatenate((counts.loser, counts.winner))
    count = np.concatenate(((1.0 - rate) * counts.count, rate * counts.count))
    order = np.lexsort((loser, winner, prompt))
    columns = [column[order] for column in (prompt, winner, loser)]
    new = np.ones(order.size, dtype=np.bool_)
    if order.size:
        new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    total = np.zeros(int(new.sum()))
    np.add.at(total, np.cumsum(new) - 1, count[order])
    prompt, winner, loser = (column[new] for column in columns)
    return PairCounts(prompt, winner, loser, total, counts.equal_pairs, counts.shape)


def fit_likelihood(task: Task, model: Tabular) -> RewardFit:
    """Return the maximum likelihood scores.

    Raises
    ------
    MLEDoesNotExistError
        Where there are none: the infimum of the loss is attained by no policy.
    """
    try:
        return fit_once(likelihood_data(task), model, None)
    except MLEDoesNotExistError as error:
        raise no_minimizer(task, str(error).split(";")[0], error) from error


def no_minimizer(task: Task, reason: str, error: MLEDoesNotExistError) -> MLEDoesNotExistError:
    """Return `error` in the words of policies."""
    return MLEDoesNotExistError(
        f"the {task.loss.name} loss has no minimiser, or not only one, as its implicit reward is "
        f"a logistic estimate: {reason}; {_CURE}",
        error.prompt,
        error.responses,
    )
