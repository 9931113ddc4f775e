"""What training returns: the quantities of every recorded step, and where it ended."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.frozen import Frozen

if TYPE_CHECKING:
    import pandas as pd

#: The quantities that are recorded, in the order of the columns of `Trajectory.to_dataframe`.
RECORDED = (
    "loss",
    "gradient_norm",
    "gold",
    "proxy",
    "kl",
    "chi_squared",
    "chosen_logp",
    "rejected_logp",
)


@dataclass(frozen=True, eq=False)
class Trajectory(Frozen):
    """The paths of S policies under training, at T recorded steps; arrays are read-only.

    Divergences and values are averages over the prompt distribution; step 0 is the start.
    """

    #: (T,) numbers of steps taken.
    step: IntArray
    #: (S, T) times that all rows were seen: rows seen by number of rows (`PairCounts.total`).
    epoch: FloatArray
    #: (S, T) mean loss over all rows of the data, also with mini-batches.
    loss: FloatArray
    #: (S, T) Euclidean norm of its gradient in the parameters: 0 at a stationary point.
    gradient_norm: FloatArray
    #: (S, T) `E_pi` of the gold reward and of the proxy, in reward units; None if not given.
    gold: FloatArray | None
    proxy: FloatArray | None
    #: (S, T) `KL(pi || p)`, in nats, and `D_chi2(pi || p)`.
    kl: FloatArray
    chi_squared: FloatArray
    #: (S, T) means of `log pi(y+)` and `log pi(y-)` over comparisons of different responses; NaN
    #: for data without any.
    chosen_logp: FloatArray
    rejected_logp: FloatArray
    #: (S, X, Y) the last policies, and their logarithms; `-inf` where the reference is 0.
    policy: FloatArray
    log_policy: FloatArray
    #: (S, d) the last parameters of log-linear policies; None for tabular ones.
    parameter: FloatArray | None = None

    def __post_init__(self) -> None:
        """Freeze; arrays that could be written to, here or elsewhere, are copied."""
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None:
                object.__setattr__(self, f.name, _kept(value))
        shape = (*self.loss.shape[:1], *self.step.shape)
        for name in ("epoch", *RECORDED):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; it must have shape {shape}")

    @property
    def concentrability(self) -> FloatArray:
        """(S, T) `C^pi = E_pi[pi/p] = 1 + 2 D_chi2`."""
        return 1.0 + 2.0 * self.chi_squared

    @property
    def peak(self) -> IntArray:
        """(S,) indices of the recorded steps with the largest gold reward, the first if tied.

        Raises
        ------
        ValueError
            If no gold reward was given.
        """
        if self.gold is None:
            raise ValueError("gold is missing; train with gold= to see its peak")
        return self.gold.argmax(axis=1)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row for each path and recorded step: `seed`, `step`, `epoch`, quantities."""
        import pandas as pd

        paths, times = self.loss.shape
        columns: dict[str, NDArray[Any]] = {
            "seed": np.repeat(np.arange(paths), times),
            "step": np.tile(self.step, paths),
        }
        for name in ("epoch", *RECORDED):
            array = getattr(self, name)
            if array is not None:
                columns[name] = array.reshape(-1)
        columns["concentrability"] = self.concentrability.reshape(-1)
        return pd.DataFrame(columns)


class TrainingDivergedError(RuntimeError):
    """Parameters left the floats: path `seed`, after `step` steps."""

    def __init__(self, seed: int, step: int) -> None:
        super().__init__(
            f"the parameters of path {seed} are not finite after step {step}; "
            "take a smaller learning_rate"
        )
        self.seed, self.step = seed, step

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the two numbers."""
        return type(self), (self.seed, self.step)


def _kept(array: NDArray[Any]) -> NDArray[Any]:
    if array.flags.owndata and not array.flags.writeable:
        return array
    return checks.frozen(array)
