"""Running a user's loss on golden cases, with torch or numpy, as the function takes them."""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.doctor.outcome import Outcome
from rlhfsim.golden import COLUMNS, Case, Method

#: Step of the differences that stand for derivatives where there is no autograd.
STEP = 2.0**-9

#: Batches whose log ratios are beyond what training meets.
EXTREME = ("large", "wide", "long")
#: Batches on which arithmetic that fails counts as nan: `math.exp` overflows where numpy and torch
#: return inf, and dividing by n - 1 fails for a single row.
_FAILING = (*EXTREME, "one row")

Loss = Callable[..., Any]


class _UnusableError(Exception):
    """The function cannot be run on this kind of array; the text says why."""


@dataclass(frozen=True)
class Answer:
    """What a function returned for a case."""

    outcome: Outcome
    #: Bytes of a number: 8, or 4 for single precision.
    precision: int
    #: Whether it returned one loss per comparison instead of their mean.
    per_row: bool


@dataclass(frozen=True)
class Arguments:
    """Which of a method's settings and further columns the function takes, by keyword."""

    settings: tuple[str, ...]
    columns: tuple[str, ...]

    def takes(self, case: Case, method: Method) -> bool:
        """Return whether the case can be run: its other settings are the default ones."""
        return all(
            name in self.settings or value == method.settings[name]
            for name, value in case.settings.items()
        )


