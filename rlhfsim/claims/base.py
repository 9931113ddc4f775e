"""What a claim is: a name, a source, two sides, and the instance on which it is tight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np

from rlhfsim.checks import FloatArray

Instances = TypeVar("Instances")

#: `upper`: left <= right always.  `false`: printed somewhere, and violated by the witness.
Kind = Literal["upper", "false"]


#: Rounding of a sum of probabilities, or of a logarithm of one.
RESOLUTION = 32 * float(np.finfo(np.float64).eps)


def _unit_resolution(instances: object) -> FloatArray:
    return np.asarray(RESOLUTION)


@dataclass(frozen=True)
class Claim(Generic[Instances]):
    """`left(instance) <= right(instance)`, evaluated on batches of instances.

    Parameters
    ----------
    name : str
        Short and unique.
    formula : str
        The statement, in plain text.
    source : str
        Where it is stated: arXiv id or author and year.
    kind : "upper" or "false"
    left, right : functions from a batch of instances to one number per instance
    witness : function returning a batch
        Where the claim is tight or approaches its supremum (`upper`), or fails (`false`).
    resolution : function from a batch to one number per instance
        The rounding of the left side; by default that of sums of probabilities.
    """

    name: str
    formula: str
    source: str
    kind: Kind
    left: Callable[[Instances], FloatArray]
    right: Callable[[Instances], FloatArray]
    witness: Callable[[], Instances]
    resolution: Callable[[Instances], FloatArray] = _unit_resolution

    def ratio(self, instances: Instances) -> FloatArray:
        """Return left/right for each instance; above 1 is a violation.

        The left side enters less `resolution`, what rounding alone can make of it: two policies
        that differ by one ulp otherwise violate anything.  `0 <= 0` and `inf <= inf` say nothing
        and count as ratio 0; a side that is not a number counts as a violation.
        """
        left, right = np.broadcast_arrays(self.left(instances), self.right(instances))
        left = np.maximum(left - self.resolution(instances), 0.0)
        vacuous = ((left == 0) & (right <= 0)) | np.isposinf(right)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(vacuous, 0.0, left / np.where(vacuous, 1.0, right))
        return np.where(np.isnan(left) | np.isnan(right), np.inf, ratio)
