"""All formulas in ball arithmetic that are written by hand, by the name of the claim."""

from __future__ import annotations

from rlhfsim.certify.method_sides import METHOD_SIDES
from rlhfsim.certify.pessimism_sides import PESSIMISM_SIDES
from rlhfsim.certify.problem_sides import PROBLEM_SIDES
from rlhfsim.certify.regret_sides import REGRET_SIDES
from rlhfsim.certify.sides import BALL_SIDES, BallSides
from rlhfsim.certify.step_sides import STEP_SIDES

FORMULAS: dict[str, BallSides] = {
    **BALL_SIDES, **PROBLEM_SIDES, **REGRET_SIDES, **METHOD_SIDES, **PESSIMISM_SIDES,
    **STEP_SIDES,
}  # fmt: skip
