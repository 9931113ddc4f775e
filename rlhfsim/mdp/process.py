"""What planning and evaluation need; a `FiniteHorizonMDP` and a `TokenTree` have it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.mdp.recursions import Levels, Transition, action_values


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


def occurring(process: Process) -> BoolArray:
    """Return whether first states occur, of the shape of `initial`."""
    start = process.initial
    prompts = getattr(process, "prompt_dist", None)
    return np.asarray((start if prompts is None else start * prompts[:, None]) > 0)


def require_finite(step: int, q: FloatArray) -> None:
    """Refuse rewards whose sums with what follows leave the floats."""
    if not np.isfinite(q).all():
        index = tuple(int(i[0]) for i in np.nonzero(~np.isfinite(q)))
        raise ValueError(
            f"reward[{step}] plus the value of what follows is {q[index].item()!r} at "
            f"{list(index)}; sums of rewards must be finite"
        )


def finite_action_values(process: Process, policy: Levels) -> tuple[Levels, Levels]:
    """Return `Q_h` and `V_h` of a policy, or refuse rewards whose sums leave the floats."""
    with np.errstate(over="ignore", invalid="ignore"):
        q, v = action_values(process.transitions, process.reward, policy)
    # From the last step on, the first that is not finite is the cause.
    for h in reversed(range(len(q))):
        require_finite(h, q[h])
        require_finite(h, v[h])
    return q, v


def as_process(name: str, value: Any) -> Process:
    """Return `value` if it is a process."""
    wanted = ("initial", "transitions", "reward", "reference", "available", "mean", "policy")
    if isinstance(value, type) or not all(hasattr(value, member) for member in wanted):
        raise ValueError(
            f"{name} is a {type(value).__name__}; it must be a FiniteHorizonMDP or a TokenTree"
        )
    process: Process = value
    return process
