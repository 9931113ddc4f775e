"""A study: a question, and the grid of cells that answers it, as frozen data."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from rlhfsim.studies.instances import Instance
from rlhfsim.studies.measures import ALWAYS, APART, EXTRA, LIKELIHOODS, SPLIT
from rlhfsim.studies.methods import AnyMethod
from rlhfsim.studies.spec import Count, Label, Positive, SettingsError, Spec, Whole, describe

#: Cells of one study at most: 8 bytes of memory for each are needed to put them in order.
MOST_CELLS = 10**9


class Geometric(Spec):
    """`points` values from `start` to `stop`, equally spaced in the logarithm."""

    start: Positive
    stop: Positive
    points: Annotated[int, Field(strict=True, ge=2)]

    def values(self) -> tuple[float, ...]:
        """Return them; the ends are exact."""
        return tuple(float(v) for v in np.geomspace(self.start, self.stop, self.points))


class Testing(Spec):
    """What a small run of the same study takes; whatever is left out stays."""

    seeds: Count | None = None
    environments: Count | None = None
    n: tuple[Whole, ...] | None = None
    #: At most so many values of every grid, evenly picked.
    grid: Count | None = None


class Study(Spec):
    """A grid of cells: instances x environments x n x seeds x methods x values of a parameter.

    Parameters
    ----------
    name : str
        Letters, digits, `-` and `_`.  Enters every seed: a renamed study draws anew.
    title, question : str
    instances, learners : settings, one or more of each
        See `rlhfsim.studies.instances` and `rlhfsim.studies.methods`.
    n : numbers of preferences
        0 where no method learns from data.
    beta : grid of every method whose parameter is beta and that has no grid of its own
        Positive numbers, or `Geometric(start, stop, points)`.
    seeds : int or "exact"
        Datasets for each (instance, environment, n); or the exact expectation over all datasets,
        where they can be enumerated.
    bias : bool
        Also split the regret: `bias` is that of the same learner given n preferences with exactly
        their expected counts, `estimation_error` the rest.
    companion : str
        Label of a method: also measure, as `apart`, how far every policy is in total variation
        from that method's at the same value of the parameter.
    likelihoods : bool
        Also measure by how much the log-probabilities of the chosen and of the rejected responses
        of the data differ from the reference's, as `chosen_logp` and `rejected_logp`.
    measures : tuple of str
        What else is measured, of `rlhfsim.studies.measures.EXTRA`: "duality_gap",
        "cumulative_regret", "cumulative_regularized_regret".
    testing : Testing
        The subset that a quick run takes.

    Raises
    ------
    ValueError
        One clause for each key that is wrong, by its name.
    """

    name: Annotated[str, Field(strict=True)]
    title: Annotated[str, Field(strict=True)] = ""
    question: Annotated[str, Field(strict=True)] = ""
    instances: tuple[Instance, ...]
    learners: tuple[AnyMethod, ...]
    n: tuple[Whole, ...]
    beta: tuple[Positive, ...] | Geometric = ()
    seeds: Count | Literal["exact"] = 1
    bias: Annotated[bool, Field(strict=True)] = False
    companion: Label = ""
    likelihoods: Annotated[bool, Field(strict=True)] = False
    measures: tuple[str, ...] = ()
    testing: Testing = Testing()

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise SettingsError(*describe(error, settings)) from None

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
            raise ValueError("letters, digits, '-' and '_' only, 64 at most")
        return name

    @field_validator("n", "beta")
    @classmethod
    def _differ(cls, values: Any) -> Any:
        if isinstance(values, tuple) and len(set(values)) != len(values):
            raise ValueError("values of a grid must differ")
        return values

    @field_validator("measures")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in EXTRA:
                raise ValueError(f"{name!r} must be one of {', '.join(EXTRA)}")
        if len(set(names)) != len(names):
            raise ValueError("measures must differ")
        return names

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("instances", "learners", "n"):
            if not getattr(self, name):
                raise ValueError(f"{name}: empty; at least one is needed")
        for position, method in enumerate(self.learners):
            if not self.grid(method):
                raise ValueError(f"learners[{position}].grid: missing, and so is beta")
            if method.uses_data and 0 in self.n:
                raise ValueError(
                    f"n: 0 means no preferences, and learners[{position}] learns from them"
                )
        for size in self.testing.n or ():
            if size not in self.n:
                raise ValueError(f"testing.n: {size} must be one of n")
        for name, specs in (("instances", self.instances), ("learners", self.learners)):
            _require_distinct(name, [spec.key for spec in specs], "is a copy of")
        self._check_companion()
        if self.cells > MOST_CELLS:
            raise ValueError(f"{self.cells} cells; at most {MOST_CELLS} fit into one study")
        return self

    def _check_companion(self) -> None:
        if not self.companion:
            return
        labels = self.labels[1]
        if self.companion not in labels:
            raise ValueError(
                f"companion: {self.companion!r} must be a label of the learners, "
                f"one of {', '.join(labels)}"
            )
        parameters = sorted({method.parameter for method in self.learners})
        if len(parameters) > 1:
            raise ValueError(
                "companion: all learners must have the same parameter, not "
                + " and ".join(parameters)
            )

    # ---- what the grid is ---------------------------------------------------------------------

    def grid(self, method: AnyMethod) -> tuple[float, ...]:
        """Return the values of a method's parameter."""
        if method.grid:
            return tuple(float(value) for value in method.grid)
        if method.parameter != "beta":
            return ()
        return self.beta.values() if isinstance(self.beta, Geometric) else self.beta

    @property
    def points(self) -> list[tuple[int, float]]:
        """The (index of the method, value of its parameter) of the cells of one group."""
        return [(k, v) for k, method in enumerate(self.learners) for v in self.grid(method)]

    @property
    def exact(self) -> bool:
        """Whether expectations over datasets are exact sums."""
        return self.seeds == "exact"

    @property
    def replications(self) -> int:
        """The number of seeds; 1 if there are none because the expectation is exact."""
        return 1 if isinstance(self.seeds, str) else self.seeds

    @property
    def environments(self) -> list[tuple[int, int]]:
        """The (index of the instance, environment) in order."""
        return [(i, e) for i, spec in enumerate(self.instances) for e in range(spec.environments)]

    @property
    def groups(self) -> int:
        """The number of (instance, environment, n, seed)."""
        return len(self.environments) * len(self.n) * self.replications

    @property
    def cells(self) -> int:
        """The number of cells."""
        return self.groups * len(self.points)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured in each cell."""
        return (
            *ALWAYS,
            *((APART,) if self.companion else ()),
            *(LIKELIHOODS if self.likelihoods else ()),
            *self.measures,
            *(SPLIT if self.bias else ()),
        )

    @property
    def labels(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """How instances and learners are called in results: their labels, or what tells them."""
        return _labels(self.instances, "family"), _labels(self.learners, "method")

    # ---- making one ---------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Return the study of plain settings, as a TOML file has them.

        In an entry of `instances` or `learners`, `sweep = {key = [values]}` stands for one entry
        for each combination of the values.
        """
        if not isinstance(settings, Mapping):
            raise ValueError(f"a study is a table of settings, not {type(settings).__name__}")
        plain = dict(settings)
        origins: dict[str, list[int]] = {}
        for name in ("instances", "learners"):
            if isinstance(plain.get(name), Sequence) and not isinstance(plain[name], str):
                swept = [_swept(f"{name}[{k}]", entry) for k, entry in enumerate(plain[name])]
                plain[name] = [entry for entries in swept for entry in entries]
                origins[name] = [k for k, entries in enumerate(swept) for _ in entries]
        try:
            return cls(**{str(key): value for key, value in plain.items()})
        except SettingsError as error:
            clauses = (_before_sweeps(clause, origins) for clause in error.args)
            # What is wrong in an entry is wrong in every copy of it.
            raise SettingsError(*dict.fromkeys(clauses)) from None

    def for_testing(self) -> Self:
        """Return the small subset of this study; its cells are cells of the whole."""
        small = self.testing
        settings = self.model_dump()
        if small.seeds is not None and not self.exact:
            settings["seeds"] = min(small.seeds, self.replications)
        settings["n"] = self.n if small.n is None else small.n
        if isinstance(self.beta, Geometric):
            settings["beta"] = self.beta.values()
        if small.environments is not None:
            for spec in settings["instances"]:
                spec["environments"] = min(small.environments, spec["environments"])
        if small.grid is not None:
            settings["beta"] = _spread(settings["beta"], small.grid)
            for spec in settings["learners"]:
                spec["grid"] = _spread(spec["grid"], small.grid)
        return self.from_dict(settings)


