"""Arrays of `Number`s that numpy computes with: every ufunc below has a version for balls.

A ufunc without one raises `TypeError`, and so does every conversion to floats: a result is an
enclosure or an error.  Comparisons return boolean arrays, or raise `UndecidedError`.  Whole numbers
and booleans stay what they are, since they are indices and masks, until they are divided.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import scipy.special as sc
from flint import fmpq

from rlhfsim.certify.numbers import Number

_Operation = Callable[..., Any]


def _rel_entr(x: Number, y: Number) -> Number:
    return x if x.exact and x.value == 0 else x * (x / y).log()


#: Ufuncs whose result is a number.
NUMBERS: dict[Any, _Operation] = {
    np.add: lambda a, b: a + b,
    np.subtract: lambda a, b: a - b,
    np.multiply: lambda a, b: a * b,
    np.divide: lambda a, b: a / b,
    np.power: lambda a, b: a**b,
    np.float_power: lambda a, b: a**b,
    np.maximum: Number.maximum,
    np.minimum: Number.minimum,
    np.clip: lambda a, low, high: a.maximum(low).minimum(high),
    np.negative: lambda a: -a,
    np.conjugate: Number.conjugate,
    np.positive: lambda a: a,
    np.absolute: abs,
    np.fabs: abs,
    np.log: Number.log,
    np.log2: Number.log2,
    np.log10: Number.log10,
    np.log1p: Number.log1p,
    np.exp: Number.exp,
    np.exp2: lambda a: 2**a,
    np.expm1: Number.expm1,
    np.sqrt: Number.sqrt,
    np.square: Number.square,
    np.reciprocal: Number.reciprocal,
    np.sign: Number.sign,
    np.floor: Number.floor,
    np.ceil: Number.ceil,
    np.remainder: lambda a, b: a - (a / b).floor() * b,
    np.floor_divide: lambda a, b: (a / b).floor(),
    np.sinh: lambda a: (a.exp() - (-a).exp()) / 2,
    np.cosh: lambda a: (a.exp() + (-a).exp()) / 2,
    np.tanh: Number.tanh,
    np.sin: Number.sin,
    np.cos: Number.cos,
    np.hypot: lambda a, b: (a * a + b * b).sqrt(),
    np.logaddexp: lambda a, b: (a.exp() + b.exp()).log(),
    sc.expit: Number.expit,
    sc.log_expit: Number.log_expit,
    sc.xlogy: Number.xlogy,
    sc.xlog1py: lambda x, y: x.xlogy(1 + y),
    sc.entr: lambda x: -x.xlogy(x),
    sc.rel_entr: _rel_entr,
    sc.kl_div: lambda x, y: _rel_entr(x, y) - x + y,
}

#: Ufuncs whose result is true or false.
DECISIONS: dict[Any, _Operation] = {
    np.less: lambda a, b: a < b,
    np.less_equal: lambda a, b: a <= b,
    np.greater: lambda a, b: a > b,
    np.greater_equal: lambda a, b: a >= b,
    np.equal: lambda a, b: a == b,
    np.not_equal: lambda a, b: a != b,
    np.isnan: Number.isnan,
    np.isinf: Number.isinf,
    np.isfinite: Number.isfinite,
    np.signbit: lambda a: a < 0,
    np.logical_not: lambda a: not a,
}

#: What a reduction over nothing is.
_NEUTRAL: Mapping[Any, int] = {np.add: 0, np.multiply: 1}

_KNOWN = NUMBERS | DECISIONS

#: What leaves whole numbers and booleans what they are.
_WHOLE: set[Any] = {
    *DECISIONS, np.add, np.subtract, np.negative, np.absolute, np.maximum, np.minimum,
    np.remainder, np.floor_divide, np.logical_and, np.logical_or, np.invert,
    np.bitwise_and, np.bitwise_or, np.bitwise_xor,
}  # fmt: skip


class WholeArray(np.ndarray[Any, np.dtype[Any]]):
    """An array of whole numbers or booleans that becomes one of `Number`s where it must."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **settings: Any) -> Any:
        """Compute with whole numbers where that is exact, and with `Number`s elsewhere."""
        inside = ufunc in _WHOLE and all(np.asarray(a).dtype.kind in "bi" for a in inputs)
        if inside and "out" not in settings:
            parts = [a.view(np.ndarray) if isinstance(a, WholeArray) else a for a in inputs]
            return whole(getattr(ufunc, method)(*parts, **settings))
        lifted = [balls(a) if isinstance(a, WholeArray) else a for a in inputs]
        return getattr(ufunc, method)(*lifted, **settings)


def whole(values: Any) -> Any:
    """Return an array of whole numbers or booleans as one that is never rounded."""
    return np.asarray(values).view(WholeArray)


