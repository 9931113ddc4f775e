"""The main job, `rlhfsim repro`: each part is settings -> tables and findings.

Figures and the report read only what a part returns.  `PARTS` lists them in the order of the
report; `job.reproduce` runs them all.
"""

from collections.abc import Callable

from rlhfsim.bandit import ContextualBandit
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.repro import claims, inequalities, overoptimization, proposition_a1, sharp_bound

#: Name -> module, each with `NAME`, `Settings` and `run`.
MODULES = {m.NAME: m for m in (proposition_a1, sharp_bound, overoptimization, inequalities, claims)}

#: Name -> function `(seed, table) -> StudyResult` with the default settings.
PARTS: dict[str, Callable[[int, ContextualBandit | None], StudyResult]] = {
    proposition_a1.NAME: lambda seed, table: proposition_a1.run(proposition_a1.Settings(), seed),
    sharp_bound.NAME: lambda seed, table: sharp_bound.run(sharp_bound.Settings(), seed),
    overoptimization.NAME: lambda seed, table: overoptimization.run(
        overoptimization.Settings(), seed, table
    ),
    inequalities.NAME: lambda seed, table: inequalities.run(inequalities.Settings(), seed),
    claims.NAME: lambda seed, table: claims.run(claims.Settings(), seed),
}

__all__ = ["MODULES", "PARTS", "Finding", "StudyResult"]
