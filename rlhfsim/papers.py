"""Reproducing one paper: a folder of settings and expected numbers, and one command.

`settings.toml` names the study, the seed, and settings that differ from the study's own;
`expected.toml` lists numbers as

    [[number]]
    name = "what it is"
    source = "where the number comes from"
    table = "proposition_a1_summary"
    where = { n = 1000, method = "KL" }
    column = "regret_log_n"
    value = 0.2197
    relative = 1e-3        # or: at_most = true, at_least = true
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from rlhfsim.repro import MODULES

_NUMBER_KEYS = {"name", "source", "table", "where", "column", "value"}
_RULES = {"relative", "at_most", "at_least"}


@dataclass(frozen=True)
class NumberCheck:
    """One expected number, what was measured, and whether they agree."""

    name: str
    source: str
    measured: float
    value: float
    rule: str
    relative: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether the measured number satisfies the rule."""
        if self.rule == "at_most":
            return self.measured <= self.value
        if self.rule == "at_least":
            return self.measured >= self.value
        return math.isclose(self.measured, self.value, rel_tol=self.relative, abs_tol=0.0)

    def describe(self) -> str:
        """Return the expectation in words, and the verdict."""
        words = {
            "at_most": f"at most {self.value:g}",
            "at_least": f"at least {self.value:g}",
            "relative": f"{self.value:g} within {self.relative:g} relative",
        }
        return f"{words[self.rule]}: {'yes' if self.agrees else 'NO'}"


def reproduce_paper(folder: Path) -> list[NumberCheck]:
    """Run the study of a paper's folder and return the check of each expected number.

    Raises
    ------
    ValueError
        For a missing file, a key that is unknown or missing, or a row that is not there.
    """
    settings = _read_toml(folder / "settings.toml")
    expected = _read_toml(folder / "expected.toml")
    tables = _run(settings, folder / "settings.toml")
    numbers = expected.get("number", [])
    if set(expected) != {"number"} or not numbers:
        raise ValueError(f"{folder / 'expected.toml'} must hold [[number]] entries and no others")
    return [_check(number, tables, f"{folder / 'expected.toml'}, number {i}")
            for i, number in enumerate(numbers)]  # fmt: skip


def _run(settings: Mapping[str, Any], path: Path) -> Mapping[str, pd.DataFrame]:
    unknown = set(settings) - {"study", "seed", "settings"}
    if unknown:
        raise ValueError(f"{path}: key {min(unknown)!r} is unknown; use study, seed, settings")
    name, seed = settings.get("study"), settings.get("seed", 0)
    if name not in MODULES:
        raise ValueError(f"{path}: study is {name!r}; it must be one of {', '.join(MODULES)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"{path}: seed is {seed!r}; it must be a non-negative integer")
    study = MODULES[name]
    given = settings.get("settings", {})
    known = {f.name for f in fields(study.Settings)}
    for key in given:
        if key not in known:
            raise ValueError(
                f"{path}: settings.{key} is unknown; {name} has {', '.join(sorted(known))}"
            )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    tables: Mapping[str, pd.DataFrame] = study.run(study.Settings(**values), seed).tables
    return tables


def _check(number: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], at: str) -> NumberCheck:
    rules = _RULES & set(number)
    wrong = (set(number) - _NUMBER_KEYS - _RULES) or (_NUMBER_KEYS - set(number))
    if wrong or len(rules) != 1:
        what = f"key {min(wrong)!r} is unknown or missing" if wrong else "one rule is needed"
        raise ValueError(f"{at}: {what}; rules are {', '.join(sorted(_RULES))}")
    if number["table"] not in tables:
        raise ValueError(f"{at}: table {number['table']!r} is not among {', '.join(tables)}")
    rows = tables[number["table"]]
    for column in (*number["where"], number["column"]):
        if column not in rows.columns:
            raise ValueError(f"{at}: {number['table']} has no column {column!r}")
    for column, value in number["where"].items():
        rows = rows[rows[column] == value]
    if len(rows) != 1:
        raise ValueError(f"{at}: {len(rows)} rows of {number['table']} match {number['where']}")
    rule = rules.pop()
    return NumberCheck(
        name=number["name"],
        source=number["source"],
        measured=float(rows[number["column"]].iloc[0]),
        value=float(number["value"]),
        rule=rule,
        relative=float(number["relative"]) if rule == "relative" else 0.0,
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
