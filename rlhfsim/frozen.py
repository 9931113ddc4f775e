"""Dataclasses that stay frozen when they are copied or sent to another process."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


class Frozen:
    """Mixin for frozen dataclasses whose arrays are read-only.

    `pickle` and `copy.deepcopy` rebuild an object without its constructor, which leaves copied
    arrays writable; through the constructor they are validated and frozen again.
    """

    def __reduce__(self) -> tuple[type[Any], tuple[Any, ...]]:
        """Rebuild from the constructor's arguments."""
        given = (f.name for f in fields(self) if f.init)  # type: ignore[arg-type]
        return type(self), tuple(getattr(self, name) for name in given)
