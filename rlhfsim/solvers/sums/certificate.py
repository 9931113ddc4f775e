"""Pass 3: primal and dual value of the policy that is handed out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.divergences import Divergence
from rlhfsim.solvers.solution import rounding
from rlhfsim.solvers.sums.passes import Blocks, Sums, combine_sums
from rlhfsim.solvers.sums.policy import Multiplier, policy_block


@dataclass(frozen=True)
class Certificate:
    """The fields of a `Solution` but for the policy, `(N,)` arrays in reward units."""

    multiplier: FloatArray
    value: FloatArray
    gap: FloatArray
    feasibility: FloatArray
    tolerance: FloatArray


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
