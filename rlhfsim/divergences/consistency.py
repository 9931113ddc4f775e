"""Whether the members of a divergence belong together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import Divergence

# Ratios at which members are compared; both sides of 1, and the steps between them are short
# enough for the quadrature to be exact to rounding.
_RATIOS = np.concatenate([np.geomspace(1e-6, 1.0, 61), np.geomspace(1.0, 1e6, 61)[1:]])
# Ratios of rare responses, at which a tail of its own must keep its digits.
_FAR = np.geomspace(1e6, 1e100, 941)
# Ratios, each the square of the one before, at which limits are looked at: the first row at which
# the member is a number, as formulas with powers of the ratio overflow.
_TOWARDS_LIMIT = tuple(t ** np.array([0.25, 0.5, 1.0]) for t in (1e300, 1e100, 1e32, 1e12))
# References whose product with a ratio is exact.
_REFERENCES = (2.0**-2, 2.0**-20)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_TOLERANCE = 1e-10
_EPS = float(np.finfo(np.float64).eps)
# Below this, numbers may have lost digits to underflow.
_LEAST = 1e-290
# A ratio that rounding of the score moves by more than this share tells nothing.
_COARSE = 1e-3
# What goes to infinity, if only as log log log t, gains at least this share of its last gain when
# the ratio is squared; 1 - 1/sqrt(log t) gains less.
_GROWTH = 0.75

_Function = Callable[[FloatArray], FloatArray]


def require_consistent(divergence: Divergence) -> None:
    """Raise unless the members of a divergence are those of one f.

    Checked, once, for a class of your own, at ratios from 1e-6 to 1e6 and beyond:

    - `f(1) = f'(1) = 0`, `f' = link` and `f'' = link_slope > 0`: differences of f and f' against
      the integrals of `link` and `link_slope`;
    - `recession` is a number above 0, and the limit of `link`; `f(0)` is that of f;
    - `perspective(p t, p) = p f(t)`;
    - `tail = recession - link`, and a `tail` of your own also for ratios up to 1e100, by the
      integral of `link_slope`;
    - `inverse_link` inverts `link`, ends included, and `inverse_tail` inverts `tail`.

    A limit is judged by ratios up to 1e300; one that is approached more slowly is taken on trust.

    Raises
    ------
    ValueError
        Naming the member, the ratio and the two values.

    Source: derived (fundamental theorem of calculus).
    """
    with np.errstate(all="ignore"):
        _check_derivatives(divergence)
        _check_recession(divergence)
        _check_ends(divergence)
        _check_perspective(divergence)
        _check_inverse_link(divergence)
        if np.isfinite(divergence.recession):
            _check_tail(divergence)


def _values(function: _Function, ratios: FloatArray) -> FloatArray:
    return np.broadcast_to(np.asarray(function(ratios), dtype=np.float64), ratios.shape)


# ---- derivatives ---------------------------------------------------------------------------------


def _check_derivatives(divergence: Divergence) -> None:
    one = np.asarray(1.0)
    for name, value in (("generator", divergence.generator(one)), ("link", divergence.link(one))):
        if not abs(float(value)) <= _TOLERANCE:
            raise ValueError(f"{name}(1) of {divergence!r} is {float(value)!r}; it must be 0")
    f = _values(divergence.generator, _RATIOS)
    link = _values(divergence.link, _RATIOS)
    inner, weights = _quadrature(_RATIOS)
    slopes = _values(divergence.link_slope, inner)
    if not np.all(slopes > 0):
        t = float(inner[~(slopes > 0)][0])
        raise ValueError(f"link_slope({t:.6g}) of {divergence!r} must be positive")
    _compare(divergence, "link", "generator", f, (weights * divergence.link(inner)).sum(axis=-1))
    _compare(divergence, "link_slope", "link", link, (weights * slopes).sum(axis=-1))


def _quadrature(ratios: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the nodes and weights of each step."""
    half = 0.5 * np.diff(ratios)[:, None]
    return ratios[:-1, None] + half * (1.0 + _NODES), half * _WEIGHTS