class BallArray(np.ndarray[Any, np.dtype[np.object_]]):
    """An array of `Number`s."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **settings: Any) -> Any:
        """Compute with numbers, or raise `TypeError`."""
        out = settings.pop("out", (None,))[0]
        if ufunc is np.matmul and method == "__call__":
            result: Any = np.matmul(*(plain(a) for a in inputs))
        elif ufunc not in _KNOWN:
            raise TypeError(f"{ufunc.__name__} has no version in ball arithmetic")
        elif method == "__call__":
            result = _call(ufunc, [plain(a) for a in inputs], out, settings.get("where", True))
        elif method == "reduce":
            result = _reduced(ufunc, plain(inputs[0]), *inputs[1:], **settings)
        elif method == "reduceat" and ufunc is np.add:
            result = np.add.reduceat(plain(inputs[0]), inputs[1], settings.get("axis", 0))
        elif method == "accumulate" and ufunc is np.add:
            result = np.add.accumulate(plain(inputs[0]), axis=settings.get("axis", 0))
        else:
            raise TypeError(f"{ufunc.__name__}.{method} has no version in ball arithmetic")
        if ufunc in DECISIONS:
            result = whole(np.asarray(result, dtype=np.bool_))
        if out is not None:
            out[...] = result
            return out
        return result if ufunc in DECISIONS else balls(result)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Let numpy do what only moves numbers, and keep what it returns an array of numbers."""
        return _kept(super().__array_function__(function, types, args, kwargs))

    def argmax(self, *arguments: Any, **settings: Any) -> Any:
        """Return the index of the first largest number."""
        return whole(self.view(np.ndarray).argmax(*arguments, **settings))

    def argmin(self, *arguments: Any, **settings: Any) -> Any:
        """Return the index of the first smallest number."""
        return whole(self.view(np.ndarray).argmin(*arguments, **settings))

    def argsort(self, *arguments: Any, **settings: Any) -> Any:
        """Return the indices that sort."""
        return whole(self.view(np.ndarray).argsort(*arguments, **settings))


def balls(values: Any) -> BallArray:
    """Return an array of numbers: floats count as the fractions that they are."""
    return plain(values).view(BallArray)


def has_balls(value: Any) -> bool:
    """Return whether there is a `Number` in an array, a number, or a nested list."""
    if isinstance(value, list | tuple):
        return any(map(has_balls, value))
    return isinstance(value, Number | BallArray) or (
        isinstance(value, np.ndarray) and value.dtype == object and value.size > 0
        and isinstance(value.flat[0], Number)
    )  # fmt: skip


def _of(value: Any) -> Number:
    # In a list, an array without axes is the number it holds.
    return Number.of(value.item() if isinstance(value, np.ndarray) and not value.ndim else value)


_number = np.frompyfunc(_of, 1, 1)
# `empty_like` leaves holes.
_filled = np.frompyfunc(lambda value: 0 if value is None else value, 1, 1)


def plain(values: Any) -> Any:
    """Return a plain array of objects, all of them numbers."""
    array = np.empty((), dtype=object) if isinstance(values, Number) else np.asarray(values)
    if isinstance(values, Number):
        array[()] = values
    return np.asarray(_number(array.astype(object, copy=False)), dtype=object)


def _kept(result: Any) -> Any:
    if isinstance(result, tuple | list):
        return type(result)(_kept(part) for part in result)
    if isinstance(result, np.ndarray) and result.dtype == object:
        return balls(_filled(result.view(np.ndarray)))
    if isinstance(result, np.ndarray) and result.dtype.kind in "bi":
        return whole(result)
    return result


def _call(ufunc: np.ufunc, arrays: list[Any], out: Any, where: Any) -> Any:
    operation = np.frompyfunc(_KNOWN[ufunc], ufunc.nin, 1)
    if where is True:
        return operation(*arrays)
    shape = np.broadcast_shapes(*(a.shape for a in arrays), np.shape(where))
    result = np.full(shape, Number(fmpq(0)), dtype=object)
    if out is not None:
        result[...] = plain(out)
    chosen = np.broadcast_to(where, shape)
    result[chosen] = operation(*(np.broadcast_to(a, shape)[chosen] for a in arrays))
    return result


def _reduced(
    ufunc: np.ufunc, array: Any, axis: Any = 0, dtype: Any = None, keepdims: Any = False,
    initial: Any = None, where: Any = True,
) -> Any:  # fmt: skip
    every = tuple(range(array.ndim))
    axes = every if axis is None else tuple(k % array.ndim for k in np.atleast_1d(axis).tolist())
    kept = tuple(k for k in every if k not in axes)
    counted = np.broadcast_to(where, array.shape).transpose(kept + axes)
    moved = array.transpose(kept + axes)
    result = np.empty(moved.shape[: len(kept)], dtype=object)
    for index in itertools.product(*map(range, result.shape)):
        terms = moved[index][counted[index]].ravel().tolist()
        if initial is not None and initial is not np._NoValue:
            terms = [Number.of(initial), *terms]
        elif not terms and ufunc in _NEUTRAL:
            terms = [Number.of(_NEUTRAL[ufunc])]
        result[index] = reduce(_KNOWN[ufunc], terms)
    if keepdims is True:
        result = result.reshape([1 if k in axes else n for k, n in enumerate(array.shape)])
    return result
