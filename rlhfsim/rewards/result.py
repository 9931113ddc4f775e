"""What a reward fit returns, and what it raises when its own certificate is bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.frozen import Frozen


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

    def __post_init__(self) -> None:
        """Copy the arrays and make them read-only."""
        for name in ("reward", "compared", "tied"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checks.frozen(value))


class RewardFitError(RuntimeError):
    """A fit failed its own certificate; what was reached is in `fit`."""

    def __init__(self, message: str, fit: RewardFit) -> None:
        super().__init__(message)
        self.fit = fit

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with `fit`, so that the error survives the way back from a worker process."""
        return type(self), (str(self), self.fit)
