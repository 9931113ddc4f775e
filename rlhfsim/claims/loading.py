"""Claims of a user's own: those of a Python file, by `path/to/file.py` or `path/to/file.py:name`.

A claim of a file is a `Claim`, `RateClaim` or `ProbabilityClaim` at the top level of the module, or
in a list or tuple there that is called `CLAIMS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

from rlhfsim.claims.base import Claim
from rlhfsim.claims.checking import Checkable, select
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim
from rlhfsim.doctor.loading import load_module

#: What a file may define.
_SORTS = (Claim, RateClaim, ProbabilityClaim)


def is_file(target: str) -> bool:
    """Return whether a target names a Python file, and not a claim of the package."""
    return target.endswith(".py") or ".py:" in target


def load_claims(target: str, shipped: Sequence[Checkable] = ()) -> list[Checkable]:
    """Return the claims of a Python file, in its order.

    Parameters
    ----------
    target : str
        `path/to/file.py` for all of them, `path/to/file.py:name` for one: a variable of the file,
        or the `name` of a claim.
    shipped : sequence of claims
        Claims that do not count, though the file may import them.

    Raises
    ------
    ValueError
        If the file cannot be imported, holds no claim or none of this name, holds something else
        in `CLAIMS`, or two claims of one name.
    """
    place, name = _split(target)
    known = _claims(load_module(place), place, {id(claim) for claim in shipped})
    if not known:
        raise ValueError(
            f"{place} holds no claim; it must define a Claim, RateClaim or ProbabilityClaim"
        )
    named: dict[str, str] = {}
    for variable, claim in known.items():
        if claim.name in named:
            raise ValueError(
                f"{place} has two claims called {claim.name!r}: {named[claim.name]} and {variable}"
            )
        named[claim.name] = variable
    if name is None:
        return list(known.values())
    return [known[name]] if name in known else select(list(known.values()), [name])


def find(
    shipped: Sequence[Checkable], targets: Sequence[str] = (), source: str | None = None
) -> list[Checkable]:
    """Return the claims of these names and files (all shipped ones, if none is given).

    Only those whose source contains `source`, where that is given.

    Raises
    ------
    ValueError
        As `select` and `load_claims`.
    """
    if not targets:
        return select(shipped, (), source)
    chosen: list[Checkable] = []
    for target in targets:
        found = load_claims(target, shipped) if is_file(target) else select(shipped, [target])
        chosen += [claim for claim in found if not any(claim is other for other in chosen)]
    return select(chosen, (), source)


def _split(target: str) -> tuple[str, str | None]:
    if target.endswith(".py"):
        return target, None
    place, _, name = target.partition(".py:")
    return f"{place}.py", name


def _claims(module: ModuleType, place: str, shipped: set[int]) -> dict[str, Checkable]:
    """Return the claims of a module, each once, by variable or as `CLAIMS[k]`."""
    found: dict[str, Checkable] = {}
    seen = set(shipped)
    for variable, value in _candidates(module, place):
        if id(value) not in seen:
            seen.add(id(value))
            found[variable] = value
    return found


def _candidates(module: ModuleType, place: str) -> Iterator[tuple[str, Checkable]]:
    for variable, value in vars(module).items():
        if isinstance(value, _SORTS):
            yield variable, value
    for k, value in enumerate(getattr(module, "CLAIMS", ())):
        if not isinstance(value, _SORTS):
            raise ValueError(
                f"CLAIMS[{k}] of {place} is a {type(value).__name__}; "
                "it must be a Claim, RateClaim or ProbabilityClaim"
            )
        yield f"CLAIMS[{k}]", value
