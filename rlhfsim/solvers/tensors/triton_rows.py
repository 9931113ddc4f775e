"""The optimum of each row in fused Triton kernels, for CUDA.

Rows of at most `LONGEST_SHORT` responses are solved in registers, one read and one write in all
(`triton_short`).  Longer ones are split over programs (`triton_long`): KL takes two passes over
the row; the others start from a sample of it, take a few passes of Newton's method with the state
on the device, and write.  One look from the host then decides whether some row needs more passes.

Source: as `rlhfsim.solvers.general`; kernels derived there and in `triton_math.certificate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rlhfsim.solvers.tensors import triton_long as long
from rlhfsim.solvers.tensors import triton_short as short
from rlhfsim.solvers.tensors.rows import Rows

#: Longest float32 row that one program holds in registers; half of it in float64, and half of that
#: for the mixed divergence, where the compiler for compute capability 9.0 hardly spills yet.
LONGEST_SHORT = 8192
#: Columns of a long row that one program takes per step, and programs per row at most.
LONG_BLOCK = 1024
MOST_PROGRAMS = 1024
#: Columns of a long row that the first guess is made from.
SAMPLE = 8192
# Passes over long rows before the policy is first written, and then between two looks.  A pass over
# a row that is done costs nothing, and the writing pass confirms a last one.
_FIRST_PASSES = 5
_MORE_PASSES = 4
# Looks in all: the worst row, of rewards over all decades of float64, takes about 1100 passes.
_MOST_LOOKS = 400
# Newton passes over a short row; every pass at least halves the bracket after the second.
_MOST_SHORT_PASSES = 300
_STATE_BLOCK = 128
# Scores of KL whose rounding is worth another pass.
_FAR_ABOVE = 64.0


class _Problem(NamedTuple):
    reward: Tensor
    reference: Tensor
    chi_squared: float
    kl: float
    #: (N,) beta times the weight of the divergence, of KL if there are two.
    scale: Tensor
    #: (1,) weight of chi-squared over weight of KL, where there are two.
    curvature: Tensor
    #: Relative error of a sum of one row, in the dtype of the arrays.
    rounding: float
    dtype: tl.dtype
    policy: Tensor
    #: (5, N): the fields of `Rows` after the policy.
    fields: Tensor

    @property
    def extra(self) -> tuple[Tensor, ...]:
        """What the kernels of two weights take besides `scale`."""
        return (self.curvature,) if self.chi_squared and self.kl else ()

    @property
    def reference_stride(self) -> int:
        return self.reference.stride(0)

    @property
    def rows(self) -> int:
        return self.reward.shape[0]

    @property
    def size(self) -> int:
        return self.reward.shape[1]

    def pick(self, kl: Any, chi_squared: Any, mixed: Any) -> Any:
        """Return what belongs to the divergence."""
        if self.chi_squared == 0:
            return kl
        return chi_squared if self.kl == 0 else mixed


def solve_rows(
    reward: Tensor,
    reference: Tensor,
    beta: Tensor,
    chi_squared: float,
    kl: float,
    *,
    longest_short: int | None = None,
    long_block: int = LONG_BLOCK,
    most_programs: int = MOST_PROGRAMS,
    sample: int = SAMPLE,
) -> Rows:
    """Return the optimum of each row: the contract of `Rows`.  Checked input only.

    The policy is within a few ulp of its dtype of the optimum of the given numbers, up to the
    rounding of the scores `(r - lambda)/(beta weight)` to float64 eps of their size; sums and
    scores are float64.  Products of beta and a weight, and their inverses, must be normal numbers
    of the dtype.  The same input gives the same bits.

    Parameters
    ----------
    longest_short : int
        Longest row to be held in registers; for tests.
    long_block, most_programs, sample : int
        Beyond that: columns per step, programs per row, and columns that the first guess is made
        from; the first and the last powers of 2.
    """
    wide = reward.dtype == torch.float64
    eps = torch.finfo(reward.dtype).eps
    problem = _Problem(
        reward,
        reference,
        chi_squared,
        kl,
        scale=beta * (kl or chi_squared),
        curvature=beta.new_full((1,), chi_squared / kl if kl else 0.0),
        rounding=eps * (16.0 + math.log2(reward.shape[1])),
        dtype=tl.float64 if wide else tl.float32,
        policy=torch.empty_like(reward),
        fields=torch.empty((5, reward.shape[0]), dtype=torch.float64, device=reward.device),
    )
    if longest_short is None:
        longest_short = LONGEST_SHORT // (2 if problem.extra else 1) // (2 if wide else 1)
    if problem.rows and problem.size <= longest_short:
        _short(problem)
    elif problem.rows:
        _Long(problem, long_block, most_programs, sample).solve()
    return Rows(problem.policy, *problem.fields)


def _launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Launch on the device of the first tensor."""
    constants.setdefault("num_warps", 4)
    device = arguments[0].device
    if device.type == "cuda":
        with torch.cuda.device(device):
            kernel[(programs,)](*arguments, enable_fp_fusion=True, **constants)
    else:
        kernel[(programs,)](*arguments, **constants)


