"""Time the Triton kernels of `solve` on a CUDA machine: accuracy first, then alternating medians.

Prints a Markdown table and writes it to `bench-out/gpu.md`.  The share is that of the bandwidth of
a device-to-device copy, measured in the same run, with each input read once and each output
written once.  Without a GPU it says so and stops.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlhfsim import KL, ChiSquared, Divergence
from rlhfsim.files import write_text
from rlhfsim.solvers.general import solve_rows as solve_numpy
from rlhfsim.solvers.tensors import pure, triton_rows
from rlhfsim.solvers.tensors.rows import Rows

OUT = Path("bench-out")
DEVICE = "cuda"
REPEATS = 15
BETA = 1.0
# Entries of a group in which the pure torch path is timed.
PURE_ENTRIES = 10**8


class Kind(NamedTuple):
    """A divergence, the share of the copy bandwidth to reach, and what people use today."""

    name: str
    chi_squared: float
    kl: float
    divergence: Divergence
    short_target: float
    long_target: float


KINDS = (
    Kind("KL", 0.0, 1.0, KL(), 0.70, 0.45),
    Kind("chi2", 1.0, 0.0, ChiSquared(), 0.70, 0.20),
    Kind("mixed", 1.0, 1.0, ChiSquared() + KL(), 0.40, 0.12),
)


class Shape(NamedTuple):
    """A workload."""

    rows: int
    size: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.rows:.0e}×{self.size:.0e} {str(self.dtype).removeprefix('torch.')}"

    @property
    def bytes_moved(self) -> int:
        """Reward and reference read once, policy written once."""
        return 3 * self.rows * self.size * self.dtype.itemsize

    def fitting(self) -> Shape:
        """Return the shape with rows short enough for the free memory and the peers' copies."""
        free, _ = torch.cuda.mem_get_info()
        size = self.size
        # Three arrays of ours; a softmax needs one more, and its logits another.
        while 6 * self.rows * size * self.dtype.itemsize > free and size > 1000:
            size //= 2
        return self._replace(size=size)


SHORT = (Shape(100_000, 1000, torch.float32), Shape(100_000, 1000, torch.float64))
LONG = Shape(8, 100_000_000, torch.float32)


# ---- time ----------------------------------------------------------------------------------------


