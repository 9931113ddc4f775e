"""The optimum of a prompt whose responses are never in one place: only sums travel.

The responses of each prompt come in blocks, in memory of their own or generated when asked for.
A *pass* evaluates a kernel on every block and combines what comes back, a few numbers per prompt:

1. `survey`: range of the rewards, mass of the reference, what breaks a rule, a small sample.
2. `evaluate`, until the mass is 1: `sum_y p w` and its slope at a trial multiplier (or several).
3. `certify`: primal and dual value of the policy that is handed out.

How digits are kept.  A multiplier is a pair `anchor + beta offset`, the anchor a number in reward
units; scores `s = (r - anchor)/beta - offset` then carry a relative error of a few ulp whatever
the offset of the rewards.  Where f' is bounded by the recession R and `R + lambda` comes close to
the best reward, that is the anchor and `v = offset + R` is kept in place of the offset: the
deficits `R - s = v - (r - anchor)/beta` of ratios far above 1 are then sums without cancellation.
Sums of blocks are pairwise inside a block and compensated from block to block.

Source: as `rlhfsim.solvers.general`, whose equations these are; the passes are derived here.
"""

from rlhfsim.solvers.sums.passes import Blocks, Combine, Kernel, Sums, combine_sums
from rlhfsim.solvers.sums.policy import Multiplier, policy_block
from rlhfsim.solvers.sums.solving import solve_blocks

__all__ = [
    "Blocks",
    "Combine",
    "Kernel",
    "Multiplier",
    "Sums",
    "combine_sums",
    "policy_block",
    "solve_blocks",
]
