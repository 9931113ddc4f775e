"""The optimum of a prompt whose responses are never in one place: only sums travel.

The responses of each prompt come in blocks, in memory of their own or generated when asked for.
A *pass* evaluates a kernel on every block and combines what comes back, a few numbers per prompt:

1. `survey`: range of the rewards, mass of the reference, what breaks a rule, a small sample.
2. `evaluate`, until the mass is 1: `sum_y p w` and its slope at a trial multiplier (or several).
3. `certify`: primal and dual value of the policy that is handed out.

How digits are kept.  A multiplier is a pair `anchor + beta offset`, the anchor a number in reward
units; scores `s = (r - anchor)/beta - offset` then carry a relative error of a few ulp whatever
the offset of the rewards.  Where f' is bounded by the recession R and `R + lambda` comes close to
the best reward, that is the anchor and `v = offset + R` is kept in place of the offset: the
deficits `R - s = v - (r - anchor)/beta` of ratios far above 1 are then sums without cancellation.
Sums of blocks are pairwise inside a block and compensated from block to block.

Source: as `rlhfsim.solvers.general`, whose equations these are; the passes are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import ROW_SUM_TOLERANCE, FloatArray, IntArray
from rlhfsim.divergences import KL, Divergence
from rlhfsim.solvers.general import solve_rows
from rlhfsim.solvers.solution import rounding

#: What a kernel returns for n prompts: arrays of shape (n,) or (n, k), by name.
Sums = dict[str, FloatArray]
#: `(reward (n, y), reference (n, y), index of the first response, numbers per prompt) -> Sums`.
Kernel = Callable[[FloatArray, FloatArray, int, Sums], Sums]
Combine = Callable[[Iterable[Sums]], Sums]


class Blocks(Protocol):
    """Rewards and references of N prompts, cut into blocks of consecutive responses."""

    n_prompts: int
    n_responses: int

    def reduce(self, kernel: Kernel, combine: Combine, prompts: IntArray, given: Sums) -> Sums:
        """Return the combined sums of some prompts; `given` holds one row for each of them."""


@dataclass(frozen=True)
class Multiplier:
    """`lambda = anchor + beta (offset - bound)` of each prompt, and the correction made in w."""

    anchor: FloatArray
    offset: FloatArray
    #: The recession where the offset counts from it, else 0.
    bound: FloatArray
    #: Newton's last step; `w(offset) - w'(offset) step` replaces `w(offset + step)`.
    step: FloatArray
    #: Scaled reward, relative to the anchor, below which a response gets no mass.
    lowest: FloatArray

    def given(self, beta: FloatArray) -> Sums:
        """Return what `policy_block` needs."""
        return {
            "anchor": self.anchor,
            "offset": self.offset,
            "bound": self.bound,
            "step": self.step,
            "lowest": self.lowest,
            "beta": beta,
        }


@dataclass(frozen=True)
class Certificate:
    """The fields of a `Solution` but for the policy, `(N,)` arrays in reward units."""

    multiplier: FloatArray
    value: FloatArray
    gap: FloatArray
    feasibility: FloatArray
    tolerance: FloatArray


# ---- scores, masses, the policy ------------------------------------------------------------------

# Scores beyond this would overflow in the sums.
_LARGE = 1e307


def _scores(
    r: FloatArray, p: FloatArray, anchor: FloatArray, lowest: FloatArray, beta: FloatArray
) -> FloatArray:
    """Return `(r - anchor)/beta` where p > 0, else 0, in a new array."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        d = r - anchor[:, None]
        d /= beta[:, None]
    np.clip(d, np.maximum(lowest, -_LARGE)[:, None], _LARGE, out=d)
    d[p == 0] = 0.0
    return d


# p e^s lifted by this power of 2 keeps all digits of every term that counts: the largest is
# between 2^-1074 (the smallest float, at s = 0) and 1.
_LIFT = 600


