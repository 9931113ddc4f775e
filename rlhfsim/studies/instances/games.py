"""Instances of general preferences: labels by a game, with cycles, in place of a reward."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.preferences import (
    GeneralPreference,
    PreferenceModel,
    borda_scores,
    random_preference,
)
from rlhfsim.studies.instances.base import Family, Scene
from rlhfsim.studies.spec import Count

_Share = Annotated[float, Field(strict=True, ge=0, le=1)]

#: P(rock beats scissors), P(scissors beats paper), P(paper beats rock).
_STAKES = (0.9, 0.75, 0.6)


class RandomGame(Family):
    """Independent uniform preference probabilities of all pairs.

    References are uniform on the simplex, or with `flat` the uniform distribution.  The reward,
    by which regret is measured, is the win rate against the reference.
    """

    family: Literal["random-game"] = "random-game"
    prompts: Count = 1
    responses: Annotated[int, Field(strict=True, ge=2)]
    flat: Annotated[bool, Field(strict=True)] = False

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        shape = self.prompts, self.responses
        reference = rng.dirichlet(np.ones(self.responses), size=self.prompts)
        if self.flat:
            reference = np.full(shape, 1.0 / self.responses)
        return _scene(reference, random_preference(rng, shape))


class TwoCycles(Family):
    """Two cycles of three responses that tie with each other, and one response that decides.

    In either cycle rock beats scissors with probability 0.9, scissors paper with 0.75 and paper
    rock with 0.6.  At the first prompt the decider beats the second cycle with probability 0.9 and
    loses to the first with 0.6, at the second prompt the other way round; the mix of the cycle
    that it loses to is a minimax winner.  A policy that puts q on the good cycle, b on the bad one
    and d on the decider has `DG >= max(0.4 d, 2 (0.8 b - 0.2 q))`.  Comparisons without the decider
    have the same law at both prompts, and as DG is convex, a method that treats prompts alike and
    learns from them alone has an average gap of at least `max(0.4 d, 0.6 (1 - d))` in expectation,
    d its mean: at least 0.6 if it keeps to the reference, which lacks the decider, and at least
    0.24 in any case, which d = 0.6 and the rest on the cycles' winners, half on each, attains.

    `decider` is its share in the reference; the six others share the rest equally.  At 0 the
    reference covers the winner, with concentrability below 3 (single-policy coverage); above 0 it
    also covers the pairs of the winner with every deviation (unilateral coverage).

    The reward, by which regret is measured, is the win rate against the reference.
    """

    family: Literal["two-cycles"] = "two-cycles"
    decider: Annotated[float, Field(strict=True, ge=0, lt=1)]

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        row = np.append(np.full(6, (1.0 - self.decider) / 6.0), self.decider)
        return _scene(np.tile(row, (2, 1)), GeneralPreference(two_cycles()))


class ExplicitGame(Family):
    """A game of one prompt written out: the table of `P(y beats y')` and the reference.

    The reward, by which regret is measured, is the win rate against the reference.
    """

    family: Literal["explicit-game"] = "explicit-game"
    wins: tuple[tuple[_Share, ...], ...]
    reference: tuple[_Share, ...]

    @model_validator(mode="after")
    def _valid(self) -> ExplicitGame:
        self._made()
        return self

    def _made(self) -> Scene:
        if any(len(row) != len(self.wins) for row in self.wins):
            raise ValueError("wins must be a square table")
        reference = np.array([self.reference], dtype=np.float64)
        return _scene(reference, GeneralPreference(np.array(self.wins, dtype=np.float64)))

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        return self._made()


def two_cycles() -> FloatArray:
    """Return the (2, 7, 7) probabilities of `TwoCycles`."""
    wins = np.full((2, 7, 7), 0.5)
    for first in (0, 3):
        for step, share in enumerate(_STAKES):
            y, z = first + step, first + (step + 1) % 3
            wins[:, y, z], wins[:, z, y] = share, 1.0 - share
    for prompt, (good, bad) in enumerate(((slice(0, 3), slice(3, 6)), (slice(3, 6), slice(0, 3)))):
        wins[prompt, 6, bad], wins[prompt, bad, 6] = 0.9, 1.0 - 0.9
        wins[prompt, 6, good], wins[prompt, good, 6] = 0.4, 0.6
    return wins


def _scene(reference: FloatArray, labels: PreferenceModel) -> Scene:
    prompts = len(reference)
    if labels.shape != reference.shape:
        raise ValueError(f"reference has shape {reference.shape} and the game {labels.shape}")
    rho = np.full(prompts, 1.0 / prompts)
    return Scene(ContextualBandit(rho, reference, borda_scores(labels, reference)), labels)
