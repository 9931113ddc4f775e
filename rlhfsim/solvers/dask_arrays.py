"""Exact optima of problems held in dask arrays, on one machine or on a cluster."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.divergences import Divergence
from rlhfsim.solvers import sums
from rlhfsim.solvers.solution import Solution, require_certified
from rlhfsim.solvers.sums import Combine, Kernel, Sums

# dask comes without type annotations.
DaskArray = Any


def solve_dask(
    reward: DaskArray, reference: DaskArray, divergence: Divergence, beta: ArrayLike
) -> Solution[Any]:
    """Return the exact maximiser of `E_pi[r] - beta D(pi || p)` per prompt, for dask arrays.

    As `solve`, for arrays larger than memory.  Every pass over the chunks (3 for KL, 5 or 6
    otherwise) is one computation of whatever scheduler is active, and brings home a few numbers
    per prompt; what is expensive to compute again should be persisted by the caller.

    Parameters
    ----------
    reward, reference : (..., Y) dask arrays, or one of them a numpy array
        Chunks may be cut along every axis.
    divergence : Divergence
        As in `solve`.
    beta : number or array
        As in `solve`: broadcast against the prompt axes.

    Returns
    -------
    Solution
        `policy` is a lazy dask array with the chunks of the broadcast inputs; `multiplier`,
        `value`, `gap`, `feasibility`, `tolerance` are numpy arrays, one entry per prompt.  The
        policy is float32 where both arrays are, and rows need then sum to 1 within
        `checks.row_sum_tolerance` only.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    SolverError
        The duality gap or the feasibility exceeds what rounding explains.
    ImportError
        Without dask, naming the extra that brings it.

    Examples
    --------
    >>> import dask.array as da
    >>> reward = da.from_array(np.array([1.0, 0.0]), chunks=1)
    >>> solve_dask(reward, np.array([0.5, 0.5]), ChiSquared(), 1.0).policy.compute()
    array([0.75, 0.25])

    Source: derived; see `rlhfsim.solvers.sums`.
    """
    da = _dask_array()
    if not isinstance(divergence, Divergence):
        raise ValueError(f"divergence is {divergence!r}; it must be a Divergence such as KL()")
    given = {"reward": _as_dask("reward", reward), "reference": _as_dask("reference", reference)}
    r, p = (array.astype(np.float64) for array in given.values())
    single = all(array.dtype == np.float32 for array in given.values())
    kept = np.dtype(np.float32 if single else np.float64)
    b = checks.as_positive("beta", beta)
    if r.shape[-1] != p.shape[-1]:
        raise ValueError(
            f"reward has shape {r.shape} and reference {p.shape}; "
            "their last axes must hold the same responses"
        )
    batch = _batch_shape(r, p, b)
    r, p = _aligned(r, p, (*batch, r.shape[-1]))
    strengths = np.ascontiguousarray(np.broadcast_to(b, batch)).reshape(-1)

    def locate(name: str, prompt: int, response: int | None) -> str:
        return _place(name, given[name].shape, batch, prompt, response)

    tolerance = checks.row_sum_tolerance(kept, r.shape[-1])
    root, found = sums.solve_blocks(_chunks(r, p), strengths, divergence, locate, tolerance)

    def restore(field: FloatArray) -> FloatArray:
        return field.reshape(batch)[()]

    numbers = [
        da.from_array(values.reshape(*batch, 1), chunks=(*r.chunks[:-1], 1))
        for values in root.given(strengths).values()
    ]
    axes = tuple(range(r.ndim))
    policy = da.blockwise(
        _policy_chunk,
        axes,
        *(x for array in (r, p, *numbers) for x in (array, axes)),
        names=tuple(root.given(strengths)),
        divergence=divergence,
        dtype=np.float64,
        meta=np.empty((0,) * r.ndim),
    )
    return require_certified(
        Solution(
            policy=policy.astype(kept),
            multiplier=restore(found.multiplier),
            value=restore(found.value),
            gap=restore(found.gap),
            feasibility=restore(found.feasibility),
            tolerance=restore(found.tolerance),
        )
    )


# ---- input ---------------------------------------------------------------------------------------


def _dask_array() -> Any:
    try:
        return importlib.import_module("dask.array")
    except ImportError:
        raise ImportError(
            "solve_dask needs dask; install it with: pip install 'rlhfsim[cluster]'"
        ) from None


def _as_dask(name: str, value: DaskArray) -> DaskArray:
    """Return a dask array of known, non-empty shape; entries are checked in the passes."""
    da = _dask_array()
    array = value
    if not isinstance(value, da.Array):
        array = da.from_array(checks.as_real(name, value).astype(np.asarray(value).dtype))
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} has dtype {array.dtype}; it must hold real numbers")
    if any(np.isnan(size) for size in array.shape):
        raise ValueError(
            f"{name} has shape {array.shape}; its chunks must be known (compute_chunk_sizes)"
        )
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must hold at least one response")
    return array


def _batch_shape(r: DaskArray, p: DaskArray, b: FloatArray) -> tuple[int, ...]:
    shapes = {"reward": r.shape[:-1], "reference": p.shape[:-1], "beta": b.shape}
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes do not broadcast: {listed}") from None


def _aligned(r: DaskArray, p: DaskArray, shape: tuple[int, ...]) -> tuple[DaskArray, DaskArray]:
    """Return both arrays in the common shape, cut at the same places."""
    da = _dask_array()
    axes = tuple(range(len(shape)))
    r, p = da.broadcast_to(r, shape), da.broadcast_to(p, shape)
    return tuple(da.core.unify_chunks(r, axes, p, axes)[1])


def _place(
    name: str, shape: tuple[int, ...], batch: tuple[int, ...], prompt: int, response: int | None
) -> str:
    """Word where an entry, or a row, is in the array that the caller gave."""
    index = [int(i) for i in np.unravel_index(prompt, batch)] if batch else []
    own = index[len(index) - (len(shape) - 1) :] if len(shape) > 1 else []
    own = [0 if size == 1 else i for size, i in zip(shape[:-1], own, strict=True)]
    own += [] if response is None else [response]
    return name + (f"[{', '.join(map(str, own))}]" if own else "")


# ---- passes --------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Chunks:
    """The chunks of two `(..., Y)` dask arrays, grouped by prompts."""

    n_prompts: int
    n_responses: int
    #: For each group: its prompts, and (reward, reference, first response) of its chunks in order.
    groups: list[tuple[IntArray, list[tuple[Any, Any, int]]]]

    def reduce(self, kernel: Kernel, combine: Combine, prompts: IntArray, given: Sums) -> Sums:
        """Evaluate a kernel on the chunks of some prompts, on the workers (`sums.Blocks`)."""
        dask: Any = importlib.import_module("dask")
        apply, gather = dask.delayed(_apply, pure=False), dask.delayed(combine, pure=False)
        tasks, places = [], []
        for members, blocks in self.groups:
            rows = np.flatnonzero(np.isin(members, prompts))
            if rows.size == 0:
                continue
            place = np.searchsorted(prompts, members[rows])
            share = dask.delayed({name: values[place] for name, values in given.items()})
            tasks.append(
                gather([apply(kernel, r, p, start, rows, share) for r, p, start in blocks])
            )
            places.append(place)
        # As arrays, so that the graph is optimized as the policy's will be: a scheduler must not
        # be given two different tasks of one name.
        da = _dask_array()
        results = dask.compute(*(da.from_delayed(t, shape=(), dtype=object) for t in tasks))
        order = np.argsort(np.concatenate(places), kind="stable")
        return {
            name: np.concatenate([result[name] for result in results])[order] for name in results[0]
        }


def _apply(
    kernel: Kernel, r: FloatArray, p: FloatArray, start: int, rows: IntArray, given: Sums
) -> Sums:
    """Evaluate a kernel on some prompts of one chunk."""
    size = r.shape[-1]
    r, p = (np.ascontiguousarray(x, dtype=np.float64).reshape(-1, size) for x in (r, p))
    if rows.size < len(r):
        r, p = r[rows], p[rows]
    return kernel(r, p, start, given)


def _policy_chunk(
    r: FloatArray,
    p: FloatArray,
    *numbers: FloatArray,
    names: tuple[str, ...],
    divergence: Divergence,
) -> FloatArray:
    """Return the policy of one chunk."""
    size = r.shape[-1]
    given = {name: x.reshape(-1) for name, x in zip(names, numbers, strict=True)}
    flat_r, flat_p = (np.ascontiguousarray(x).reshape(-1, size) for x in (r, p))
    return sums.policy_block(flat_r, flat_p, given, divergence)[0].reshape(r.shape)


def _chunks(r: DaskArray, p: DaskArray) -> _Chunks:
    """Cut the prompts into groups, one for each block along the prompt axes."""
    batch, size = r.shape[:-1], r.shape[-1]
    flat = np.arange(int(np.prod(batch, dtype=np.int64))).reshape(batch)
    starts = np.cumsum([0, *r.chunks[-1]])[:-1]
    # Not optimized here: what both arrays are computed from is then computed once per pass.
    r_blocks, p_blocks = r.to_delayed(optimize_graph=False), p.to_delayed(optimize_graph=False)
    edges = [np.cumsum([0, *cuts]) for cuts in r.chunks[:-1]]
    groups = []
    for block in np.ndindex(r.numblocks[:-1]):
        here = tuple(slice(e[i], e[i + 1]) for e, i in zip(edges, block, strict=True))
        columns = [
            (*pair, int(start))
            for *pair, start in zip(r_blocks[block], p_blocks[block], starts, strict=True)
        ]
        groups.append((flat[here].reshape(-1), columns))
    return _Chunks(flat.size, size, groups)
