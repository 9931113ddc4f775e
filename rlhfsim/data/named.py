"""Preference data with names: the texts that its prompts and responses stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhfsim.data.chats import CellError, parse_chat
from rlhfsim.data.pairs import PreferenceData
from rlhfsim.frozen import Frozen

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class NamedPairs(Frozen):
    """Preference data whose prompts and responses have names: the texts that they stand for.

    The name of a chat is the JSON text of its messages.

    Parameters
    ----------
    data : PreferenceData
    prompts : tuple of X str
    responses : tuple of X tuples of str
        `responses[x][y]` is response `y` of prompt `x`, at most Y of each.
    prompt_chats, response_chats : bool
        Whether the names are those of chats.

    Raises
    ------
    ValueError
        For names that are not text, repeated, not those of chats where they should be, or that do
        not match `data`.
    """

    data: PreferenceData
    prompts: tuple[str, ...]
    responses: tuple[tuple[str, ...], ...]
    prompt_chats: bool = False
    response_chats: bool = False

    def __post_init__(self) -> None:
        """Validate."""
        if not isinstance(self.data, PreferenceData):
            raise ValueError(f"data is a {type(self.data).__name__}; it must be a PreferenceData")
        for name in ("prompt_chats", "response_chats"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        prompts = _as_names("prompts", self.prompts, self.prompt_chats)
        responses = tuple(
            _as_names(f"responses[{x}]", names, self.response_chats)
            for x, names in enumerate(self.responses)
        )
        object.__setattr__(self, "prompts", prompts)
        object.__setattr__(self, "responses", responses)
        self._match_data()

    def _match_data(self) -> None:
        for name in ("prompts", "responses"):
            size = len(getattr(self, name))
            if size != self.data.n_prompts:
                raise ValueError(
                    f"{name} has {size} entries; data has {self.data.n_prompts} prompts"
                )
        known = np.array([len(names) for names in self.responses])
        if known.max() > self.data.n_responses:
            raise ValueError(
                f"responses[{known.argmax()}] has {known.max()} entries; "
                f"data has {self.data.n_responses} responses"
            )
        for name in ("chosen", "rejected"):
            nameless = getattr(self.data, name) >= known[self.data.prompt]
            if nameless.any():
                row = int(nameless.argmax())
                x, y = int(self.data.prompt[row]), int(getattr(self.data, name)[row])
                raise ValueError(
                    f"data.{name}[{row}] is {y}; prompt {x} has names of {known[x]} responses"
                )

    def to_dataframe(self) -> pd.DataFrame:
        """Return the columns `prompt`, `chosen`, `rejected` of texts, or of lists of messages.

        `read_pairs` reads it back.
        """
        import pandas as pd

        of_prompt: Callable[[str], Any] = parse_chat if self.prompt_chats else str
        of_response: Callable[[str], Any] = parse_chat if self.response_chats else str
        x, data = self.data.prompt.tolist(), self.data
        columns = {"prompt": [of_prompt(self.prompts[i]) for i in x]}
        for name in ("chosen", "rejected"):
            index = zip(x, getattr(data, name).tolist(), strict=True)
            columns[name] = [of_response(self.responses[i][j]) for i, j in index]
        return pd.DataFrame(columns)


def _as_names(name: str, value: Any, chats: bool) -> tuple[str, ...]:
    """Return `value`, which must hold different strings, and the names of chats if `chats`."""
    if isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.60}; it must be a sequence of strings")
    names = tuple(value)
    seen: set[str] = set()
    for i, text in enumerate(names):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{i}] is {text!r:.60}; it must be a string")
        if text in seen:
            raise ValueError(f"{name}[{i}] is {text!r:.60}; names must not repeat")
        seen.add(text)
        if chats:
            try:
                parse_chat(text)
            except CellError as error:
                raise ValueError(f"{name}[{i}] is {text!r:.60}; {error}") from None
    return names
