"""Studies: settings -> tables and findings.  Figures and reports read only what they return.

`STUDIES` lists the parts of the main job in the order of the report.
"""

from collections.abc import Callable

from rlhfsim.bandit import ContextualBandit
from rlhfsim.studies import inequalities, overoptimization, proposition_a1, sharp_bound
from rlhfsim.studies.record import Finding, StudyResult

#: Name -> module, each with `NAME`, `Settings` and `run`.
MODULES = {m.NAME: m for m in (proposition_a1, sharp_bound, overoptimization, inequalities)}

#: Name -> function `(seed, table) -> StudyResult` with the default settings.
STUDIES: dict[str, Callable[[int, ContextualBandit | None], StudyResult]] = {
    proposition_a1.NAME: lambda seed, table: proposition_a1.run(proposition_a1.Settings(), seed),
    sharp_bound.NAME: lambda seed, table: sharp_bound.run(sharp_bound.Settings(), seed),
    overoptimization.NAME: lambda seed, table: overoptimization.run(
        overoptimization.Settings(), seed, table
    ),
    inequalities.NAME: lambda seed, table: inequalities.run(inequalities.Settings(), seed),
}

__all__ = ["MODULES", "STUDIES", "Finding", "StudyResult"]
