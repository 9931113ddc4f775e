"""The bijection between tabular policies and scores.

The score of a response is `s(x, y) = beta v(y) phi(log w)`, with `log w = log pi - log p`, or
`log pi` for a loss without a reference; a loss of comparisons sees only `s(y+) - s(y-)`.  Every
table of scores belongs to exactly one policy, up to a constant per prompt, provided that phi takes
every value below some bound (`phi(0+) = -inf`): for a divergence, `pi` is the exact optimum of
`E_pi[s] - beta D(pi || p)`, since `f'(w) = (s - lambda)/beta`.  A loss that is not convex in the
policy is minimised through its scores, in which it is.

Source: arXiv 2305.18290 (KL), 2309.16240, 2407.13399; derived for the other links.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.divergences import KL, Divergence
from rlhfsim.learners.direct.normalizer import SUM_TOLERANCE, practical_policy, weighted_policy
from rlhfsim.learners.direct.task import Task
from rlhfsim.losses import DirectLoss, DivergenceLink, PracticalLink
from rlhfsim.solvers import solve


def require_bijection(loss: DirectLoss) -> None:
    """Raise unless scores and tabular policies determine each other.

    Raises
    ------
    ValueError
        For a divergence with finite `f'(0+)`, a practical link without its logarithm, a link of
        another kind, or one without reference that is not logarithmic.
    """
    link = loss.link
    if link.logarithmic:
        return
    if loss.reference_free:
        raise ValueError(
            f"link is {link!r} and the loss has no reference; without a reference, tabular "
            "policies need a logarithmic link, as the normalizer of others does not cancel"
        )
    if isinstance(link, DivergenceLink):
        at_zero = float(link.divergence.link(np.asarray(0.0)))
        if not np.isneginf(at_zero):
            raise ValueError(
                f"link is {link!r}, with f'(0+) = {at_zero!r}; it must be -inf, as otherwise "
                "policies with mass 0 somewhere have no score and the normalizer does not cancel; "
                "add a multiple of KL()"
            )
    elif isinstance(link, PracticalLink):
        if link.gamma == 0:
            raise ValueError(
                f"link is {link!r}; its gamma must be positive, as without the logarithm phi is "
                "bounded below and flat where the exponent is clipped"
            )
    else:
        raise ValueError(
            f"link is {link!r}; tabular policies need a logarithmic link, a DivergenceLink or a "
            "PracticalLink, whose inverses are known"
        )


def policy_of_scores(
    task: Task, scores: FloatArray, touched: BoolArray
) -> tuple[FloatArray, float | None]:
    """Return the policy of a table of scores, and the largest duality gap.

    Parameters
    ----------
    task : Task
        With a loss that `require_bijection` accepts.
    scores : (X, Y) array
        Defined up to a constant per prompt; `-inf` for mass 0, where the link is logarithmic.
    touched : (X,) array of bool
        Prompts with comparisons.  The others keep the reference.

    Returns
    -------
    (X, Y) array, and a number in reward units
        None where no duality gap comes with the policy; its rows sum to 1.
    """
    loss = task.loss
    assert isinstance(loss, DirectLoss)
    divergence = divergence_of(loss, task.weights)
    if divergence is not None and (not loss.link.logarithmic or np.isfinite(scores).all()):
        return _regularized(task, scores, divergence)
    if isinstance(loss.link, PracticalLink):
        policy = practical_policy(scores, loss.beta, loss.link, task.reference)
    else:
        policy = np.exp(log_policy_of_scores(task, scores))
    policy[~touched] = task.reference[~touched]
    _require_sums(policy)
    return policy, None


def divergence_of(loss: DirectLoss, weights: FloatArray | None) -> Divergence | None:
    """Return the divergence whose regularized optimum, of finite scores, the policy is.

    None where the policy of scores is no such optimum.
    """
    if loss.link.logarithmic:
        return KL() if not loss.reference_free and weights is None else None
    return loss.link.divergence if isinstance(loss.link, DivergenceLink) else None


def _regularized(
    task: Task, scores: FloatArray, divergence: Divergence
) -> tuple[FloatArray, float]:
    solution = solve(scores, task.reference, divergence, task.loss.beta)
    return solution.policy, float(np.abs(solution.gap).max())


def log_policy_of_scores(task: Task, scores: FloatArray) -> FloatArray:
    """Return log pi of a table of scores, for a logarithmic link."""
    loss = task.loss
    assert isinstance(loss, DirectLoss)
    weights = np.ones(scores.shape) if task.weights is None else task.weights
    base = np.where(np.isneginf(scores), -np.inf, log_base(task))
    finite = np.where(np.isneginf(scores), 0.0, scores)
    return weighted_policy(finite, loss.beta, weights, base)[0]


def log_base(task: Task) -> FloatArray:
    """Return (X, Y) log pi where the link is 0, for a logarithmic link: log p less a constant.

    Without a reference, 0 less a constant for the responses that there are: those that the
    reference gives mass, or that are compared.
    """
    loss = task.loss
    assert isinstance(loss, DirectLoss)
    constant = float(loss.link.value(np.zeros(1))[0])
    if not loss.reference_free:
        return task.log_reference - constant
    there = (task.reference > 0) | task.compared
    return np.where(there, 0.0, -np.inf) - constant


def scores_of_policy(task: Task, log_policy: FloatArray) -> FloatArray | None:
    """Return `beta v phi(log w)`, centred; None if it is infinite somewhere.

    The compared responses of each prompt have mean 0.  Responses of reference mass 0 get 0.
    """
    loss = task.loss
    if not isinstance(loss, DirectLoss):
        return None
    references = np.zeros(log_policy.shape) if loss.reference_free else task.log_reference
    outside = np.isneginf(task.log_reference) & ~task.compared
    with np.errstate(invalid="ignore", over="ignore"):
        log_ratio = np.where(outside, 0.0, log_policy - np.where(outside, 0.0, references))
        scores = loss.beta * loss.link.value(log_ratio)
    if task.weights is not None:
        scores = task.weights * scores
    return centred(scores, task.compared) if np.isfinite(scores).all() else None


def centred(scores: FloatArray, compared: BoolArray) -> FloatArray:
    """Return scores less, for each prompt, their mean over the compared responses."""
    number = np.maximum(compared.sum(axis=1), 1)
    middle = np.where(compared, scores, 0.0).sum(axis=1) / number
    return np.asarray(scores - middle[:, None])


def _require_sums(policy: FloatArray) -> None:
    excess = np.abs(policy.sum(axis=1) - 1.0)
    if not np.all(excess <= SUM_TOLERANCE * np.sqrt(policy.shape[1])):
        x = int(np.argmax(~(excess <= SUM_TOLERANCE * np.sqrt(policy.shape[1]))))
        raise RuntimeError(
            f"no certified policy at prompt {x}: it sums to {float(policy[x].sum())!r}"
        )
