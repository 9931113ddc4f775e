"""What planning and evaluation need; a `FiniteHorizonMDP` and a `TokenTree` have it."""

from __future__ import annotations

from typing import Any, Protocol

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.mdp.recursions import Levels, Transition


class Process(Protocol):
    """H steps of states and actions with a reward and a reference; axes before them are prompts."""

    @property
    def initial(self) -> FloatArray:
        """(..., S_1): the distribution of the first state."""
        ...

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """What follows on each step but the last."""
        ...

    @property
    def reward(self) -> Levels:
        """(..., S_h, A_h) rewards."""
        ...

    @property
    def reference(self) -> Levels:
        """(..., S_h, A_h) distributions."""
        ...

    @property
    def available(self) -> tuple[BoolArray, ...] | None:
        """Which actions a state has; None if all have all."""
        ...

    def mean(self, first: FloatArray) -> FloatArray:
        """Return the mean of (..., S_1) numbers, over first states and prompts."""
        ...

    def policy(self, name: str, policy: Any) -> Levels:
        """Return the checked arrays of a policy."""
        ...


def as_process(name: str, value: Any) -> Process:
    """Return `value` if it is a process."""
    wanted = ("initial", "transitions", "reward", "reference", "available", "mean", "policy")
    if isinstance(value, type) or not all(hasattr(value, member) for member in wanted):
        raise ValueError(
            f"{name} is a {type(value).__name__}; it must be a FiniteHorizonMDP or a TokenTree"
        )
    process: Process = value
    return process