def _alignment(size: int, itemsize: int) -> int:
    """Return the largest power of 2 that divides the size, up to 16 bytes: one vector load."""
    return math.gcd(size, 16 // itemsize)


# ---- short rows ----------------------------------------------------------------------------------

_TILE = 1024
_ENTRIES_PER_THREAD = 8


def _short(problem: _Problem) -> None:
    block = max(16, triton.next_power_of_2(problem.size))
    rows = max(1, min(_TILE // block, triton.next_power_of_2(problem.rows)))
    warps = max(1, min(16, rows * block // (32 * _ENTRIES_PER_THREAD)))
    group = _alignment(problem.size, problem.reward.element_size())
    constants = {"GROUP": group, "ROWS": rows, "BLOCK": block, "DTYPE": problem.dtype}
    if problem.extra:
        constants["SAMPLE"] = block // 4 if block >= 512 else 0
        constants["MOST"] = _MOST_SHORT_PASSES
    _launch(
        problem.pick(short.kl_rows, short.chi_squared_rows, short.mixed_rows),
        triton.cdiv(problem.rows, rows),
        problem.reward,
        problem.reference,
        problem.scale,
        problem.policy,
        problem.fields,
        problem.rows,
        problem.size // group,
        problem.reference_stride,
        *problem.extra,
        problem.rounding,
        num_warps=warps,
        **constants,
    )


# ---- long rows -----------------------------------------------------------------------------------


class _Long:
    """Long rows: the problem, its partition into chunks, and the state of its rows."""

    def __init__(self, problem: _Problem, block: int, most_programs: int, sample: int) -> None:
        self.problem = problem
        size = problem.size
        self.block = min(block, max(16, triton.next_power_of_2(size)))
        # In steps of the block; chosen from the size alone, so that sums do not depend on the card.
        blocks = triton.cdiv(size, self.block)
        self.steps = triton.cdiv(blocks, min(most_programs, blocks))
        self.programs = triton.cdiv(blocks, self.steps)
        self.sample = min(sample, max(16, triton.next_power_of_2(size)))
        self.anchor = self.state()
        self.multiplier = self.state()
        self.going = torch.ones(problem.rows, dtype=torch.int32, device=problem.reward.device)

    def state(self, *width: int, fill: float = 0.0) -> Tensor:
        """Return a new float64 array with one row per row of the problem."""
        shape = (self.problem.rows, *width)
        return torch.full(shape, fill, dtype=torch.float64, device=self.problem.reward.device)

    def solve(self) -> None:
        self.problem.pick(self._kl, self._chi_squared, self._mixed)()

    # ---- launches ---------------------------------------------------------------------------

    def _inputs(self) -> tuple[Tensor, Tensor]:
        return self.problem.reward, self.problem.reference

    def _sampled(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        """One program per row."""
        _launch(
            kernel, self.problem.rows, *arguments, SAMPLE=self.sample, num_warps=16, **constants
        )

    def _partitioned(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        """One program per chunk."""
        problem = self.problem
        group = _alignment(problem.size, problem.reward.element_size())
        _launch(
            kernel,
            problem.rows * self.programs,
            *self._inputs(),
            *arguments,
            problem.size // group,
            self.steps,
            self.programs,
            problem.reference_stride,
            *problem.extra,
            GROUP=group,
            BLOCK=self.block,
            **constants,
        )

    def _stepped(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        """One lane per row."""
        blocks = triton.cdiv(self.problem.rows, _STATE_BLOCK)
        _launch(kernel, blocks, *arguments, BLOCK=_STATE_BLOCK, num_warps=1, **constants)

    def _certify(self, sums: Tensor, multiplier: Tensor) -> None:
        self._stepped(
            long.certify,
            sums,
            sums.shape[1],
            multiplier,
            self.anchor,
            self.problem.scale,
            self.problem.curvature + 1.0,
            self.problem.fields,
            self.problem.rows,
            self.problem.rounding,
        )

    def _until_done(
        self, step: Callable[[], None], write: Callable[[], Tensor], passes: int
    ) -> None:
        """Take steps and write, until the host sees that every written row was done."""
        for _ in range(_MOST_LOOKS):
            for _ in range(passes):
                step()
            if bool(write().all()):
                return
            passes = _MORE_PASSES

    # ---- the three divergences --------------------------------------------------------------

    def _kl(self) -> None:
        problem = self.problem
        self._sampled(
            long.kl_anchor, *self._inputs(), self.anchor, problem.size, problem.reference_stride
        )
        scale, dtype = problem.scale, problem.dtype
        partials, best = self.state(self.programs), self.state(self.programs)
        tops = partials.to(torch.int32)
        for _ in range(2):
            self._partitioned(
                long.kl_partition,
                scale, self.anchor, self.going, partials, tops, best,
                DTYPE=dtype,
            )  # fmt: skip
            # Once more where the sample's best reward is far below the best of all.
            row_best = best.amax(dim=1)
            self.going = ((row_best - self.anchor) / scale > _FAR_ABOVE).to(torch.int32)
            self.anchor = torch.where(self.going > 0, row_best, self.anchor)
        top = tops.amax(dim=1)
        total = (partials * torch.exp2((tops - top[:, None]).double())).sum(dim=1)
        sums = self.state(self.programs, 4)
        self._partitioned(
            long.kl_write, scale, self.anchor, total, top, problem.policy, sums, DTYPE=dtype
        )
        multiplier = scale * (torch.log(total) + top.double() * math.log(2.0))
        self._certify(sums.sum(dim=1), multiplier)

    def _chi_squared(self) -> None:
        problem = self.problem
        scale, dtype = problem.scale, problem.dtype
        reach, active = self.state(), self.state(fill=-1.0)
        self._sampled(
            long.threshold_start,
            *self._inputs(),
            scale,
            self.anchor,
            reach,
            problem.size,
            problem.reference_stride,
            DTYPE=dtype,
        )
        partials, lowest = self.state(self.programs, 3), self.state(self.programs)
        written = self.state(self.programs, 5)

        def step() -> None:
            self._partitioned(
                long.threshold_sums,
                self.anchor, reach, self.going, partials, lowest,
                DTYPE=dtype,
            )  # fmt: skip
            self._stepped(
                long.threshold_advance,
                partials.sum(dim=1), lowest.amin(dim=1), scale, self.anchor, reach, active,
                self.going, problem.rows,
            )  # fmt: skip

        def write() -> Tensor:
            self._partitioned(
                long.threshold_write,
                scale, self.anchor, reach, problem.policy, written,
                DTYPE=dtype,
            )  # fmt: skip
            sums = written.sum(dim=1)
            self._certify(sums, scale - reach)
            # Done, or the active set repeated just now: the threshold was exact for it.
            return (self.going == 0) | (sums[:, 4] == active)

        self._until_done(step, write, _FIRST_PASSES)

    def _mixed(self) -> None:
        problem = self.problem
        scale = problem.scale
        wide = problem.dtype == tl.float64
        self._sampled(
            long.mixed_start,
            *self._inputs(),
            scale,
            self.anchor,
            self.multiplier,
            problem.size,
            problem.reference_stride,
            problem.curvature,
            MOST=_MOST_SHORT_PASSES,
        )
        correction = self.state()
        low, high = self.state(fill=-math.inf), self.state(fill=math.inf)
        partials, highest = self.state(self.programs, 5), self.state(self.programs)
        sums = self.state(self.programs, 4)

        def step(precise: bool = wide, final: bool = True) -> None:
            self._partitioned(
                long.mixed_sums,
                scale, self.anchor, self.multiplier, self.going, partials, highest,
                PRECISE=precise,
            )  # fmt: skip
            self._stepped(
                long.mixed_advance,
                partials.sum(dim=1), highest.amax(dim=1), self.multiplier, correction, low, high,
                self.going, problem.rows, problem.curvature, 1e-5 if wide else 5e-3,
                FINAL=final,
            )  # fmt: skip

        def write() -> Tensor:
            self._partitioned(
                long.mixed_write,
                scale, self.anchor, self.multiplier, correction, problem.policy, sums,
                DTYPE=problem.dtype,
            )  # fmt: skip
            multiplier = scale * (self.multiplier + correction)
            self._certify(sums.sum(dim=1), multiplier)
            return self.going == 0

        if wide:
            # In float32 arithmetic first: half the price.
            step(precise=False, final=False)
        self._until_done(step, write, _FIRST_PASSES - 1)
