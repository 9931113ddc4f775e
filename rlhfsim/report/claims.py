"""The table of checked claims: what was checked, and what was found false."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import pandas as pd

from rlhfsim.claims.checking import CheckResult
from rlhfsim.report.tables import formula, header, number_cell, scrolling, verdict_cell

#: Columns of `claims_table`, each an attribute of `CheckResult`; none depends on the machine.
COLUMNS = (
    "claim", "formula", "source", "kind", "instances", "worst", "sampled", "witness", "measured",
    "verdict", "details", "passed",
)  # fmt: skip

#: What the reader sees.
_SHOWN = ("claim", "statement", "source", "kind", "instances", "worst ratio", "verdict")


def claims_table(results: Sequence[CheckResult]) -> pd.DataFrame:
    """Return one row for each checked claim, in the order of `results`."""
    return pd.DataFrame(
        [[getattr(result, name) for name in COLUMNS] for result in results], columns=list(COLUMNS)
    )


def claims_section(results: Sequence[CheckResult] | pd.DataFrame) -> str:
    """Return the table of checked claims as HTML, false ones first.

    Parameters
    ----------
    results : sequence of CheckResult, or what `claims_table` made of it

    Returns
    -------
    str
        A sortable table with every formula set, and a box that filters its rows.

    Raises
    ------
    ValueError
        If there are no results, or a table lacks one of `COLUMNS`.
    """
    table = results if isinstance(results, pd.DataFrame) else claims_table(results)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"results has no column {missing[0]!r}; it must be a table of claims")
    if table.empty:
        raise ValueError("results is empty; it must hold at least one checked claim")
    # What went wrong first, then what is false as it should be, then the rest as it comes.
    rank = table["passed"].astype(int) * 2 - (table["kind"] == "false").astype(int)
    ordered = table.assign(_rank=rank).sort_values("_rank", kind="stable")
    body = "".join(_row(row) for row in ordered.to_dict("records"))
    return (
        '<label class="filter" hidden>Filter: '
        '<input type="search" data-table="checked-claims" autocomplete="off"></label>'
        + scrolling(
            header(_SHOWN, numbers=("instances", "worst ratio")), body, "claims", "checked-claims",
            "Checked claims",
        )
    )  # fmt: skip


def _row(row: dict[str, object]) -> str:
    worst, instances = float(str(row["worst"])), int(str(row["instances"]))
    details = f" ({row['details']})" if row["details"] else ""
    return (
        f'<tr><td class="name">{escape(str(row["claim"]))}</td>'
        f'<td class="statement">{formula(str(row["formula"]))}</td>'
        f'<td class="source">{escape(str(row["source"]))}</td>'
        f"<td>{escape(str(row['kind']).replace('_', ' '))}</td>"
        + number_cell(instances, name="instances")
        + number_cell(worst, "" if worst != worst else None, name="worst ratio")
        + verdict_cell(f"{row['verdict']}{details}", bool(row["passed"]))
        + "</tr>"
    )
