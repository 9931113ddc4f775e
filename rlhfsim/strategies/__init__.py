"""Hypothesis strategies for property tests: policies, rewards, bandits, data, divergences.

They aim where statements about policies break: exact zeros, probabilities of 1e-12 and 1e-300,
ties, point masses, policies that equal the reference or nearly do, comparisons of a response with
itself.  What is found shrinks to few prompts and responses, rewards 0 and 1, uniform references and
point masses.

As in Hypothesis itself, every function returns a strategy, arguments are checked when it is first
drawn from, and a bad one is a `hypothesis.errors.InvalidArgument`.  `shape` is an integer Y, a
tuple `(..., Y)`, or a strategy for either; left out, it is drawn from `shapes()`.

Tests that call `rlhfsim.solve` need `settings(deadline=None)`: the first call loads compiled
kernels, or compiles them, which takes longer than the 200 ms that Hypothesis grants.

This module needs hypothesis, which `import rlhfsim` does not.
"""

try:
    import hypothesis  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "hypothesis":
        raise
    raise ModuleNotFoundError(
        "rlhfsim.strategies needs hypothesis, which is not installed: pip install hypothesis",
        name="hypothesis",
    ) from error

from rlhfsim.strategies.instances import bandits, preference_data
from rlhfsim.strategies.pairs import policy_pairs
from rlhfsim.strategies.problems import (
    RegularizedProblem,
    betas,
    divergences,
    regularized_problems,
)
from rlhfsim.strategies.rows import distributions, policies, prompt_dists, references
from rlhfsim.strategies.sizes import SMALLEST_PROBABILITY, shapes
from rlhfsim.strategies.tables import rewards

__all__ = [
    "SMALLEST_PROBABILITY",
    "RegularizedProblem",
    "bandits",
    "betas",
    "distributions",
    "divergences",
    "policies",
    "policy_pairs",
    "preference_data",
    "prompt_dists",
    "references",
    "regularized_problems",
    "rewards",
    "shapes",
]
