"""General preferences: any table of probabilities, cyclic ones included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.preferences.base import PreferenceModel

#: Largest distance from 1 of `P(y beats y' | x) + P(y' beats y | x)`.
COMPLEMENT_TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False)
class GeneralPreference(Frozen, PreferenceModel):
    """`P(y beats y' | x)` given as a table, with `P + P^T = 1` and nothing else assumed.

    Who beats whom is decided by comparing the two entries of a pair, exactly.

    Parameters
    ----------
    probabilities : (X, Y, Y) array, or (Y, Y) for one prompt
        Entries in [0, 1], `P + P^T = 1` within 1e-12, 1/2 on the diagonal; used as given, copied
        and read-only.

    Raises
    ------
    ValueError
        For another shape, or entries that break a rule.

    Source: arXiv 2312.00886.
    """

    probabilities: FloatArray

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        array = checks.as_real("probabilities", self.probabilities)
        if array.ndim not in (2, 3) or array.size == 0 or array.shape[-1] != array.shape[-2]:
            raise ValueError(
                f"probabilities has shape {array.shape}; "
                "it must be a non-empty (X, Y, Y) or (Y, Y) array"
            )
        _require_complementary(array)
        stored = array[None] if array.ndim == 2 else array
        object.__setattr__(self, "probabilities", checks.frozen(stored))

    @property
    def shape(self) -> tuple[int, int]:
        """`(X, Y)`."""
        return self.probabilities.shape[0], self.probabilities.shape[1]

    def _probability(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        return np.asarray(self.probabilities[prompt, first, second])


def cyclic_preference(size: int, strength: float = 0.5) -> GeneralPreference:
    """Return rock-paper-scissors among `size` responses: no response beats all others.

    On a circle, each response beats the `(size - 1) // 2` after it with probability
    `1/2 + strength` and loses as surely to as many before it; the opposite one, which exists when
    `size` is even, ties.  By symmetry the uniform policy is a von Neumann winner, and all responses
    share the Copeland and the Borda score.

    Parameters
    ----------
    size : int
        `Y`, at least 3; there is one prompt.
    strength : number
        In (0, 1/2].

    Raises
    ------
    ValueError
        For a size or a strength out of range.

    Source: Condorcet 1785; arXiv 2312.00886.
    """
    size = checks.whole_number("size", size, least=3)
    strength = checks.positive_number("strength", strength)
    if strength > 0.5:
        raise ValueError(f"strength is {strength!r}; it must be at most 1/2")
    ahead = (np.arange(size) - np.arange(size)[:, None]) % size
    reach = (size - 1) // 2
    beats = (ahead >= 1) & (ahead <= reach)
    return GeneralPreference(0.5 + strength * beats - strength * beats.T)


def random_preference(rng: np.random.Generator, shape: tuple[int, int]) -> GeneralPreference:
    """Return preferences with independent uniform probabilities for the pairs of each prompt.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (X, Y)
        Positive integers.

    Raises
    ------
    ValueError
        For an `rng` that is not a Generator or a `shape` that is not a pair of positive integers.
    """
    rng = checks.generator("rng", rng)
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(f"shape is {shape!r:.80}; it must be a pair (X, Y)")
    n_prompts, n_responses = (
        checks.whole_number(f"shape[{axis}]", shape[axis], least=1) for axis in range(2)
    )
    upper = np.triu_indices(n_responses, k=1)
    tensor = np.full((n_prompts, n_responses, n_responses), 0.5)
    uniforms = rng.random((n_prompts, upper[0].size))
    tensor[:, upper[0], upper[1]] = uniforms
    tensor[:, upper[1], upper[0]] = 1.0 - uniforms
    return GeneralPreference(tensor)


def _require_complementary(array: FloatArray) -> None:
    """Raise unless the last two axes hold probabilities with complements across the diagonal."""
    _refuse(array, (array < 0) | (array > 1), "probabilities must lie in [0, 1]")
    on_diagonal = np.eye(array.shape[-1], dtype=np.bool_)
    _refuse(array, on_diagonal & (array != 0.5), "a response beats itself with probability 1/2")
    swapped = np.swapaxes(array, -1, -2)
    off = np.abs(array + swapped - 1.0) > COMPLEMENT_TOLERANCE
    if off.any():
        place = _first(off)
        mirror = (*place[:-2], place[-1], place[-2])
        raise ValueError(
            f"probabilities{list(place)} is {array[place].item()!r} and "
            f"probabilities{list(mirror)} is {array[mirror].item()!r}; "
            f"they must sum to 1 within {COMPLEMENT_TOLERANCE:g}"
        )


def _refuse(array: FloatArray, bad: checks.BoolArray, rule: str) -> None:
    if bad.any():
        place = _first(bad)
        raise ValueError(f"probabilities{list(place)} is {array[place].item()!r}; {rule}")


def _first(bad: checks.BoolArray) -> tuple[int, ...]:
    return tuple(int(i[0]) for i in np.nonzero(bad))
