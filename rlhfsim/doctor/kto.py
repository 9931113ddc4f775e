"""KTO of a pair, with what faults change in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from rlhfsim.checks import FloatArray
from rlhfsim.doctor.outcome import Outcome
from rlhfsim.golden import COLUMNS, Case


@dataclass(frozen=True)
class PairKTO:
    """The mean over 2n responses of `1 - sigma(beta (u+ - z+))` and `1 - sigma(beta (z- - u-))`.

    The baselines are `z+ = max(0, mean u-)` and `z- = max(0, mean u+)`, held fixed.
    """

    #: Whether the baseline comes from the other half of the batch, and its sign is cut off.
    other_half: bool = True
    cut: bool = True
    #: Factor of the baseline.
    baseline: float = 1.0
    #: Whether derivatives go through the baseline.
    through: bool = False
    #: Whether `-log sigma` stands in place of `1 - sigma`.
    logarithm: bool = False
    #: 1, or -1 where the undesirable response is treated as a desirable one.
    undesirable: float = -1.0

    def outcome(self, case: Case) -> Outcome:
        """Return mean loss and derivatives."""
        pc, pr, rc, rr = (np.array(case.columns[name]) for name in COLUMNS)
        up, down, n = pc - rc, pr - rr, case.size
        own, other = (down, up) if self.other_half else (up, down)
        z_up, move_up = self._baseline(own)
        z_down, move_down = self._baseline(other)
        loss_up, slope_up = self._judge(case.beta * (up - z_up))
        loss_down, slope_down = self._judge(self.undesirable * case.beta * (down - z_down))
        chosen = case.beta * slope_up
        rejected = self.undesirable * case.beta * slope_down
        # The derivatives through a mean are the same for every row of its half.
        from_up, from_down = -chosen.sum() * move_up / n, -rejected.sum() * move_down / n
        if self.other_half:
            chosen, rejected = chosen + from_down, rejected + from_up
        else:
            chosen, rejected = chosen + from_up, rejected + from_down
        loss = float((loss_up + loss_down).sum() / (2 * n))
        return Outcome(loss, (chosen / (2 * n), rejected / (2 * n)))

    def _baseline(self, log_ratios: FloatArray) -> tuple[float, float]:
        """Return a baseline, and its derivative in the mean of the log ratios."""
        mean = float(log_ratios.mean())
        # At 0 torch's clamp lets the derivative through.
        alive = 1.0 if mean >= 0 or not self.cut else 0.0
        return self.baseline * mean * alive, self.baseline * alive if self.through else 0.0

    def _judge(self, h: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return loss and slope in h of a response."""
        if self.logarithm:
            return np.logaddexp(0.0, -h), -expit(-h)
        return expit(-h), -expit(h) * expit(-h)
