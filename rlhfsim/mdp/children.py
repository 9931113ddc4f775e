"""Checks of the levels of a prefix tree, and of numbers on its edges and responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import IntArray
from rlhfsim.mdp.integers import as_array, as_integers

#: In place of a child where a prefix has no such token.
ABSENT = -2


def as_children(value: Any) -> list[NDArray[np.int64]]:
    """Return the int64 levels of a prefix tree; see `PrefixTree`.

    Raises
    ------
    ValueError
        For no level, other shapes, entries out of range, a node with two parents or none, and a
        prefix without tokens.
    """
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise ValueError(f"children is {value!r:.80}; it must be a sequence of arrays, one a level")
    items = list(value)
    if not items:
        raise ValueError("children has 0 arrays; the horizon must be at least 1")
    levels = []
    expected = 1
    for h, item in enumerate(items):
        level = _as_level(f"children[{h}]", item, expected)
        expected = _check_next(f"children[{h}]", level, last=h + 1 == len(items))
        levels.append(level)
    return levels


def _as_level(name: str, item: Any, n_nodes: int) -> NDArray[np.int64]:
    level = as_integers(name, item)
    if level.ndim != 2 or level.shape[0] != n_nodes or level.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {level.shape}; it must be ({n_nodes}, A), a row for each prefix"
        )
    return level


def _check_next(name: str, level: IntArray, *, last: bool) -> int:
    """Return the number of nodes of the next level, each a child once."""
    children = level[level >= 0]
    upper = 0 if last else children.size
    bad = (level < ABSENT) | (level >= upper)
    if bad.any():
        index = tuple(int(i[0]) for i in np.nonzero(bad))
        rule = "the last level has no next one" if last else f"the next level has {upper} nodes"
        raise ValueError(f"{name}{list(index)} is {level[index].item()}; {rule}")
    count = np.bincount(children, minlength=upper)
    if not last and (count != 1).any():
        node = int((count > 1).argmax())
        first, second = (tuple(map(int, place)) for place in np.argwhere(level == node)[:2])
        raise ValueError(
            f"{name}{list(second)} is {node}, as is {name}{list(first)}; "
            "a node must have one parent"
        )
    if not last and not upper:
        raise ValueError(f"{name} has no children; only the last level may have none")
    barren = (level == ABSENT).all(axis=1)
    if barren.any():
        raise ValueError(f"{name}[{int(barren.argmax())}] has no token; a prefix must go on or end")
    return int(upper)


def as_edges(value: Any, shapes: Sequence[tuple[int, int]]) -> list[NDArray[Any]]:
    """Return the (..., N_h, A_h) arrays of numbers, of any precision, on the edges of a tree."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise ValueError(f"levels is {value!r:.80}; it must be a sequence of arrays, one a level")
    levels = [as_array(f"levels[{h}]", level) for h, level in enumerate(value)]
    if len(levels) != len(shapes):
        raise ValueError(f"levels has {len(levels)} arrays; it must have {len(shapes)}")
    batch: tuple[int, ...] = ()
    for h, (level, shape) in enumerate(zip(levels, shapes, strict=True)):
        if level.shape[-2:] != shape:
            raise ValueError(f"levels[{h}] has shape {level.shape}; its last axes must be {shape}")
        try:
            batch = np.broadcast_shapes(batch, level.shape[:-2])
        except ValueError:
            raise ValueError(
                f"levels[{h}] has shape {level.shape}; the axes before its last two must "
                f"broadcast with those of the levels before, {batch}"
            ) from None
    return levels


def as_responses(value: Any, n_sequences: int) -> NDArray[Any]:
    """Return the (..., Y) array of numbers, of any precision, on the responses of a tree."""
    values = as_array("values", value)
    if values.ndim == 0 or values.shape[-1] != n_sequences:
        raise ValueError(
            f"values has shape {values.shape}; its last axis must hold the {n_sequences} responses"
        )
    return values
