"""The arrays that all runs share, as the compiled rounds take them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts
from rlhfsim.online.linear import layout
from rlhfsim.online.linear.explorations import (
    BootstrapEnsemble,
    Enhancer,
    Exploration,
    FixedPolicy,
    FromReference,
    LaplaceEnsemble,
    OnPolicy,
    TheoryRadius,
    Uniform,
)
from rlhfsim.online.linear.problem import LinearProblem
from rlhfsim.preferences import BradleyTerry
from rlhfsim.rewards.confidence.base import as_log_level
from rlhfsim.rewards.features import compare, require_shape

_KINDS: dict[type, int] = {
    Enhancer: layout.ENHANCER,
    FixedPolicy: layout.FIXED,
    FromReference: layout.FIXED,
    Uniform: layout.FIXED,
    OnPolicy: layout.ON_POLICY,
    LaplaceEnsemble: layout.LAPLACE,
    BootstrapEnsemble: layout.BOOTSTRAP,
}


class Shared(NamedTuple):
    """Writable arrays: of read-only ones the compiler would make other code."""

    kind: int
    steps: int
    members: int
    settings: FloatArray  # (NUMBERS,)
    features: FloatArray  # (X, d, Y)
    base: FloatArray  # (X, Y)
    rho: FloatArray  # (X,)
    cumulative: FloatArray  # (X,)
    reward: FloatArray  # (X, Y) of a Bradley-Terry law
    table: FloatArray  # (X, Y, Y) of another law, else empty
    shortfall: FloatArray  # (X, Y)
    best_logs: FloatArray  # (X, Y)
    fixed: FloatArray  # (X, Y)
    truth: FloatArray  # (d,)
    rows: FloatArray  # (d, U)
    won: FloatArray  # (U,)
    lost: FloatArray  # (U,)


def shared_arrays(
    problem: LinearProblem, how: Exploration, offline: PreferenceData | PairCounts | None
) -> Shared:
    """Return the arrays of a problem, an exploration and what is known beforehand."""
    bandit, law, d = problem.bandit, problem.law, problem.features.shape[2]
    # A subclass may say of a comparison what it likes.
    plain = law if type(law) is BradleyTerry else None
    truth = np.full(d, np.nan) if problem.parameter is None else problem.parameter
    rows, won, lost = _known(problem, offline)
    arrays = (
        problem.features.transpose(0, 2, 1), problem.log_reference, bandit.prompt_dist,
        _cumulative(bandit.prompt_dist), bandit.reward if plain is None else plain.reward,
        law.tensor() if plain is None else np.empty((0, 0, 0)), problem.shortfall,
        problem.log_optimum, _fixed(problem, how), truth, rows, won, lost,
    )  # fmt: skip
    return Shared(
        _KINDS[type(how)],
        int(getattr(how, "steps", 0)),
        int(getattr(how, "members", 0)),
        _settings(problem, how, 1.0 if plain is None else plain.temperature),
        *(np.array(a, dtype=np.float64, order="C") for a in arrays),
    )


def _known(
    problem: LinearProblem, offline: PreferenceData | PairCounts | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the differences of distinct pairs, and how often each side won."""
    if offline is None:
        return np.empty((problem.features.shape[2], 0)), np.empty(0), np.empty(0)
    counts = as_counts(offline)
    require_shape(problem.features, counts.shape)
    pairs = compare(counts, problem.features)
    return pairs.difference.T, pairs.won, pairs.lost


def _cumulative(rho: FloatArray) -> FloatArray:
    table = np.cumsum(rho)
    # Rounding of the sum falls to the last prompt that there is.
    table[int(np.nonzero(rho)[0][-1]) :] = 1.0
    return table


def _fixed(problem: LinearProblem, how: Exploration) -> FloatArray:
    p = problem.bandit.reference
    if isinstance(how, FixedPolicy):
        if how.policy.shape != p.shape:
            raise ValueError(
                f"exploration.policy has shape {how.policy.shape}; it must have shape {p.shape}"
            )
        return how.policy
    if isinstance(how, Uniform):
        return np.asarray((p > 0) / (p > 0).sum(axis=1, keepdims=True))
    return p


def _settings(problem: LinearProblem, how: Exploration, temperature: float) -> FloatArray:
    settings = np.zeros(layout.NUMBERS)
    settings[layout.BETA], settings[layout.RIDGE] = problem.beta, problem.ridge
    settings[layout.REGULARIZATION] = problem.weight
    settings[layout.C], settings[layout.TEMPERATURE] = math.nan, temperature
    if isinstance(how, LaplaceEnsemble):
        settings[layout.SCALE] = how.scale
    elif isinstance(how, BootstrapEnsemble):
        settings[layout.SCALE] = how.prior_scale
    elif isinstance(how, Enhancer):
        radius = how.radius
        if isinstance(radius, TheoryRadius):
            settings[layout.NORM_BOUND] = radius.norm_bound
            settings[layout.LOG_LEVEL] = as_log_level(radius.delta)
        else:
            settings[layout.C] = radius
    return settings
