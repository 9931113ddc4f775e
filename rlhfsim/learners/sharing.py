"""Work that several learners need of the same data, done once.

Within a block of `sharing`, `once` remembers what it made of which objects: the fit of a reward
model to a dataset, its counts.  Only work that depends on its arguments alone may go through it,
so that no answer depends on who else asks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

_Result = TypeVar("_Result")

#: What learning may raise.
FAILURES = (ValueError, ArithmeticError, RuntimeError)


class _Entry(NamedTuple):
    """What was made, or the exception; and what it was made of, so that no `id` is reused."""

    about: tuple[object, ...]
    result: Any = None
    error: Exception | None = None


_entries: ContextVar[dict[Hashable, _Entry] | None] = ContextVar("shared_work", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Remember, until the end of the block, what `once` makes in it."""
    token = _entries.set({})
    try:
        yield
    finally:
        _entries.reset(token)


def once(
    make: Callable[[], _Result], what: str, *about: object, key: tuple[Hashable, ...] = ()
) -> _Result:
    """Return `make()`, or what it returned or raised before in the same block of `sharing`.

    Parameters
    ----------
    make : function
        Of nothing but `about` and `key`.
    what : str
        The kind of work.
    about : objects
        That are the same only if they are identical.
    key : tuple
        Settings that are the same if they are equal.
    """
    entries = _entries.get()
    if entries is None:
        return make()
    name = (what, *map(id, about), *key)
    entry = entries.get(name)
    if entry is None:
        try:
            entry = _Entry(about, result=make())
        except FAILURES as error:
            entries[name] = _Entry(about, error=error)
            raise
        entries[name] = entry
    elif entry.error is not None:
        raise entry.error.with_traceback(None)
    return entry.result
