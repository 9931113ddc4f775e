"""Families of bandits whose responses are sequences of tokens."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from rlhfsim.bandit import ContextualBandit
from rlhfsim.mdp import PrefixTree, random_token_tree, sequence_policy
from rlhfsim.studies.instances.base import Labelled, Scene
from rlhfsim.studies.spec import Count, NonNegative, Positive

#: Responses of an instance at most: data are over whole responses.
_MOST = 1 << 14


class TokenSequences(Labelled):
    """All sequences of `length` tokens, in lexicographic order.

    Next-token probabilities are Dirichlet of that `concentration`, at every prefix; the reward is
    `reward_scale` times a sum over tokens of standard normal numbers, one for each prefix and
    token, over the square root of the length, plus `noise` times one for each response.  The
    proxy lacks the noise.
    """

    family: Literal["token-sequences"] = "token-sequences"
    prompts: Count = 1
    vocabulary: Annotated[int, Field(strict=True, ge=2)]
    length: Count
    concentration: Positive = 1.0
    reward_scale: Positive = 1.0
    noise: NonNegative = 0.0

    @model_validator(mode="after")
    def _few(self) -> TokenSequences:
        if self.vocabulary**self.length > _MOST:
            raise ValueError(f"vocabulary ** length must be at most {_MOST}")
        return self

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        prefixes = PrefixTree.full(self.vocabulary, self.length)
        tree = random_token_tree(prefixes, self.prompts, rng, concentration=self.concentration)
        bandit = tree.as_bandit()
        noise = self.noise * rng.standard_normal(bandit.shape)
        reward, proxy = (self.reward_scale * (bandit.reward + e) for e in (noise, 0.0))
        return self._plain(ContextualBandit(bandit.prompt_dist, bandit.reference, reward, proxy))


class RarePath(Labelled):
    """Proposition A.1 of arXiv 2407.13399 with tokens: what is rare is rare at every token.

    Of all sequences of `length` tokens out of two, the first has reference probability `1/size`,
    the same share at each of its tokens; elsewhere tokens are equally likely.  Responses that end
    with the second token have reward 1/2, others `1/2 - 1/(2 log size)`, the rare one 0.  The
    proxy gives it 1: with probability near `e^-2` none of `size` preferences speaks against that.
    The comparator is the reference given the better responses.
    """

    family: Literal["rare-path"] = "rare-path"
    length: Annotated[int, Field(strict=True, ge=2, le=14)]
    size: Annotated[int, Field(strict=True, ge=3)]

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        prefixes = PrefixTree.full(2, self.length)
        share = self.size ** (-1.0 / self.length)
        levels = [np.full((1, *shape), 0.5) for shape in prefixes.shapes]
        for level in levels:
            level[0, 0] = share, 1.0 - share
        reference = sequence_policy(prefixes, levels)
        good = np.arange(prefixes.n_sequences) % 2 == 1
        reward = np.where(good, 0.5, 0.5 - 0.5 / np.log(self.size))[None]
        reward[0, 0] = 0.0
        proxy = reward.copy()
        proxy[0, 0] = 1.0
        best = np.where(good, reference, 0.0)
        return self._plain(
            ContextualBandit(np.ones(1), reference, reward, proxy), comparator=best / best.sum()
        )