def load_study(path: str | PathLike[str]) -> Study:
    """Return the study of a TOML (or JSON) file; nothing in the file is run.

    Paths of tables are relative to the file.

    Raises
    ------
    ValueError
        For a file that cannot be read, and for each key that is wrong, by its name.
    """
    file = Path(path)
    try:
        raw = file.read_bytes()
        settings = json.loads(raw) if file.suffix == ".json" else tomllib.loads(raw.decode())
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{file} is not valid: {error}") from None
    for entry in settings.get("instances", ()) if isinstance(settings, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("path"), str):
            entry["path"] = str(file.parent / entry["path"])
    try:
        return Study.from_dict(settings)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _before_sweeps(clause: str, origins: Mapping[str, Sequence[int]]) -> str:
    """Return a clause with entries numbered as in the file, where a sweep is one entry."""

    def renumbered(found: re.Match[str]) -> str:
        name, k = found[1], int(found[2])
        return f"{name}[{origins[name][k]}]" if k < len(origins.get(name, ())) else found[0]

    clause = re.sub(r"\b(instances|learners)\[(\d+)\]", renumbered, clause)
    return re.sub(r"^(\w+\[\d+\]): is a copy of \1$", r"\1.sweep: makes two equal entries", clause)


def _swept(name: str, entry: Any) -> list[Any]:
    if not isinstance(entry, Mapping) or "sweep" not in entry:
        return [entry]
    sweep = entry["sweep"]
    if not isinstance(sweep, Mapping) or not sweep:
        raise ValueError(f"{name}.sweep: must be a table of keys with lists of values")
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{name}.sweep.{key}: must be a list of values, not {values!r:.40}")
        if key in entry:
            raise ValueError(f"{name}.{key}: given, and swept over as well")
    fixed = {key: value for key, value in entry.items() if key != "sweep"}
    entries = []
    for values in product(*sweep.values()):
        own = dict(zip(sweep, values, strict=True))
        if fixed.get("label"):
            told = ", ".join(f"{key} {_shown(value)}" for key, value in own.items())
            own["label"] = f"{fixed['label']}, {told}"
        entries.append({**fixed, **own})
    return entries


