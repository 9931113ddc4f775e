"""When the unconstrained Bradley-Terry maximum likelihood estimate exists.

Draw an edge from the winner to the loser of every comparison.  The estimate is finite, and unique
up to a constant, exactly when the graph over the compared responses is strongly connected:
however they are split in two, each side beats the other at least once.  Otherwise one side never
loses to the other and its reward can be raised for ever.

Source: Ford 1957 (Amer. Math. Monthly 64, 8); Hunter 2004 (Ann. Statist. 32, 1), assumption 1.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.data import PairCounts, PreferenceData, PromptWins

_NAMED_AT_MOST = 10


class MLEDoesNotExistError(ValueError):
    """The likelihood of a prompt has no finite maximiser, or no comparison at all.

    Attributes
    ----------
    prompt : int
    responses : tuple of int
        A set of responses that never loses to the other compared ones, or never beats them, or
        neither; empty when the prompt compares no two different responses.
    """

    def __init__(self, message: str, prompt: int, responses: tuple[int, ...]) -> None:
        super().__init__(message)
        self.prompt = prompt
        self.responses = responses

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with both attributes."""
        return type(self), (str(self), self.prompt, self.responses)


def mle_exists(data: PreferenceData | PairCounts) -> BoolArray:
    """Return for each prompt whether its unconstrained tabular estimate exists.

    Parameters
    ----------
    data : PreferenceData or PairCounts

    Returns
    -------
    (X,) array of bool
        False also for a prompt that compares no two different responses.

    Raises
    ------
    ValueError
        If `data` is neither.

    Source: Ford 1957.
    """
    from rlhfsim.rewards.compiled import launch, tables

    chunks, _ = tables.tabulate(data)
    return np.concatenate([launch.connected(chunk, strong=True) for chunk in chunks])


def strongly_connected(wins: FloatArray) -> bool:
    """Return whether the graph of a `(K, K)` win matrix is non-empty and strongly connected."""
    return wins.size > 0 and int(strong_components(wins).max()) == 0


def strong_components(wins: FloatArray) -> IntArray:
    """Return the (K,) labels 0, 1, ... of the strongly connected components of the win graph."""
    return _components(wins, "strong")


def weak_components(wins: FloatArray) -> IntArray:
    """Return the (K,) labels 0, 1, ... of the components linked by comparisons."""
    return _components(wins, "weak")


def require_mle(group: PromptWins) -> None:
    """Raise `MLEDoesNotExistError` unless the prompt's unconstrained estimate exists."""
    cure = "bound the reward with Tabular(r_max=...) or regularize it with Tabular(ridge=...)"
    if group.wins.size == 0:
        raise MLEDoesNotExistError(
            f"prompt {group.prompt} compares no two different responses, "
            f"so its reward is not identified; {cure}",
            group.prompt,
            (),
        )
    labels = strong_components(group.wins)
    if labels.max() == 0:
        return
    members, beats, loses = separated(group.wins, labels)
    relation = "never lose to" if beats else "never beat" if loses else "are never compared with"
    responses = tuple(int(i) for i in group.responses[members])
    raise MLEDoesNotExistError(
        f"the maximum likelihood reward of prompt {group.prompt} does not exist: "
        f"responses {listed(responses)} {relation} its other compared responses; {cure}",
        group.prompt,
        responses,
    )


def _components(wins: FloatArray, connection: Literal["strong", "weak"]) -> IntArray:
    labels = connected_components(csr_array(wins), directed=True, connection=connection)[1]
    return np.asarray(labels, dtype=np.int64)


def listed(responses: tuple[int, ...]) -> str:
    """Return the responses for a message, at most ten of them by name."""
    named = ", ".join(str(y) for y in responses[:_NAMED_AT_MOST])
    rest = len(responses) - _NAMED_AT_MOST
    return f"[{named} and {rest} more]" if rest > 0 else f"[{named}]"


def separated(wins: FloatArray, labels: IntArray) -> tuple[BoolArray, bool, bool]:
    """Return the smallest component that does not both beat and lose to others.

    Among equally small ones, one that never loses comes first.

    Parameters
    ----------
    wins : (K, K) array
    labels : (K,) array of integers
        Its `strong_components`, at least two.

    Returns
    -------
    (K,) array of bool, bool, bool
        The members; whether they beat one outside; whether they lose to one.
    """
    found = []
    for label in range(int(labels.max()) + 1):
        members = labels == label
        loses = bool(wins[np.ix_(~members, members)].any())
        beats = bool(wins[np.ix_(members, ~members)].any())
        if not (loses and beats):
            found.append((int(members.sum()), loses, label, beats))
    _, loses, label, beats = min(found)
    return labels == label, beats, loses
