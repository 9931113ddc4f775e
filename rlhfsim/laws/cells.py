"""The exact law of one preference: every triple (prompt, winner, loser) and its probability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.preferences import BradleyTerry, PreferenceModel
from rlhfsim.preferences.base import require_model
from rlhfsim.sampling.inputs import as_policy


@dataclass(frozen=True, eq=False)
class PairCells(Frozen):
    """The outcomes of one draw of a preference, each with its probability; arrays are read-only.

    Outcomes whose probability is 0 in float64 are left out.
    """

    #: (U,) columns of the triples with `winner != loser`, sorted.
    prompt: IntArray
    winner: IntArray
    loser: IntArray
    #: (U,) probability of each triple.
    probability: FloatArray
    #: (E,) columns of the pairs of a response with itself, sorted.
    equal_prompt: IntArray
    equal_response: IntArray
    #: (E,) probability of each pair of equals.
    equal_probability: FloatArray
    #: `(X, Y)`.
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Copy and freeze."""
        for name in (
            "prompt", "winner", "loser", "probability",
            "equal_prompt", "equal_response", "equal_probability",
        ):  # fmt: skip
            object.__setattr__(self, name, checks.frozen(getattr(self, name)))

    @property
    def equal_mass(self) -> float:
        """Probability that both responses are the same."""
        return math.fsum(self.equal_probability)


class _Draws(NamedTuple):
    """The unordered pairs that one prompt's two policies draw, `low <= high`, with their law."""

    low: IntArray
    high: IntArray
    probability: FloatArray


def pair_cells(
    bandit: ContextualBandit,
    *,
    model: PreferenceModel | None,
    policies: tuple[ArrayLike, ArrayLike] | None,
    limit: int,
) -> PairCells:
    """Return the law of one preference `(x, y+, y-)`.

    `x ~ rho`, `y1 ~ first(.|x)`, `y2 ~ second(.|x)`, and the model says which one is chosen:

        P(x, w, l) = rho(x) (first(w|x) second(l|x) + first(l|x) second(w|x)) P(w beats l | x)

    for `w != l`, and `rho(x) first(y|x) second(y|x)` for a response and itself.

    Parameters
    ----------
    bandit : ContextualBandit
    model : PreferenceModel, or None for Bradley-Terry with the reward of `bandit`
    policies : two (X, Y) arrays of distributions, or None for the reference twice
    limit : int
        Largest number of triples.

    Raises
    ------
    ValueError
        For arguments of the wrong kind or shape, and more than `limit` triples.
    """
    bandit = as_bandit("bandit", bandit)
    model = _as_model(model, bandit)
    first, second = _as_policies(policies, bandit)
    limit = checks.whole_number("limit", limit, least=1)
    prompts = np.nonzero(bandit.prompt_dist)[0]
    _refuse_too_many(first[prompts] > 0, second[prompts] > 0, limit)
    draws = [_draws(first[x], second[x]) for x in prompts]
    prompt = np.repeat(prompts, [d.low.size for d in draws])
    low, high, probability = (np.concatenate(column) for column in zip(*draws, strict=True))
    probability = probability * bandit.prompt_dist[prompt]
    same = low == high
    x, low_, high_, met = (column[~same] for column in (prompt, low, high, probability))
    columns = tuple(np.concatenate(pair) for pair in ((x, x), (low_, high_), (high_, low_)))
    wins = np.concatenate((met, met))
    if wins.size:
        wins = wins * model.probability(*columns)
    order = np.lexsort(columns[::-1])
    order = order[wins[order] > 0]
    _refuse_above(limit, "", order.size)
    equal = np.nonzero(same & (probability > 0))[0]
    return PairCells(
        prompt=columns[0][order],
        winner=columns[1][order],
        loser=columns[2][order],
        probability=wins[order],
        equal_prompt=prompt[equal],
        equal_response=low[equal],
        equal_probability=probability[equal],
        shape=bandit.shape,
    )


def as_bandit(name: str, value: ContextualBandit) -> ContextualBandit:
    """Return `value` if it is a ContextualBandit."""
    if not isinstance(value, ContextualBandit):
        raise ValueError(f"{name} is a {type(value).__name__}; it must be a ContextualBandit")
    return value


def _as_model(model: PreferenceModel | None, bandit: ContextualBandit) -> PreferenceModel:
    if model is None:
        return BradleyTerry(bandit.reward)
    model = require_model("model", model)
    if model.shape != bandit.shape:
        raise ValueError(f"model has shape {model.shape}; the bandit has shape {bandit.shape}")
    return model


def _as_policies(
    policies: tuple[ArrayLike, ArrayLike] | None, bandit: ContextualBandit
) -> tuple[FloatArray, FloatArray]:
    if policies is None:
        return bandit.reference, bandit.reference
    if not isinstance(policies, (tuple, list)) or len(policies) != 2:
        size = f" of length {len(policies)}" if isinstance(policies, (tuple, list)) else ""
        raise ValueError(
            f"policies is a {type(policies).__name__}{size}; "
            "it must be a pair (first, second) of (X, Y) policies"
        )
    first, second = (as_policy(f"policies[{i}]", policies[i], bandit) for i in range(2))
    return first, second


def _refuse_too_many(first: np.ndarray, second: np.ndarray, limit: int) -> None:
    """Refuse more than `limit` triples before any is made; (X, Y) supports of the policies."""
    both = (first & second).sum(axis=1)
    ordered = first.sum(axis=1) * second.sum(axis=1) - both
    # A pair is drawn in one order at least, and then one of the two wins.
    least = int(((ordered + 1) // 2).sum())
    _refuse_above(limit, "at least ", least)


def _refuse_above(limit: int, about: str, triples: int) -> None:
    if triples > limit:
        raise ValueError(
            f"there are {about}{triples} triples (prompt, winner, loser), more than limit = "
            f"{limit}; take fewer prompts or responses, policies of smaller support, or raise limit"
        )


def _draws(first: FloatArray, second: FloatArray) -> _Draws:
    """Return the pairs drawn by `y1 ~ first`, `y2 ~ second`, sorted."""
    ones, twos = np.nonzero(first)[0], np.nonzero(second)[0]
    one, two = np.repeat(ones, twos.size), np.tile(twos, ones.size)
    with np.errstate(under="ignore"):
        ordered = first[one] * second[two]
    key = np.minimum(one, two) * first.size + np.maximum(one, two)
    pairs, place = np.unique(key, return_inverse=True)
    low, high = np.divmod(pairs, first.size)
    probability = np.bincount(place, weights=ordered, minlength=pairs.size)
    return _Draws(low, high, np.asarray(probability, dtype=np.float64))
