"""The inputs of the golden numbers.

Every number is a multiple of 1/64 with few digits: exact in float32, so that the same truth holds
for losses that run in single precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: A row: the four log-probabilities, pi(y+), pi(y-), p(y+), p(y-).
Row = tuple[float, float, float, float]

#: Rewards and weights of the rows of every batch, chosen and rejected, as far as a batch is long.
REWARDS = ((1.5, 0.25), (-0.5, -2.0), (3.0, 3.5), (0.75, 0.75), (2.0, -1.25), (0.0, 1.0))
WEIGHTS = ((0.25, 0.5), (0.5, 0.125), (0.125, 0.125), (1.0, 0.75), (0.375, 0.25), (0.5, 1.0))


def _rows(log_ratios: Sequence[tuple[float, float]], references: Sequence[float]) -> list[Row]:
    """Return rows with given log ratios; the references alternate between chosen and rejected."""
    pairs = zip(references[::2], references[1::2], strict=True)
    return [
        (up + chosen, down + rejected, chosen, rejected)
        for (up, down), (chosen, rejected) in zip(log_ratios, pairs, strict=True)
    ]


#: Batches by name.
ROWS: Mapping[str, Sequence[Row]] = {
    # Log ratios below 1.5 of either sign; margins of either sign.
    "moderate": (
        (-12.25, -11.5, -13.0, -10.75),
        (-8.5, -10.25, -8.25, -9.5),
        (-20.125, -18.75, -21.5, -19.25),
        (-3.75, -6.125, -4.5, -5.5),
        (-15.0, -17.5, -14.25, -18.875),
        (-30.5, -28.0, -31.125, -27.5),
    ),
    "one row": ((-9.5, -7.25, -10.75, -8.0),),
    # The chosen response is the rejected one in two rows of three.
    "equal": (
        (-5.5, -5.5, -6.25, -6.25),
        (-7.75, -9.0, -8.5, -8.125),
        (-14.25, -14.25, -13.5, -13.5),
    ),
    # The policy is the reference, as at the first step of training.
    "start": (
        (-4.75, -6.5, -4.75, -6.5),
        (-16.0, -11.25, -16.0, -11.25),
        (-2.5, -2.5, -2.5, -2.5),
        (-9.125, -10.0, -9.125, -10.0),
    ),
    "winning": tuple(
        _rows(
            [(2.25, -0.5), (1.5, 0.75), (0.25, -3.0), (3.125, -1.25), (1.0, -4.5)],
            [-11.0, -7.5, -9.25, -8.0, -13.5, -12.0, -10.25, -6.5, -7.0, -9.5],
        )
    ),
    "losing": tuple(
        _rows(
            [(-1.75, 0.5), (0.25, 2.5), (-3.5, -0.75), (-0.5, 0.125), (-2.0, 3.25)],
            [-8.0, -11.5, -9.5, -12.25, -6.0, -7.5, -14.0, -9.0, -8.75, -10.5],
        )
    ),
    # Ratios up to e^40, far beyond every clip but the exponent's, within float32.
    "large": tuple(
        _rows(
            [(12.0, -9.0), (-35.0, -6.5), (40.0, 1.25), (-2.0, 18.5), (7.5, 7.25)],
            [-60.0, -44.5, -21.0, -52.0, -75.0, -33.5, -18.25, -49.0, -28.0, -31.0],
        )
    ),
    # Log ratios up to 120: e^120 is beyond float32, and log sigma must not be taken naively.
    "wide": tuple(
        _rows(
            [(118.0, -121.5), (-96.0, 105.25), (-119.5, -114.0), (120.0, 57.5)],
            [-200.5, -90.0, -131.0, -190.25, -84.0, -96.5, -210.0, -170.75],
        )
    ),
    # Margins of thousands of nats: the same beyond float64.
    "long": tuple(
        _rows(
            [(1700.0, -1450.5), (-1900.25, 1350.0), (-2.0, -3.5)],
            [-2400.0, -1100.0, -960.5, -2250.0, -1500.0, -1625.0],
        )
    ),
}


def columns(name: str) -> dict[str, list[float]]:
    """Return the columns of a batch by name: log-probabilities, rewards and weights."""
    rows = ROWS[name]
    policy_chosen, policy_rejected, ref_chosen, ref_rejected = map(list, zip(*rows, strict=True))
    n = len(rows)
    return {
        "policy_chosen_logps": policy_chosen,
        "policy_rejected_logps": policy_rejected,
        "ref_chosen_logps": ref_chosen,
        "ref_rejected_logps": ref_rejected,
        "chosen_rewards": [pair[0] for pair in REWARDS[:n]],
        "rejected_rewards": [pair[1] for pair in REWARDS[:n]],
        "chosen_weights": [pair[0] for pair in WEIGHTS[:n]],
        "rejected_weights": [pair[1] for pair in WEIGHTS[:n]],
    }
