"""Trajectories of a process, drawn under a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.mdp.integers import as_integers
from rlhfsim.mdp.model import FiniteHorizonMDP, PerStep, as_levels
from rlhfsim.mdp.recursions import END, Levels


@dataclass(frozen=True, eq=False)
class Trajectories(Frozen):
    """`n` trajectories of at most H steps, as two integer arrays, read-only.

    Parameters
    ----------
    state, action : (n, H) arrays of integers
        -1 after the end of an episode, in both.

    Raises
    ------
    ValueError
        For arrays of other shapes or kinds, entries below -1, a step after the end, and a
        trajectory without steps.
    """

    state: IntArray
    action: IntArray

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        state, action = (_as_steps(name, getattr(self, name)) for name in ("state", "action"))
        if state.shape != action.shape:
            raise ValueError(f"state has shape {state.shape} and action {action.shape}")
        gone = state == END
        late = (gone != (action == END)) | (np.logical_or.accumulate(gone, axis=1) & ~gone)
        late[:, 0] |= gone[:, 0]
        if late.any():
            i, h = (int(k[0]) for k in np.nonzero(late))
            raise ValueError(
                f"state[{i}, {h}] is {state[i, h]} and action[{i}, {h}] is {action[i, h]}; "
                "both must be -1 from the end of the episode on, and neither before or at the start"
            )
        object.__setattr__(self, "state", checks.frozen(state))
        object.__setattr__(self, "action", checks.frozen(action))

    def __len__(self) -> int:
        """Return the number of trajectories."""
        return len(self.state)

    @property
    def horizon(self) -> int:
        """`H`."""
        return int(self.state.shape[1])

    def gathered(self, levels: Levels) -> FloatArray:
        """Return the (n, H) entries of `(S_h, A_h)` arrays at the steps, 0 after the end.

        Raises
        ------
        ValueError
            For another number of arrays, other shapes, and steps that the arrays do not have.
        """
        arrays = as_levels("levels", levels)
        if len(arrays) != self.horizon:
            raise ValueError(
                f"levels has {len(arrays)} arrays; the trajectories have {self.horizon} steps"
            )
        found = np.zeros(self.state.shape)
        for h, level in enumerate(arrays):
            there, state, action = self.taken("", h, level.shape)
            found[there, h] = level[state, action]
        return found

    def taken(self, name: str, h: int, shape: tuple[int, ...]) -> tuple[IntArray, ...]:
        """Return which trajectories take step h, and their states and actions there.

        Raises
        ------
        ValueError
            For a state or an action of `name` beyond the shape, (S_h, A_h, ...).
        """
        there = np.flatnonzero(self.state[:, h] != END)
        found = [there]
        for member, array, upper in (
            ("state", self.state, shape[0]),
            ("action", self.action, shape[1]),
        ):
            index = array[there, h]
            if (index >= upper).any():
                i = int(there[(index >= upper).argmax()])
                shown = f"{name}.{member}" if name else member
                raise ValueError(
                    f"{shown}[{i}, {h}] is {array[i, h].item()}; it must be below {upper}, "
                    f"for step {h} has shape {shape[:2]}"
                )
            found.append(index)
        return tuple(found)


def sample_trajectories(
    mdp: FiniteHorizonMDP,
    n: int,
    rng: np.random.Generator,
    *,
    policy: PerStep | None = None,
    start: IntArray | None = None,
) -> Trajectories:
    """Return `n` independent trajectories under a policy.

    Parameters
    ----------
    mdp : FiniteHorizonMDP
    n : int
        At least 1.
    rng : numpy.random.Generator
    policy : H arrays (S_h, A_h) of distributions, optional
        The reference by default.
    start : (n,) array of integers, optional
        First states; drawn from `initial` by default.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    """
    mdp = require_mdp(mdp)
    count = checks.whole_number("n", n, least=1)
    rng = checks.generator("rng", rng)
    levels = mdp.reference if policy is None else mdp.policy("policy", policy)
    for h, level in enumerate(levels):
        if level.ndim != 2:
            raise ValueError(
                f"policy[{h}] has shape {level.shape}; one policy is sampled at a time"
            )
    state = np.full((count, mdp.horizon), END, dtype=np.int64)
    action = state.copy()
    if start is None:
        now = _drawn(np.broadcast_to(mdp.initial, (count, mdp.initial.size)), rng)
    else:
        now = checks.as_indices("start", start, mdp.initial.size)
        if now.shape != (count,):
            raise ValueError(f"start has shape {now.shape}; it must be ({count},)")
    for h, level in enumerate(levels):
        there = np.flatnonzero(now != END)
        state[there, h] = now[there]
        action[there, h] = _drawn(level[now[there]], rng)
        if h + 1 == mdp.horizon:
            break
        move = mdp.transitions[h][now[there], action[there, h]]
        now = np.full(count, END, dtype=np.int64)
        now[there] = move if move.dtype.kind == "i" else _drawn(move, rng)
    return Trajectories(state, action)


def _drawn(rows: FloatArray, rng: np.random.Generator) -> IntArray:
    """Return one index drawn from each row; what has no mass is never drawn."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    cumulated = np.cumsum(rows, axis=1)
    # Divided by the last one the sum ends at 1, which no uniform number reaches.
    cumulated /= cumulated[:, -1:]
    return np.asarray((rng.random((len(rows), 1)) >= cumulated).sum(axis=1), dtype=np.int64)


def require_mdp(mdp: Any) -> FiniteHorizonMDP:
    """Return `mdp` if it is a process of H steps."""
    if not isinstance(mdp, FiniteHorizonMDP):
        raise ValueError(f"mdp is a {type(mdp).__name__}; it must be a FiniteHorizonMDP")
    return mdp


def _as_steps(name: str, value: Any) -> IntArray:
    array = as_integers(name, value, kind="(n, H) array", ndim=2)
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must hold at least one step")
    if (array < END).any():
        i, h = (int(k[0]) for k in np.nonzero(array < END))
        raise ValueError(f"{name}[{i}, {h}] is {array[i, h].item()}; it must be at least -1")
    return array
