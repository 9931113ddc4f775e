"""Divergence inequalities: the worst ratio of each, and the counterexample of the false ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from rlhfsim.claims import CLAIMS, PairClaim, Pairs, sample_pairs
from rlhfsim.randomness import generator_for
from rlhfsim.studies.record import Finding, StudyResult

NAME = "inequalities"
_HERE = f"rlhfsim.studies.{NAME}"

#: Rounding allowed on a ratio that equals 1.
_TOLERANCE = 1e-9

#: A worst ratio from here on counts as tight.
_TIGHT = 0.999


@dataclass(frozen=True)
class Settings:
    """Random instances per claim and per number of responses."""

    instances: int = 20_000
    response_counts: tuple[int, ...] = (2, 3, 5, 10)


def run(settings: Settings, seed: int) -> StudyResult:
    """Return the worst ratio left/right of every claim, over random instances and its witness."""
    rows = [_examine(claim, settings, seed) for claim in CLAIMS]
    table = pd.DataFrame(rows)
    return StudyResult(
        name=NAME,
        title="Divergence inequalities",
        question="Which of the inequalities in use hold, how tight are they, and which are false?",
        settings=asdict(settings),
        tables={NAME: table},
        findings=tuple(_finding(row) for row in rows),
    )


def _examine(claim: PairClaim, settings: Settings, seed: int) -> dict[str, object]:
    witness = claim.witness()
    witness_ratio = float(claim.ratio(witness)[0])
    random_ratio, worst = 0.0, witness
    for size in settings.response_counts:
        rng = generator_for(NAME, f"{claim.name}/Y={size}", seed)
        batch = sample_pairs(settings.instances, size, rng)
        ratios = claim.ratio(batch)
        k = int(np.argmax(ratios))
        if ratios[k] > random_ratio:
            random_ratio, worst = float(ratios[k]), batch.take(k)
    shown = witness if claim.kind == "false" or witness_ratio >= random_ratio else worst
    ratio = max(witness_ratio, random_ratio)
    violated = ratio > 1.0 + _TOLERANCE
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


def _finding(row: dict[str, object]) -> Finding:
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
        tight = float(str(row["worst_ratio"])) >= _TIGHT
        verdict = "violated" if row["violated"] else "holds, tight" if tight else "holds"
    return Finding(
        claim=str(row["formula"]),
        source=str(row["source"]),
        measured=measured,
        verdict=verdict,
        expected=bool(row["violated"]) == false,
        table=NAME,
        computed_by=f"{_HERE}.run; rlhfsim.claims.divergences",
    )


def _vector(values: object) -> str:
    assert isinstance(values, list)
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
