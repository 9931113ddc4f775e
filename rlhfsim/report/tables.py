"""Tables of the page: numbers from DataFrames, and rows of claims; sortable by their headers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from rlhfsim.notation import to_html


def numbers_table(table: pd.DataFrame) -> str:
    """Return a DataFrame as a table, without its columns of lists."""
    # Whole instances (lists) are for programs; they stay in the saved table.
    lists = table.map(lambda value: isinstance(value, list | np.ndarray)).any()
    shown = table.loc[:, ~lists]
    numeric = {c for c in shown.columns if pd.api.types.is_numeric_dtype(shown[c])}
    head = "".join(
        f"<th{_kind(c in numeric)}>{escape(str(c).replace('_', ' '))}</th>" for c in shown.columns
    )
    body = "".join(
        "<tr>" + "".join(_cell(v, c in numeric) for c, v in row.items()) + "</tr>"
        for _, row in shown.astype(object).iterrows()
    )
    return scrolling(head, body)


def number_cell(value: float, text: str | None = None, name: str = "") -> str:
    """Return a cell that sorts by `value`; `name` precedes it where the table is stacked."""
    shown = escape(_number(value) if text is None else text)
    named = f' data-name="{escape(name)}"' if name and shown else ""
    return f'<td class="number" data-v="{_script_number(value)}"{named}>{shown}</td>'


def scrolling(
    head: str, body: str, kind: str = "numbers", identity: str = "", label: str = ""
) -> str:
    """Return a table that scrolls sideways on a narrow screen (one of claims is stacked there)."""
    named = f' id="{identity}"' if identity else ""
    aria = f' aria-label="{escape(label)}"' if label else ""
    return (
        f'<div class="scroll"><table class="{kind}"{named}{aria}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def header(names: Sequence[str], numbers: Sequence[str] = ()) -> str:
    """Return the cells of a header row."""
    return "".join(f"<th{_kind(name in numbers)}>{escape(name)}</th>" for name in names)


def formula(text: str) -> str:
    """Return a statement with its formulas set."""
    return f'<span class="math">{to_html(text)}</span>'


def verdict_cell(verdict: str, expected: bool | None) -> str:
    """Return the cell of a verdict: green as predicted, red if not, black for a measurement."""
    kind = {True: "good", False: "bad", None: "neutral"}[expected]
    return f'<td class="verdict {kind}">{escape(verdict)}</td>'


def code(text: str) -> str:
    """Return names that may break after a dot or an underscore, and only there."""
    return "<code>" + re.sub(r"([._])", r"\1<wbr>", escape(text)) + "</code>"


def _script_number(value: float) -> str:
    """Return a number as JavaScript's `Number` reads it."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _kind(number: bool) -> str:
    return ' class="number"' if number else ""


def _cell(value: object, number: bool) -> str:
    if number and not isinstance(value, bool) and isinstance(value, int | float | np.number):
        return number_cell(value.item() if isinstance(value, np.number) else value)
    return f"<td{_kind(number)}>{escape(str(value))}</td>"


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "–" if math.isnan(value) else f"{value:.6g}"
