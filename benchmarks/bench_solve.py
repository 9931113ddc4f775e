"""Time `solve` against what people use today: same process, alternating, accuracy first.

Prints Markdown tables and writes them to `benchmarks/solve.md`.  Times are medians and only their
ratios within one run mean anything.  What is timed is the whole call
`solve(reward, reference, divergence, 1.0, out=...)`, its checks and its certificate included.
"Of triad" is the time of `a = b + 3 c` on arrays of the same shape and as many threads, as a share
of ours: the least time in which rewards and reference can be read once and the policy written.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cvxpy as cp
import entmax
import jax
import jax.numpy as jnp
import numpy as np
import torch
from measure import alternate, machine, triad, wide_active_set, wide_gibbs, wide_mixed
from scipy.special import softmax, wrightomega

from rlhfsim import KL, ChiSquared, Divergence, solve
from rlhfsim.files import write_text
from rlhfsim.kernels import launch, rows
from rlhfsim.threads import get_threads

OUT = Path(__file__).parent / "solve.md"
MIXED = ChiSquared() + KL()
SHAPES = ((1000, 1000), (100, 100_000))
Peers = dict[str, Callable[[], np.ndarray]]

jax.config.update("jax_enable_x64", True)
torch.set_num_threads(get_threads())


def problem(prompts: int, responses: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a random reward and reference."""
    rng = np.random.default_rng(1)
    weights = rng.standard_gamma(1.0, size=(prompts, responses)) + 1e-12
    return rng.standard_normal((prompts, responses)), weights / weights.sum(axis=1, keepdims=True)


# ---- peers ---------------------------------------------------------------------------------------


@jax.jit
def jax_softmax(r: jax.Array, p: jax.Array) -> jax.Array:
    """Return the KL optimum."""
    return jax.nn.softmax(r + jnp.log(p), axis=1)


@jax.jit
def jax_softmax_of_logits(logits: jax.Array) -> jax.Array:
    """Return the KL optimum where `r + log p` is there already."""
    return jax.nn.softmax(logits, axis=1)


