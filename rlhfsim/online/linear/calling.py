"""One call of the compiled rounds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.online.linear import layout
from rlhfsim.online.linear.shared import Shared


class Members(NamedTuple):
    """A bootstrap: where the ridge draws each member, and its weights of the comparisons."""

    centres: FloatArray  # (K, d)
    won: FloatArray  # (K, N)
    lost: FloatArray  # (K, N)


class Outcome(NamedTuple):
    """How one run ended, and what it kept."""

    status: int
    kept: FloatArray  # (ROWS, T), NaN where there is nothing
    theta: FloatArray  # (d,)
    policy: FloatArray  # (X, Y)
    second: FloatArray  # (X, Y), of the last round
    slope: float


def call(
    shared: Shared, draws: FloatArray, sigma: FloatArray, members: Members, *, batch: int,
    moving: bool,
) -> Outcome:  # fmt: skip
    """Make the rounds that `draws` has rows for, from a Sigma without comparisons."""
    from rlhfsim.online.linear.rounds import run

    start, (_, d, _) = len(shared.won), shared.features.shape
    most = start + len(draws) * batch
    rows, won, lost = np.zeros((d, most)), np.zeros(most), np.zeros(most)
    rows[:, :start], won[:start], lost[:start] = shared.rows, shared.won, shared.lost
    kept, theta = np.full((layout.ROWS, len(draws)), np.nan), np.zeros(d)
    policy, slope = np.zeros_like(shared.reward), np.zeros(1)
    matrices, tables = np.zeros((4, d, d)), np.zeros((5, *policy.shape))
    matrices[2] = sigma
    status = run(
        shared.kind, moving, shared.steps, shared.members, batch, start, shared.settings,
        shared.features, shared.base, shared.rho, shared.cumulative, shared.reward, shared.table,
        shared.shortfall, shared.best_logs, shared.fixed, shared.truth, draws, rows, won, lost,
        members.centres, members.won, members.lost, members.centres.copy(), kept, theta, policy,
        slope, np.zeros((4, most)), np.zeros((8, d)), matrices, tables,
    )  # fmt: skip
    return Outcome(status, kept, theta, policy, tables[1], float(slope[0]))
