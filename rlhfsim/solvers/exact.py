"""`solve`: exact optima of regularized bandit objectives, certified.

For each prompt, `max_pi E_pi[r] - beta D_f(pi || p)` has the optimum `pi = p w`,
`w = inverse_link((r - lambda) / beta)`, where the one number lambda makes `pi` sum to 1.

KL, chi-squared and their positive combinations go through compiled kernels (`rlhfsim.kernels`);
what these decline, at the ends of the floats, and every other divergence go through
`rlhfsim.solvers.general`.  Tensors of torch and arrays of dask have routes of their own.

Source: arXiv 2407.13399 (mixed divergence), 2205.11275 (KL).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import Divergence
from rlhfsim.solvers.general import solve_rows
from rlhfsim.solvers.solution import Solution, require_certified

if TYPE_CHECKING:
    from torch import Tensor

# Entries that the general route, which makes many temporaries, takes at a time.
_SLICE = 1 << 20


@overload
def solve(
    reward: Tensor,
    reference: Any,
    divergence: Divergence,
    beta: Any,
    *,
    start: None = None,
    out: Any = None,
) -> Solution[Tensor]: ...


@overload
def solve(
    reward: ArrayLike,
    reference: ArrayLike,
    divergence: Divergence,
    beta: ArrayLike,
    *,
    start: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
) -> Solution[FloatArray]: ...


def solve(
    reward: Any,
    reference: Any,
    divergence: Divergence,
    beta: Any,
    *,
    start: Any = None,
    out: Any = None,
) -> Solution[Any]:
    """Return the exact maximiser of `E_pi[r] - beta D(pi || p)` over all policies, per prompt.

    Parameters
    ----------
    reward : (..., Y) array
        Finite rewards; entries where `reference` is 0 do not matter where the divergence forbids
        mass there.
    reference : (..., Y) array of distributions
        The sampling policy `p`.  Responses of mass 0 get mass 0, unless the divergence has a finite
        `recession` and their reward is worth it.
    divergence : Divergence
        `KL()`, `ChiSquared()`, any other, or a positive combination such as
        `ChiSquared() + 0.5 * KL()`.
    beta : number or array
        Positive regularization strengths, broadcast against the *prompt* axes `(...)` of the two
        arrays: a grid for an `(X, Y)` problem is `beta[:, None]` and gives an `(n_beta, X, Y)`
        policy.
    start : number or (...) array, optional
        A finite guess of the multiplier per prompt, broadcast like `beta`: that of a solution at a
        neighbouring beta, say.  It saves the search for a first one and changes the answer by no
        more than rounding.  For numpy arrays.
    out : (..., Y) array, optional
        C-contiguous, of the shape and dtype of the policy, sharing no memory with the input; the
        policy is written there.  What it holds after an error is undefined.

    Returns
    -------
    Solution
        `policy` of the broadcast shape; `multiplier`, `value`, `gap`, `feasibility`, `tolerance`
        per prompt.  All float64, but where both arrays are float32 the policy is float32, and the
        rows of `reference` need sum to 1 only within what single precision allows
        (`checks.row_sum_tolerance`).  Tensors of torch and arrays of dask give their own kind.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    SolverError
        The duality gap or the feasibility exceeds what rounding explains.

    Notes
    -----
    C-contiguous float64 or float32 arrays are read in place, read-only and memory-mapped ones too;
    others are copied first.  The number of threads (`rlhfsim.threads`) does not change the answer.

    Examples
    --------
    >>> solve([1.0, 0.0], [0.5, 0.5], ChiSquared(), 1.0).policy
    array([0.75, 0.25])
    """
    if type(reward) is not np.ndarray or type(reference) is not np.ndarray:
        library = _library(reward, reference)
        if library != "numpy" and start is not None:
            raise ValueError(f"start is given; it is for numpy arrays, not for those of {library}")
        if library == "torch":
            from rlhfsim.solvers.tensors import solve_tensors

            return solve_tensors(reward, reference, divergence, beta, out=out)
        if library == "dask":
            from rlhfsim.solvers.dask_arrays import solve_dask

            if out is not None:
                raise ValueError("out is given; the policy of dask arrays is lazy and takes none")
            return solve_dask(reward, reference, divergence, beta)
    r, p = _as_given(reward, reference)
    if r.ndim == 0 or p.ndim == 0 or r.shape[-1] != p.shape[-1] or p.shape[-1] == 0:
        raise _bad_responses(r, p)
    if not isinstance(divergence, Divergence):
        raise ValueError(f"divergence is {divergence!r}; it must be a Divergence such as KL()")
    b = _as_beta(beta)
    guess = None if start is None else _as_guess(start)
    if r.shape == p.shape and b.ndim == 0 and guess is None:
        batch = r.shape[:-1]
    else:
        axes = {"reward": r[..., 0], "reference": p[..., 0], "beta": b}
        batch = checks.broadcast(**axes, **({} if guess is None else {"start": guess}))
    policy = _destination(
        out, (*batch, r.shape[-1]), r.dtype, (reward, reference, beta, start, r, p, b, guess)
    )
    return _solve(r, p, b, guess, divergence, batch, policy)


def _solve(
    r: NDArray[Any],
    p: NDArray[Any],
    b: FloatArray,
    guess: FloatArray | None,
    divergence: Divergence,
    batch: tuple[int, ...],
    policy: NDArray[Any],
) -> Solution[FloatArray]:
    from rlhfsim.kernels import blocks, launch

    kernel = launch.kernel_for(divergence)
    if kernel is None or policy.size == 0:
        fields = np.empty((policy.size // r.shape[-1], blocks.FIELDS))
        rows = np.arange(len(fields))
    else:
        hint = () if guess is None else (guess,)
        fields, left = launch.solve_rows(kernel, r, p, b, batch, policy, *hint)
        if not left:
            return _solution(policy, fields, batch)
        rows = np.flatnonzero(fields[:, blocks.STATUS] != blocks.DONE)
    # Some rows are left, some perhaps before they were looked into.
    _check_input(r, p)
    _generally(r, p, b, divergence, batch, policy, fields, rows)
    return require_certified(_solution(policy, fields, batch), _eps(policy))


def _generally(
    r: NDArray[Any],
    p: NDArray[Any],
    b: FloatArray,
    divergence: Divergence,
    batch: tuple[int, ...],
    policy: NDArray[Any],
    fields: FloatArray,
    rows: NDArray[np.int64],
) -> None:
    """Solve the given rows of the flattened batch by the general route, some at a time."""
    size = r.shape[-1]
    wide_r, wide_p = np.broadcast_to(r, (*batch, size)), np.broadcast_to(p, (*batch, size))
    wide_b = np.broadcast_to(b, batch)
    flat = policy.reshape(-1, size)
    step = max(1, _SLICE // size)
    for begin in range(0, len(rows), step):
        some = rows[begin : begin + step]
        index = np.unravel_index(some, batch) if batch else ()
        part = solve_rows(
            wide_r[index].astype(np.float64).reshape(-1, size),
            wide_p[index].astype(np.float64).reshape(-1, size),
            wide_b[index].reshape(-1),
            divergence,
        )
        flat[some] = part.policy
        scale = _eps(policy) / np.finfo(np.float64).eps
        tolerance = part.tolerance * scale
        off = np.abs(flat[some].sum(axis=-1, dtype=np.float64) - 1.0)
        columns = (part.multiplier, part.value, part.gap, off, tolerance)
        fields[some, : len(columns)] = np.stack(columns, axis=-1)


def _solution(
    policy: NDArray[Any], fields: FloatArray, batch: tuple[int, ...]
) -> Solution[FloatArray]:
    if len(batch) == 1:
        columns = fields.T
        return Solution(policy, columns[0], columns[1], columns[2], columns[3], columns[4])
    multiplier, value, gap, feasibility, tolerance = (
        fields[:, k].reshape(batch)[()] for k in range(5)
    )
    return Solution(policy, multiplier, value, gap, feasibility, tolerance)


def _eps(policy: NDArray[Any]) -> float:
    return float(np.finfo(policy.dtype).eps)


# ---- input ---------------------------------------------------------------------------------------

_KEPT = (np.dtype(np.float64), np.dtype(np.float32))


def _library(*arrays: object) -> str:
    """Return "torch" or "dask" where one of the arrays is theirs, without importing either."""
    for array in arrays:
        root = type(array).__module__.partition(".")[0]
        if root in ("torch", "dask"):
            return root
    return "numpy"


def _as_given(reward: Any, reference: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both as C-contiguous arrays, float32 if both are, else float64.

    Arrays of floats are not looked into: the kernels do that while they read them.
    """
    r, p = _plain("reward", reward), _plain("reference", reference)
    if r.dtype != p.dtype:
        r, p = r.astype(np.float64, copy=False), p.astype(np.float64, copy=False)
    if not (r.flags.c_contiguous and r.flags.aligned):
        r = np.array(r, order="C")
    if not (p.flags.c_contiguous and p.flags.aligned):
        p = np.array(p, order="C")
    return r, p


