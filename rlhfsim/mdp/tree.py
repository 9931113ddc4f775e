"""Responses generated token by token: a prefix tree with rewards and a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.frozen import Frozen
from rlhfsim.mdp.model import FiniteHorizonMDP, PerStep, as_policy, require_available
from rlhfsim.mdp.prefixes import PrefixTree
from rlhfsim.mdp.recursions import Levels, Transition, read_only
from rlhfsim.preferences import TrajectoryPreference


def sequence_policy(prefixes: PrefixTree, policy: PerStep) -> FloatArray:
    """Return `pi(y|x) = prod_h pi_h(y_h | x, y_1..y_(h-1))`, the law of whole responses.

    Parameters
    ----------
    prefixes : PrefixTree
    policy : H arrays (..., N_h, A_h) of distributions over the next token

    Returns
    -------
    (..., Y) array of distributions

    Raises
    ------
    ValueError
        For arrays that are no policy of the tree.

    Source: arXiv 2404.12358.
    """
    levels = token_levels("policy", prefixes, policy)
    return prefixes.products_along(levels)


def token_policy(prefixes: PrefixTree, policy: ArrayLike) -> Levels:
    """Return the next-token probabilities of a law of whole responses, (..., N_h, A_h) each.

    `pi_h(a | prefix) = pi(responses that go on with a) / pi(responses with the prefix)`; at
    prefixes of probability 0, which no response reaches, uniform over the tokens that they have.
    At the root nothing is divided by, so that for responses of one token nothing changes.

    Parameters
    ----------
    prefixes : PrefixTree
    policy : (..., Y) array of distributions

    Raises
    ------
    ValueError
        For what is no prefix tree, and rows that are not distributions over the responses.
    """
    require_prefixes(prefixes)
    pi = checks.as_distributions("policy", policy)
    if pi.shape[-1] != prefixes.n_sequences:
        raise ValueError(
            f"policy has shape {pi.shape}; its last axis must hold the "
            f"{prefixes.n_sequences} responses"
        )
    edges, nodes = prefixes.summed(pi)
    found = [edges[0]]
    for h in range(1, prefixes.horizon):
        reached = nodes[h][..., None] > 0
        masks = prefixes.available
        mask = np.ones(prefixes.shapes[h]) if masks is None else masks[h].astype(np.float64)
        uniform = mask / mask.sum(axis=-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = edges[h] / nodes[h][..., None]
        found.append(np.where(reached, share, uniform))
    return read_only([np.array(level) for level in found])


def token_levels(name: str, prefixes: PrefixTree, policy: PerStep) -> Levels:
    """Return the checked arrays of a policy on a prefix tree."""
    require_prefixes(prefixes)
    levels = as_policy(name, policy, prefixes.shapes)
    if prefixes.available is not None:
        require_available(name, levels, prefixes.available)
    return levels


@dataclass(frozen=True, eq=False)
class TokenTree(Frozen):
    """A bandit whose responses are token sequences: rewards and a reference on a prefix tree.

    The deterministic Markov decision process in which a state is a prompt and a prefix, an action
    the next token.  All prompts have the same responses; one that a prompt lacks has reference
    probability 0.  Only sums of rewards along a response matter: `sequence_reward`.

    Parameters
    ----------
    prefixes : PrefixTree
    prompt_dist : (X,) array
    reward : H arrays (X, N_h, A_h)
        Of the tokens, in reward units, finite; 0 where a prefix has no such token.
    reference : H arrays (X, N_h, A_h)
        `pi_ref`, distributions over the next token.

    Raises
    ------
    ValueError
        For shapes that do not fit, entries that are not finite, rows that are not distributions,
        and mass or reward on tokens that a prefix does not have.

    Source: arXiv 2404.12358.
    """

    prefixes: PrefixTree
    prompt_dist: FloatArray
    reward: Levels
    reference: Levels

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        reference = token_levels("reference", self.prefixes, self.reference)
        rho = checks.as_distributions("prompt_dist", self.prompt_dist)
        if rho.ndim != 1:
            raise ValueError(f"prompt_dist has shape {rho.shape}; it must be (X,)")
        reward = _as_rewards(self.reward, self.prefixes)
        for name, levels in (("reference", reference), ("reward", reward)):
            for h, level in enumerate(levels):
                shape = (rho.size, *self.prefixes.shapes[h])
                if level.shape != shape:
                    raise ValueError(
                        f"{name}[{h}] has shape {level.shape}; it must have shape {shape}"
                    )
        object.__setattr__(self, "prompt_dist", checks.frozen(rho))
        object.__setattr__(self, "reward", tuple(checks.frozen(level) for level in reward))
        object.__setattr__(self, "reference", tuple(checks.frozen(level) for level in reference))

    @classmethod
    def from_bandit(cls, bandit: ContextualBandit, prefixes: PrefixTree) -> TokenTree:
        """Return the bandit's responses as token sequences: rewards at the last tokens.

        Raises
        ------
        ValueError
            For arguments of another kind, another number of responses, and a bandit in which a
            prompt lacks a response: all prompts of a tree have the same.
        """
        if not isinstance(bandit, ContextualBandit):
            raise ValueError(f"bandit is a {type(bandit).__name__}; it must be a ContextualBandit")
        if bandit.available is not None and not bandit.available.all():
            x, y = (int(i[0]) for i in np.nonzero(~bandit.available))
            raise ValueError(
                f"bandit.available[{x}, {y}] is False; "
                "every prompt of a token tree must have all its responses"
            )
        require_responses(prefixes, bandit.shape[1])
        reference = token_policy(prefixes, bandit.reference)
        return cls(prefixes, bandit.prompt_dist, prefixes.spread(bandit.reward), reference)

    def as_bandit(self) -> ContextualBandit:
        """Return the contextual bandit whose responses are the whole sequences."""
        return ContextualBandit(
            self.prompt_dist,
            sequence_policy(self.prefixes, self.reference),
            self.sequence_reward(),
        )

    def as_mdp(self) -> FiniteHorizonMDP:
        """Return the same process with pairs of prompt and prefix as numbered states."""
        n, shapes = self.prompt_dist.size, self.prefixes.shapes
        moves = []
        for h, level in enumerate(self.transitions):
            first = np.arange(n)[:, None, None] * shapes[h + 1][0]
            moves.append(np.where(level < 0, -1, level + first).reshape(-1, shapes[h][1]))
        masks = self.available
        return FiniteHorizonMDP(
            self.prompt_dist,
            tuple(moves),
            tuple(level.reshape(-1, level.shape[-1]) for level in self.reward),
            tuple(level.reshape(-1, level.shape[-1]) for level in self.reference),
            None if masks is None else tuple(np.tile(mask, (n, 1)) for mask in masks),
        )

    def sequence_reward(self) -> FloatArray:
        """Return the (X, Y) sums of the rewards along each response."""
        return self.prefixes.sums_along(self.reward)

    def labels(self, temperature: float = 1.0) -> TrajectoryPreference:
        """Return Bradley-Terry on the sums of rewards along responses."""
        return TrajectoryPreference(self.prefixes.steps_along(self.reward), temperature)

    # ---- as a process of H steps ------------------------------------------------------------

    @property
    def horizon(self) -> int:
        """`H`: tokens of the longest response."""
        return self.prefixes.horizon

    @property
    def initial(self) -> FloatArray:
        """(X, 1): from each prompt the process starts at the empty response."""
        return np.ones((self.prompt_dist.size, 1))

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """Next prefixes of all levels but the last, (N_h, A_h) each; negative at ends."""
        return self.prefixes.children[:-1]

    @property
    def available(self) -> tuple[BoolArray, ...] | None:
        """As of the prefix tree."""
        return self.prefixes.available

    def policy(self, name: str, policy: PerStep) -> Levels:
        """Return the checked arrays of a policy, (..., X, N_h, A_h) each."""
        levels = token_levels(name, self.prefixes, policy)
        for h, level in enumerate(levels):
            if level.ndim < 3 or level.shape[-3] != self.prompt_dist.size:
                raise ValueError(
                    f"{name}[{h}] has shape {level.shape}; its last axes must be "
                    f"{(self.prompt_dist.size, *self.prefixes.shapes[h])}"
                )
        return levels

    def mean(self, first: FloatArray) -> FloatArray:
        """Return the mean over prompts of (..., X, 1) numbers."""
        return average_over_prompts(np.asarray(first)[..., 0], self.prompt_dist)


def require_prefixes(value: Any) -> None:
    """Refuse what is no prefix tree."""
    if not isinstance(value, PrefixTree):
        raise ValueError(f"prefixes is a {type(value).__name__}; it must be a PrefixTree")


def require_responses(prefixes: Any, n_responses: int) -> None:
    """Refuse what is no prefix tree of so many responses."""
    require_prefixes(prefixes)
    if prefixes.n_sequences != n_responses:
        raise ValueError(
            f"prefixes has {prefixes.n_sequences} responses; it must have those of the data, "
            f"{n_responses}"
        )


def _as_rewards(value: Any, prefixes: PrefixTree) -> Levels:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise ValueError(f"reward is {value!r:.80}; it must be a sequence of arrays, one a level")
    items = tuple(value)
    if len(items) != prefixes.horizon:
        raise ValueError(f"reward has {len(items)} arrays; it must have {prefixes.horizon}")
    levels = tuple(checks.as_real(f"reward[{h}]", item) for h, item in enumerate(items))
    if prefixes.available is None:
        return levels
    for h, (level, mask) in enumerate(zip(levels, prefixes.available, strict=True)):
        if level.shape[-2:] == mask.shape and (bad := (level != 0) & ~mask).any():
            index = tuple(int(i[0]) for i in np.nonzero(bad))
            raise ValueError(
                f"reward[{h}]{list(index)} is {level[index].item()!r}; "
                "it must be 0 where a prefix has no such token"
            )
    return levels
