"""A study that runs on a table of scored responses, moved to a table of the user's."""

from __future__ import annotations

from os import PathLike, fspath

import numpy as np

from rlhfsim.studies.instances import Table
from rlhfsim.studies.rewards import ProxyReward
from rlhfsim.studies.study import Study


def with_table(
    study: Study, path: str | PathLike[str], columns: dict[str, str] | None = None
) -> Study:
    """Return the study with another table in every instance of the family "table".

    Parameters
    ----------
    study : Study
        With such an instance.
    path : path of a .csv, .csv.gz or .parquet file
        Read as `ContextualBandit.from_table` does.
    columns : dict, optional
        Names of its columns, as `from_table` takes them; by default those of the study.

    Raises
    ------
    ValueError
        If the study has no table, the file is none, or it lacks a proxy that a learner needs.
    """
    settings = study.model_dump()
    tables = [entry for entry in settings["instances"] if entry["family"] == "table"]
    if not tables:
        raise ValueError(f"study {study.name!r} has no instance of the family 'table'")
    for entry in tables:
        entry |= {"path": fspath(path), "sha256": ""}
        if columns is not None:
            entry["columns"] = dict(columns)
    changed = type(study).from_dict(settings)
    for position, spec in enumerate(changed.instances):
        if isinstance(spec, Table):
            _require_proxy(changed, position)
    return changed


def _require_proxy(study: Study, position: int) -> None:
    """Read the table once, so that what it lacks is said before anything is run."""
    spec = study.instances[position]
    scene = spec.scene(np.random.default_rng(0), 0)
    for method in study.learners:
        reward = getattr(method, "reward", None)
        if isinstance(reward, ProxyReward):
            try:
                reward.build(scene)
            except ValueError as error:
                raise ValueError(f"instances[{position}]: {error}") from None
