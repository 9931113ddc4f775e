"""Golden numbers of direct losses: mean losses, gradients and optimal policies, in one JSON file.

`golden.json` needs no library to read.  It holds

- `methods`: formula, source, settings with their defaults, further columns, and why there is no
  optimal policy where there is none, by name;
- `batches`: the log-probabilities of a few comparisons, all exact in float32;
- `cases`: method, batch, beta and settings; the mean loss, and its derivatives in the
  log-probabilities of the policy;
- `problems` and `policies`: counted comparisons, and the tabular policy at which their mean loss is
  least, for the methods where there is exactly one.

Every number was computed in 250 digits or more (policies in 80) from the papers' formulas, and is
the double next to the truth (17 digits).  `python -m rlhfsim.golden` computes the file again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

#: The columns of every batch, in the order in which trainers pass them.
COLUMNS = (
    "policy_chosen_logps",
    "policy_rejected_logps",
    "ref_chosen_logps",
    "ref_rejected_logps",
)


@dataclass(frozen=True)
class Method:
    """A direct method, as the golden file describes it."""

    name: str
    formula: str
    source: str
    #: Settings besides beta, with the values that hold where a loss has no argument for them.
    settings: Mapping[str, float]
    #: Columns besides the four log-probabilities.
    columns: tuple[str, ...]
    #: Whether the derivatives hold something fixed that depends on the policy.
    stops_gradient: bool


@dataclass(frozen=True)
class Case:
    """A batch of n comparisons with the mean loss and gradient that a method has on it."""

    method: str
    batch: str
    #: (n,) columns by name: the four of `COLUMNS` and those of the method.
    columns: Mapping[str, tuple[float, ...]]
    beta: float
    settings: Mapping[str, float]
    loss: float
    #: (n,) derivatives of the mean loss in `policy_chosen_logps` and `policy_rejected_logps`.
    gradient_chosen: tuple[float, ...]
    gradient_rejected: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of comparisons."""
        return len(self.gradient_chosen)


@cache
def read() -> Mapping[str, Any]:
    """Return the golden file as it is: a read-only mapping over plain lists, dicts and numbers."""
    text = files(__name__).joinpath("golden.json").read_text(encoding="utf-8")
    return MappingProxyType(json.loads(text))


@cache
def methods() -> Mapping[str, Method]:
    """Return the methods by name."""
    return MappingProxyType(
        {
            name: Method(
                name,
                entry["formula"],
                entry["source"],
                MappingProxyType(entry["settings"]),
                tuple(entry["columns"]),
                entry["stops_gradient"],
            )
            for name, entry in read()["methods"].items()
        }
    )


def method(name: str) -> Method:
    """Return a method.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in methods():
        raise ValueError(f"method is {name!r}; it must be one of {', '.join(methods())}")
    return methods()[name]


@cache
def cases(name: str) -> tuple[Case, ...]:
    """Return the cases of a method.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    wanted = (*COLUMNS, *method(name).columns)
    return tuple(_case(entry, wanted) for entry in read()["cases"] if entry["method"] == name)


def _case(entry: Mapping[str, Any], wanted: tuple[str, ...]) -> Case:
    batch = read()["batches"][entry["batch"]]
    return Case(
        method=entry["method"],
        batch=entry["batch"],
        columns=MappingProxyType({column: tuple(batch[column]) for column in wanted}),
        beta=entry["beta"],
        settings=MappingProxyType(entry["settings"]),
        loss=entry["loss"],
        gradient_chosen=tuple(entry["gradient_chosen"]),
        gradient_rejected=tuple(entry["gradient_rejected"]),
    )
