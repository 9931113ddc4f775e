"""The one place that asks for python-flint, and the one that sets its working precision."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# flint's precision belongs to the process and not to the thread.
_PRECISION = threading.RLock()


def require_flint(function: str) -> None:
    """Raise `ImportError`, saying what to install, unless python-flint can be imported."""
    try:
        import flint  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{function} needs python-flint; install it with: pip install 'rlhfsim[certify]'"
        ) from error


@contextmanager
def working_precision(bits: int) -> Iterator[None]:
    """Compute with balls whose midpoints have `bits` bits; one thread at a time."""
    from flint import ctx

    with _PRECISION:
        before = ctx.prec
        ctx.prec = bits
        try:
            yield
        finally:
            ctx.prec = before
