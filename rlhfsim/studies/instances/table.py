"""The instance of a table of scored responses."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from rlhfsim.bandit import ContextualBandit
from rlhfsim.studies.instances.base import Labelled, Scene
from rlhfsim.studies.spec import Count, key_of


class Table(Labelled):
    """A table of scored responses, CSV or Parquet; relative to the study file that names it.

    `columns` names columns as `ContextualBandit.from_table` takes them; `clip` bounds a judge's
    probabilities away from 0 and 1; `prompts` keeps the first so many.
    """

    family: Literal["table"] = "table"
    path: Annotated[str, Field(strict=True, min_length=1)]
    columns: dict[str, str] = Field(default_factory=dict)
    prompts: Count | None = None
    clip: Annotated[float, Field(strict=True, gt=0, lt=0.5)] = 1e-6
    #: SHA-256 of the file; filled in when the study is made, so that results know their table.
    sha256: str = ""

    @model_validator(mode="after")
    def _digest(self) -> Table:
        file = Path(self.path)
        if not file.is_file():
            raise ValueError(f"path is {self.path!r}; there is no such file")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if self.sha256 not in {"", digest}:
            raise ValueError(f"{self.path} has changed: its SHA-256 is {digest}")
        object.__setattr__(self, "sha256", digest)
        if self.environments != 1:
            raise ValueError("environments must be 1 for a table: there is only one")
        return self

    @property
    def key(self) -> str:
        """As of every family; the content of the file counts, not its place."""
        return key_of(self.content(leave_out=("label", "environments", "path")))

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        bandit = ContextualBandit.from_table(self.path, clip=self.clip, **self.columns)
        if self.prompts is not None:
            bandit = _first_prompts(bandit, self.prompts)
        return self._plain(bandit)


def _first_prompts(bandit: ContextualBandit, count: int) -> ContextualBandit:
    kept = slice(0, count)
    rho = bandit.prompt_dist[kept]
    return ContextualBandit(
        rho / rho.sum(),
        bandit.reference[kept],
        bandit.reward[kept],
        None if bandit.proxy_reward is None else bandit.proxy_reward[kept],
        None if bandit.available is None else bandit.available[kept],
        None if bandit.prompts is None else bandit.prompts[kept],
        bandit.responses,
    )