def sorting(r: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the chi-squared optimum by sorting every row."""
    order = np.argsort(-r, axis=1)
    x, q = np.take_along_axis(r, order, 1), np.take_along_axis(p, order, 1)
    mass, moment = q.cumsum(axis=1), (q * x).cumsum(axis=1)
    last = (1 + x - (moment + mass - 1) / mass > 0).sum(axis=1, keepdims=True) - 1
    mass, moment = np.take_along_axis(mass, last, 1), np.take_along_axis(moment, last, 1)
    return p * np.maximum(1 + r - (moment + mass - 1) / mass, 0)


def newton_omega(r: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the mixed optimum by Newton's method with `scipy.special.wrightomega`."""
    at = (p * r).sum(axis=1, keepdims=True)
    for _ in range(50):
        w = wrightomega(1 + r - at)
        excess = (p * w).sum(axis=1, keepdims=True) - 1
        if np.abs(excess).max() < 1e-14:
            break
        at = at + excess / (p * w / (1 + w)).sum(axis=1, keepdims=True)
    return p * w


def clarabel(r: np.ndarray, p: np.ndarray, mixed: bool) -> tuple[np.ndarray, float]:
    """Return cvxpy's policy for one prompt and the seconds inside the solver."""
    policy = cp.Variable(r.size)
    cost = 0.5 * cp.sum_squares(cp.multiply(policy - p, p**-0.5))
    if mixed:
        cost = cost + cp.sum(cp.kl_div(policy, p))
    program = cp.Problem(cp.Maximize(r @ policy - cost), [cp.sum(policy) == 1, policy >= 0])
    program.solve(solver=cp.CLARABEL)
    return policy.value, program.solver_stats.solve_time


def peers_of(name: str, r: np.ndarray, p: np.ndarray) -> tuple[Peers, Peers]:
    """Return the peers that answer the same question, and those that answer a simpler one."""
    if name == "KL":
        tr, tp, logits = torch.from_numpy(r), torch.from_numpy(p), r + np.log(p)
        jr, jp, jl, tl = jnp.asarray(r), jnp.asarray(p), jnp.asarray(logits), torch.tensor(logits)
        same: Peers = {
            "jax.jit softmax(r + log p)": lambda: jax_softmax(jr, jp).block_until_ready(),
            "torch softmax(r + log p)": lambda: torch.softmax(tr + tp.log(), 1),
            "scipy softmax(r + log p)": lambda: softmax(r + np.log(p), axis=1),
            "jax.jit softmax(logits given)": lambda: jax_softmax_of_logits(jl).block_until_ready(),
            "torch softmax(logits given)": lambda: torch.softmax(tl, 1),
        }
        return same, {}
    if name == "χ²":
        tr = torch.from_numpy(r)
        uniform = {"entmax.sparsemax (uniform reference)": lambda: entmax.sparsemax(tr, dim=1)}
        return {"numpy sort": lambda: sorting(r, p)}, uniform
    return {"numpy Newton + wrightomega": lambda: newton_omega(r, p)}, {}


# ---- tables --------------------------------------------------------------------------------------

WIDE = {"KL": wide_gibbs, "χ²": wide_active_set, "mixed": wide_mixed}
ALLOWED = {"KL": 1e-15, "χ²": 5e-16, "mixed": 1e-15}
CASES: dict[str, Divergence] = {"KL": KL(), "χ²": ChiSquared(), "mixed": MIXED}


def batch_rows(prompts: int, responses: int) -> list[str]:
    """Return the table of one shape."""
    r, p = problem(prompts, responses)
    out = np.empty_like(r)
    lines = []
    some = slice(0, max(2, 200_000 // responses))
    for name, divergence in CASES.items():
        solve(r, p, divergence, 1.0, out=out)
        error = np.abs(out[some] - WIDE[name](r[some], p[some])).sum(axis=1).max()
        assert error <= ALLOWED[name], (name, error)
        same, other = peers_of(name, r, p)
        for peer in same.values():
            assert np.abs(out - np.asarray(peer())).sum(axis=1).max() < 1e-10
        functions = {
            "ours": functools.partial(solve, r, p, divergence, 1.0, out=out),
            "triad": triad(out, r, p),
            **same,
            **other,
        }
        seconds = alternate(functions, repeats=15)
        ours = seconds.pop("ours")
        share = seconds.pop("triad") / ours
        ratios = "; ".join(f"{peer} {t / ours:.3g}×" for peer, t in seconds.items())
        lines.append(
            f"| {name} | {prompts}×{responses} | {1e3 * ours:.3g} ms | {100 * share:.0f} % "
            f"| {error:.1e} | {ratios} |"
        )
    return lines


def kernel_call(r: np.ndarray, p: np.ndarray, divergence: Divergence) -> Callable[[], object]:
    """Return a call of the serial kernel alone."""
    kernel = launch.kernel_for(divergence)
    assert kernel is not None
    layout = launch._layout((), r.size, (), (), (), ())
    fields, out = np.empty((1, 6)), np.empty_like(r)
    flat = (
        launch._flat(r),
        launch._flat(p),
        launch._flat(np.array(1.0)),
        launch._flat(launch._NO_GUESS),
    )
    eps = float(np.finfo(float).eps)
    return lambda: rows.solve_rows(
        kernel[0], *flat, out, r.size, *layout, kernel[1], eps, fields, np.zeros(1, np.int64), 1
    )


def single_rows() -> list[str]:
    """Return the table for one prompt."""
    lines = []
    for responses in (100, 1000):
        (r,), (p,) = problem(1, responses)
        out = np.empty_like(r)
        for name, divergence in CASES.items():
            calls = {
                "whole": functools.partial(solve, r, p, divergence, 1.0, out=out),
                "kernel": kernel_call(r, p, divergence),
            }
            seconds = alternate(calls, repeats=100)
            peer = "–"
            if name != "KL" and responses == 1000:
                runs = []
                for _ in range(5):
                    start = time.perf_counter()
                    theirs, inside = clarabel(r, p, name == "mixed")
                    runs.append((inside, time.perf_counter() - start))
                inside, build = np.median(runs, axis=0)
                error = np.abs(theirs - out).sum()
                kernel, whole = seconds["kernel"], seconds["whole"]
                peer = (
                    f"Clarabel {1e3 * inside:.3g} ms in the solver: {inside / kernel:.0f}× the "
                    f"kernel, {inside / whole:.0f}× the call; with cvxpy {1e3 * build:.3g} ms: "
                    f"{build / whole:.0f}×; its L1 error {error:.0e}"
                )
            lines.append(
                f"| {name} | {responses} | {1e6 * seconds['whole']:.3g} µs "
                f"| {1e6 * seconds['kernel']:.3g} µs | {peer} |"
            )
    return lines


def main() -> None:
    """Run everything and write the tables."""
    head = [
        "| divergence | prompts × responses | `solve` | of triad | L1 error | peer's time / ours |"
    ]
    batches = [*head, "|---|---|---|---|---|---|"]
    bandwidths = []
    for shape in SHAPES:
        r, p = problem(*shape)
        call = triad(np.empty_like(r), r, p)
        bandwidths.append(24 * r.size / alternate({"triad": call}, 15)["triad"] / 1e9)
        batches += batch_rows(*shape)
    singles = [
        "| divergence | responses | whole `solve` | kernel | peer |",
        "|---|---|---|---|---|",
    ]
    singles += single_rows()
    names = ("numpy", "scipy", "numba", "torch", "jax", "entmax", "cvxpy", "clarabel")
    note = (
        f"{machine()}; {get_threads()} threads; "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + f". Triad {bandwidths[0]:.0f} GB/s at 1000×1000, {bandwidths[1]:.0f} GB/s at 100×100000. "
        "float64, beta = 1, normal rewards, exponential reference weights; errors against 80-bit "
        "arithmetic. Medians of 15 alternating runs (3 of those slower than half a second)."
    )
    text = "\n".join([*batches, "", "One prompt:", "", *singles, "", note, ""])
    print(text)
    write_text(OUT, text)


if __name__ == "__main__":
    main()
