"""Divergence inequalities: the worst ratio of each, and the counterexample of the false ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from rlhfsim.claims import DIVERGENCE_CLAIMS, PairClaim, Pairs, sample_pairs
from rlhfsim.claims.checking import TIGHT, TOLERANCE
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.randomness import generator_for

NAME = "inequalities"
_HERE = f"rlhfsim.repro.{NAME}"

#: Least share of random instances on which a claim must say something (`0 <= 0` does not).
_LEAST_INFORMATIVE = 0.25
_EMPTY = "not tested"


@dataclass(frozen=True)
class Settings:
    """Random instances per claim and per number of responses."""

    instances: int = 20_000
    response_counts: tuple[int, ...] = (2, 3, 5, 10)


def run(settings: Settings, seed: int) -> StudyResult:
    """Return the worst ratio left/right of every claim, over random instances and its witness."""
    rows = [_examine(claim, settings, seed) for claim in DIVERGENCE_CLAIMS]
    table = pd.DataFrame(rows)
    return StudyResult(
        name=NAME,
        title="Divergence inequalities",
        question="Which of the inequalities in use hold, how tight are they, and which are false?",
        settings=asdict(settings),
        tables={NAME: table},
        findings=tuple(_finding(row) for row in rows),
    )


def _examine(claim: PairClaim, settings: Settings, seed: int) -> dict[str, Any]:
    assert claim.witness is not None
    witness = claim.witness()
    witness_ratio = float(claim.ratio(witness)[0])
    random_ratio, worst, informative = 0.0, witness, []
    for size in settings.response_counts:
        rng = generator_for(NAME, f"{claim.name}/Y={size}", seed)
        batch = sample_pairs(settings.instances, size, rng)
        ratios = claim.ratio(batch)
        informative.append(float((ratios > 0).mean()))
        k = int(np.argmax(ratios))
        if ratios[k] > random_ratio:
            random_ratio, worst = float(ratios[k]), batch.take(k)
    shown = witness if claim.kind == "false" or witness_ratio >= random_ratio else worst
    ratio = max(witness_ratio, random_ratio)
    violated = ratio > 1.0 + TOLERANCE
    return {
        "claim": claim.name,
        "formula": claim.formula,
        "source": claim.source,
        "kind": claim.kind,
        "instances": settings.instances * len(settings.response_counts) + 1,
        "worst_ratio": ratio,
        "witness_ratio": witness_ratio,
        "random_ratio": random_ratio,
        "violated": violated,
        "informative": float(np.mean(informative)),
        **{f"shown_{name}": values for name, values in _as_lists(shown).items()},
        "shown_ratio": float(claim.ratio(shown)[0]),
    }


def _as_lists(x: Pairs) -> dict[str, list[float]]:
    return {
        "policy": x.policy[0].tolist(),
        "reference": x.reference[0].tolist(),
        "other_policy": x.other_policy[0].tolist(),
        "other_reference": x.other_reference[0].tolist(),
        "weight": x.weight.tolist(),
        "error": x.error[0].tolist(),
    }


def _finding(row: Mapping[str, Any]) -> Finding:
    false = row["kind"] == "false"
    ratio, shown = row["worst_ratio"], row["shown_ratio"]
    if false:
        measured = (
            f"left/right = {shown:.6g} at pi = {_vector(row['shown_policy'])}, "
            f"p = {_vector(row['shown_reference'])}"
        )
        verdict = "false" if row["violated"] else "no violation found"
    else:
        measured = f"worst left/right = {ratio:.9f} over {row['instances']} instances"
        verdict = "violated" if row["violated"] else _strength(row)
    return Finding(
        claim=str(row["formula"]),
        source=str(row["source"]),
        measured=measured,
        verdict=verdict,
        expected=bool(row["violated"]) == false and verdict != _EMPTY,
        table=NAME,
        computed_by=f"{_HERE}.run; '{row['claim']}' in rlhfsim.claims.divergences",
    )


def _strength(row: Mapping[str, Any]) -> str:
    """Return how well a claim without a violation is supported."""
    if row["informative"] < _LEAST_INFORMATIVE:
        return _EMPTY
    return "holds, tight" if row["worst_ratio"] >= TIGHT else "holds"


def _vector(values: object) -> str:
    assert isinstance(values, list)
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
