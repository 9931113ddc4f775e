"""Drawing prompts with one response each: scores, demonstrations."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import DemonstrationData, ScoreData
from rlhfsim.sampling.inputs import as_policy, as_request


def sample_scores(
    bandit: ContextualBandit,
    n: int,
    rng: np.random.Generator,
    *,
    noise: float,
    policy: ArrayLike | None = None,
) -> ScoreData:
    """Return `n` scored responses: `x ~ rho`, `y ~ pi(.|x)`, `s = r*(x, y) + noise z`, z normal.

    Parameters
    ----------
    bandit : ContextualBandit
    n : int
        At least 1.
    rng : numpy.random.Generator
    noise : number
        The standard deviation of a score, in reward units; at 0 scores are the rewards.
    policy : (X, Y) array of distributions, optional
        `pi_ref` by default.

    Returns
    -------
    ScoreData
        With the shape of the bandit; scores in reward units.

    Raises
    ------
    ValueError
        For a `bandit` that is not a ContextualBandit, `n < 1`, an `rng` that is not a Generator, a
        `noise` that is negative or not finite, a `policy` that is not one of the bandit, and scores
        that overflow.
    """
    n, rng = as_request(bandit, n, rng)
    noise = checks.positive_number("noise", noise, zero=True)
    pi = bandit.reference if policy is None else as_policy("policy", policy, bandit)
    prompt, response = _draw(bandit, n, rng, pi)
    score = bandit.reward[prompt, response]
    if noise > 0:
        with np.errstate(over="ignore"):
            score += noise * rng.standard_normal(n)
        checks.as_real("score", score)
    return ScoreData._owned(prompt, response, score, bandit.shape)


def sample_demonstrations(
    bandit: ContextualBandit, n: int, rng: np.random.Generator, *, expert: ArrayLike
) -> DemonstrationData:
    """Return `n` demonstrations: `x ~ rho`, `y ~ pi_E(.|x)`.

    Parameters
    ----------
    bandit : ContextualBandit
    n : int
        At least 1.
    rng : numpy.random.Generator
    expert : (X, Y) array of distributions

    Returns
    -------
    DemonstrationData
        With the shape of the bandit.

    Raises
    ------
    ValueError
        For a `bandit` that is not a ContextualBandit, `n < 1`, an `rng` that is not a Generator,
        and an `expert` that is not a policy of the bandit.
    """
    n, rng = as_request(bandit, n, rng)
    prompt, response = _draw(bandit, n, rng, as_policy("expert", expert, bandit))
    return DemonstrationData._owned(prompt, response, bandit.shape)


def _draw(
    bandit: ContextualBandit, n: int, rng: np.random.Generator, policy: FloatArray
) -> tuple[IntArray, IntArray]:
    from rlhfsim.sampling.launch import Drawing, Tables, new_key

    drawing = Drawing(new_key(rng), n)
    prompt = drawing.prompts(Tables.of(bandit.prompt_dist[None]))
    return prompt, drawing.responses(1, prompt, Tables.of(policy))
