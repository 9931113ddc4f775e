"""The finite-horizon Markov decision process, tabular and inhomogeneous in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.frozen import Frozen
from rlhfsim.mdp.integers import as_array, as_integers
from rlhfsim.mdp.recursions import END, Levels, Transition

#: One array for each step, or an array whose first axis is the step.
PerStep = Sequence[ArrayLike] | NDArray[Any]


@dataclass(frozen=True, eq=False)
class FiniteHorizonMDP(Frozen):
    """H steps: `s_1 ~ initial`, `a_h ~ pi_h(.|s_h)`, reward `r_h(s_h, a_h)`, `s_(h+1) ~ P_h`.

    States and actions are numbered separately at each step, so their numbers may differ.  A
    deterministic transition may end the episode early.  A contextual bandit is the case H = 1:
    its prompts are the states of the only step, its responses the actions.  Arrays are copied in
    and read-only; nothing is renormalised.

    Parameters
    ----------
    initial : (S_1,) array
        Distribution of the first state.
    transitions : H - 1 arrays
        Of step h: (S_h, A_h) integers, the next state, or -1 where the episode ends; or
        (S_h, A_h, S_(h+1)) distributions of the next state.
    reward : H arrays (S_h, A_h)
        In reward units, finite.
    reference : H arrays (S_h, A_h)
        `pi_ref`, distributions over actions.
    available : H boolean arrays (S_h, A_h), optional
        False where a state has no such action.  There `reference` and every policy must be 0.

    Raises
    ------
    ValueError
        For no step, other numbers of arrays, shapes that do not fit, entries that are not finite,
        rows that are not distributions, next states out of range, and a state without actions.

    Source: arXiv 2310.17303.
    """

    initial: FloatArray
    transitions: tuple[Transition, ...]
    reward: Levels
    reference: Levels
    available: tuple[BoolArray, ...] | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        reward = as_levels("reward", self.reward)
        shapes = [level.shape for level in reward]
        initial = checks.as_distributions("initial", self.initial)
        if initial.shape != shapes[0][:1]:
            raise ValueError(
                f"initial has shape {initial.shape}; it must have shape {shapes[0][:1]}, "
                "one weight for each state of the first step"
            )
        reference = as_policy("reference", self.reference, shapes)
        for h, (level, shape) in enumerate(zip(reference, shapes, strict=True)):
            if level.shape != shape:
                raise ValueError(
                    f"reference[{h}] has shape {level.shape}; it must have shape {shape}"
                )
        self._set("initial", checks.frozen(initial))
        self._set("reward", tuple(checks.frozen(level) for level in reward))
        self._set("reference", tuple(checks.frozen(level) for level in reference))
        moves = _as_transitions(self.transitions, shapes)
        self._set("transitions", tuple(checks.frozen(move) for move in moves))
        if self.available is not None:
            masks = _as_masks(self.available, shapes)
            self._set("available", tuple(checks.frozen(mask) for mask in masks))
            require_available("reference", reference, masks)

    @classmethod
    def from_bandit(cls, bandit: ContextualBandit) -> FiniteHorizonMDP:
        """Return the process of one step that a contextual bandit is."""
        if not isinstance(bandit, ContextualBandit):
            raise ValueError(f"bandit is a {type(bandit).__name__}; it must be a ContextualBandit")
        masks = None if bandit.available is None else (bandit.available,)
        return cls(bandit.prompt_dist, (), (bandit.reward,), (bandit.reference,), masks)

    def as_bandit(self) -> ContextualBandit:
        """Return the contextual bandit that a process of one step is.

        Raises
        ------
        ValueError
            For more than one step; `TokenTree.as_bandit` takes whole responses as actions.
        """
        if self.horizon != 1:
            raise ValueError(f"horizon is {self.horizon}; only one step makes a bandit")
        mask = None if self.available is None else self.available[0]
        return ContextualBandit(self.initial, self.reference[0], self.reward[0], available=mask)

    @property
    def horizon(self) -> int:
        """`H`."""
        return len(self.reward)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """`(S_h, A_h)` of each step."""
        return tuple((level.shape[0], level.shape[1]) for level in self.reward)

    @property
    def deterministic(self) -> bool:
        """Whether every transition is a next state and not a distribution."""
        return all(move.dtype.kind == "i" for move in self.transitions)

    def mean(self, first: FloatArray) -> FloatArray:
        """Return the mean over first states of (..., S_1) numbers."""
        return average_over_prompts(np.asarray(first), self.initial)

    def policy(self, name: str, policy: PerStep) -> Levels:
        """Return the checked arrays of a policy of this process, `(..., S_h, A_h)` each.

        Raises
        ------
        ValueError
            For another number of steps, other shapes, rows that are not distributions, and mass on
            unavailable actions.
        """
        levels = as_policy(name, policy, list(self.shapes))
        if self.available is not None:
            require_available(name, levels, self.available)
        return levels

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


# ---- checks of arrays per step -------------------------------------------------------------------


def as_levels(name: str, value: PerStep) -> Levels:
    """Return finite, non-empty `(S_h, A_h)` arrays, one for each of H >= 1 steps."""
    levels = _items(name, value)
    if not levels:
        raise ValueError(f"{name} has 0 arrays; the horizon must be at least 1")
    return tuple(checks.as_matrix(f"{name}[{h}]", level) for h, level in enumerate(levels))


def as_policy(name: str, value: PerStep, shapes: Sequence[tuple[int, ...]]) -> Levels:
    """Return distributions over the last axis, of shapes `(..., S_h, A_h)`."""
    items = _items(name, value)
    if len(items) != len(shapes):
        raise ValueError(
            f"{name} has {len(items)} arrays; it must have {len(shapes)}, one per step"
        )
    found = []
    for h, (item, shape) in enumerate(zip(items, shapes, strict=True)):
        level = checks.as_distributions(f"{name}[{h}]", item)
        if level.shape[-len(shape) :] != tuple(shape):
            raise ValueError(
                f"{name}[{h}] has shape {level.shape}; its last axes must be {tuple(shape)}"
            )
        found.append(level)
    _require_one_batch(name, found)
    return tuple(found)


def _require_one_batch(name: str, levels: Sequence[FloatArray]) -> None:
    """Refuse levels whose axes before those of states and actions do not broadcast."""
    batch: tuple[int, ...] = ()
    for h, level in enumerate(levels):
        try:
            batch = np.broadcast_shapes(batch, level.shape[:-2])
        except ValueError:
            raise ValueError(
                f"{name}[{h}] has shape {level.shape}; the axes before its last two must "
                f"broadcast with those of the steps before, {batch}"
            ) from None


def require_available(name: str, levels: Levels, masks: Sequence[BoolArray]) -> None:
    """Refuse mass on actions that a state does not have."""
    for h, (level, mask) in enumerate(zip(levels, masks, strict=True)):
        bad = (level > 0) & ~mask
        if bad.any():
            index = tuple(int(i[0]) for i in np.nonzero(bad))
            raise ValueError(
                f"{name}[{h}]{list(index)} is {level[index].item()!r}; "
                "an action that the state does not have must have probability 0"
            )


def _items(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise ValueError(f"{name} is {value!r:.80}; it must be a sequence of arrays, one per step")
    return tuple(value)


def _as_transitions(value: Any, shapes: list[tuple[int, ...]]) -> tuple[Transition, ...]:
    items = _items("transitions", value)
    if len(items) != len(shapes) - 1:
        raise ValueError(
            f"transitions has {len(items)} arrays; it must have {len(shapes) - 1}, "
            "one for each step but the last"
        )
    return tuple(
        _as_transition(f"transitions[{h}]", item, shapes[h], shapes[h + 1][0])
        for h, item in enumerate(items)
    )


def _as_transition(name: str, value: Any, shape: tuple[int, ...], n_next: int) -> Transition:
    array = as_array(name, value)
    if array.dtype.kind in "iu" and array.ndim == 2:
        return as_next_states(name, value, shape, n_next)
    rows = checks.as_distributions(name, value)
    if rows.shape != (*shape, n_next):
        raise ValueError(
            f"{name} has shape {rows.shape}; it must be {shape} next states or "
            f"{(*shape, n_next)} distributions of them"
        )
    return rows


def as_next_states(
    name: str, value: ArrayLike, shape: tuple[int, ...], n_next: int
) -> NDArray[np.int64]:
    """Return an int64 array of that shape, each entry -1 or below `n_next`."""
    array = as_integers(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; it must have shape {shape}")
    bad = (array < END) | (array >= n_next)
    if bad.any():
        index = tuple(int(i[0]) for i in np.nonzero(bad))
        raise ValueError(
            f"{name}{list(index)} is {array[index].item()}; "
            f"next states must be below {n_next}, or -1 where the episode ends"
        )
    return array


def _as_masks(value: Any, shapes: list[tuple[int, ...]]) -> tuple[BoolArray, ...]:
    items = _items("available", value)
    if len(items) != len(shapes):
        raise ValueError(
            f"available has {len(items)} arrays; it must have {len(shapes)}, one per step"
        )
    masks = []
    for h, (item, shape) in enumerate(zip(items, shapes, strict=True)):
        mask = as_array(f"available[{h}]", item)
        if mask.dtype != np.bool_ or mask.shape != shape:
            raise ValueError(
                f"available[{h}] has dtype {mask.dtype} and shape {mask.shape}; "
                f"it must be a boolean array of shape {shape}"
            )
        if not mask.any(axis=1).all():
            state = int(mask.any(axis=1).argmin())
            raise ValueError(f"available[{h}] has no action at state {state}; it must have one")
        masks.append(mask)
    return tuple(masks)
