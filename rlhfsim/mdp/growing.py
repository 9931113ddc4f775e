"""Prefix trees from token sequences and from arrays of parents."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import IntArray
from rlhfsim.mdp.children import ABSENT
from rlhfsim.mdp.integers import as_integers
from rlhfsim.mdp.recursions import END
from rlhfsim.preferences.trajectory import PADDING, as_steps


def children_of_sequences(
    steps: ArrayLike, vocabulary: int | None
) -> tuple[tuple[IntArray, ...], IntArray]:
    """Return `children` and `order` of the prefix tree of sequences; see `PrefixTree`."""
    given = as_integers("steps", steps)
    if vocabulary is None and given.size:
        vocabulary = max(int(given.max()) + 1, 1)
    size = checks.whole_number("vocabulary", vocabulary if vocabulary is not None else 1, least=1)
    tokens = as_steps(given, size)
    length = (tokens != PADDING).sum(axis=1)
    horizon = tokens.shape[1]
    short = bool((length < horizon).any())
    # Behind a short response stands the token that ends it.
    closed = np.concatenate([tokens, np.full((len(tokens), 1), PADDING)], axis=1)
    closed[np.arange(len(tokens)), length] = np.where(length < horizon, size, PADDING)
    return _grown(closed, length + (length < horizon), size + short)


def _grown(
    tokens: IntArray, length: IntArray, columns: int
) -> tuple[tuple[IntArray, ...], IntArray]:
    node = np.zeros(len(tokens), dtype=np.int64)
    going = np.arange(len(tokens))
    levels, order, n_nodes = [], [], 1
    for h in range(int(length.max())):
        edge = node * columns + tokens[going, h]
        ends = length[going] == h + 1
        flat = np.full(n_nodes * columns, ABSENT, dtype=np.int64)
        by_edge = np.argsort(edge[ends], kind="stable")
        _refuse_equal(edge[ends][by_edge], going[ends][by_edge])
        order.append(going[ends][by_edge])
        flat[edge[ends]] = END
        kept, node = np.unique(edge[~ends], return_inverse=True)
        flat[kept] = np.arange(kept.size)
        levels.append(flat.reshape(n_nodes, columns))
        going, n_nodes = going[~ends], kept.size
    return tuple(levels), np.concatenate(order)


def _refuse_equal(edge: IntArray, row: IntArray) -> None:
    same = np.flatnonzero(edge[1:] == edge[:-1])
    if same.size:
        first, second = int(row[same[0]]), int(row[same[0] + 1])
        raise ValueError(
            f"steps[{second}] is the same sequence as steps[{first}]; responses must differ"
        )


def children_of_parents(parent: ArrayLike) -> tuple[tuple[IntArray, ...], IntArray]:
    """Return `children` and `order` of the tree with these parents; see `PrefixTree`."""
    above = _as_parents(parent)
    depth = _depths(above)
    has_children = np.zeros(above.size, dtype=np.bool_)
    has_children[above[above >= 0]] = True
    if above.size == 1:
        raise ValueError("parent has 1 entry, the root; the horizon must be at least 1")
    leaf_number = np.cumsum(~has_children) - 1
    levels, order = [], []
    for h in range(int(depth.max())):
        nodes = np.flatnonzero((depth == h) & has_children)
        below = np.flatnonzero(depth == h + 1)
        place = np.searchsorted(nodes, above[below])
        # Siblings take the columns of their parent in the order of their indices.
        by_parent = np.argsort(place, kind="stable")
        below, place = below[by_parent], place[by_parent]
        column = np.arange(below.size) - np.searchsorted(place, place)
        level = np.full((nodes.size, int(column.max()) + 1), ABSENT, dtype=np.int64)
        inner = np.cumsum(has_children[depth == h + 1]) - 1
        rank = inner[np.searchsorted(np.flatnonzero(depth == h + 1), below)]
        level[place, column] = np.where(has_children[below], rank, END)
        levels.append(level)
        order.append(leaf_number[below[~has_children[below]]])
    return tuple(levels), np.concatenate(order)


def _as_parents(parent: ArrayLike) -> IntArray:
    array = as_integers("parent", parent, kind="(M,) array", ndim=1)
    bad = (array < -1) | (array >= array.size)
    if bad.any():
        node = int(bad.argmax())
        raise ValueError(
            f"parent[{node}] is {array[node].item()}; parents must be below {array.size}, "
            "or -1 for the root"
        )
    roots = np.flatnonzero(array == -1)
    if roots.size != 1:
        raise ValueError(f"parent has {roots.size} roots (entries of -1); a tree has one")
    return array


def _depths(above: IntArray) -> IntArray:
    """Return the depth of each node, or refuse a cycle."""
    depth = np.full(above.size, -1, dtype=np.int64)
    depth[above == -1] = 0
    for h in range(above.size):
        reached = (depth < 0) & (depth[above] == h)
        if not reached.any():
            break
        depth[reached] = h + 1
    if (depth < 0).any():
        raise ValueError(_cycle(above, int((depth < 0).argmax())))
    return depth


def _cycle(above: IntArray, node: int) -> str:
    """Return the message that shows the cycle above a node."""
    seen: dict[int, int] = {}
    while node not in seen:
        seen[node] = len(seen)
        node = int(above[node])
    cycle = [n for n, place in seen.items() if place >= seen[node]]
    shown = " -> ".join(map(str, [*cycle[:6], *(["..."] if len(cycle) > 6 else []), cycle[0]]))
    return (
        f"parent[{cycle[0]}] is {int(above[cycle[0]])}; the parents go round in a cycle, {shown}, "
        "and a tree has none"
    )
