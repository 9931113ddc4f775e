"""What the parts of a study share: frozen settings, checked, with a key of their content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
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


class SettingsError(ValueError):
    """What is wrong with settings; its arguments are clauses, one for each key."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


def describe(error: ValidationError, settings: Any) -> list[str]:
    """Return what is wrong, one clause for each key: `learners[1].reward.ridge: ..., not -1`.

    Where a value may be of several kinds, what keeps it from each of them is one clause; a kind
    that it does not resemble is left out if there is one that it does.
    """
    entries = [(*_place(e["loc"], settings, e["type"]), e) for e in error.errors(include_url=False)]
    # A list of which one value is wrong fails as a list in that value, as a table altogether.
    deeper = [where for where, _, _ in entries]
    found: dict[tuple[str, str], list[str]] = {}
    for where, is_kind, entry in entries:
        if is_kind and any(d.startswith((f"{where}[", f"{where}.")) for d in deeper):
            continue
        messages = found.setdefault((where, _shown(entry)), [])
        if (message := _message(entry)) not in messages:
            messages.append(message)
    return [
        (f"{where}: " if where else "") + ", or ".join(messages) + shown
        for (where, shown), messages in found.items()
    ]


def _place(place: tuple[Any, ...], settings: Any, kind: str) -> tuple[str, bool]:
    """Return the keys that lead to a value, and whether only one kind of it is meant.

    Pydantic puts names of alternatives between the keys, such as a family of instances or
    `constrained-int`; what tells them from keys is that the settings do not have them.
    """
    where, node, is_kind = "", settings, False
    for position, step in enumerate(place):
        is_kind = False
        if isinstance(step, int):
            where += f"[{step}]"
            in_reach = isinstance(node, Sequence) and step < len(node)
            node = node[step] if in_reach else None
            continue
        has = step in node if isinstance(node, Mapping) else hasattr(node, step)
        if not has and not (kind == "missing" and position == len(place) - 1):
            is_kind = True
            continue
        where += f".{step}" if where else str(step)
        if has:
            node = node[step] if isinstance(node, Mapping) else getattr(node, step)
    return where, is_kind


def _message(entry: Any) -> str:
    message = str(entry["msg"]).removeprefix("Value error, ")
    # The names of our classes are not those of anything in a file.
    message = re.sub(r" or instance of \w+", "", message)
    return message[:1].lower() + message[1:]


def _shown(entry: Any) -> str:
    if entry["type"] in {"missing", "extra_forbidden", "value_error", "assertion_error"}:
        return ""
    return f", not {entry['input']!r:.60}"
