"""Checks of the levels of a prefix tree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import IntArray

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
    level = np.asarray(item)
    if isinstance(item, np.ma.MaskedArray) or level.dtype.kind not in "iu":
        raise ValueError(f"{name} is {item!r:.80}; it must be a plain array of integers")
    if level.ndim != 2 or level.shape[0] != n_nodes or level.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {level.shape}; it must be ({n_nodes}, A), a row for each prefix"
        )
    return level.astype(np.int64, copy=False)


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
