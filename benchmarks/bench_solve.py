"""Time `solve` against what people use today: same process, alternating, accuracy first.

Prints a Markdown table and writes it to `bench-out/solve.md`; times are medians and only their
ratios within one run mean anything.  Bandwidth is what reading r and pi_ref and writing pi once
would need, as a share of a triad `a = b + s c` measured in the same run.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import cvxpy as cp
import numpy as np
import torch
from scipy.special import softmax

from rlhfsim import KL, ChiSquared, Divergence, solve
from rlhfsim.files import write_text

OUT = Path("bench-out")
REPEATS = 7


def alternate(*functions: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Return the median seconds of each function, run in turn."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for slot, function in zip(times, functions, strict=True):
            start = time.perf_counter()
            function()
            if turn:  # the first turn warms up
                slot.append(time.perf_counter() - start)
    return [float(np.median(slot)) for slot in times]


def triad_bandwidth(size: int) -> float:
    """Return the bytes per second of `a = b + s c` on arrays of `size` float64."""
    b, c, a = np.random.default_rng(0).random((3, size))

    def triad() -> None:
        np.multiply(c, 3.0, out=a)
        np.add(a, b, out=a)

    # numpy takes two passes, five array streams in all.
    return 5 * 8 * size / alternate(triad)[0]


def problem(prompts: int, responses: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a random reward and reference."""
    rng = np.random.default_rng(1)
    weights = rng.standard_gamma(1.0, size=(prompts, responses)) + 1e-12
    return rng.standard_normal((prompts, responses)), weights / weights.sum(axis=1, keepdims=True)


def clarabel(reward: np.ndarray, reference: np.ndarray, divergence: str) -> np.ndarray:
    """Return cvxpy's policy for one prompt at beta = 1."""
    policy = cp.Variable(reward.size)
    chi = 0.5 * cp.sum_squares(cp.multiply(policy - reference, reference**-0.5))
    kl = cp.sum(cp.kl_div(policy, reference))
    penalty = {"chi2": chi, "mixed": chi + kl}[divergence]
    program = cp.Problem(cp.Maximize(reward @ policy - penalty), [cp.sum(policy) == 1, policy >= 0])
    program.solve(solver=cp.CLARABEL)
    return policy.value


def softmax_rows(prompts: int, responses: int, bandwidth: float) -> list[str]:
    """Time KL against the two softmaxes."""
    r, p = problem(prompts, responses)
    tr, tp = torch.from_numpy(r), torch.from_numpy(p)
    peers: dict[str, Callable[[], object]] = {
        "scipy softmax(r + log p)": lambda: softmax(r + np.log(p), axis=1),
        "torch softmax(r + log p)": lambda: torch.softmax(tr + tp.log(), 1),
    }
    ours = solve(r, p, KL(), 1.0)
    for peer in peers.values():
        assert np.abs(ours.policy - np.asarray(peer())).sum(axis=1).max() < 1e-12
    return timed("KL", KL(), r, p, peers, bandwidth)


def timed(
    name: str, divergence: Divergence, r: np.ndarray, p: np.ndarray,
    peers: dict[str, Callable[[], object]], bandwidth: float, repeats: int = REPEATS,
) -> list[str]:  # fmt: skip
    """Return the table rows of one workload."""
    ours, *others = alternate(
        lambda: solve(r, p, divergence, 1.0), *peers.values(), repeats=repeats
    )
    share = 3 * 8 * r.size / ours / bandwidth
    shape = "×".join(map(str, r.shape))
    return [
        f"| {name} | {shape} | {1e3 * ours:.3g} ms | {100 * share:.2g} % "
        f"| {peer} | {other / ours:.3g}× |"
        for peer, other in zip(peers, others, strict=True)
    ]


def convex_rows(bandwidth: float) -> list[str]:
    """Time chi-squared and mixed on one prompt against cvxpy with Clarabel."""
    rows = []
    (r,), (p,) = problem(1, 1000)
    for name, divergence in (("chi2", ChiSquared()), ("mixed", ChiSquared() + KL())):
        ours, theirs = solve(r, p, divergence, 1.0), clarabel(r, p, name)

        def objective(policy: np.ndarray, d: Divergence = divergence) -> float:
            return float(r @ policy - d.perspective(np.maximum(policy, 0), p).sum())

        assert abs(objective(theirs) - ours.value) < 1e-6
        peers = {"cvxpy + Clarabel": lambda n=name: clarabel(r, p, n)}
        rows += timed(name, divergence, r, p, peers, bandwidth, repeats=3)
    return rows


def main() -> None:
    """Run everything and write the table."""
    small, large = triad_bandwidth(1_000_000), triad_bandwidth(10_000_000)
    rows = [
        *softmax_rows(1000, 1000, small),
        *softmax_rows(100, 100_000, large),
        *convex_rows(small),
    ]
    for name, divergence in (("chi2", ChiSquared()), ("mixed", ChiSquared() + KL())):
        r, p = problem(1000, 1000)
        softer = {"KL by solve": lambda r=r, p=p: solve(r, p, KL(), 1.0)}
        rows += timed(name, divergence, r, p, softer, small, repeats=3)
    head = "| divergence | shape | ours | of triad | against | peer's time / ours |"
    table = "\n".join([head, "|---|---|---|---|---|---|", *rows])
    note = (
        f"{platform.machine()}, {torch.get_num_threads()} torch threads; "
        "beyond 1 in the last column the peer is slower. "
        f"Triad {small / 1e9:.0f} GB/s (8 MB arrays), {large / 1e9:.0f} GB/s (80 MB arrays)."
    )
    print(f"{table}\n\n{note}")
    OUT.mkdir(exist_ok=True)
    write_text(OUT / "solve.md", f"{table}\n\n{note}\n")


if __name__ == "__main__":
    main()
