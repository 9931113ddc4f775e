"""What the parts of a study share: frozen settings, checked, with a key of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: Numbers as they must stand in a study file: `3` is no text and `true` is no number.
Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Label = Annotated[str, Field(strict=True, max_length=80)]
#: A divergence by text, such as "chi2 + 0.5 kl".
DivergenceText = Annotated[str, Field(strict=True)]


class Spec(BaseModel):
    """Frozen settings, the same in Python and in a study file; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)

    def content(self, *, leave_out: Iterable[str] = ()) -> str:
        """Return the settings as canonical JSON: the same text for the same settings."""
        settings = self.model_dump(mode="json", exclude=set(leave_out))
        return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(content: str) -> str:
    """Return the 16 hexadecimal digits by which settings are known in saved results."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def describe(error: ValidationError) -> str:
    """Return what is wrong, one clause for each key: `learners[1].ridge: ..., not -1`."""
    return "; ".join(_clause(entry) for entry in error.errors(include_url=False))


def _clause(entry: Any) -> str:
    where = ""
    place = entry["loc"]
    for position, step in enumerate(place):
        if isinstance(step, int):
            where += f"[{step}]"
        elif position and isinstance(place[position - 1], int) and _is_tag(place, position):
            continue  # the name of an alternative, such as a family of instances
        else:
            where += f".{step}" if where else str(step)
    message = str(entry["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if entry["type"] in {"missing", "extra_forbidden", "value_error", "assertion_error"}:
        shown = ""
    else:
        shown = f", not {entry['input']!r:.60}"
    return f"{where}: {message}{shown}" if where else f"{message}{shown}"


def _is_tag(place: tuple[Any, ...], position: int) -> bool:
    return place[position - 2] in {"instances", "learners"} if position >= 2 else False
