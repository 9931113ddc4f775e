"""What a reward fit returns, and what it raises when its own certificate is bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.frozen import Frozen
from rlhfsim.rewards.information import information


@dataclass(frozen=True, eq=False)
class RewardFit(Frozen):
    """A reward learned from preferences, with its certificate; arrays are read-only."""

    #: (X, Y) learned reward `r_hat`.
    reward: FloatArray
    #: `sum_i log sigma(r_hat(x_i, y+_i) - r_hat(x_i, y-_i))` over all rows, in nats; a row with
    #: `y+ = y-` contributes `log(1/2)`.
    log_likelihood: float
    #: Largest violation of the stationarity (KKT) conditions over all prompts and responses, in
    #: comparisons; None for a finite class, which is searched exhaustively.
    gradient_norm: float | None
    #: (X, Y) whether the response was compared with a different one at that prompt.  Where False
    #: the data say nothing and the reward is the model's convention.
    compared: BoolArray
    #: Index of the chosen reward in a finite class; None otherwise.
    index: int | None = None
    #: Indices of all rewards of a finite class that fit as well, increasing, `index` among them;
    #: None otherwise.
    tied: IntArray | None = None
    #: (X,) whether the unconstrained Bradley-Terry estimate of the prompt exists, whatever was
    #: fitted (`mle_exists`); None where the question does not arise.
    exists: BoolArray | None = None
    #: (d,) parameter of a model with fewer numbers than `(X, Y)`; None otherwise.
    parameter: FloatArray | None = None
    #: (d, d) Hessian of the negative log-likelihood (and of a ridge) in `parameter`; None
    #: otherwise.  For tables, `hessian` makes that of a prompt.
    information: FloatArray | None = None

    def __post_init__(self) -> None:
        """Copy the arrays and make them read-only."""
        for name in ("reward", "compared", "tied", "exists", "parameter", "information"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checks.frozen(value))

    def hessian(
        self, data: PreferenceData | PairCounts | None = None, prompt: int | None = None
    ) -> FloatArray:
        """Return the Hessian of the negative log-likelihood at the fit.

        In the parameter of a model that has one, `information`; in the rewards of a table fitted
        to preferences otherwise, without what a ridge adds.

        Parameters
        ----------
        data : PreferenceData or PairCounts
            What was fitted; needed for tables.
        prompt : int, optional
            Only this prompt's block of a table.

        Returns
        -------
        (d, d), (X, Y, Y) or (Y, Y) array

        Raises
        ------
        ValueError
            For a table without its data, data that are no preferences or have another shape, or a
            prompt out of range.

        Source: Hunter 2004 (Ann. Statist. 32, 1).
        """
        if self.information is not None:
            return self.information
        if data is None:
            raise ValueError("data is None; it must be the data to which the table was fitted")
        return information(data, self.reward, prompt)


class RewardFitError(RuntimeError):
    """A fit failed its own certificate; what was reached is in `fit`."""

    def __init__(self, message: str, fit: RewardFit) -> None:
        super().__init__(message)
        self.fit = fit

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with `fit`, so that the error survives the way back from a worker process."""
        return type(self), (str(self), self.fit)