def alternate(*functions: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Return the median seconds of each function on the device, run in turn."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 2):
        for slot, function in zip(times, functions, strict=True):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            end.synchronize()
            if turn > 1:  # the first two turns compile and warm up
                slot.append(1e-3 * start.elapsed_time(end))
    return [float(np.median(slot)) for slot in times]


def copy_bandwidth(bytes_moved: int) -> float:
    """Return the bytes per second, read and written, of a copy that moves so many."""
    source = torch.empty(bytes_moved // 8, dtype=torch.float32, device=DEVICE).normal_()
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / alternate(lambda: target.copy_(source))[0]


# ---- problems and peers --------------------------------------------------------------------------


def problem(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Return a random reward, reference and beta."""
    generator = torch.Generator(device=DEVICE).manual_seed(1)
    full = (shape.rows, shape.size)
    reward = torch.empty(full, dtype=shape.dtype, device=DEVICE).normal_(generator=generator)
    reference = torch.empty_like(reward).exponential_(generator=generator)
    # A row at a time, so that a long row's float64 sum needs no copy.
    for row in reference if shape.rows < 100 else (reference,):
        row /= row.sum(dim=-1, keepdim=True, dtype=torch.float64).to(shape.dtype)
    beta = torch.full((shape.rows,), BETA, dtype=torch.float64, device=DEVICE)
    return reward, reference, beta


def softmax_peer(reward: Tensor, reference: Tensor) -> Tensor:
    """Return the KL optimum as people write it."""
    return torch.softmax(reward / BETA + reference.log(), dim=-1)


def sparsemax_peer(reward: Tensor, reference: Tensor) -> Tensor:
    """Return the chi-squared optimum by a sort and cumulative sums: sparsemax with a reference."""
    falling, order = reward.sort(dim=-1, descending=True)
    chances = reference.gather(-1, order)
    mass = chances.cumsum(dim=-1)
    shortfall = (chances * falling).cumsum(dim=-1) - mass * falling
    last = (shortfall < BETA).sum(dim=-1, keepdim=True) - 1
    weighted = (chances * falling).cumsum(dim=-1).gather(-1, last)
    threshold = (weighted - BETA) / mass.gather(-1, last)
    return reference * ((reward - threshold) / BETA).clamp(min=0.0)


def peers(kind: Kind, shape: Shape, r: Tensor, p: Tensor, b: Tensor) -> dict[str, Callable]:
    """Return what to time against."""
    found: dict[str, Callable[[], object]] = {}
    if kind.name == "KL":
        found["torch softmax(r/beta + log p)"] = lambda: softmax_peer(r, p)
    if kind.name == "chi2" and shape.size <= 10**6:
        found["torch sort and cumsum"] = lambda: sparsemax_peer(r, p)
    if r.numel() <= PURE_ENTRIES:
        found["this package in plain torch"] = lambda: pure.solve_rows(
            r, p, b, kind.chi_squared, kind.kl
        )
    return found


# ---- accuracy ------------------------------------------------------------------------------------


def solved(kind: Kind, r: Tensor, p: Tensor, b: Tensor, **options: int) -> Rows:
    """Return the kernels' answer."""
    return triton_rows.solve_rows(r, p, b, kind.chi_squared, kind.kl, **options)


def check(kind: Kind, answer: Rows, r: Tensor, p: Tensor, b: Tensor) -> float:
    """Return the largest L1 error of the policies of a few rows against numpy in float64."""
    eps = torch.finfo(r.dtype).eps
    assert bool((answer.gap.abs() <= answer.tolerance).all()), f"{kind.name}: gap"
    limit = eps * (16 + np.log2(r.shape[1]))
    assert bool((answer.feasibility <= limit).all()), f"{kind.name}: feasibility"
    few = slice(0, max(1, min(64, 4_000_000 // r.shape[1])))
    host = [x[few].double().cpu().numpy() for x in (r, p, b)]
    truth = solve_numpy(*host, kind.divergence)
    policy = answer.policy[few].double().cpu().numpy()
    error = float(np.abs(policy - truth.policy).sum(axis=1).max())
    assert error <= 16 * eps, f"{kind.name}: L1 error {error:.3g}"
    spread = float(np.ptp(host[0], axis=1).max())
    for name in ("value", "multiplier"):
        wrong = np.abs(getattr(answer, name)[few].cpu().numpy() - getattr(truth, name)).max()
        assert wrong <= 32 * eps * (spread + BETA), f"{kind.name}: {name} off by {wrong:.3g}"
    return error


def check_long(kind: Kind, size: int = 1_000_003) -> None:
    """Check the kernels for long rows where numpy can follow, in both dtypes, twice alike."""
    for dtype in (torch.float32, torch.float64):
        r, p, b = problem(Shape(3, size, dtype))
        answer = solved(kind, r, p, b, longest_short=0)
        check(kind, answer, r, p, b)
        again = solved(kind, r, p, b, longest_short=0)
        assert all(torch.equal(x, y) for x, y in zip(answer, again, strict=True)), kind.name


# ---- tables --------------------------------------------------------------------------------------


def rows_of_table(shape: Shape, *, long: bool) -> list[str]:
    """Check and time one shape with every divergence."""
    shape = shape.fitting()
    bandwidth = copy_bandwidth(min(shape.bytes_moved, 4 * 10**9))
    r, p, b = problem(shape)
    table = []
    for kind in KINDS:
        if long:
            check_long(kind)
            answer = solved(kind, r, p, b)
            assert bool((answer.gap.abs() <= answer.tolerance).all()), kind.name
            error = "certified"
        else:
            answer = solved(kind, r, p, b)
            error = f"{check(kind, answer, r, p, b):.1e}"
        del answer
        others = peers(kind, shape, r, p, b)
        ours, *theirs = alternate(lambda k=kind: solved(k, r, p, b), *others.values())
        share = shape.bytes_moved / ours / bandwidth
        target = kind.long_target if long else kind.short_target
        against = ", ".join(
            f"{name} {seconds / ours:.3g}×" for name, seconds in zip(others, theirs, strict=True)
        )
        table.append(
            f"| {kind.name} | {shape} | {error} | {1e3 * ours:.3g} ms | {100 * share:.0f} % "
            f"| {100 * target:.0f} % | {against or '–'} |"
        )
        print(table[-1], flush=True)
    return table


def main() -> None:
    """Run everything and write the table."""
    if not torch.cuda.is_available():
        sys.exit("bench_gpu.py needs a CUDA GPU and torch built for it; none was found")
    head = (
        "| divergence | shape | L1 error | ours | of copy bandwidth | target "
        "| peer's time / ours |\n|---|---|---|---|---|---|---|"
    )
    print(head)
    table = [row for shape in SHORT for row in rows_of_table(shape, long=False)]
    torch.cuda.empty_cache()
    table += rows_of_table(LONG, long=True)
    bandwidth = copy_bandwidth(4 * 10**9)
    note = (
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; copy "
        f"{bandwidth / 1e9:.0f} GB/s read and written; medians of {REPEATS} alternating runs; "
        "beyond 1 in the last column the peer is slower."
    )
    print(f"\n{note}")
    OUT.mkdir(exist_ok=True)
    write_text(OUT / "gpu.md", "\n".join([head, *table]) + f"\n\n{note}\n")


if __name__ == "__main__":
    main()
