"""The hinge of one prompt: a linear program, or its smoothed version where it is not alone.

    F(s) = sum_r count_r max(0, margin - (s(y+_r) - s(y-_r) - gap_r))

Its dual is a flow: `0 <= flow_r <= count_r` that no response gains or loses, with the value
`sum_r flow_r (margin + gap_r)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.learners.direct.programs import sum_of_hinges
from rlhfsim.learners.direct.prompts import PromptRows
from rlhfsim.learners.direct.recession import flat_direction, incidence
from rlhfsim.losses import OuterLoss

_KINK = 1e-9


class Vertex(NamedTuple):
    """A minimiser of the hinge."""

    #: (K,) mean 0 in each set of responses linked by comparisons.
    scores: FloatArray
    #: Value less that of the dual; at least 0 but for rounding.
    gap: float
    #: Largest gain or loss of a response in the dual flow.
    residual: float
    #: Whether every other minimiser differs by a constant.
    unique: bool


def minimize_hinge(rows: PromptRows, margin: float) -> Vertex:
    """Return a vertex of the set of minimisers.

    Raises
    ------
    RuntimeError
        If the linear program fails.
    """
    least = margin + rows.gap
    s, flow, gap = sum_of_hinges(incidence(rows), least, rows.count, f"prompt {rows.prompt}")
    short = least - rows.difference(s)
    near = _KINK * (1.0 + np.abs(least))
    right = np.where(short > near, -1.0, 0.0)
    left = np.where(short < -near, 0.0, 1.0)
    unique = flat_direction(rows, right, left) is None
    labels = rows.components()
    means = np.bincount(labels, weights=s) / np.bincount(labels)
    return Vertex(s - means[labels], gap, float(np.abs(rows.scatter(flow)).max()), unique)


@dataclass(frozen=True)
class SmoothHinge(OuterLoss):
    """`(x + sqrt(x^2 + 4 width^2))/2`, `x = margin - h`: at most `width` above the hinge.

    Parameters
    ----------
    margin : float
    width : float
        Positive.

    Source: Chen and Harker 1993; Kanzow 1996; Smale 1986.
    """

    margin: float
    width: float

    def value(self, h: FloatArray) -> FloatArray:
        """Return the loss."""
        return softened(self.margin - h, self.width)[0]

    def slope(self, h: FloatArray) -> FloatArray:
        """Return its derivative, in (-1, 0)."""
        return -softened(self.margin - h, self.width)[1]

    def curvature(self, h: FloatArray) -> FloatArray:
        """Return the second derivative."""
        return softened(self.margin - h, self.width)[2]


def softened(x: FloatArray, width: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return `(x + sqrt(x^2 + 4 width^2))/2`, a smooth `max(0, x)`, and two derivatives.

    Its slope leaves 0 and 1 slowly, like `width^2/x^2`, so that Newton's method follows a
    minimiser when the width is reduced.
    """
    root = np.hypot(x, 2.0 * width)
    # Where x < 0 the sum would cancel.
    value = np.where(x > 0, 0.5 * (x + root), 2.0 * width**2 / (root - np.minimum(x, 0.0)))
    return value, value / root, 2.0 * width**2 / root**3
