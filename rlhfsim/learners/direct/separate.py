"""Convex losses of tabular policies, prompt by prompt: what no Bradley-Terry fit covers.

Every function takes the comparisons of one prompt and returns scores of its compared responses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.data import PromptWins
from rlhfsim.learners.direct.bradley_terry import no_minimizer
from rlhfsim.learners.direct.hinge import SmoothHinge, minimize_hinge
from rlhfsim.learners.direct.newton import Convex, Imitation, Stationary, minimize
from rlhfsim.learners.direct.prompts import PromptRows
from rlhfsim.learners.direct.recession import far_side, flat_direction
from rlhfsim.learners.direct.scores import log_base
from rlhfsim.learners.direct.task import Task
from rlhfsim.losses import DirectLoss, Hinge, Logistic, OuterLoss, SFTTerm
from rlhfsim.rewards import MLEDoesNotExistError
from rlhfsim.rewards.existence import require_mle

#: Most Newton steps for the last width of a smooth hinge, and for those before.
_STEPS, _STEPS_BEFORE = 30, 10
#: Gradient that a certificate allows, as a share of the size of its terms.
_SHARE = 1e-11
#: The same at a kink, where rounding of the scores moves the gradient.
_KINKED_SHARE = 1e-6
#: Duality gap that it allows, as a share of the number of comparisons times a typical score.
_GAP_SHARE = 1e-8
_WIDTHS = 10.0 ** -np.arange(1.0, 9.0)


class Answer(NamedTuple):
    """The scores of one prompt."""

    #: (K,) `-inf` for mass 0.
    scores: FloatArray
    #: Sum of the losses of the comparisons.
    value: float
    #: Largest entry of the gradient in the scores, in comparisons, and what is allowed.
    residual: float
    allowed: float
    #: Whether no scores are better, and whether all others are worse.
    proven: bool = True
    unique: bool = True


def convex(task: Task, rows: PromptRows, ridge: float) -> Answer:
    """Minimise a smooth convex outer loss by Newton's method, for each linked set of responses.

    Scores have mean 0 in each such set.
    """
    assert isinstance(task.loss, DirectLoss)
    outer, labels = task.loss.outer, rows.components()
    if ridge == 0:
        _require_minimizer(task, rows, outer)
    s, parts = np.zeros(rows.size), []
    for label in range(int(labels.max()) + 1):
        members = np.nonzero(labels == label)[0]
        problem = Convex(rows.among(members), outer, ridge)
        parts.append(minimize(problem))
        s[members] = parts[-1].scores
    allowed = _SHARE * sum(part.size for part in parts)
    value = Convex(rows, outer).value(s)
    residual = max(part.residual for part in parts)
    unique = ridge > 0 or len(parts) == 1
    return Answer(s, value, residual, allowed, residual <= allowed, unique)


def hinge(task: Task, rows: PromptRows) -> Answer:
    """Minimise a hinge by a linear program."""
    assert isinstance(task.loss, DirectLoss)
    assert isinstance(task.loss.outer, Hinge)
    vertex = minimize_hinge(rows, task.loss.outer.margin)
    value = Convex(rows, task.loss.outer).value(vertex.scores)
    number = rows.count.sum()
    proven = abs(vertex.gap) <= _allowed_gap(rows, vertex.scores)
    return Answer(vertex.scores, value, vertex.residual, _GAP_SHARE * number, proven, vertex.unique)


def imitating(task: Task, rows: PromptRows) -> Answer:
    """Minimise a logistic or hinge outer loss with an imitation of the chosen responses.

    Responses that never won get mass 0, which costs nothing: what beat them is infinitely ahead.
    On the others the imitation is a barrier, so there is one minimiser.
    """
    loss = task.loss
    assert isinstance(loss, DirectLoss)
    wins = np.bincount(rows.winner, weights=rows.count, minlength=rows.size)
    kept = np.nonzero(wins > 0)[0]
    at = rows.prompt, rows.responses[kept]
    weight = np.ones(len(kept)) if task.weights is None else task.weights[at]
    strength = sum(term.weight for term in loss.extra if isinstance(term, SFTTerm))
    term = Imitation(strength * weight * wins[kept], log_base(task)[at], weight, loss.beta)
    inner = rows.among(kept)
    s = np.full(rows.size, -np.inf)
    share, gap = _SHARE, 0.0
    if isinstance(loss.outer, Hinge):
        share = _KINKED_SHARE
        found, gap = _smoothed(inner, loss.outer, term)
    else:
        found = minimize(Convex(inner, loss.outer, 0.0, term))
    s[kept] = found.scores
    value = Convex(inner, loss.outer, 0.0, term).value(found.scores)
    allowed = share * found.size
    proven = found.residual <= allowed and gap <= _allowed_gap(rows, found.scores)
    return Answer(s, value, found.residual, allowed, proven)


def _smoothed(rows: PromptRows, outer: Hinge, term: Imitation) -> tuple[Stationary, float]:
    """Return the minimiser for a narrowing smooth hinge, and by how much it may miss.

    The slopes of the smooth hinge are subgradients of the hinge but for the returned gap.
    """
    found = minimize(Convex(rows, SmoothHinge(outer.margin, 1.0), 0.0, term))
    gap = np.inf
    for width in _WIDTHS:
        smooth = SmoothHinge(outer.margin, float(width))
        steps = _STEPS if width == _WIDTHS[-1] else _STEPS_BEFORE
        found = minimize(Convex(rows, smooth, 0.0, term), found.scores, steps)
        h = rows.difference(found.scores) - rows.gap
        missed = outer.value(h) + smooth.slope(h) * (outer.margin - h)
        gap = float((rows.count * missed).sum())
    return found, gap


def _allowed_gap(rows: PromptRows, scores: FloatArray) -> float:
    return float(_GAP_SHARE * rows.count.sum() * (1.0 + np.ptp(scores)))


def _require_minimizer(task: Task, rows: PromptRows, outer: OuterLoss) -> None:
    """Raise unless the loss of a prompt has one minimiser, or rises without bound in h."""
    ends = outer.slope(np.array([np.inf, -np.inf]))
    if np.isinf(ends).all():
        return
    if isinstance(outer, Logistic) and outer.label_smoothing == 0:
        try:
            require_mle(PromptWins(rows.prompt, rows.responses, rows.wins()))
        except MLEDoesNotExistError as error:
            raise no_minimizer(task, str(error).split(";")[0], error) from error
        return
    ones = np.ones(len(rows.count))
    direction = flat_direction(rows, ends[0] * ones, -ends[1] * ones)
    if direction is None:
        return
    responses = tuple(int(i) for i in rows.responses[far_side(direction)])
    raise MLEDoesNotExistError(
        f"the {task.loss.name} loss has no minimiser, or not only one: at prompt {rows.prompt} it "
        f"does not rise when responses {list(responses)} are raised for ever; regularize the "
        "implicit reward, TabularPolicies(ridge=...)",
        rows.prompt,
        responses,
    )
