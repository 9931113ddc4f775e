"""What every backend of the tensor solver returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Rows(NamedTuple):
    """Optimum of each row with its certificate; all tensors on the inputs' device.

    `policy` is `(N, Y)` in the dtype of the inputs.  The other fields are `(N,)`, float64 and in
    the units of the reward, as in `Solution`.  `multiplier`, `value`, `gap` and `tolerance` are
    those of the policy before it is rounded to the dtype, `feasibility` that of the policy as
    returned.  The CUDA kernels certify float32 rows as rounded, and their multiplier is accurate to
    the float32 eps of `max(spread of the rewards, beta times weight)`.
    """

    policy: Tensor
    multiplier: Tensor
    value: Tensor
    gap: Tensor
    feasibility: Tensor
    tolerance: Tensor


#: `(reward, reference, beta, chi_squared, kl) -> Rows` for the penalty
#: `beta (chi_squared D_chi2 + kl KL)`, at least one weight positive: `reward` (N, Y) contiguous,
#: float32 or float64; `reference` (N, Y) of the same dtype, perhaps expanded along N with stride
#: 0; `beta` (N,) float64.
RowSolver = Callable[[Tensor, Tensor, Tensor, float, float], Rows]
