"""Pass 2, until the mass is 1: safeguarded Newton steps to the multiplier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.divergences import Divergence
from rlhfsim.solvers.general import solve_rows
from rlhfsim.solvers.solution import rounding
from rlhfsim.solvers.sums import policy
from rlhfsim.solvers.sums.passes import Blocks, Sums, combine_sums
from rlhfsim.solvers.sums.policy import Multiplier

_MAX_PASSES = 60
# A correction in w below this relative size has a square below rounding.
_SMALL = 1e-8
# Where the mass is further off than this, Newton's two steps and the middle are tried at once.
_NEAR = 0.1


def evaluate(
    r: FloatArray, p: FloatArray, start: int, given: Sums, *, divergence: Divergence
) -> Sums:
    """Return `sum p w`, `sum p dw/ds` and the largest `(dw/ds)/w` at each trial multiplier.

    `given` holds `(n, m)` anchors, offsets and lowest scores: m trials for each prompt.
    """
    trials = []
    for k in range(given["anchor"].shape[-1]):
        d = policy.scores(r, p, given["anchor"][:, k], given["lowest"][:, k], given["beta"])
        d -= given["offset"][:, k, None]
        mass, slope = policy.masses(divergence, d, p, given["bound"][:, k])
        if policy.kl_weight(divergence) is not None:
            # The correction in w is exact for KL: it normalises.
            stiffness = np.zeros(len(p))
        else:
            with np.errstate(all="ignore"):
                steep = np.divide(slope, mass, out=d)
            stiffness = np.where((p > 0) & (mass > 0), steep, 0.0).max(axis=-1)
        if not p.all():
            mass, slope = np.where(p > 0, mass, 0.0), np.where(p > 0, slope, 0.0)
        trials.append((mass.sum(axis=-1), slope.sum(axis=-1), stiffness))
    names = ("total", "slope", "stiffness")
    columns = zip(*trials, strict=True)
    return {name: np.stack(x, axis=-1) for name, x in zip(names, columns, strict=True)}


@dataclass
class _Point:
    """Numbers `anchor + beta (offset - bound)`, one for each prompt."""

    anchor: FloatArray
    offset: FloatArray
    bound: FloatArray

    def minus(self, other: _Point, beta: FloatArray) -> FloatArray:
        """Return the difference in units of beta."""
        with np.errstate(over="ignore", invalid="ignore"):
            apart = (self.anchor - other.anchor) / beta + (self.offset - other.offset)
            return apart - (self.bound - other.bound)

    def plus(self, step: FloatArray) -> _Point:
        """Return the numbers `step` units of beta higher; steps that are not finite count as 0."""
        step = np.where(np.isfinite(step), step, 0.0)
        return _Point(self.anchor.copy(), self.offset + step, self.bound.copy())

    def at(self, index: IntArray | NDArray[np.bool_]) -> _Point:
        """Return the numbers of some prompts."""
        return _Point(self.anchor[index], self.offset[index], self.bound[index])

    def put(self, index: IntArray | NDArray[np.bool_], other: _Point) -> None:
        """Replace the numbers of some prompts."""
        self.anchor[index], self.offset[index] = other.anchor, other.offset
        self.bound[index] = other.bound


@dataclass(frozen=True)
class _Problem:
    """What the passes after the first need of it, `(N,)` arrays."""

    bottom: FloatArray
    top: FloatArray
    #: Scaled reward, relative to the best, below which a response gets no mass.
    floor: FloatArray
    beta: FloatArray
    #: The recession, or 0 where it is infinite.
    recession: float

    def lowest(self, anchor: FloatArray, prompts: IntArray) -> FloatArray:
        """Return the floor relative to `(n, m)` anchors."""
        with np.errstate(over="ignore"):
            return np.maximum(
                self.floor[prompts, None]
                + (self.top[prompts, None] - anchor) / self.beta[prompts, None],
                -policy.LARGE,
            )

    def anchored(self, point: _Point, prompts: IntArray) -> _Point:
        """Return the same numbers with the anchor moved next to them."""
        beta, top = self.beta[prompts], self.top[prompts]
        offset = point.offset - point.bound
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            moved = point.anchor + beta * offset
            moved = np.where(np.isfinite(moved), moved, point.anchor)
            moved = np.clip(moved, self.bottom[prompts], top)
            plain = _Point(moved, offset - (moved - point.anchor) / beta, np.zeros_like(beta))
        if self.recession == 0:
            return plain
        fixed = _Point(top, point.offset + (self.recession - point.bound), point.bound * 0)
        fixed.bound += self.recession
        with np.errstate(over="ignore"):
            fixed.offset += (point.anchor - top) / beta
        plain.put(
            fixed.offset < 0.5 * self.recession, fixed.at(fixed.offset < 0.5 * self.recession)
        )
        return plain


def find_multiplier(
    blocks: Blocks, found: Sums, beta: FloatArray, divergence: Divergence
) -> Multiplier:
    """Return the multiplier at which `sum_y p w = 1`, by safeguarded Newton steps in passes.

    `H(lambda) = sum_y p w` falls in lambda.  Prompts that are done drop out.
    """
    recession = divergence.recession if math.isfinite(divergence.recession) else 0.0
    problem = _Problem(found["bottom"], found["top"], _floor(found, divergence), beta, recession)
    low, high = _bracket(found, beta, divergence)
    point = _first_guess(found, beta, divergence, low, high)
    step = np.zeros(blocks.n_prompts)
    prompts = np.arange(blocks.n_prompts)
    trials = [problem.anchored(point, prompts)]
    for _ in range(_MAX_PASSES):
        excess, slopes, stiff = _measure(blocks, problem, trials, prompts, divergence)
        _narrow(low, high, trials, excess, beta, prompts)
        chosen = np.abs(excess).argmin(axis=-1)
        for k, trial in enumerate(trials):
            point.put(prompts[chosen == k], trial.at(chosen == k))
        miss, slope, stiffness = (x[np.arange(len(x)), chosen] for x in (excess, slopes, stiff))
        with np.errstate(all="ignore"):
            newton = miss / slope
            done = (np.abs(miss) <= rounding(blocks.n_responses)) | (
                (np.abs(miss) <= _SMALL) & (np.abs(newton) * stiffness <= _SMALL)
            )
        step[prompts] = np.where(np.isfinite(newton), newton, 0.0)
        done |= _exhausted(low.at(prompts), high.at(prompts), beta[prompts])
        prompts, miss, newton = prompts[~done], miss[~done], newton[~done]
        if prompts.size == 0:
            break
        trials = _next_trials(problem, point, low, high, prompts, miss, newton)
    lowest = problem.lowest(point.anchor[:, None], np.arange(blocks.n_prompts))[:, 0]
    return Multiplier(point.anchor, point.offset, point.bound, step, lowest)


def _measure(
    blocks: Blocks,
    problem: _Problem,
    trials: list[_Point],
    prompts: IntArray,
    divergence: Divergence,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return `H - 1`, `-dH/dlambda` and stiffness at m trials of n prompts, `(n, m)`, in a pass."""
    given = {
        name: np.stack([getattr(trial, name) for trial in trials], axis=-1)
        for name in ("anchor", "offset", "bound")
    }
    given["lowest"] = problem.lowest(given["anchor"], prompts)
    given["beta"] = problem.beta[prompts]
    kernel = partial(evaluate, divergence=divergence)
    sums = blocks.reduce(kernel, combine_sums, prompts, given)
    total = np.where(np.isnan(sums["total"]), np.inf, sums["total"])
    return total - 1.0, sums["slope"], sums["stiffness"]


