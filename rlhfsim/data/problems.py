"""Everything that is wrong with a table, collected first and raised at once."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import BoolArray, IntArray

#: How many problems a message spells out; of the others it gives the number, by rule.
SHOWN_IN_FULL = 10

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a table."""

    #: Position of the row, counted from 0; None for a whole column, or the whole table.
    row: int | None
    #: None for the whole table.
    column: str | None
    #: What it should have been.
    rule: str
    #: What was found: the cell as `repr` shows it, shortened; without a row, a clause.
    value: str

    def __str__(self) -> str:
        """Return the problem in one line."""
        where = "" if self.row is None else f"{self.column} in row {self.row} is "
        return f"{where}{self.value}; {self.rule}"


@dataclass(frozen=True, eq=False)
class RowProblems:
    """The rows of one column that break one rule; kept in arrays, as every row of a table may."""

    column: str
    rule: str
    rows: IntArray
    #: The cells: numbers, or the text that shows them.
    values: NDArray[Any]

    def __getitem__(self, place: int) -> Problem:
        """Return the problem of the row at `place`."""
        value = self.values[place]
        shown = value if isinstance(value, str) else shorten(value)
        return Problem(int(self.rows[place]), self.column, self.rule, shown)


class DataError(ValueError):
    """A table that cannot be imported; every problem that it has is in `problems`.

    The message spells out the first ten problems, and counts all of them by rule when there are
    more.  Rows are positions in the table, counted from 0.

    Parameters
    ----------
    source : str
        The file, or empty for a DataFrame.
    whole : sequence of Problem
        Problems of whole columns or the whole table.
    by_rule : sequence of RowProblems
    """

    def __init__(
        self, source: str, whole: Sequence[Problem], by_rule: Sequence[RowProblems]
    ) -> None:
        self.source = source
        self._whole = tuple(whole)
        self._by_rule = tuple(by_rule)
        super().__init__(self._message())

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems: those of whole columns first, then by row; made anew at each call."""
        return tuple(self._in_order())

    def _in_order(self) -> Iterator[Problem]:
        yield from self._whole
        if not self._by_rule:
            return
        rows = np.concatenate([group.rows for group in self._by_rule])
        sizes = [group.rows.size for group in self._by_rule]
        group_of = np.repeat(np.arange(len(sizes)), sizes)
        place = np.concatenate([np.arange(size) for size in sizes])
        for i in np.argsort(rows, kind="stable"):
            yield self._by_rule[group_of[i]][int(place[i])]

    def _message(self) -> str:
        total = len(self._whole) + sum(group.rows.size for group in self._by_rule)
        shown = [str(problem) for problem in islice(self._in_order(), SHOWN_IN_FULL)]
        if total == 1:
            return f"{self.source}: {shown[0]}" if self.source else shown[0]
        lines = [f"{self.source or 'the table'} has {total} problems (rows are counted from 0):"]
        lines += (f"- {line}" for line in shown)
        if total > SHOWN_IN_FULL:
            lines.append(f"and {total - SHOWN_IN_FULL} more; by rule:")
            if self._whole:
                lines.append(f"- whole columns: {len(self._whole)}")
            lines += (f"- {g.column}, {g.rule}: {_rows(g.rows.size)}" for g in self._by_rule)
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with all problems."""
        return type(self), (self.source, self._whole, self._by_rule)


class ProblemList:
    """Collects the problems of a table.

    Parameters
    ----------
    source : str
        The file, or empty for a DataFrame.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._whole: list[Problem] = []
        self._by_rule: list[RowProblems] = []

    def add(self, value: str, rule: str, column: str | None = None) -> None:
        """Note a problem of a whole column or of the table."""
        self._whole.append(Problem(None, column, rule, value))

    def add_rows(self, column: str, rule: str, bad: BoolArray, cells: NDArray[Any]) -> None:
        """Note the rows where `bad` holds, with their cells."""
        rows = np.flatnonzero(bad)
        self.add_cells(column, rule, rows, cells[rows])

    def add_cells(
        self, column: str, rule: str, rows: Sequence[int] | IntArray, cells: NDArray[Any]
    ) -> None:
        """Note `rows`, if there are any, with the cell of each."""
        if len(rows) == 0:
            return
        if cells.dtype.kind == "O":
            cells = _shown(cells)
        places = np.array(rows, dtype=np.int64)
        self._by_rule.append(RowProblems(column, rule, places, cells))

    def __bool__(self) -> bool:
        """Return whether anything was noted."""
        return bool(self._whole or self._by_rule)

    def raise_any(self) -> None:
        """Raise `DataError` if anything was noted."""
        if self:
            raise DataError(self._source, self._whole, self._by_rule)


def shorten(value: object) -> str:
    """Return `repr(value)`, of numpy scalars that of the number, cut to a few words."""
    return _SHORT.repr(value.item() if isinstance(value, np.generic) else value)


def _shown(cells: NDArray[Any]) -> NDArray[Any]:
    """Return the text that shows each cell; the cells themselves need not pickle."""
    shown = np.empty(cells.size, dtype=object)
    shown[:] = [shorten(cell) for cell in cells]
    return shown


def _rows(number: int) -> str:
    return f"{number} row{'' if number == 1 else 's'}"
