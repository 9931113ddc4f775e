"""Preference tables of texts or chats, as people have them, read into indices and names."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from rlhfsim.data.chats import CellError, Chat, chat_name, read_cell, split_prompt
from rlhfsim.data.named import NamedPairs
from rlhfsim.data.pairs import PreferenceData
from rlhfsim.data.sources import Cells, read_cells

if TYPE_CHECKING:
    import pandas as pd

_PROMPT = "prompt"

#: The cells of a column; None where one has a problem.
Read = list[str | Chat | None]


def read_pairs(
    table: str | PathLike[str] | pd.DataFrame,
    *,
    prompt: str | None = _PROMPT,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> NamedPairs:
    """Return the preferences of a table of texts: one row per comparison.

    Cells are texts or chats, lists of messages `{"role": ..., "content": ...}`; a column holds one
    of the two, `chosen` and `rejected` the same one.  Without a column of prompts, `chosen` and
    `rejected` are whole chats, and the prompt is the messages that both begin with: the longest
    such part after which each has a message left.

    Prompts are numbered in the order in which they first appear, and the responses of each
    prompt likewise, `chosen` before `rejected`.  Texts are the same only if every character is;
    messages, if all their keys are, apart from keys that hold None.

    Parameters
    ----------
    table : path of a .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet file, or DataFrame
        Other columns are ignored.  Every cell of a CSV file is text.
    prompt : str or None
        None to take the prompts out of the chats, as is done too if there is no column "prompt".
    chosen, rejected : str

    Returns
    -------
    NamedPairs

    Raises
    ------
    DataError
        With every problem of the table at once: columns that are missing; cells that are missing,
        blank, neither text nor a chat, or a chat beside texts; chats without content or without a
        common beginning; rows of a CSV file with too few or too many cells; lines that are not
        JSON objects; no rows.  Rows are counted from 0, without the header and blank lines.
    ValueError
        If the table cannot be read at all, or two columns have the same name here.
    """
    wanted = [name for name in (prompt, chosen, rejected) if name is not None]
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"the columns are {wanted}; they must be different ones")
    cells = read_cells(table, wanted)
    reader = _Reader(cells)
    (first, second), answer_chats = reader.read(chosen, rejected)
    if prompt is None or (prompt == _PROMPT and _PROMPT not in cells.names):
        if not answer_chats:
            found = "prompt is None" if prompt is None else f"column {prompt!r} is missing"
            reader.note_column(prompt, found, "without prompts, chosen and rejected must be chats")
        prompts, first, second = reader.split(chosen, first, second)
        prompt_chats = True
    else:
        (prompts,), prompt_chats = reader.read(prompt)
    reader.finish()
    rows = zip(_names(prompts), _names(first), _names(second), strict=True)
    return _named(rows, prompt_chats, answer_chats)


class _Reader:
    """Reads whole columns; `finish` raises what is wrong with any of their cells."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        #: Places, in the lists of cells, that break a rule of a column.
        self._broken: dict[tuple[str, str], list[int]] = {}

    def read(self, *columns: str) -> tuple[list[Read], bool]:
        """Return columns that must all hold texts or all chats, and whether it is chats."""
        read = [self._column(name) for name in columns]
        first = next(
            (
                (name, place, isinstance(value, list))
                for name, values in zip(columns, read, strict=True)
                for place, value in enumerate(values)
                if value is not None
            ),
            None,
        )
        if first is None:
            return read, False
        name, place, chats = first
        rule = f"it must be {'a chat' if chats else 'text'}, as {name} in row {self._row(place)} is"
        for name, values in zip(columns, read, strict=True):
            for place, value in enumerate(values):
                if value is not None and isinstance(value, list) != chats:
                    self._note(name, rule, place)
                    values[place] = None
        return read, chats

    def split(self, chosen: str, first: Read, second: Read) -> tuple[Read, Read, Read]:
        """Return the prompts that both chats of each row begin with, and how either goes on."""
        prompts: Read = [None] * len(first)
        for place, (one, other) in enumerate(zip(first, second, strict=True)):
            if isinstance(one, list) and isinstance(other, list):
                try:
                    prompts[place], first[place], second[place] = split_prompt(one, other)
                except CellError as error:
                    self._note(chosen, str(error), place)
        return prompts, first, second

    def note_column(self, name: str | None, found: str, rule: str) -> None:
        """Note a problem of a whole column, unless the table has no columns and no rows anyway."""
        if self._cells.names or self._cells.rows:
            self._cells.problems.add(found, rule, name)

    def finish(self) -> None:
        """Raise everything that was noted."""
        problems = self._cells.problems
        for (column, rule), places in self._broken.items():
            cells = np.empty(len(places), dtype=object)
            for i, place in enumerate(places):
                cells[i] = self._cells.columns[column][place]
            problems.add_cells(column, rule, [self._row(place) for place in places], cells)
        problems.raise_any()

    def _column(self, name: str) -> Read:
        cells = self._cells.columns.get(name)
        if cells is None:
            if name not in self._cells.names:
                names = f"the table has {self._cells.names}"
                self.note_column(name, f"column {name!r} is missing", names)
            return [None] * len(self._cells.rows)
        values: Read = []
        for place, cell in enumerate(cells):
            try:
                values.append(read_cell(cell))
            except CellError as error:
                self._note(name, str(error), place)
                values.append(None)
        return values

    def _note(self, column: str, rule: str, place: int) -> None:
        self._broken.setdefault((column, rule), []).append(place)

    def _row(self, place: int) -> int:
        return self._cells.rows[place]


def _names(values: Read) -> Iterable[str]:
    """Yield the name of each text or chat."""
    for value in values:
        assert value is not None  # problems were raised before
        yield value if isinstance(value, str) else chat_name(value)


def _named(
    rows: Iterable[tuple[str, str, str]], prompt_chats: bool, response_chats: bool
) -> NamedPairs:
    """Return the pairs with prompts and responses numbered in order of appearance."""
    prompts: dict[str, int] = {}
    responses: list[dict[str, int]] = []
    triples = []
    for name, better, worse in rows:
        index = prompts.setdefault(name, len(prompts))
        if index == len(responses):
            responses.append({})
        known = responses[index]
        first = known.setdefault(better, len(known))
        triples.append((index, first, known.setdefault(worse, len(known))))
    shape = len(prompts), max(map(len, responses))
    prompt, chosen, rejected = np.array(triples, dtype=np.int64).T
    return NamedPairs(
        data=PreferenceData(prompt, chosen, rejected, shape),
        prompts=tuple(prompts),
        responses=tuple(map(tuple, responses)),
        prompt_chats=prompt_chats,
        response_chats=response_chats,
    )
