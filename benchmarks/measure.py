"""What the benchmarks share: alternating medians, the triad, extended-precision references."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from rlhfsim.compiling import SUMS
from rlhfsim.threads import get_threads, in_parallel

Array = np.ndarray
# Seconds; idle threads of OpenBLAS wait busily for some 30 milliseconds.
PAUSE = 0.06


def alternate(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each function; they run in turn.

    Before each turn comes a pause, in which the threads of the library before, which wait busily
    for more work, go to sleep; then as long a time of calls that are not timed, which bring back
    caches and threads.  A function slower than half a second runs three times only, without either.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            slow = bool(times[name]) and np.median(times[name]) > 0.5
            if slow and len(times[name]) >= 3:
                continue
            if not slow:
                time.sleep(PAUSE)
                start = time.perf_counter()
                while time.perf_counter() - start < PAUSE:
                    function()
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


@SUMS
def _triad(a: Array, b: Array, c: Array) -> None:
    for i in range(a.size):
        a[i] = b[i] + 3.0 * c[i]


def triad(a: Array, b: Array, c: Array) -> Callable[[], object]:
    """Return a call of `a = b + 3 c` on as many threads as `solve` uses: 24 bytes an entry."""
    threads = get_threads()
    flat = [x.reshape(-1) for x in (a, b, c)]
    cuts = [flat[0].size * k // threads for k in range(threads + 1)]
    parts = [tuple(x[cuts[k] : cuts[k + 1]] for x in flat) for k in range(threads)]
    return lambda: in_parallel(_triad, parts)


def machine() -> str:
    """Return processor, cores and the versions that matter."""
    import llvmlite.binding

    name = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            x.split(":")[1].strip() for x in info.read_text().splitlines() if "model name" in x
        ]
        name = names[0] if names else name
    cpu = llvmlite.binding.get_host_cpu_name()
    return (
        f"{name} ({cpu}), {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
    )


# ---- references in extended precision -----------------------------------------------------------

Wide = np.longdouble


def wide_gibbs(r: Array, p: Array) -> Array:
    """Return the KL optimum at beta = 1 in extended precision."""
    x = r.astype(Wide)
    w = p.astype(Wide) * np.exp(x - x.max(axis=1, keepdims=True))
    return w / w.sum(axis=1, keepdims=True)


def wide_active_set(r: Array, p: Array) -> Array:
    """Return the chi-squared optimum at beta = 1 in extended precision."""
    x, q = r.astype(Wide), p.astype(Wide)
    at = (q * x).sum(axis=1, keepdims=True)
    for _ in range(100):
        inside = np.where(x - at > -1, q, 0)
        mass = inside.sum(axis=1, keepdims=True)
        step = (mass - 1 + (inside * (x - at)).sum(axis=1, keepdims=True)) / mass
        at = at + step
        if np.abs(step).max() < 1e-19:
            break
    return q * np.maximum(1 + x - at, 0)


def wide_mixed(r: Array, p: Array) -> Array:
    """Return the optimum for chi-squared + KL at beta = 1 in extended precision."""
    x, q = r.astype(Wide), p.astype(Wide)
    at = (q * x).sum(axis=1, keepdims=True)
    log_w = np.minimum(x - at, 1)
    for _ in range(60):
        for _ in range(30):
            w = np.exp(log_w)
            step = (1 + x - at - w - log_w) / (1 + w)
            log_w = log_w + step
            if np.abs(step).max() < 1e-19:
                break
        w = np.exp(log_w)
        move = ((q * w).sum(axis=1, keepdims=True) - 1) / (q * w / (1 + w)).sum(
            axis=1, keepdims=True
        )
        at = at + move
        if np.abs(move).max() < 1e-19:
            break
    return q * np.exp(log_w)
