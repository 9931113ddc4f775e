"""Where responses end in the levels of a prefix tree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import IntArray
from rlhfsim.mdp.recursions import END

#: Entries of a level that belong to responses: their flat places, or all of them in order.
Places = IntArray | slice


def end_places(level: IntArray) -> Places:
    """Return the flat places of a level where responses end."""
    if level.strides == (0, 0) and level[0, 0] == END:
        return slice(None)
    places = np.flatnonzero(level == END)
    return slice(None) if places.size == level.size else places


def count(level: IntArray, places: Places) -> int:
    """Return how many responses end in a level."""
    return int(level.size if isinstance(places, slice) else places.size)


def joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the (..., Y) entries at the ends of all levels, from those of each."""
    filled = [part for part in parts if part.shape[-1]]
    if len(filled) == 1:
        return filled[0]
    batch = np.broadcast_shapes(*(part.shape[:-1] for part in filled))
    return np.concatenate(
        [np.broadcast_to(part, (*batch, part.shape[-1])) for part in filled], axis=-1
    )
