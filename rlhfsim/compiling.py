"""How the project's loops are compiled.

`EXACT` may not reorder arithmetic: elementary functions and everything scalar.  `SUMS` may reorder
the terms of a sum, which is what lets a reduction use vector registers; it is for loops over one
block only, whose partial sums are combined in block order, so that an answer depends neither on
the number of threads nor on the batch a row is in.  Everything is inlined into the entry points: a
second copy of a loop may be optimised into another order of its sum, and which copy runs would then
depend on whether the code was compiled or loaded.  And a loop that sums stores nothing: before a
loop over arrays that it also writes to, the compiler tests whether they are near each other in
memory, and takes another order if so.  Loops over `rlhfsim.kernels.vectors` are `EXACT`: the order
of their sums is written down, and they may store.  No kernel assumes the absence of NaN except in
`larger` and `smaller`, whose operands enter a sum or are checked by their bits in the same pass.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.extending import intrinsic as _intrinsic

_Function = TypeVar("_Function", bound=Callable[..., Any])


@functools.cache
def _forget_stale_code(folder: Path, kept: Path) -> None:
    """Remove compiled code in `kept` that is older than a source file in `folder` it may inline.

    numba looks at the file of the function that is called only, not at those of its callees.
    """
    sources = {
        Path(__file__),
        *folder.glob("*.py"),
        *(Path(__file__).parent / "kernels").glob("*.py"),
    }
    newest = max(path.stat().st_mtime for path in sources)
    for index in kept.glob("*.nbi"):
        with suppress(OSError):
            if index.stat().st_mtime < newest:
                index.unlink()


def _compiler(**options: Any) -> Callable[[_Function], _Function]:
    def decorate(function: _Function) -> _Function:
        try:
            compiled = njit(error_model="numpy", nogil=True, cache=True, **options)(function)
            # Next to the source, or where NUMBA_CACHE_DIR or numba itself puts it.
            kept = compiled._cache.cache_path
            _forget_stale_code(Path(inspect.getfile(function)).parent, Path(kept))
        except RuntimeError:  # no folder to keep compiled code in
            compiled = njit(error_model="numpy", nogil=True, **options)(function)
        return cast(_Function, compiled)

    return decorate


def intrinsic(function: Callable[..., Any]) -> Any:
    """Register an intrinsic; calls of what comes back have not the signature of the function."""
    return _intrinsic(function)


EXACT = _compiler(forceinline=True, fastmath={"contract"})
SUMS = _compiler(forceinline=True, fastmath={"reassoc", "contract", "nsz", "nnan"})
