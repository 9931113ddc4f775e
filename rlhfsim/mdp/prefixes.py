"""The prefixes of a finite set of token sequences: a tree, stored level by level in flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.mdp.children import ABSENT, as_children, as_edges, as_responses
from rlhfsim.mdp.places import Places, count, end_places, joined
from rlhfsim.mdp.recursions import END, Levels


@dataclass(frozen=True, eq=False)
class PrefixTree(Frozen):
    """The tree of all prefixes of Y responses: one root, H levels of nodes, one leaf a response.

    Level h holds the `N_h` prefixes of h tokens that go on; each has `A_h` columns, one for each
    token that may come next.  No object is made per node.  `TokenTree` adds rewards and a
    reference.

    Parameters
    ----------
    children : H arrays of integers (N_h, A_h), N_0 = 1
        The node of the next level that the token leads to; -1 (`END`) where the response is
        complete with it; -2 (`ABSENT`) where the prefix has no such token.
    order : (Y,) permutation, optional
        `order[k]` is the index of the response of the k-th leaf, leaves being counted level by
        level and row by row; by default k itself.

    Raises
    ------
    ValueError
        For no level, other shapes, entries out of range, a node with two parents or none, a prefix
        without tokens, and an `order` that is not a permutation.

    Source: arXiv 2404.12358 (tokens as actions, transitions that append).
    """

    children: tuple[IntArray, ...]
    order: IntArray | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        levels = as_children(self.children)
        object.__setattr__(self, "children", tuple(checks.frozen(level) for level in levels))
        if self.order is not None:
            order = checks.as_indices("order", self.order, self.n_sequences)
            if order.size != self.n_sequences or np.unique(order).size != order.size:
                raise ValueError(
                    f"order has {order.size} entries, {np.unique(order).size} of them distinct; "
                    f"it must be a permutation of the {self.n_sequences} responses"
                )
            object.__setattr__(self, "order", checks.frozen(order))

    # ---- ways to make one -------------------------------------------------------------------

    @classmethod
    def full(cls, vocabulary: int, horizon: int) -> PrefixTree:
        """Return the tree of all `vocabulary ** horizon` sequences, in lexicographic order."""
        size = checks.whole_number("vocabulary", vocabulary, least=1)
        steps = checks.whole_number("horizon", horizon, least=1)
        if size**steps > np.iinfo(np.int64).max:
            raise ValueError(
                f"vocabulary ** horizon is {size}**{steps}; the sequences must be enumerable"
            )
        levels = [np.arange(size ** (h + 1)).reshape(size**h, size) for h in range(steps - 1)]
        for level in levels:
            level.setflags(write=False)
        # The last level says the same of every entry, and takes no memory.
        last = np.broadcast_to(np.int64(END), (size ** (steps - 1), size))
        tree = object.__new__(cls)
        object.__setattr__(tree, "children", (*levels, last))
        object.__setattr__(tree, "order", None)
        return tree

    @classmethod
    def digits(cls, n_sequences: int, base: int) -> PrefixTree:
        """Return the tree of the numbers 0, ..., Y - 1, written with as many digits as the last.

        A way to cut any Y responses into tokens; the full tree where Y is a power of the base.
        """
        number = checks.whole_number("n_sequences", n_sequences, least=1)
        size = checks.whole_number("base", base, least=2)
        length = 1
        while size**length < number:
            length += 1
        if size**length == number:
            return cls.full(size, length)
        powers = size ** np.arange(length - 1, -1, -1)
        return cls.from_sequences(np.arange(number)[:, None] // powers % size, size)

    @classmethod
    def from_sequences(cls, steps: ArrayLike, vocabulary: int | None = None) -> PrefixTree:
        """Return the tree of the given sequences, in their order; columns are tokens.

        Parameters
        ----------
        steps : (Y, H) array of integers
            Each row holds the tokens of a response, then -1 up to the end of the row, as for
            `TrajectoryPreference.from_steps`.  Responses of fewer than H tokens end with a token
            of their own, which has the last column; those of H tokens end with their last.
        vocabulary : int, optional
            Number of tokens; by default, just large enough.

        Raises
        ------
        ValueError
            Bad input, by name, rule, index and value; two equal sequences.
        """
        from rlhfsim.mdp.growing import children_of_sequences

        return cls(*children_of_sequences(steps, vocabulary))

    @classmethod
    def from_parents(cls, parent: ArrayLike) -> PrefixTree:
        """Return the tree in which node i is a child of `parent[i]`, and the root of -1.

        Responses are the nodes without children, in the order of their indices; the columns of a
        node are its children, in the order of their indices.

        Raises
        ------
        ValueError
            For indices out of range, no root or several, a cycle, and a root without children.
        """
        from rlhfsim.mdp.growing import children_of_parents

        return cls(*children_of_parents(parent))

    def renamed(self, new: ArrayLike) -> PrefixTree:
        """Return the same tree with `new[y]` as the index of the response that had y.

        Parameters
        ----------
        new : (Y,) permutation

        Raises
        ------
        ValueError
            For anything else.
        """
        names = checks.as_indices("new", new, self.n_sequences)
        if names.size != self.n_sequences or np.unique(names).size != names.size:
            raise ValueError(
                f"new has {names.size} entries, {np.unique(names).size} of them distinct; "
                f"it must be a permutation of the {self.n_sequences} responses"
            )
        return PrefixTree(self.children, names if self.order is None else names[self.order])

    # ---- sizes ------------------------------------------------------------------------------

    @property
    def horizon(self) -> int:
        """`H`: tokens of the longest response."""
        return len(self.children)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """`(N_h, A_h)` of each level."""
        return tuple((level.shape[0], level.shape[1]) for level in self.children)

    @cached_property
    def n_sequences(self) -> int:
        """`Y`."""
        return sum(count(level, places) for level, places in self._with_ends())

    @cached_property
    def available(self) -> tuple[BoolArray, ...] | None:
        """Boolean arrays (N_h, A_h): whether the prefix has the token; None if all have all."""
        if all(isinstance(e, slice) or (c != ABSENT).all() for c, e in self._with_ends()):
            return None
        masks = tuple(level != ABSENT for level in self.children)
        for mask in masks:
            mask.setflags(write=False)
        return masks

    # ---- sums and products along responses --------------------------------------------------

    def at_ends(self, levels: Sequence[FloatArray]) -> FloatArray:
        """Return (..., Y): the entry at the last token of each response, of (..., N_h, A_h).

        Raises
        ------
        ValueError
            For another number of arrays, and shapes that do not fit.
        """
        return self._at_ends(as_edges(levels, self.shapes))

    def _at_ends(self, levels: Sequence[FloatArray]) -> FloatArray:
        parts = [
            level.reshape(*level.shape[:-2], -1)[..., places]
            for level, places in zip(levels, self._ends, strict=True)
        ]
        found = parts[0] if len(parts) == 1 else joined(parts)
        if self.order is None:
            return found
        ordered = np.empty_like(found)
        ordered[..., self.order] = found
        return ordered

    def spread(self, values: FloatArray) -> Levels:
        """Return (..., N_h, A_h) arrays with (..., Y) values at the last tokens, 0 elsewhere.

        Raises
        ------
        ValueError
            For values whose last axis does not hold the responses.
        """
        values = as_responses(values, self.n_sequences)
        leaves = values if self.order is None else values[..., self.order]
        found, start = [], 0
        for level, places in self._with_ends():
            size = count(level, places)
            part = leaves[..., start : start + size]
            start += size
            if isinstance(places, slice):
                found.append(part.reshape(*values.shape[:-1], *level.shape))
                continue
            flat = np.zeros((*values.shape[:-1], level.size))
            flat[..., places] = part
            found.append(flat.reshape(*values.shape[:-1], *level.shape))
        return tuple(found)

    def sums_along(self, levels: Sequence[FloatArray]) -> FloatArray:
        """Return (..., Y): the sum of the entries along each response; as `at_ends`."""
        return self._at_ends(self._accumulated(as_edges(levels, self.shapes), np.add, 0.0))

    def products_along(self, levels: Sequence[FloatArray]) -> FloatArray:
        """Return (..., Y): the product of the entries along each response; as `at_ends`."""
        return self._at_ends(self._accumulated(as_edges(levels, self.shapes), np.multiply, 1.0))

    def steps_along(self, levels: Sequence[FloatArray]) -> FloatArray:
        """Return (..., Y, H): the entries along each response, 0 after its end; as `at_ends`."""
        levels = as_edges(levels, self.shapes)
        horizon = self.horizon
        found = []
        for h in range(horizon):
            only = [
                level if k == h else np.zeros(level.shape[-2:]) for k, level in enumerate(levels)
            ]
            found.append(self.sums_along(only))
        return np.stack(np.broadcast_arrays(*found), axis=-1)

    def summed(self, values: FloatArray) -> tuple[Levels, Levels]:
        """Return what lies below: sums of (..., Y) values, (..., N_h, A_h) and (..., N_h)."""
        values = as_responses(values, self.n_sequences)
        edges = list(self.spread(values))
        nodes: list[FloatArray] = [np.empty(0)] * self.horizon
        for h in reversed(range(self.horizon)):
            if h + 1 < self.horizon:
                below, flat = nodes[h + 1], edges[h].reshape(*values.shape[:-1], -1).copy()
                flat[..., self._parents[h + 1]] = below
                edges[h] = flat.reshape(*values.shape[:-1], *self.shapes[h])
            nodes[h] = np.asarray(edges[h].sum(axis=-1))
        return tuple(edges), tuple(nodes)

    def _accumulated(self, levels: Sequence[FloatArray], combine: np.ufunc, start: float) -> Levels:
        node = np.full(1, start)
        found: list[FloatArray] = []
        for h, level in enumerate(levels):
            edges = level if h == 0 else combine(node[..., None], level)
            found.append(edges)
            if h + 1 < self.horizon:
                node = edges.reshape(*edges.shape[:-2], -1)[..., self._parents[h + 1]]
        return tuple(found)

    # ---- places -----------------------------------------------------------------------------

    @cached_property
    def _ends(self) -> tuple[Places, ...]:
        """The flat places of each level where responses end."""
        return tuple(end_places(level) for level in self.children)

    def _with_ends(self) -> list[tuple[IntArray, Places]]:
        return list(zip(self.children, self._ends, strict=True))

    @cached_property
    def _parents(self) -> tuple[IntArray, ...]:
        """For each level the (N_h,) flat places of its nodes in the level before."""
        found = [np.zeros(1, dtype=np.int64)]
        for level in self.children[:-1]:
            flat = level.reshape(-1)
            places = np.flatnonzero(flat >= 0)
            parent = np.empty_like(places)
            parent[flat[places]] = places
            found.append(parent)
        return tuple(found)
