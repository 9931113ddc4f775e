"""Drawing preference data from a bandit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import PreferenceData
from rlhfsim.preferences import BradleyTerry, PreferenceModel, TrajectoryPreference
from rlhfsim.sampling.inputs import as_policy, as_request

if TYPE_CHECKING:
    from rlhfsim.sampling.launch import Drawing, Tables

# Rows whose labels a model is asked for at a time.
_CHUNK = 1 << 16
# The words of a row that its responses and its label take.
_FIRST, _SECOND, _LABEL = 1, 2, 3


def sample_preferences(
    bandit: ContextualBandit,
    n: int,
    rng: np.random.Generator,
    *,
    model: PreferenceModel | None = None,
    policies: tuple[ArrayLike, ArrayLike] | None = None,
    grouped: bool = False,
) -> PreferenceData:
    """Return `n` preferences: `x ~ rho`, `y1 ~ pi_1(.|x)`, `y2 ~ pi_2(.|x)`, labelled by a model.

    By default both responses are from `pi_ref` and labels are Bradley-Terry's,
    `P(y1 beats y2 | x) = sigma(r*(x, y1) - r*(x, y2))`.  Draws are from weights divided by their
    sum, right to about 1e-15; a response of probability 0 is never drawn.  The data are a function
    of the state of `rng` alone, whatever the number of threads.  Memory is that of the result and
    12 bytes for each of the `X Y` responses of each policy.

    Parameters
    ----------
    bandit : ContextualBandit
    n : int
        At least 1.
    rng : numpy.random.Generator
    model : PreferenceModel, optional
        The law of a label; `BradleyTerry(bandit.reward)` by default, which is also the fastest.
    policies : two (X, Y) arrays of distributions, optional
        Who writes the first and the second response; `pi_ref` both by default.
    grouped : bool
        Whether the rows come in the order of prompts, which is faster: the numbers of rows of the
        prompts are multinomial, so up to their order the rows have the same law.

    Returns
    -------
    PreferenceData
        With the shape of the bandit.

    Raises
    ------
    ValueError
        For a `bandit` that is not a ContextualBandit, `n < 1`, an `rng` that is not a Generator, a
        `model` that is not a PreferenceModel of the bandit's shape, `policies` that are not two
        policies of the bandit, and a `grouped` that is not a bool.

    Source: arXiv 2407.13399; Walker 1977 (alias tables); Salmon et al. 2011 (random words).
    """
    from rlhfsim.sampling.launch import Drawing, Tables, new_key, width_of

    n, rng = as_request(bandit, n, rng)
    plain = _bradley_terry(model, bandit)
    writers = _as_policies(policies, bandit)
    if not isinstance(grouped, (bool, np.bool_)):
        raise ValueError(f"grouped is {grouped!r:.80}; it must be True or False")
    drawing = Drawing(new_key(rng), n)
    counts = _prompt_counts(bandit.prompt_dist, n, rng) if grouped else None
    first = Tables.of(writers[0])
    second = first if writers[1] is writers[0] else Tables.of(writers[1])
    prompts = None if grouped else Tables.of(bandit.prompt_dist[None])
    width = math.inf if plain is None else width_of(*plain)
    if plain is None or math.isinf(width):
        # Where differences of rewards overflow, the model itself knows what to do.
        model = BradleyTerry(bandit.reward) if model is None else model
        columns = _labelled_by(model, drawing, counts, prompts, first, second)
    elif counts is not None:
        columns = drawing.grouped_pairs(counts, first, second, *plain)
    else:
        assert prompts is not None
        columns = drawing.pairs(prompts, first, second, *plain, width)
    return PreferenceData._owned(*columns, bandit.shape)


def _bradley_terry(
    model: PreferenceModel | None, bandit: ContextualBandit
) -> tuple[FloatArray, float] | None:
    """Return the reward and temperature of a checked model, or None if it is of another kind."""
    if model is None:
        return bandit.reward, 1.0
    if not isinstance(model, PreferenceModel):
        raise ValueError(f"model is a {type(model).__name__}; it must be a PreferenceModel")
    if tuple(model.shape) != bandit.shape:
        raise ValueError(
            f"model has shape {tuple(model.shape)}; it must have the bandit's, {bandit.shape}"
        )
    if type(model) is TrajectoryPreference:
        model = model.bradley_terry
    # A subclass may label as it likes.
    return (model.reward, model.temperature) if type(model) is BradleyTerry else None


def _as_policies(
    policies: tuple[ArrayLike, ArrayLike] | None, bandit: ContextualBandit
) -> tuple[FloatArray, FloatArray]:
    """Return two checked policies, one object if they are the same one."""
    if policies is None:
        return bandit.reference, bandit.reference
    if not isinstance(policies, (tuple, list)) or len(policies) != 2:
        raise ValueError(
            f"policies is {policies!r:.80}; it must be a pair of (X, Y) policies, "
            "of the first and of the second response"
        )
    first = as_policy("policies[0]", policies[0], bandit)
    if policies[1] is policies[0]:
        return first, first
    return first, as_policy("policies[1]", policies[1], bandit)


def _prompt_counts(weights: FloatArray, n: int, rng: np.random.Generator) -> IntArray:
    """Return how many of `n` rows each prompt has."""
    # numpy gives what is left of n to the last entry, and subtracts the others' probabilities one
    # by one: in increasing order neither costs a small one its digits, or gives rows to a zero.
    order = np.argsort(weights, kind="stable")
    order = order[weights[order] > 0]
    counts = np.zeros(weights.size, dtype=np.int64)
    counts[order] = rng.multinomial(n, weights[order] / weights.sum())
    return counts


def _labelled_by(
    model: PreferenceModel,
    drawing: Drawing,
    counts: IntArray | None,
    prompts: Tables | None,
    first: Tables,
    second: Tables,
) -> tuple[IntArray, IntArray, IntArray]:
    """Return the columns with the labels of any model."""
    if counts is not None:
        prompt = np.repeat(np.arange(counts.size), counts)
    else:
        assert prompts is not None
        prompt = drawing.prompts(prompts)
    chosen = drawing.responses(_FIRST, prompt, first)
    rejected = drawing.responses(_SECOND, prompt, second)
    for start in range(0, drawing.n, _CHUNK):
        rows = slice(start, min(start + _CHUNK, drawing.n))
        y, z = chosen[rows], rejected[rows]
        loses = ~_wins(model, prompt[rows], y, z, drawing.uniforms(_LABEL, rows))
        y[loses], z[loses] = z[loses], y[loses]
    return prompt, chosen, rejected


def _wins(
    model: PreferenceModel, prompt: IntArray, first: IntArray, second: IntArray, u: FloatArray
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return the model's labels, which must be one bool a row."""
    wins = np.asarray(model.first_wins(prompt, first, second, u))
    if wins.shape != prompt.shape or wins.dtype != np.bool_:
        raise ValueError(
            f"model.first_wins returned dtype {wins.dtype} and shape {wins.shape}; "
            f"it must return booleans of shape {prompt.shape}"
        )
    return wins