def _compare(
    divergence: Divergence, name: str, other: str, values: FloatArray, integrals: FloatArray
) -> None:
    changes = np.diff(values)
    rounding = 1e-14 * (np.abs(values[:-1]) + np.abs(values[1:]))
    wrong = ~(np.abs(changes - integrals) <= _TOLERANCE * np.abs(changes) + rounding)
    if wrong.any():
        k = int(wrong.argmax())
        raise ValueError(
            f"{name} of {divergence!r} is not the derivative of {other}: between the ratios "
            f"{_RATIOS[k]:.6g} and {_RATIOS[k + 1]:.6g} its integral is {integrals[k]:.6g}, and "
            f"{other} changes by {changes[k]:.6g}"
        )


# ---- limits --------------------------------------------------------------------------------------


def _check_recession(divergence: Divergence) -> None:
    """Raise if f' passes `recession`, or stops short of it."""
    recession = np.asarray(divergence.recession)
    if recession.ndim or recession.dtype.kind not in "iuf" or not recession > 0:
        raise ValueError(
            f"recession of {divergence!r} is {divergence.recession!r:.80}; it must be a number "
            "above 0, or inf"
        )
    limit = float(recession)
    link = _values(divergence.link, _RATIOS)
    ratio, values = _towards_limit(divergence.link)
    if _stops_short(limit, values) or not np.all(link <= limit):
        raise ValueError(
            f"recession of {divergence!r} is {divergence.recession!r}; it must be the limit of "
            f"link, which is {float(values[-1])!r} at the ratio {ratio:.6g}"
        )


def _check_ends(divergence: Divergence) -> None:
    """Raise if f(0) is not the limit of f, which every response without policy mass costs."""
    end = float(divergence.generator(np.asarray(0.0)))
    ratio, values = _towards_limit(lambda t: divergence.generator(1.0 / t))
    # f falls on (0, 1).
    if not end >= values[-1] * (1.0 - 1e-12) or _stops_short(end, values):
        raise ValueError(
            f"generator(0) of {divergence!r} is {end!r}; it must be the limit of generator, which "
            f"is {float(values[-1])!r} at the ratio {1.0 / ratio:.6g}"
        )


def _towards_limit(function: _Function) -> tuple[float, FloatArray]:
    """Return the largest ratio, and the values at it, its square root and its fourth root."""
    *larger, least = _TOWARDS_LIMIT
    for ratios in larger:
        values = _values(function, ratios)
        if not np.isnan(values).any():
            return float(ratios[-1]), values
    return float(least[-1]), _values(function, least)


def _stops_short(limit: float, values: FloatArray) -> bool:
    """Return whether growing values have another limit than this one, as far as can be seen."""
    if np.isinf(limit):
        if np.isposinf(values[-1]):
            return False
        first, last = np.diff(values)
        return not (last > 8.0 * _EPS * abs(values[-1]) and last >= _GROWTH * first)
    before, left = limit - values[-2:]
    return not (left <= 1e-12 * limit or left < before)


# ---- the other members ---------------------------------------------------------------------------


def _check_perspective(divergence: Divergence) -> None:
    f, link = _values(divergence.generator, _RATIOS), _values(divergence.link, _RATIOS)
    # What rounding makes of terms such as t log t - t + 1.
    rounding = 1e-14 * (1.0 + _RATIOS * (1.0 + np.abs(link)))
    for p in _REFERENCES:
        value = np.asarray(divergence.perspective(p * _RATIOS, np.full(_RATIOS.shape, p)))
        wrong = ~(np.abs(value / p - f) <= _TOLERANCE * np.abs(f) + rounding)
        if wrong.any():
            k = int(wrong.argmax())
            raise ValueError(
                f"perspective({p * _RATIOS[k]:.6g}, {p:.6g}) of {divergence!r} is "
                f"{float(value[k]):.6g}; it must be p f(pi/p), which is {p * float(f[k]):.6g}"
            )


