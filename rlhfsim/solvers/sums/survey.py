"""Pass 1: the range of the rewards, the mass of the reference, bad entries, and a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.divergences import Divergence
from rlhfsim.solvers.sums.passes import Sums, two_sum
from rlhfsim.solvers.sums.policy import kl_weight, lifted_gibbs


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
        weight = kl_weight(divergence)
        if weight is not None:
            found["unit"] = weight * given["beta"]
            s = np.where(p > 0, fall, 0.0) / -found["unit"][:, None]
            found["z"] = lifted_gibbs(s, p).sum(axis=-1)
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
    total, error = two_sum(masses[0], more)
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
