"""Threads for work that runs outside the interpreter's lock.

Set `RLHFSIM_THREADS`, or call `set_threads`, to hold every solve to so many threads; by default it
takes the cores that this process may use.  No answer depends on the number.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from rlhfsim import checks

_Result = TypeVar("_Result")

_lock = threading.Lock()
_count = 0
_pool: ThreadPoolExecutor | None = None


def set_threads(count: int) -> None:
    """Use `count` threads from now on, the calling one included."""
    global _count, _pool
    count = checks.whole_number("count", count, least=1)
    with _lock:
        _count, _pool = count, None


def get_threads() -> int:
    """Return the number of threads in use."""
    global _count
    if _count == 0:
        default = _default()
        with _lock:
            _count = _count or default
    return _count


def _default() -> int:
    given = os.environ.get("RLHFSIM_THREADS", "")
    if given:
        if not given.isdecimal() or int(given) < 1:
            raise ValueError(f"RLHFSIM_THREADS is {given!r}; it must be a positive integer")
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_parallel(task: Callable[..., _Result], calls: list[tuple[Any, ...]]) -> list[_Result]:
    """Return `task(*arguments)` for each call; the last call runs in the calling thread.

    The task must not call `in_parallel` itself.
    """
    waiting: list[Future[_Result]] = []
    try:
        if len(calls) > 1:
            pool = _get_pool()
            for arguments in calls[:-1]:
                waiting.append(pool.submit(task, *arguments))
        own = task(*calls[-1])
    finally:
        # Even if the own call fails, no thread may go on writing to the caller's arrays.
        finished = [future.exception() for future in waiting]
    for error in finished:
        if error is not None:
            raise error
    return [*(future.result() for future in waiting), own]


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    count = get_threads()
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(count - 1, 1), thread_name_prefix="rlhfsim")
        return _pool


def _forget_pool() -> None:
    """Start anew: a forked child has none of its parent's threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
