"""What a study returns: tables of numbers and findings drawn from them; saved and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from rlhfsim.files import read_parquet, write_text

#: Name of the file in a results folder that holds everything but the tables.
RESULTS = "results.json"


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
    #: The answer to the question in one sentence, where there is one.
    answer: str = ""

    def findings_table(self) -> pd.DataFrame:
        """Return the findings as a DataFrame, one row each."""
        columns = ["study", *(field.name for field in fields(Finding))]
        rows = [{"study": self.name, **asdict(f)} for f in self.findings]
        return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class SavedResults:
    """What a results folder holds: the results, and what made them."""

    title: str
    seed: int
    versions: Mapping[str, str]
    results: tuple[StudyResult, ...]


def save_results(
    folder: Path,
    results: Sequence[StudyResult],
    *,
    seed: int,
    versions: Mapping[str, str],
    title: str = "main results",
) -> None:
    """Write `results.json`: everything but the tables, which are `tables/NAME.parquet`.

    Parameters
    ----------
    folder : Path
        A results folder, which exists.
    results : sequence of StudyResult
        Settings may hold what JSON can; tuples are read back as lists.
    seed : int
    versions : mapping of names to versions
        Of the software used.
    title : str
        Of the report.

    Raises
    ------
    ValueError
        If two results share a name or a table.
    """
    _refuse_repeated("results", [result.name for result in results])
    _refuse_repeated("tables", [name for result in results for name in result.tables])
    content = {
        "title": title,
        "seed": seed,
        "versions": dict(versions),
        "results": [
            {
                "name": result.name,
                "title": result.title,
                "question": result.question,
                "answer": result.answer,
                "settings": dict(result.settings),
                "tables": list(result.tables),
                "findings": [asdict(finding) for finding in result.findings],
            }
            for result in results
        ],
    }
    write_text(folder / RESULTS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def load_results(folder: Path) -> SavedResults:
    """Return what `save_results` wrote to a folder, with the tables that lie in it.

    Raises
    ------
    ValueError
        If the folder has no `results.json`, that is not one, or a table is missing or damaged.
    """
    path = folder / RESULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; {folder} is no results folder") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable: {error}") from None
    try:
        results = tuple(_result(folder, entry) for entry in content["results"])
        return SavedResults(content["title"], content["seed"], content["versions"], results)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of results: {error!r}") from None


def _result(folder: Path, entry: Mapping[str, Any]) -> StudyResult:
    tables = {}
    for name in entry["tables"]:
        path = folder / "tables" / f"{name}.parquet"
        if not path.is_file():
            raise ValueError(f"{path} does not exist, but {RESULTS} lists it")
        tables[name] = read_parquet(path).to_pandas()
    return StudyResult(
        name=entry["name"],
        title=entry["title"],
        question=entry["question"],
        answer=entry["answer"],
        settings=entry["settings"],
        tables=tables,
        findings=tuple(Finding(**finding) for finding in entry["findings"]),
    )


def _refuse_repeated(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} has {name!r} twice; names must be unique")