def _floor(found: Sums, divergence: Divergence) -> FloatArray:
    """As in the general route: the best response has `w <= 1/p`, so `lambda >= -f'(1/p)`."""
    with np.errstate(over="ignore", divide="ignore"):
        return 2.0 * (divergence.link(np.asarray(5e-324)) - divergence.link(1.0 / found["best"]))


def _bracket(found: Sums, beta: FloatArray, divergence: Divergence) -> tuple[_Point, _Point]:
    """Return ends with `H(low) >= 1 >= H(high)`.

    All ratios are >= 1/sum p at `min r - beta f'(1/sum p)`, <= at `max r - beta f'(1/sum p)`; and
    at `max r - beta f'(1/p)` the best response has mass 1 by itself.
    """
    zero = np.zeros_like(beta)
    shift = divergence.link(1.0 / found["mass"])
    low, high = (_Point(found[name].copy(), -shift, zero.copy()) for name in ("bottom", "top"))
    with np.errstate(over="ignore", divide="ignore"):
        ceiling = 1.0 / found["best"]
        alone = _Point(found["top"].copy(), -divergence.link(ceiling), zero)
        if math.isfinite(divergence.recession):
            alone = _Point(alone.anchor, divergence.tail(ceiling), zero + divergence.recession)
    better = np.isfinite(alone.offset) & (alone.minus(low, beta) > 0)
    low.put(better, alone.at(better))
    # A margin, so that Newton's step to a root at an end is not outside by rounding.
    width = high.minus(low, beta)
    margin = np.where(np.isfinite(width), 0.01 * width, 0.0)
    # Counted from the recession, an offset must stay positive.
    return low.plus(-np.where(low.bound > 0, 0.01 * low.offset, margin)), high.plus(margin)