def _plain(name: str, value: Any) -> NDArray[Any]:
    if type(value) is np.ndarray and value.dtype in _KEPT:
        return value
    if type(value) is np.memmap and value.dtype in _KEPT:
        return np.asarray(value)
    return checks.as_real(name, value)


def _as_beta(beta: Any) -> FloatArray:
    if type(beta) is float and 0.0 < beta < np.inf:
        return np.array(beta)
    return np.ascontiguousarray(checks.as_positive("beta", beta)).reshape(np.shape(beta))


def _as_guess(start: Any) -> FloatArray:
    return np.ascontiguousarray(checks.as_real("start", start)).reshape(np.shape(start))


def _bad_responses(r: NDArray[Any], p: NDArray[Any]) -> ValueError:
    if p.ndim == 0 or p.shape[-1] == 0:
        return ValueError(f"reference has shape {p.shape}; it must hold at least one response")
    return ValueError(
        f"reward has shape {r.shape} and reference {p.shape}; "
        "their last axes must hold the same responses"
    )


def _check_input(r: NDArray[Any], p: NDArray[Any]) -> None:
    """Raise what is wrong with the input, if anything is."""
    checks.as_real("reward", r)
    if p.size == 0:
        return  # no prompts
    tolerance = checks.row_sum_tolerance(p.dtype, p.shape[-1])
    checks.as_distributions("reference", p, tolerance=tolerance)


def _destination(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: tuple[Any, ...]
) -> NDArray[Any]:
    """Return `out`, or a new array; `inputs` are the arrays as given and as they are read."""
    if out is None:
        return np.empty(shape, dtype=dtype)
    if type(out) not in (np.ndarray, np.memmap):
        raise ValueError(f"out is a {type(out).__name__}; it must be a numpy array")
    if out.dtype != dtype or out.shape != shape:
        raise ValueError(
            f"out has shape {out.shape} and {out.dtype}; it must have shape {shape} and {dtype}"
        )
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise ValueError("out is not C-contiguous, aligned and writeable; it must be all three")
    names = ("reward", "reference", "beta", "start")
    for name, array in zip(names * 2, inputs, strict=True):
        if isinstance(array, np.ndarray) and np.may_share_memory(out, array):
            raise ValueError(f"out shares memory with {name}; it must not")
    return np.asarray(out)
