"""A claim's own code run over `Number`s: the same functions, with other globals.

A function is copied with numpy, the package's checks of input and what `_twins` lists replaced;
functions that it calls are copied in turn, where they are of the package or of the claim's own
module.  Nothing global is changed.  What is computed is what the code says, for real numbers: numpy
and scipy calls are enclosed, while a constant of plain Python arithmetic, such as `1/3`, counts as
the float that it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from flint import fmpq

from rlhfsim import checks
from rlhfsim.certify import ball_divergences, ball_laws, ball_optima
from rlhfsim.certify.arrays import BallArray, WholeArray, balls, has_balls, whole
from rlhfsim.certify.ball_divergences import BallDivergence
from rlhfsim.certify.numbers import Number
from rlhfsim.divergences import Divergence

#: Checks that return the array they are given.
_CHECKS = ("as_real", "as_matrix", "as_distributions", "as_positive", "as_non_negative",
           "as_at_least", "positive_number")  # fmt: skip

#: Functions that have a twin: of `rlhfsim.inference`, `rlhfsim.preferences` and `scipy.special`.
_LAWS = ("best_of_n", "worst_of_n", "calibrated_reward")
_WINNERS = ("condorcet_winner", "copeland_scores", "copeland_winners", "borda_scores",
            "borda_winners")  # fmt: skip
_SPECIAL = ("logsumexp", "log_softmax", "softmax")

_PLAIN = (int, float, str, bytes, bool, type(None), np.ndarray, np.generic, type, Number)


def over_balls(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as one that takes and returns arrays of `Number`s."""
    inner: Any = function
    while isinstance(inner, functools.partial | MethodType):
        inner = inner.func if isinstance(inner, functools.partial) else inner.__func__
    module = getattr(inner, "__module__", None) or "rlhfsim"
    copied: Callable[..., Any] = _Copier({"rlhfsim", module.partition(".")[0]}).of(function)
    return copied


class _Copier:
    """Copies functions and what they refer to; each once, so that recursion ends."""

    def __init__(self, packages: set[str]) -> None:
        self._packages = packages
        self._functions: dict[int, FunctionType] = {}
        self._twins = _twins()

    def of(self, value: Any) -> Any:
        """Return what stands for a value over balls."""
        original, twin = self._twins.get(id(value), (None, None))
        if original is value and twin is not None:
            return twin
        if isinstance(value, FunctionType):
            return self._function(value) if self._is_ours(value.__module__) else value
        if isinstance(value, MethodType):
            return MethodType(self.of(value.__func__), self.of(value.__self__))
        if isinstance(value, functools.partial):
            settings = {key: self.of(part) for key, part in value.keywords.items()}
            return functools.partial(self.of(value.func), *map(self.of, value.args), **settings)
        if isinstance(value, Divergence):
            return BallDivergence(*value.terms())
        if type(value) in (tuple, list):
            return type(value)(map(self.of, value))
        if type(value) is dict:
            return {key: self.of(part) for key, part in value.items()}
        if isinstance(value, ModuleType):
            return _Module(value, self) if self._is_ours(value.__name__) else value
        if not isinstance(value, _PLAIN) and self._is_ours(type(value).__module__):
            return _Object(value, self)
        return value

    def _is_ours(self, module: str | None) -> bool:
        return (module or "").partition(".")[0] in self._packages

    def _function(self, function: FunctionType) -> FunctionType:
        if id(function) not in self._functions:
            names: dict[str, Any] = {"__builtins__": function.__globals__["__builtins__"]}
            cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
            copy = FunctionType(function.__code__, names, function.__name__, None, cells)
            self._functions[id(function)] = copy
            copy.__defaults__ = function.__defaults__ and tuple(map(self.of, function.__defaults__))
            copy.__kwdefaults__ = function.__kwdefaults__
            for name in set(_names(function.__code__)):
                if name in function.__globals__:
                    names[name] = self.of(function.__globals__[name])
                elif name in _BUILTINS:
                    names[name] = _BUILTINS[name]
        return self._functions[id(function)]

    def _cell(self, cell: CellType) -> CellType:
        return CellType(self.of(cell.cell_contents))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _float(value: Any) -> Any:
    return value if isinstance(value, Number) else float(value)


def _int(value: Any) -> int:
    if not isinstance(value, Number):
        return int(value)
    if isinstance(value.value, fmpq) and value.value.q == 1:
        return int(value.value.p)
    raise TypeError(f"{value} is no whole number")


#: Numbers are told from floats by no one but these.
_BUILTINS: dict[str, Callable[[Any], Any]] = {"float": _float, "int": _int}


class _Module:
    """A module of ours whose functions run over balls."""

    def __init__(self, module: ModuleType, copier: _Copier) -> None:
        self._module, self._copier = module, copier

    def __getattr__(self, name: str) -> Any:
        return self._copier.of(getattr(self._module, name))