def _first_guess(
    found: Sums, beta: FloatArray, divergence: Divergence, low: _Point, high: _Point
) -> _Point:
    """Return a multiplier inside the bracket: exact to rounding for KL, of the sample otherwise."""
    zero = np.zeros(len(beta))
    weight = policy.kl_weight(divergence)
    if weight is not None:
        mantissa, exponent = np.frexp(found["z"])
        log_z = np.log(mantissa) + (exponent - policy.LIFT) * math.log(2.0)
        guess = _Point(found["top"].copy(), weight * log_z, zero)
    elif "sample r" in found:
        total = found["sample p"].sum(axis=-1, keepdims=True)
        p = np.where(total > 0, found["sample p"] / np.where(total > 0, total, 1.0), 0.0)
        p[total[:, 0] <= 0] = 1.0 / p.shape[-1]
        rough = solve_rows(found["sample r"], p, beta, divergence).multiplier
        guess = _Point(rough, zero.copy(), zero)
    else:
        # By Jensen H(E_p r) >= 1 for convex inverse links.
        guess = _Point(found["top"] - found["fall"] / found["mass"], zero.copy(), zero)
    outside = ~(guess.minus(low, beta) >= 0)
    guess.put(outside, low.at(outside))
    outside = ~(guess.minus(high, beta) <= 0)
    guess.put(outside, high.at(outside))
    return guess


def _narrow(
    low: _Point,
    high: _Point,
    trials: list[_Point],
    excess: FloatArray,
    beta: FloatArray,
    prompts: IntArray,
) -> None:
    """Move the ends of the bracket to the trials inside it."""
    for k, trial in enumerate(trials):
        b = beta[prompts]
        left = (excess[:, k] >= 0) & (trial.minus(low.at(prompts), b) > 0)
        low.put(prompts[left], trial.at(left))
        right = (excess[:, k] <= 0) & (trial.minus(high.at(prompts), b) < 0)
        high.put(prompts[right], trial.at(right))


def _middle(low: _Point, high: _Point, beta: FloatArray) -> _Point:
    width = high.minus(low, beta)
    middle = low.plus(0.5 * width)
    far = ~np.isfinite(width)
    middle.anchor[far] += 0.5 * (high.anchor - low.anchor)[far]
    # Offsets that count from the recession span hundreds of decades.
    apart = (low.bound > 0) & (width > 3.0 * low.offset)
    middle.offset[apart] = np.sqrt(low.offset[apart]) * np.sqrt((low.offset + width)[apart])
    return middle


def _exhausted(low: _Point, high: _Point, beta: FloatArray) -> NDArray[np.bool_]:
    """Return where the two ends are the same number but for rounding."""
    unit = np.finfo(np.float64).eps
    return high.minus(low, beta) <= unit * (np.abs(low.offset) + np.abs(high.offset))


def _next_trials(
    problem: _Problem,
    point: _Point,
    low: _Point,
    high: _Point,
    prompts: IntArray,
    miss: FloatArray,
    newton: FloatArray,
) -> list[_Point]:
    """Return where to evaluate next, strictly inside the bracket.

    Newton's step on H never passes the root of a convex H from the left, its step on log H is
    exact for exponential links, on 1/H where w has a pole; near the root they are the same.
    """
    here, beta = point.at(prompts), problem.beta[prompts]
    middle = _middle(low.at(prompts), high.at(prompts), beta)
    steps = [newton]
    if np.any(np.abs(miss) > _NEAR):
        with np.errstate(all="ignore"):
            steps.append(newton * ((1.0 + miss) * np.log1p(miss) / miss))
            if problem.recession > 0:
                steps.append(newton * (1.0 + miss))
    trials = []
    for step in steps:
        trial = problem.anchored(here.plus(step), prompts)
        inside = trial.minus(low.at(prompts), beta) > 0
        inside &= trial.minus(high.at(prompts), beta) < 0
        trial.put(~inside, problem.anchored(middle, prompts).at(~inside))
        trials.append(trial)
    return trials if len(steps) == 1 else [*trials, problem.anchored(middle, prompts)]
