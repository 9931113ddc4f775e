"""What a study returns: tables of numbers and findings drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Finding:
    """One line of the report: a claim, what was measured, and the verdict."""

    claim: str
    source: str
    measured: str
    verdict: str
    #: Whether the verdict is the one that theory predicts (a false claim found false is); None
    #: for a measurement about which theory says nothing.
    expected: bool | None
    #: Name of the table that holds the numbers, and the function that computes them.
    table: str
    computed_by: str


@dataclass(frozen=True)
class StudyResult:
    """The saved part of a study: figures and reports read this and nothing else."""

    name: str
    title: str
    question: str
    settings: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    findings: tuple[Finding, ...]

    def findings_table(self) -> pd.DataFrame:
        """Return the findings as a DataFrame, one row each."""
        return pd.DataFrame([{"study": self.name, **asdict(f)} for f in self.findings])