class _Object:
    """An object of ours whose methods run over balls."""

    def __init__(self, value: Any, copier: _Copier) -> None:
        self._value, self._copier = value, copier

    def __getattr__(self, name: str) -> Any:
        if name in getattr(self._value, "__dict__", {}):
            return self._copier.of(self._value.__dict__[name])
        member = getattr(type(self._value), name, None)
        if isinstance(member, FunctionType):
            return MethodType(self._copier.of(member), self)
        if isinstance(member, functools.cached_property):
            return self._copier.of(member.func)(self)
        if isinstance(member, property) and member.fget is not None:
            return self._copier.of(member.fget)(self)
        return self._copier.of(getattr(self._value, name))

    def __len__(self) -> int:
        return len(self._value)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return MethodType(self._copier.of(type(self._value).__call__), self)(*arguments, **settings)


# ---- numpy ---------------------------------------------------------------------------------------


def _lifted(value: Any) -> Any:
    """Return arrays of floats, and of objects, as arrays of numbers."""
    if isinstance(value, BallArray | WholeArray) or not isinstance(value, np.ndarray | Number):
        return value
    if isinstance(value, Number) or value.dtype.kind in "fO":
        return balls(value)
    return whole(value) if value.dtype.kind in "bi" else value


class _Function:
    """A function of numpy on arrays of numbers; a ufunc takes floats as numbers too."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __len__(self) -> int:
        return len(self._value)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        if isinstance(self._function, np.ufunc):
            arguments = tuple(balls(a) if isinstance(a, float) else a for a in arguments)
        lifted = (_lifted(argument) for argument in arguments)
        found = self._function(*lifted, **{key: _lifted(v) for key, v in settings.items()})
        if isinstance(found, tuple | list):
            return type(found)(map(_lifted, found))
        return _lifted(found)

    def __getattr__(self, name: str) -> Any:
        return _Function(getattr(self._function, name))


class _Numpy:
    """numpy, of which every array of floats is one of numbers."""

    def __getattr__(self, name: str) -> Any:
        member = getattr(np, name)
        if isinstance(member, type | ModuleType) or not callable(member):
            return member
        return _Function(member)

    def asarray(self, value: Any, dtype: Any = None, **settings: Any) -> Any:
        """Return numbers as they are, whatever type of float is asked for."""
        if has_balls(value):
            return balls(value)
        return _lifted(np.asarray(value, dtype=dtype))

    asanyarray = ascontiguousarray = asarray

    def array(self, value: Any, dtype: Any = None, **settings: Any) -> Any:
        """Return a copy."""
        return balls(value).copy() if has_balls(value) else _lifted(np.array(value, dtype=dtype))

    def bincount(self, x: Any, weights: Any = None, minlength: int = 0) -> Any:
        """Return the sum of the weights in each bin."""
        bins = [_int(k) for k in np.asarray(x).tolist()]
        if weights is None:
            return whole(np.bincount(bins, minlength=minlength))
        sums = balls(np.zeros(max([minlength, *(1 + k for k in bins)])))
        for k, weight in zip(bins, balls(weights), strict=True):
            sums[k] = sums[k] + weight
        return sums


class _Checks:
    """The checks of input: numbers are what was checked as floats."""

    def __getattr__(self, name: str) -> Any:
        return _passing(getattr(checks, name)) if name in _CHECKS else getattr(checks, name)


class _Overlaid:
    """A module, some functions of which are replaced."""

    def __init__(self, module: ModuleType, replaced: dict[str, Any]) -> None:
        self._module, self._replaced = module, replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced[name] if name in self._replaced else getattr(self._module, name)


def _passing(check: Callable[..., Any]) -> Callable[..., Any]:
    def passed(name: str, value: Any, *rest: Any, **settings: Any) -> Any:
        return balls(value) if has_balls(value) else check(name, value, *rest, **settings)

    return passed


@functools.cache
def _twins() -> dict[int, tuple[Any, Any]]:
    """Return what replaces an object, by its id, beside the object."""
    from scipy import special

    from rlhfsim import inference, preferences
    from rlhfsim.divergences import ALL_DIVERGENCES, renyi
    from rlhfsim.losses.links import DivergenceLink
    from rlhfsim.solvers import solve

    pairs: list[tuple[Any, Any]] = [
        (np, _Numpy()), (checks, _Checks()), (solve, ball_optima.solve),
        (renyi, ball_divergences.renyi), (DivergenceLink, _Link),
        (preferences.GeneralPreference, ball_laws.BallPreference),
        (preferences.BradleyTerry, ball_laws.bradley_terry),
        (preferences.LabelNoise, ball_laws.label_noise),
    ]  # fmt: skip
    pairs += [(getattr(checks, name), _passing(getattr(checks, name))) for name in _CHECKS]
    pairs += [(cls, _maker(cls)) for cls in {type(divergence) for divergence in ALL_DIVERGENCES}]
    for module, names in ((inference, _LAWS), (preferences, _WINNERS), (special, _SPECIAL)):
        pairs += [(getattr(module, name), getattr(ball_laws, name)) for name in names]
    pairs.append((special, _Overlaid(special, {n: getattr(ball_laws, n) for n in _SPECIAL})))
    return {id(original): (original, twin) for original, twin in pairs}


def _maker(cls: type[Divergence]) -> Callable[..., BallDivergence]:
    return lambda *settings, **named: BallDivergence(*cls(*settings, **named).terms())


class _Link:
    """The link of a divergence, as a function of the log ratio."""

    def __init__(self, divergence: BallDivergence) -> None:
        self.value = divergence.link
