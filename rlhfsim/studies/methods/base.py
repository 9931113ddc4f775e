"""What every method of a study is: a learner with its settings but for one parameter."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from pydantic import field_validator

from rlhfsim.divergences import parse_divergence
from rlhfsim.learners import Learner
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.methods.policies import AllPolicies
from rlhfsim.studies.rewards import FiniteReward
from rlhfsim.studies.spec import Label, Positive, Spec, key_of


class Method(Spec):
    """A family of learners along one parameter, by default the strength `beta`."""

    label: Label = ""
    #: Values of the parameter; those of the study if it is "beta" and there are none here.
    grid: tuple[Positive, ...] = ()

    #: What the grid varies.
    parameter: ClassVar[str] = "beta"

    @property
    def key(self) -> str:
        """What identifies the method in saved results: its settings but for label and grid."""
        return key_of(self.content(leave_out=("label", "grid")))

    @property
    def uses_data(self) -> bool:
        """Whether preferences are needed."""
        return True

    @property
    def draws_numbers(self) -> bool:
        """Whether fitting draws random numbers: to break ties, to start a search, for batches."""
        reward, policies = getattr(self, "reward", None), getattr(self, "policies", None)
        return isinstance(reward, FiniteReward) or not isinstance(policies, AllPolicies | None)

    @abstractmethod
    def learner(self, value: float, scene: Scene) -> Learner:
        """Return the learner at one value of the parameter."""

    @field_validator("divergence", check_fields=False)
    @classmethod
    def _parses(cls, text: str) -> str:
        parse_divergence(text)
        return text

    @field_validator("grid")
    @classmethod
    def _increasing(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(grid)) != len(grid):
            raise ValueError("values of a grid must differ")
        return grid