def _lifted_gibbs(s: FloatArray, p: FloatArray) -> FloatArray:
    """Return `2^600 p e^s`; in halves, because e^s may overflow where p e^s does not."""
    half = np.multiply(s, 0.5)
    np.exp(half, out=half)
    mass = p * 2.0**_LIFT
    mass *= half
    mass *= half
    return mass


def _kl_weight(divergence: Divergence) -> float | None:
    weighted = divergence.terms()
    return weighted[0][0] if len(weighted) == 1 and isinstance(weighted[0][1], KL) else None


def _masses(
    divergence: Divergence, s: FloatArray, p: FloatArray, bound: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return `p w` and `p dw/ds` at `w = inverse_link(bound + s)`."""
    weight = _kl_weight(divergence)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        if weight is not None:
            mass = _lifted_gibbs(s if weight == 1 else s / weight, p)
            mass *= 2.0**-_LIFT
            return mass, mass if weight == 1 else mass / weight
        w = _ratios(divergence, s, bound > 0)
        slope = p / divergence.link_slope(w)
        slope[w <= 0] = 0.0
        return p * w, slope


def _ratios(divergence: Divergence, s: FloatArray, tail: NDArray[np.bool_]) -> FloatArray:
    """Return `inverse_link(s)`, or `inverse_link(R + s)` where `tail` holds; infinite from R on."""
    if not tail.any():
        return divergence.inverse_link(s)
    w = np.full_like(s, np.inf)
    w[~tail] = divergence.inverse_link(s[~tail])
    below = tail[:, None] & (s < 0)
    w[below] = divergence.inverse_tail(-s[below])
    return w


def policy_block(
    r: FloatArray, p: FloatArray, given: Sums, divergence: Divergence
) -> tuple[FloatArray, FloatArray]:
    """Return the policy of `(n, y)` responses and their scaled rewards `(r - anchor)/beta`."""
    d = _scores(r, p, given["anchor"], given["lowest"], given["beta"])
    mass, slope = _masses(divergence, d - given["offset"][:, None], p, given["bound"])
    with np.errstate(invalid="ignore", under="ignore", over="ignore"):
        mass -= slope * given["step"][:, None]
    # As the inverse link: where a ratio falls below 0 on the way, it is 0.
    np.maximum(mass, 0.0, out=mass)
    if not math.isfinite(float(divergence.generator(0.0))):
        # Mass 0 would cost infinity; what underflows is rounded up.
        np.maximum(mass, np.finfo(np.float64).smallest_subnormal, out=mass)
    mass[p == 0] = 0.0
    return mass, d


# ---- combining -----------------------------------------------------------------------------------

_MAXIMA = frozenset({"stiffness"})


def combine_sums(parts: Iterable[Sums]) -> Sums:
    """Add up block after block with compensation (Neumaier): no digits are lost to their number."""
    total: Sums = {}
    lost: Sums = {}
    for part in parts:
        for name, x in part.items():
            if name not in total:
                total[name], lost[name] = x, np.zeros_like(x)
            elif name in _MAXIMA:
                total[name] = np.maximum(total[name], x)
            else:
                total[name], error = _two_sum(total[name], x)
                lost[name] = lost[name] + error
    return {name: x + np.where(np.isfinite(lost[name]), lost[name], 0) for name, x in total.items()}


def _two_sum(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return `x + y` rounded, and what the rounding left out."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = x + y
        share = total - x
        return total, (x - (total - share)) + (y - share)


# ---- pass 1 --------------------------------------------------------------------------------------

# The sample that finds a first multiplier: responses per prompt, in all, and too few to be of use.
_SAMPLE = 2**16
_SAMPLE_IN_ALL = 2**20
_SAMPLE_LEAST = 32


def survey(
    r: FloatArray, p: FloatArray, start: int, given: Sums, *, divergence: Divergence, share: float
) -> Sums:
    """Return range, mass, rule breakers and a sample (`share` of the responses) of a block."""
    found = _rule_breakers(r, p, start)
    rewards = np.where(p > 0, r, -np.inf)
    best = rewards.argmax(axis=-1)[:, None]
    top = np.take_along_axis(rewards, best, axis=-1)
    zero = np.isneginf(top)
    with np.errstate(all="ignore"):
        fall = np.maximum(np.where(zero, 0.0, top) - r, 0.0)
        mass = p.sum(axis=-1)
        found |= {
            "top": top[:, 0],
            "best": np.where((rewards == top) & ~zero, p, 0.0).max(axis=-1),
            "bottom": np.where(p > 0, r, np.inf).min(axis=-1),
            "outside": np.where(p > 0, -np.inf, r).max(axis=-1),
            "mass": mass,
            "fall": (p * fall).sum(axis=-1),
        }
        weight = _kl_weight(divergence)
        if weight is not None:
            found["unit"] = weight * given["beta"]
            s = np.where(p > 0, fall, 0.0) / -found["unit"][:, None]
            found["z"] = _lifted_gibbs(s, p).sum(axis=-1)
        elif share > 0:
            found |= _sample(r, p, best, mass, share)
    return found


def _rule_breakers(r: FloatArray, p: FloatArray, start: int) -> Sums:
    """Return index (inf: none) and value of the first bad reward and of the first bad mass."""
    found: Sums = {}
    for name, array, bad in (
        ("reward", r, ~np.isfinite(r)),
        ("reference", p, ~np.isfinite(p) | (p < 0)),
    ):
        first = bad.argmax(axis=-1)[:, None]
        broken = np.take_along_axis(bad, first, axis=-1)[:, 0]
        found[name] = np.take_along_axis(array, first, axis=-1)[:, 0]
        found[f"{name} at"] = np.where(broken, start + first[:, 0], np.inf)
    return found


def _sample(r: FloatArray, p: FloatArray, best: IntArray, mass: FloatArray, share: float) -> Sums:
    """Return some of a block's responses, with weights that add up to its mass.

    The best response and the likeliest one stand for themselves, the others for the rest.
    """
    size = r.shape[-1]
    count = math.ceil(share * size)
    if count >= size:
        return {"sample r": r, "sample p": p}
    # One from each of `count` equal parts, at a place that no period of the responses follows.
    steps = np.arange(count)
    places = ((steps + (steps * ((math.sqrt(5) - 1) / 2)) % 1.0) * (size / count)).astype(np.int64)
    likeliest = p.argmax(axis=-1)[:, None]
    special = np.concatenate([best, likeliest], axis=-1)
    own = np.take_along_axis(p, special, axis=-1)
    own[:, 1:] *= best != likeliest
    rest = p[:, places]
    rest[(places == best) | (places == likeliest)] = 0.0
    total = rest.sum(axis=-1)
    scale = np.where(total > 0, np.maximum(mass - own.sum(axis=-1), 0.0) / total, 0.0)
    return {
        "sample r": np.concatenate([np.take_along_axis(r, special, axis=-1), r[:, places]], -1),
        "sample p": np.concatenate([own, rest * scale[:, None]], -1),
    }


def combine_survey(parts: Iterable[Sums]) -> Sums:
    """Combine the surveys of consecutive blocks."""
    ours: Sums = {}
    masses: list[FloatArray] = []
    samples: list[Sums] = []
    for part in parts:
        masses = [part["mass"]] if not ours else _grow(masses, part["mass"])
        samples.append({name: part.pop(name) for name in list(part) if name.startswith("sample")})
        ours = part if not ours else _merge(ours, part)
    ours["mass"] = masses[0] if len(masses) == 1 else masses[0] + masses[1]
    for name in samples[0]:
        ours[name] = np.concatenate([sample[name] for sample in samples], axis=-1)
    return ours


def _grow(masses: list[FloatArray], more: FloatArray) -> list[FloatArray]:
    total, error = _two_sum(masses[0], more)
    return [total, error if len(masses) == 1 else masses[1] + error]


def _merge(left: Sums, right: Sums) -> Sums:
    """Return the survey of two blocks, left before right, but for the sum of masses."""
    top = np.maximum(left["top"], right["top"])
    merged: Sums = {
        "top": top,
        "bottom": np.minimum(left["bottom"], right["bottom"]),
        "outside": np.maximum(left["outside"], right["outside"]),
        "mass": left["mass"] + right["mass"],
        "best": np.maximum(
            np.where(left["top"] == top, left["best"], 0.0),
            np.where(right["top"] == top, right["best"], 0.0),
        ),
    }
    for name in ("reward", "reference"):
        at, other = left[f"{name} at"], right[f"{name} at"]
        merged[name] = np.where(at <= other, left[name], right[name])
        merged[f"{name} at"] = np.minimum(at, other)
    with np.errstate(all="ignore"):
        # A block without support (top = -inf) has neither mass nor anything to move.
        down, other = (np.where(np.isfinite(x["top"]), top - x["top"], 0.0) for x in (left, right))
        merged["fall"] = (left["fall"] + left["mass"] * down) + (
            right["fall"] + right["mass"] * other
        )
        if "z" in left:
            unit = merged["unit"] = left["unit"]
            merged["z"] = left["z"] * np.exp(-down / unit) + right["z"] * np.exp(-other / unit)
    return merged


def refuse_bad(
    found: Sums, locate: Callable[[str, int, int | None], str], row_sum_tolerance: float
) -> None:
    """Raise `ValueError` for the first entry or row sum that breaks a rule.

    `locate(name, prompt, response)` words a place; without a response it is the prompt's row.
    """
    for name in ("reward", "reference"):
        for k in np.flatnonzero(np.isfinite(found[f"{name} at"])).tolist():
            place = locate(name, k, int(found[f"{name} at"][k]))
            value = float(found[name][k])
            finite = math.isfinite(value)
            rule = "probabilities must not be negative" if finite else "entries must be finite"
            raise ValueError(f"{place} is {value!r}; {rule}")
    off = np.flatnonzero(~(np.abs(found["mass"] - 1.0) <= row_sum_tolerance))
    if off.size:
        k = int(off[0])
        raise ValueError(
            f"{locate('reference', k, None)} sums to {float(found['mass'][k])!r}; "
            f"rows must sum to 1 within {row_sum_tolerance:g}"
        )
    with np.errstate(over="ignore"):
        wide = np.flatnonzero(~np.isfinite(found["top"] - found["bottom"]))
    if wide.size:
        raise ValueError(
            f"reward of prompt {int(wide[0])} spans more than the largest float; "
            "the range of rewards within a prompt must be finite"
        )


# ---- pass 2 --------------------------------------------------------------------------------------


def evaluate(
    r: FloatArray, p: FloatArray, start: int, given: Sums, *, divergence: Divergence
) -> Sums:
    """Return `sum p w`, `sum p dw/ds` and the largest `(dw/ds)/w` at each trial multiplier.

    `given` holds `(n, m)` anchors, offsets and lowest scores: m trials for each prompt.
    """
    trials = []
    for k in range(given["anchor"].shape[-1]):
        d = _scores(r, p, given["anchor"][:, k], given["lowest"][:, k], given["beta"])
        d -= given["offset"][:, k, None]
        mass, slope = _masses(divergence, d, p, given["bound"][:, k])
        if _kl_weight(divergence) is not None:
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


_MAX_PASSES = 60
# A correction in w below this relative size has a square below rounding.
_SMALL = 1e-8
# Where the mass is further off than this, Newton's two steps and the middle are tried at once.
_NEAR = 0.1


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
                -_LARGE,
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
        return 2.0 * (divergence.link(5e-324) - divergence.link(1.0 / found["best"]))


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
    weight = _kl_weight(divergence)
    if weight is not None:
        mantissa, exponent = np.frexp(found["z"])
        log_z = np.log(mantissa) + (exponent - _LIFT) * math.log(2.0)
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


# ---- pass 3 --------------------------------------------------------------------------------------


def certify(
    r: FloatArray, p: FloatArray, start: int, given: Sums, *, divergence: Divergence
) -> Sums:
    """Return the sums of primal value, dual value and their scale on a block."""
    policy, d = policy_block(r, p, given, divergence)
    inside = p > 0
    safe = np.where(inside, p, 1.0)
    offset = given["offset"] + given["step"]
    multiplier = offset - given["bound"]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        penalty = np.where(inside, divergence.perspective(policy, safe), 0.0)
        score = d - multiplier[:, None]
        tail = given["bound"] > 0
        dual = np.empty_like(score)
        dual[~tail] = divergence.conjugate_perspective(score[~tail], safe[~tail])
        if tail.any():
            dual[tail] = divergence.conjugate_tail((offset[:, None] - d)[tail], safe[tail])
        dual[~inside] = 0.0
        gain = np.where(inside, r - given["anchor"][:, None], 0.0)
        reward, scores = policy * d, policy * score
        return {
            "policy": policy.sum(axis=-1),
            "cost": penalty.sum(axis=-1),
            "reward": reward.sum(axis=-1),
            "dual": dual.sum(axis=-1),
            "gain": (policy * gain).sum(axis=-1),
            "scale": (np.abs(reward) + np.abs(scores) + np.abs(dual)).sum(axis=-1),
        }


def certificate(
    blocks: Blocks, root: Multiplier, beta: FloatArray, divergence: Divergence
) -> Certificate:
    """Return primal value, gap and feasibility; see the general route for why they prove it."""
    sums = blocks.reduce(
        partial(certify, divergence=divergence),
        combine_sums,
        np.arange(blocks.n_prompts),
        root.given(beta),
    )
    multiplier = (root.offset + root.step) - root.bound
    unit = rounding(blocks.n_responses)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scale = (
            sums["scale"] + sums["cost"] + np.abs(multiplier) + divergence.link_slope(1.0) * unit
        )
        return Certificate(
            multiplier=root.anchor + beta * multiplier,
            value=root.anchor + (sums["gain"] - beta * sums["cost"]),
            gap=beta * (multiplier + sums["dual"] - (sums["reward"] - sums["cost"])),
            feasibility=np.abs(sums["policy"] - 1.0),
            tolerance=beta * (unit * scale) + np.finfo(np.float64).tiny,
        )


def solve_blocks(
    blocks: Blocks,
    beta: FloatArray,
    divergence: Divergence,
    locate: Callable[[str, int, int | None], str],
    row_sum_tolerance: float = ROW_SUM_TOLERANCE,
) -> tuple[Multiplier, Certificate]:
    """Return the multiplier of every prompt, and the certificate for the caller to require."""
    per_prompt = min(_SAMPLE, _SAMPLE_IN_ALL // blocks.n_prompts)
    share = per_prompt / blocks.n_responses if per_prompt >= _SAMPLE_LEAST else 0.0
    found = blocks.reduce(
        partial(survey, divergence=divergence, share=share),
        combine_survey,
        np.arange(blocks.n_prompts),
        {"beta": beta},
    )
    refuse_bad(found, locate, row_sum_tolerance)
    root = find_multiplier(blocks, found, beta, divergence)
    _refuse_mass_outside(found, root, beta, divergence)
    return root, certificate(blocks, root, beta, divergence)


def _refuse_mass_outside(
    found: Sums, root: Multiplier, beta: FloatArray, divergence: Divergence
) -> None:
    """Raise where a response without reference mass is worth the recession that it costs."""
    with np.errstate(over="ignore", invalid="ignore"):
        best = (found["outside"] - root.anchor) / beta - (root.offset - root.bound)
    worth = np.flatnonzero(best > divergence.recession * (1 + np.finfo(np.float64).eps))
    if worth.size:
        k = int(worth[0])
        raise ValueError(
            f"reward {float(found['outside'][k])!r} of prompt {k} belongs to a response of "
            f"reference mass 0 that the optimum under {divergence} uses; in blocks only responses "
            "of positive reference mass are supported"
        )
