"""Games of preferences: the advantage `l = 2 P - 1`, and the duality gap of a policy.

Two players choose responses to the same prompt; the first is paid `l(y, y')`, the second
`-l(y, y')`.  `l` is skew-symmetric, so the value of the game is 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.preferences import PreferenceModel
from rlhfsim.preferences.base import require_model
from rlhfsim.preferences.general import COMPLEMENT_TOLERANCE

#: A preference model, or its advantages.
Game = PreferenceModel | ArrayLike


def advantage(model: PreferenceModel) -> FloatArray:
    """Return the `(X, Y, Y)` advantages `l(y, y') = 2 P(y beats y' | x) - 1` of a model.

    Exactly skew-symmetric, with entries in [-1, 1]; small ones keep the digits that `2 P - 1` of
    rounded probabilities loses.

    Raises
    ------
    ValueError
        If `model` is not a PreferenceModel.

    Source: arXiv 2312.00886; arXiv 2404.03715.
    """
    return require_model("model", model).margin_tensor()


def as_game(game: Game, name: str = "game") -> FloatArray:
    """Return the advantages `(..., Y, Y)` of a preference model, or of an array of them, checked.

    Exactly skew-symmetric: of an array that is so up to rounding, `(l - l^T)/2`.

    Raises
    ------
    ValueError
        For an array that is not finite, not `(..., Y, Y)`, or not skew-symmetric within 1e-12 of
        its largest entry (of 1, if that is smaller).  Probabilities are not advantages: a table
        with `P + P^T = 1` goes through `GeneralPreference`.
    """
    if isinstance(game, PreferenceModel):
        return advantage(game)
    array = checks.as_real(name, game)
    if array.ndim < 2 or array.size == 0 or array.shape[-1] != array.shape[-2]:
        raise ValueError(
            f"{name} has shape {array.shape}; it must be a PreferenceModel or a non-empty "
            "(..., Y, Y) array of advantages"
        )
    swapped = np.swapaxes(array, -1, -2)
    allowed = COMPLEMENT_TOLERANCE * max(1.0, float(np.abs(array).max()))
    off = np.abs(array + swapped) > allowed
    if off.any():
        place = [int(i[0]) for i in np.nonzero(off)]
        mirror = [*place[:-2], place[-1], place[-2]]
        raise ValueError(
            f"{name}{place} is {array[tuple(place)].item()!r} and {name}{mirror} is "
            f"{array[tuple(mirror)].item()!r}; advantages must sum to 0 within {allowed:g} "
            "(probabilities go through GeneralPreference)"
        )
    exact = array == -swapped
    return array if exact.all() else np.where(exact, array, 0.5 * array - 0.5 * swapped)


def expected(game: FloatArray, policy: FloatArray) -> FloatArray:
    """Return the `(..., Y)` advantages `l(y, pi) = sum_y' l(y, y') pi(y')` against a policy."""
    # Not a product of matrices, whose order of summation may depend on the batch.
    return np.asarray((game * policy[..., None, :]).sum(axis=-1))


def duality_gap(policy: ArrayLike, game: Game, *, available: ArrayLike | None = None) -> FloatArray:
    """Return `max_y l(y, pi) - min_y l(pi, y)`, what both players could gain by leaving `pi`.

    0 exactly for minimax winners and at most 2.  `l` is skew-symmetric, so both sides are the same
    up to rounding; both are computed.

    Parameters
    ----------
    policy : (..., X, Y) array of distributions, or (Y,) for one prompt
    game : PreferenceModel, or (..., X, Y, Y) array of advantages
        Any finite skew-symmetric numbers.
    available : (..., X, Y) array of bool, optional
        The responses that players may deviate to, all by default.

    Returns
    -------
    (..., X) array
        In units of `l`, per prompt.  Rounding can make it negative by some ulps.

    Raises
    ------
    ValueError
        As `as_game`; for rows that are no distributions, other shapes, and a prompt without
        available responses.

    Source: arXiv 2404.03715; arXiv 2407.13399.
    """
    pay = as_game(game)
    pi = checks.as_distributions("policy", policy)
    if pi.shape[-1] != pay.shape[-1]:
        raise ValueError(
            f"policy has shape {pi.shape} and game {pay.shape}; they must hold the same responses"
        )
    checks.broadcast(policy=pi[..., 0], game=pay[..., 0, 0])
    mask = None if available is None else as_available(available, expected(pay, pi).shape)
    return deviation_gap(pi, pay, mask)


def deviation_gap(
    policy: FloatArray, game: FloatArray, available: BoolArray | None = None
) -> FloatArray:
    """Return `duality_gap` of arguments that were checked."""
    first = (game * policy[..., None, :]).sum(axis=-1)
    second = (np.swapaxes(game, -1, -2) * policy[..., None, :]).sum(axis=-1)
    if available is not None:
        first, second = np.where(available, first, -np.inf), np.where(available, second, np.inf)
    return np.asarray(first.max(axis=-1) - second.min(axis=-1))


def as_available(available: ArrayLike, shape: tuple[int, ...]) -> BoolArray:
    """Return a mask of responses, of the given shape, with at least one for each prompt."""
    mask = np.asarray(available)
    if mask.dtype != np.bool_:
        raise ValueError(f"available has dtype {mask.dtype}; it must be boolean")
    try:
        mask = np.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"available has shape {mask.shape}; it must broadcast to {shape}"
        ) from None
    empty = ~mask.any(axis=-1)
    if empty.any():
        place = [int(i[0]) for i in np.nonzero(np.atleast_1d(empty))]
        raise ValueError(f"available{place} has no response; each prompt needs at least one")
    return mask
