"""Whether the members of a divergence belong together."""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import Divergence

# Ratios at which members are compared; both sides of 1, and the steps between them are short
# enough for the quadrature to be exact to rounding.
_RATIOS = np.concatenate([np.geomspace(1e-6, 1.0, 61), np.geomspace(1.0, 1e6, 61)[1:]])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_TOLERANCE = 1e-10


def require_consistent(divergence: Divergence) -> None:
    """Raise unless `f' = link`, `f'' = link_slope > 0`, `f(1) = f'(1) = 0`, `f'(inf) = recession`.

    A certificate of `solve` shows an `inverse_link` that does not invert `link`; that `link` is
    the derivative of the generator it takes on trust.  This checks it, once, for a class of your
    own: differences of f and f' between ratios from 1e-6 to 1e6 against the integrals of `link`
    and `link_slope`.

    Raises
    ------
    ValueError
        Naming the member, the ratio and the two values.

    Source: derived (fundamental theorem of calculus).
    """
    for name, value in (("generator", divergence.generator(1.0)), ("link", divergence.link(1.0))):
        if not abs(float(value)) <= _TOLERANCE:
            raise ValueError(f"{name}(1) of {divergence!r} is {float(value)!r}; it must be 0")
    f = np.asarray(divergence.generator(_RATIOS), dtype=np.float64)
    link = np.asarray(divergence.link(_RATIOS), dtype=np.float64)
    half = 0.5 * np.diff(_RATIOS)[:, None]
    inner = _RATIOS[:-1, None] + half * (1.0 + _NODES)
    slopes = np.asarray(divergence.link_slope(inner), dtype=np.float64)
    if not np.all(slopes > 0):
        t = float(inner[~(slopes > 0)][0])
        raise ValueError(f"link_slope({t:.6g}) of {divergence!r} must be positive")
    weights = half * _WEIGHTS
    _compare(divergence, "link", "generator", f, (weights * divergence.link(inner)).sum(axis=-1))
    _compare(divergence, "link_slope", "link", link, (weights * slopes).sum(axis=-1))
    _check_recession(divergence, link)


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


def _check_recession(divergence: Divergence, link: FloatArray) -> None:
    """Raise if f' passes `recession`, or stops short of a finite one."""
    with np.errstate(all="ignore"):
        far = np.asarray(divergence.link(np.array([1e200, 1e300])), dtype=np.float64)
        before, last = divergence.recession - far
    stops = np.isfinite(before) and last > 1e-12 * divergence.recession and last >= before
    if stops or not np.all(link <= divergence.recession):
        raise ValueError(
            f"recession of {divergence!r} is {divergence.recession!r}; it must be the limit of "
            f"link, which is {float(far[-1])!r} at the ratio 1e300"
        )
