"""Random processes of several steps."""

from __future__ import annotations

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.mdp.linear import LinearMDP
from rlhfsim.mdp.model import FiniteHorizonMDP
from rlhfsim.mdp.prefixes import PrefixTree
from rlhfsim.mdp.tree import TokenTree


def random_mdp(
    horizon: int, states: int, actions: int, rng: np.random.Generator, *, scale: float = 1.0
) -> FiniteHorizonMDP:
    """Return a stochastic process: Dirichlet transitions and references, normal rewards.

    Parameters
    ----------
    horizon, states, actions : int
        At least 1.
    rng : numpy.random.Generator
    scale : float
        Standard deviation of the step rewards, in reward units.

    Raises
    ------
    ValueError
        Bad input, by name, rule and value.
    """
    steps, n_states, n_actions = _sizes(horizon=horizon, states=states, actions=actions)
    rng = checks.generator("rng", rng)
    spread = checks.positive_number("scale", scale)
    return FiniteHorizonMDP(
        rng.dirichlet(np.ones(n_states)),
        tuple(_rows((n_states, n_actions), n_states, rng) for _ in range(steps - 1)),
        tuple(spread * rng.standard_normal((n_states, n_actions)) for _ in range(steps)),
        tuple(_rows((n_states,), n_actions, rng) for _ in range(steps)),
    )


def random_linear_mdp(
    horizon: int, states: int, actions: int, dimension: int, rng: np.random.Generator
) -> LinearMDP:
    """Return a linear process: features on the simplex, measures that are distributions.

    Parameters
    ----------
    horizon, states, actions, dimension : int
        At least 1.
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        Bad input, by name, rule and value.
    """
    steps, n_states, n_actions, d = _sizes(
        horizon=horizon, states=states, actions=actions, dimension=dimension
    )
    rng = checks.generator("rng", rng)
    return LinearMDP(
        rng.dirichlet(np.ones(n_states)),
        tuple(_rows((n_states, n_actions), d, rng) for _ in range(steps)),
        tuple(_rows((d,), n_states, rng) for _ in range(steps - 1)),
        tuple(rng.standard_normal(d) for _ in range(steps)),
        tuple(_rows((n_states,), n_actions, rng) for _ in range(steps)),
    )


def random_token_tree(
    prefixes: PrefixTree, prompts: int, rng: np.random.Generator, *, concentration: float = 1.0
) -> TokenTree:
    """Return random next-token probabilities and normal rewards on a prefix tree.

    Next-token probabilities are Dirichlet, the smaller `concentration` the more peaked; the step
    rewards have standard deviation `1/sqrt(H)`.  Responses are the rarer the more tokens they have.

    Raises
    ------
    ValueError
        Bad input, by name, rule and value.
    """
    if not isinstance(prefixes, PrefixTree):
        raise ValueError(f"prefixes is a {type(prefixes).__name__}; it must be a PrefixTree")
    (n,) = _sizes(prompts=prompts)
    rng = checks.generator("rng", rng)
    alpha = checks.positive_number("concentration", concentration)
    masks = prefixes.available
    reference, reward = [], []
    for h, shape in enumerate(prefixes.shapes):
        has = np.ones(shape) if masks is None else masks[h].astype(np.float64)
        weight = has * np.maximum(rng.standard_gamma(alpha, (n, *shape)), 1e-12)
        reference.append(weight / weight.sum(axis=-1, keepdims=True))
        reward.append(has * rng.standard_normal((n, *shape)) / np.sqrt(prefixes.horizon))
    return TokenTree(prefixes, np.full(n, 1.0 / n), tuple(reward), tuple(reference))


def _rows(shape: tuple[int, ...], size: int, rng: np.random.Generator) -> FloatArray:
    return np.asarray(rng.dirichlet(np.ones(size), shape))


def _sizes(**sizes: int) -> tuple[int, ...]:
    return tuple(checks.whole_number(name, size, least=1) for name, size in sizes.items())
