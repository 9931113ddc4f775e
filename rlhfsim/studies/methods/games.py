"""Methods of a study that play the game of estimated preferences."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from rlhfsim.divergences import parse_divergence
from rlhfsim.laws import population_pairs
from rlhfsim.learners import Learner
from rlhfsim.learners.games import (
    IterativeChiPO,
    MinimaxWinner,
    NashMD,
    OnLaw,
    RegularizedNash,
    SelfPlay,
)
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.methods.base import Method
from rlhfsim.studies.spec import Count, DivergenceText, NonNegative, Positive


class MinimaxWinnerMethod(Method):
    """The minimax winner; the parameter is the smoothing of the estimate."""

    method: Literal["minimax-winner"] = "minimax-winner"
    grid: tuple[Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)], ...] = (1.0,)

    parameter: ClassVar[str] = "smoothing"

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `MinimaxWinner`."""
        return MinimaxWinner(smoothing=value)


class RegularizedNashMethod(Method):
    """The exact equilibrium of the regularized game."""

    method: Literal["regularized-Nash"] = "regularized-Nash"
    divergence: DivergenceText = "kl"
    smoothing: NonNegative = 1.0

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `RegularizedNash`."""
        return RegularizedNash(value, parse_divergence(self.divergence), self.smoothing)


class _Iterations(Method):
    """The parameter is the number of iterations.

    With `known`, the game is the true one: preferences are not needed, and nothing is smoothed.
    """

    grid: tuple[Count, ...]
    step: Positive | None = None
    smoothing: NonNegative = 1.0
    known: Annotated[bool, Field(strict=True)] = False

    parameter: ClassVar[str] = "iterations"

    @property
    def uses_data(self) -> bool:
        """Whether preferences are needed."""
        return not self.known

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return the learner after so many iterations."""
        smoothing = 0.0 if self.known else self.smoothing
        made = self._learner({"iterations": int(value), "step": self.step, "smoothing": smoothing})
        if not self.known:
            return made
        return OnLaw(made, population_pairs(scene.bandit, model=scene.labels))

    @abstractmethod
    def _learner(self, settings: dict[str, Any]) -> Learner: ...


class SelfPlayMethod(_Iterations):
    """Self-play: the average policy, or the last one."""

    method: Literal["self-play"] = "self-play"
    average: Annotated[bool, Field(strict=True)] = True

    def _learner(self, settings: dict[str, Any]) -> Learner:
        return SelfPlay(average=self.average, **settings)


class NashMDMethod(_Iterations):
    """Nash mirror descent at one beta."""

    method: Literal["Nash-MD"] = "Nash-MD"
    beta: Positive

    def _learner(self, settings: dict[str, Any]) -> Learner:
        return NashMD(self.beta, **settings)


class IterativeChiPOMethod(_Iterations):
    """Iterative chiPO at one beta."""

    method: Literal["iterative-chiPO"] = "iterative-chiPO"
    beta: Positive
    divergence: DivergenceText = "chi2 + kl"

    def _learner(self, settings: dict[str, Any]) -> Learner:
        return IterativeChiPO(self.beta, divergence=parse_divergence(self.divergence), **settings)
