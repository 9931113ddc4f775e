"""Linear rewards of which the reference hides one direction of the features."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from rlhfsim.bandit import ContextualBandit
from rlhfsim.studies.instances.base import Scene, Sized
from rlhfsim.studies.spec import Count, Positive


class MissedDirection(Sized):
    """Linear rewards whose best responses stand in a direction that the reference hardly plays.

    Responses but the last `rare` have features uniform in the unit ball of the first `dimension -
    1` coordinates; the last ones in half that ball, with 1 in the last coordinate, which all others
    have 0 in.  They share the reference mass `1 / coverage`, the others the rest.  `theta*` is
    uniform on the sphere of radius `norm` in the first coordinates, and `1.5 norm + gap` in the
    last: the worst rare response is better than the best usual one by at least `gap`.
    """

    family: Literal["missed-direction"] = "missed-direction"
    coverage: Annotated[float, Field(strict=True, gt=1, allow_inf_nan=False)]
    dimension: Annotated[int, Field(strict=True, ge=2)]
    rare: Count = 1
    norm: Positive = 1.0
    gap: Positive = 1.0

    @model_validator(mode="after")
    def _leaves_some(self) -> MissedDirection:
        if self.rare >= self.responses:
            raise ValueError(f"rare must be below responses, which is {self.responses}")
        return self

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        shape, d = (self.prompts, self.responses), self.dimension - 1
        usual = self.responses - self.rare
        normal = rng.standard_normal((*shape, d))
        radius = rng.random((*shape, 1)) ** (1.0 / d)
        radius[:, usual:] *= 0.5
        features = np.zeros((*shape, self.dimension))
        features[..., :d] = radius * normal / np.linalg.norm(normal, axis=-1, keepdims=True)
        features[:, usual:, d] = 1.0
        direction = rng.standard_normal(d)
        parameter = np.append(
            self.norm * direction / np.linalg.norm(direction), 1.5 * self.norm + self.gap
        )
        reference = np.full(shape, (1.0 - 1.0 / self.coverage) / usual)
        reference[:, usual:] = 1.0 / (self.coverage * self.rare)
        rho = np.full(self.prompts, 1.0 / self.prompts)
        bandit = ContextualBandit(rho, reference, features @ parameter)
        return self._plain(bandit, features=features)
