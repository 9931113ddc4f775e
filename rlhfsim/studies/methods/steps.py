"""Methods that go token by token; the instance's responses are cut into tokens by each."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rlhfsim.divergences import KL, parse_divergence
from rlhfsim.learners import Learner
from rlhfsim.learners.steps import TokenDemonstrationRegularized, TokenRLHF
from rlhfsim.mdp import PrefixTree
from rlhfsim.sampling import sample_demonstrations
from rlhfsim.solvers import solve
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.methods.base import Method
from rlhfsim.studies.rewards import Reward, TabularReward, needs_data
from rlhfsim.studies.spec import Count, DivergenceText, NonNegative, Positive, Spec

#: At least 2, or sequences of any length are one response.
Vocabulary = Annotated[int, Field(strict=True, ge=2)]


class _Cut(Spec):
    """How responses are cut into tokens: what `Scene.built` makes once."""

    vocabulary: Vocabulary

    def build(self, scene: Scene) -> PrefixTree:
        """Return the tree in which responses are numbers, in order, and tokens their digits."""
        return PrefixTree.digits(scene.bandit.shape[1], self.vocabulary)


class TokenRLHFMethod(Method):
    """A reward fit and the exact optimum of `E[r] - beta E[sum_h D]`, charged token by token.

    With as large a vocabulary as there are responses, they are one token, and it is `RLHF`.
    """

    method: Literal["token-RLHF"] = "token-RLHF"
    vocabulary: Vocabulary
    divergence: DivergenceText = "kl"
    reward: Reward = TabularReward()

    @property
    def uses_data(self) -> bool:
        """Whether the reward is learned."""
        return needs_data(self.reward)

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `TokenRLHF`."""
        prefixes = scene.built(_Cut(vocabulary=self.vocabulary))
        divergence = parse_divergence(self.divergence)
        return TokenRLHF(prefixes, value, divergence, scene.built(self.reward))


class TokenDemonstrationsMethod(Method):
    """Demonstration-regularized RLHF; its parameter is the number of demonstrations.

    The expert is the best policy, or the KL optimum at `temperature`; demonstrations are drawn
    once for an environment.
    """

    method: Literal["token-demonstrations"] = "token-demonstrations"
    vocabulary: Vocabulary
    beta: Positive
    smoothing: NonNegative = 1.0
    temperature: Positive | None = None
    grid: tuple[Count, ...]
    reward: Reward = TabularReward()
    parameter: ClassVar[str] = "demonstrations"

    @property
    def uses_data(self) -> bool:
        """Whether the reward is learned."""
        return needs_data(self.reward)

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `TokenDemonstrationRegularized`."""
        bandit = scene.bandit
        expert = bandit.optimal_policy()
        if self.temperature is not None:
            expert = solve(bandit.reward, bandit.reference, KL(), self.temperature).policy
        rng = scene.generator("demonstrations")
        shown = sample_demonstrations(bandit, int(value), rng, expert=expert)
        prefixes = scene.built(_Cut(vocabulary=self.vocabulary))
        model = scene.built(self.reward)
        return TokenDemonstrationRegularized(prefixes, shown, self.beta, self.smoothing, model)