def _check_inverse_link(divergence: Divergence) -> None:
    link = _values(divergence.link, _RATIOS)
    top = float(divergence.recession)
    # Classes may compute the score from their distance to a finite recession.
    size = np.abs(link) + (top if np.isfinite(top) else 0.0)
    _compare_inverse(divergence, "inverse_link", "link", _RATIOS, link, size)
    bottom = float(divergence.link(np.asarray(0.0)))
    for score, ends in ((bottom - 1.0, 0.0), (2.0 * top, np.inf)):
        found = float(divergence.inverse_link(np.asarray(score))) if np.isfinite(score) else ends
        if found != ends:
            where = "below link(0)" if ends == 0 else "above the recession"
            raise ValueError(
                f"inverse_link({score:.6g}) of {divergence!r} is {found!r}; {where} it must be "
                f"{ends:g}"
            )


def _check_tail(divergence: Divergence) -> None:
    top = float(divergence.recession)
    link, tail = _values(divergence.link, _RATIOS), _values(divergence.tail, _RATIOS)
    size = top + np.abs(link)
    wrong = ~(np.abs(tail - (top - link)) <= _TOLERANCE * np.abs(tail) + 1e-14 * size)
    if wrong.any():
        k = int(wrong.argmax())
        raise ValueError(
            f"tail({_RATIOS[k]:.6g}) of {divergence!r} is {tail[k]:.6g}; it must be recession - "
            f"link, which is {top - link[k]:.6g}"
        )
    if not _keeps_digits(divergence):
        _compare_inverse(divergence, "inverse_tail", "tail", _RATIOS, tail, size)
        return
    _compare_inverse(divergence, "inverse_tail", "tail", _RATIOS, tail, tail)
    far = _values(divergence.tail, _FAR)
    inner, weights = _quadrature(_FAR)
    slopes = _values(divergence.link_slope, inner)
    falls, integrals = -np.diff(far), (weights * slopes).sum(axis=-1)
    usable = (slopes > _LEAST).all(axis=-1) & np.isfinite(slopes).all(axis=-1)
    wrong = ~(np.abs(falls - integrals) <= _TOLERANCE * np.abs(falls) + 1e-13 * far[:-1])
    wrong &= usable
    if wrong.any():
        k = int(wrong.argmax())
        raise ValueError(
            f"tail of {divergence!r} does not fall as link rises: between the ratios "
            f"{_FAR[k]:.6g} and {_FAR[k + 1]:.6g} it falls by {falls[k]:.6g}, and the integral of "
            f"link_slope is {integrals[k]:.6g}"
        )
    # The far ratios at which the steps on both sides were compared.
    known = np.flatnonzero(usable)[::20]
    _compare_inverse(divergence, "inverse_tail", "tail", _FAR[known], far[known], far[known])


def _keeps_digits(divergence: Divergence) -> bool:
    """Return whether `tail` is written out, and not the difference that loses digits."""
    own = all(type(base).tail is not Divergence.tail for _, base in divergence.terms())
    difference = divergence.recession - _values(divergence.link, _FAR)
    return own and not np.array_equal(_values(divergence.tail, _FAR), difference)


def _compare_inverse(
    divergence: Divergence,
    name: str,
    other: str,
    ratios: FloatArray,
    values: FloatArray,
    size: FloatArray,
) -> None:
    """Raise unless the inverse returns the ratios, as far as values rounded to `size` tell them."""
    slopes = _values(divergence.link_slope, ratios)
    allowed = _TOLERANCE + 64.0 * _EPS * size / (ratios * slopes)
    told = allowed < _COARSE
    found = _values(getattr(divergence, name), values)
    wrong = told & ~(np.abs(found - ratios) <= allowed * ratios)
    if wrong.any():
        k = int(wrong.argmax())
        raise ValueError(
            f"{name} of {divergence!r} does not invert {other}: {other}({ratios[k]:.9g}) is "
            f"{values[k]:.9g}, and {name}({values[k]:.9g}) is {found[k]:.9g}"
        )