def arguments(function: Loss, method: Method) -> Arguments:
    """Return which keywords a function takes.

    Raises
    ------
    ValueError
        If it cannot be called with the four columns and beta, has further arguments without a
        default, or takes none for columns that the method reads.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Builtins and some extension types have none.
        return Arguments((), method.columns)
    parameters = signature.parameters.values()
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    keywords = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    settings = tuple(name for name in method.settings if anything or name in keywords)
    columns = tuple(name for name in method.columns if anything or name in keywords)
    missing = [name for name in method.columns if name not in columns]
    if missing:
        raise ValueError(
            f"function takes no {' and no '.join(missing)}; {method.name} reads them as keywords"
        )
    try:
        signature.bind(*COLUMNS, "beta", **dict.fromkeys((*settings, *columns)))
    except TypeError as error:
        raise ValueError(
            f"function has the signature {signature}; it must take "
            f"({', '.join(COLUMNS)}, beta) and return the mean loss ({error})"
        ) from None
    return Arguments(settings, columns)


def choose_backend(function: Loss, given: Arguments, case: Case) -> str:
    """Return "torch" or "numpy", whichever the function takes.

    torch comes first where it has been imported, as it is by any module that uses it.  A function
    that makes no tensor of tensors is run on arrays if it uses no torch there: it need not have a
    gradient of autograd.

    Raises
    ------
    ValueError
        If it takes neither.
    """
    order = ("torch", "numpy") if "torch" in sys.modules else ("numpy", "torch")
    reasons = []
    for backend in order:
        try:
            if backend == "torch":
                result, _ = _torch_call(function, given, case, 8)
                if not hasattr(result, "detach") and _runs_without_torch(function, given, case):
                    return "numpy"
            else:
                _number(_call(function, given, case, _arrays(case, np.dtype(np.float64))), case)
        except _UnusableError as error:
            reasons.append(f"with {backend}: {error}")
        else:
            return backend
    raise ValueError(f"function cannot be run; {'; '.join(reasons)}")


def _runs_without_torch(function: Loss, given: Arguments, case: Case) -> bool:
    """Return whether the function takes arrays and calls nothing of torch for them."""
    from torch.overrides import TorchFunctionMode

    calls = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            calls.append(func)
            return func(*args, **(kwargs or {}))

    try:
        with Watch():
            _number(_call(function, given, case, _arrays(case, np.dtype(np.float64))), case)
    except _UnusableError:
        return False
    return not calls


def answer(
    function: Loss, given: Arguments, case: Case, backend: str, precision: int, differences: bool
) -> Answer:
    """Return what a function says about a case.

    Parameters
    ----------
    function : callable
    given : Arguments
    case : Case
    backend : str
        "torch": derivatives by autograd; "numpy": by differences, in double precision.
    precision : int
        8 or 4, the bytes of a number that is passed.
    differences : bool
        Whether derivatives are taken by differences where they have to be.

    Raises
    ------
    ValueError
        If the function fails, or returns something else than a mean loss or (n,) losses.
    """
    try:
        if backend == "torch":
            return _torch_answer(function, given, case, precision)
        return _numpy_answer(function, given, case, precision, differences)
    except _UnusableError as error:
        raise ValueError(
            f"function cannot be run on batch {case.batch!r} with {backend}: {error}"
        ) from error


def _call(function: Loss, given: Arguments, case: Case, arrays: Mapping[str, Any]) -> Any:
    """Return what the function returns, in peace from its warnings.

    nan where its arithmetic fails on a batch on which it may.
    """
    keywords = {name: case.settings[name] for name in given.settings}
    keywords |= {name: arrays[name] for name in given.columns}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return function(*(arrays[name] for name in COLUMNS), case.beta, **keywords)
    except Exception as error:
        if case.batch in _FAILING and _is_arithmetic(error):
            return math.nan
        raise _UnusableError(f"{type(error).__name__}: {error}") from error


def _is_arithmetic(error: Exception) -> bool:
    """Return whether a number was out of range: the module math calls `log(0)` a ValueError."""
    domain = ("math domain error", "expected a positive input")
    return isinstance(error, ArithmeticError) or (
        type(error) is ValueError and str(error).startswith(domain)
    )


def _arrays(case: Case, dtype: np.dtype[Any]) -> dict[str, Any]:
    return {name: np.array(column, dtype=dtype) for name, column in case.columns.items()}


def _number(result: Any, case: Case) -> tuple[float, int, bool]:
    """Return the mean loss, its precision, and whether it came as one loss per row."""
    if isinstance(result, tuple | list | dict):
        raise _UnusableError(
            f"it returns a {type(result).__name__}; it must return the mean loss alone, "
            "for example through lambda *a, **k: f(*a, **k)[0].mean()"
        )
    if result is None:
        raise _UnusableError("it returns None, which is no number (its return may be missing)")
    if hasattr(result, "detach"):
        result = _as_array(result)
    try:
        values = np.asarray(result)
        if values.dtype.kind in "SU" or any(
            entry is None or isinstance(entry, str | bytes)
            for entry in (values.flat if values.dtype == object else ())
        ):
            # numpy would read "0.5" as a number, and None as nan.
            raise TypeError
        floats: FloatArray = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise _UnusableError(f"it returns a {type(result).__name__}, which is no number") from None
    if floats.size != 1 and floats.shape != (case.size,):
        raise _UnusableError(
            f"it returns an array of shape {floats.shape}; the mean loss is a scalar"
        )
    precision = values.dtype.itemsize if values.dtype.kind == "f" else 8
    return float(floats.mean()), precision, floats.size != 1


def _as_array(tensor: Any) -> Any:
    """Return a tensor as an array; half precision, which numpy may lack, as single."""
    detached = tensor.detach().cpu()
    return (detached.double() if detached.element_size() >= 8 else detached.float()).numpy()


def _numpy_answer(
    function: Loss, given: Arguments, case: Case, precision: int, differences: bool
) -> Answer:
    dtype = np.dtype(f"f{precision}")

    def loss(moved: Case) -> tuple[float, int, bool]:
        return _number(_call(function, given, moved, _arrays(moved, dtype)), moved)

    mean, returned, per_row = loss(case)
    gradient = None
    if differences and min(precision, returned) == 8:
        chosen, rejected = (
            np.array([_slope(lambda c: loss(c)[0], case, name, row) for row in range(case.size)])
            for name in COLUMNS[:2]
        )
        gradient = chosen, rejected
    return Answer(Outcome(mean, gradient), min(precision, returned), per_row)


def _slope(loss: Callable[[Case], float], case: Case, name: str, row: int) -> float:
    """Return a derivative from four values around, to fourth order in the step."""

    def at(steps: int) -> float:
        column = list(case.columns[name])
        column[row] += steps * STEP
        return loss(_replaced(case, name, tuple(column)))

    with np.errstate(all="ignore"):
        near, far = np.float64(at(1)) - at(-1), np.float64(at(2)) - at(-2)
        return float((8.0 * near - far) / (12.0 * STEP))


def _replaced(case: Case, name: str, column: tuple[float, ...]) -> Case:
    return replace(case, columns={**case.columns, name: column})


def _torch_call(function: Loss, given: Arguments, case: Case, precision: int) -> tuple[Any, Any]:
    try:
        import torch
    except ImportError:
        raise _UnusableError("torch is not installed") from None
    dtype = torch.float64 if precision == 8 else torch.float32
    tensors = {name: torch.tensor(column, dtype=dtype) for name, column in case.columns.items()}
    policy = tuple(tensors[name].requires_grad_() for name in COLUMNS[:2])
    result = _call(function, given, case, tensors)
    _number(result, case)
    return result, policy


def _torch_answer(function: Loss, given: Arguments, case: Case, precision: int) -> Answer:
    result, policy = _torch_call(function, given, case, precision)
    mean, returned, per_row = _number(result, case)
    gradient = _autograd(result, policy) if getattr(result, "requires_grad", False) else None
    if gradient is None:
        # Detached from the policy: autograd, and with it any optimizer, sees a constant.
        gradient = np.zeros(case.size), np.zeros(case.size)
    return Answer(Outcome(mean, gradient), min(precision, returned), per_row)


def _autograd(result: Any, policy: tuple[Any, ...]) -> tuple[FloatArray, FloatArray]:
    import torch

    try:
        found = torch.autograd.grad(result.mean(), policy, allow_unused=True)
    except RuntimeError as error:
        raise _UnusableError(f"its gradient fails: {error}") from error
    chosen, rejected = (
        np.zeros(len(tensor)) if slope is None else slope.detach().double().numpy()
        for tensor, slope in zip(policy, found, strict=True)
    )
    return chosen, rejected
