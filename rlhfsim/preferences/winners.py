"""Winners of a preference model: Condorcet's, Copeland's and Borda's.

Ties are those of `PreferenceModel.majority`: exact where the model computes the sign of a margin
without error, and up to a stated bound on rounding in mixtures.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.preferences.base import PreferenceModel, require_model

# Ordered pairs that are held at a time: 32 MiB an array.
_BLOCK = 2**22


def condorcet_winner(model: PreferenceModel) -> IntArray:
    """Return the response of each prompt that beats all others with `P > 1/2`, or -1.

    Parameters
    ----------
    model : PreferenceModel

    Returns
    -------
    (X,) array of int64
        Index of the winner, unique when there is one; -1 where there is none.

    Raises
    ------
    ValueError
        If `model` is not a PreferenceModel.

    Source: Condorcet 1785.
    """
    require_model("model", model)
    n_prompts, n_responses = model.shape
    winner = np.full(n_prompts, -1, dtype=np.int64)
    for prompts in prompt_blocks(model):
        beaten = (model._majority(*model._all_pairs(prompts)) > 0).sum(axis=2)
        unbeaten = beaten == n_responses - 1
        winner[prompts] = np.where(unbeaten.any(axis=1), unbeaten.argmax(axis=1), -1)
    return winner


def copeland_scores(model: PreferenceModel) -> FloatArray:
    """Return how many other responses each response beats, plus half of those it ties with.

    Parameters
    ----------
    model : PreferenceModel

    Returns
    -------
    (X, Y) array
        Multiples of 1/2 from 0 to `Y - 1`, exact.

    Raises
    ------
    ValueError
        If `model` is not a PreferenceModel.

    Source: Copeland 1951.
    """
    require_model("model", model)
    scores = np.empty(model.shape)
    for prompts in prompt_blocks(model):
        majority = model._majority(*model._all_pairs(prompts))
        # A win counts 1, a tie 1/2; the response itself, a tie, is taken off again.
        scores[prompts] = 0.5 * (majority + 1.0).sum(axis=2) - 0.5
    return scores


def copeland_winners(model: PreferenceModel) -> BoolArray:
    """Return the `(X, Y)` mask of the responses with the largest Copeland score; as it."""
    scores = copeland_scores(model)
    return scores == scores.max(axis=1, keepdims=True)


def borda_scores(model: PreferenceModel, policy: ArrayLike | None = None) -> FloatArray:
    """Return `B(x, y) = E_{y' ~ policy(.|x)}[P(y beats y' | x)]`, the win rate against a policy.

    The average includes `y' = y`, against which a response scores 1/2.

    Parameters
    ----------
    model : PreferenceModel
    policy : (X, Y) array of distributions, optional
        The opponents, such as `pi_ref`; uniform by default.

    Returns
    -------
    (X, Y) array
        Probabilities.

    Raises
    ------
    ValueError
        If `model` is not a PreferenceModel or `policy` not an `(X, Y)` array of distributions.

    Source: Borda 1784; arXiv 2312.00886 (against a policy).
    """
    opponents = _as_opponents(require_model("model", model), policy)
    scores = np.empty(model.shape)
    for prompts in prompt_blocks(model):
        probability = model._probability(*model._all_pairs(prompts))
        scores[prompts] = _average(probability, opponents[prompts])
    return scores


def borda_winners(model: PreferenceModel, policy: ArrayLike | None = None) -> BoolArray:
    """Return the `(X, Y)` mask of the responses with the largest Borda score.

    Scores are compared as averages of margins, `2 B - 1`, which keep the digits of small ones.
    Two of them tie when they differ by no more than the sum of their rounding errors, each at
    most `(Y + 16) eps E_{y' ~ policy}|margin|` plus what the margins of a mixture bring along.

    Parameters, raises and source: as `borda_scores`.
    """
    opponents = _as_opponents(require_model("model", model), policy)
    winners = np.empty(model.shape, dtype=np.bool_)
    unit = (model.shape[1] + 16) * np.finfo(np.float64).eps
    for prompts in prompt_blocks(model):
        pairs = model._all_pairs(prompts)
        margin = model._margin(*pairs)
        against = opponents[prompts]
        score = _average(margin, against)
        error = unit * _average(np.abs(margin), against)
        error += _average(model._margin_error(*pairs), against)
        # The best may be any that reaches the largest lower end.
        winners[prompts] = score + error >= (score - error).max(axis=1, keepdims=True)
    return winners


def prompt_blocks(model: PreferenceModel, pairs: int = _BLOCK) -> Iterator[slice]:
    """Yield consecutive blocks of prompts that have at most `pairs` ordered pairs, if over one."""
    n_prompts, n_responses = model.shape
    step = max(1, pairs // n_responses**2)
    for start in range(0, n_prompts, step):
        yield slice(start, min(start + step, n_prompts))


def _average(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the `(B, Y)` averages of `(B, Y, Y)` values over the last axis."""
    return (values @ weights[:, :, None])[:, :, 0]


def _as_opponents(model: PreferenceModel, policy: ArrayLike | None) -> FloatArray:
    if policy is None:
        return np.full(model.shape, 1.0 / model.shape[1])
    return checks.as_distributions("policy", checks.as_matrix("policy", policy, model.shape))
