"""What many runs leave behind."""

from __future__ import annotations

from dataclasses import dataclass

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.online.record import OnlineRecord


class OnlineError(RuntimeError):
    """A run ended where a number could not be certified."""


@dataclass(frozen=True, eq=False)
class LinearRuns(Frozen):
    """S runs of T rounds, measured against the true reward; arrays are read-only.

    In round t the main agent plays `pi_t`, made of the data before the round.

    Parameters
    ----------
    policy : (S, X, Y) array of distributions
        What is learned from all rounds.
    parameter : (S, d) array
        `theta` after all rounds.
    regret, regularized_regret : (S, T) arrays
        `J(pi*) - J(pi_t)` and `J_beta(pi*_beta) - J_beta(pi_t)`, in reward units.
    uncertainty : (S, T) array
        `||E_x[phi(x, pi2_t) - phi(x, pi_t)]||_{Sigma_t^-1}` of the policies that were played.
    radius : (S, T) array
        `c_t` of an enhancer, NaN without one.
    residual : (S, T) array
        How far an enhancer is from stationary, as in `MostUncertain`; NaN without one.
    error : (S, T) array
        `||theta_t - theta*||_{Sigma_t}`, NaN where the parameter is unknown.
    informative : (S, T) array of integers
        Comparisons of two different responses up to and including each round.
    slope : (S,) array
        Largest gradient of a round's likelihood, as a share of the sizes of its terms.
    comparisons : (T,) array of integers
        All comparisons up to and including each round.

    Source: arXiv 2312.11456.
    """

    policy: FloatArray
    parameter: FloatArray
    regret: FloatArray
    regularized_regret: FloatArray
    uncertainty: FloatArray
    radius: FloatArray
    residual: FloatArray
    error: FloatArray
    informative: IntArray
    slope: FloatArray
    comparisons: IntArray

    def __post_init__(self) -> None:
        """Copy the arrays and make them read-only."""
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, checks.frozen(getattr(self, name)))

    def __len__(self) -> int:
        """Return S."""
        return len(self.policy)

    def record(self, run: int) -> OnlineRecord:
        """Return the record of one run."""
        return OnlineRecord(
            self.policy[run], self.regret[run], self.regularized_regret[run], self.comparisons
        )
