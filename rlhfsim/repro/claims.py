"""All claims, checked on random instances and on the instance where each is tight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rlhfsim.claims import CLAIMS, CheckResult, check
from rlhfsim.claims.checking import select
from rlhfsim.findings import Finding, StudyResult

NAME = "claims"


@dataclass(frozen=True)
class Settings:
    """Random instances for each claim (slow ones set lower limits), and which claims: all else."""

    instances: int = 1000
    claims: tuple[str, ...] = ()


def run(settings: Settings, seed: int) -> StudyResult:
    """Return the verdict on every claim."""
    from rlhfsim.report.claims import claims_table  # here, because it loads matplotlib

    chosen = select(CLAIMS, settings.claims)
    results = check(chosen, instances=settings.instances, seed=seed)
    true = [r for r in results if r.kind != "false"]
    false = [r for r in results if r.kind == "false"]
    held, refuted = (sum(r.passed for r in group) for group in (true, false))
    return StudyResult(
        name=NAME,
        title="Checked claims",
        question="Which statements of the literature hold on every instance tried, and which are "
        "false?",
        answer=f"Of {len(results)} statements {held} hold, and {refuted} that are printed or often "
        "read that way are false, each by an instance.",
        settings=asdict(settings),
        tables={NAME: claims_table(results)},
        findings=(
            _finding("every statement taken for true holds", true, "holds", "VIOLATED"),
            _finding("every statement taken for false is refuted", false, "false", "not refuted"),
        ),
    )


def _finding(claim: str, group: Sequence[CheckResult], right: str, wrong: str) -> Finding:
    failed = [r.claim for r in group if not r.passed]
    measured = f"{len(group) - len(failed)} of {len(group)}"
    if failed:
        measured += "; not " + "; ".join(failed)
    return Finding(
        claim, "each claim names its own", measured, wrong if failed else right, not failed, NAME,
        "rlhfsim.claims.checking.check",
    )  # fmt: skip