def _labels(specs: Sequence[Any], kind: str) -> tuple[str, ...]:
    """Return the labels; without one, the kind and the settings in which it differs."""
    plain = [spec.model_dump(exclude={"label", "grid", "environments"}) for spec in specs]
    labels = []
    for k, (spec, settings) in enumerate(zip(specs, plain, strict=True)):
        if spec.label:
            labels.append(spec.label)
            continue
        alike = [p for j, p in enumerate(plain) if p[kind] == settings[kind] and j != k]
        told = [
            f"{key} {_shown(value)}"
            for key, value in settings.items()
            if any(other.get(key) != value for other in alike)
        ]
        labels.append(", ".join([str(settings[kind]), *told]))
    _require_distinct("labels", labels, "is also that of")
    return tuple(labels)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{k} {_shown(v)}" for k, v in value.items() if v is not None)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _spread(values: Sequence[float], count: int) -> tuple[float, ...]:
    """Return at most `count` of the values, evenly picked, the ends among them."""
    if len(values) <= count:
        return tuple(values)
    picked = np.unique(np.round(np.linspace(0, len(values) - 1, count)).astype(int))
    return tuple(values[int(k)] for k in picked)


def _require_distinct(name: str, values: Sequence[str], relation: str) -> None:
    seen: dict[str, int] = {}
    for k, value in enumerate(values):
        if value in seen:
            raise ValueError(f"{name}[{k}]: {relation} {name}[{seen[value]}]")
        seen[value] = k
