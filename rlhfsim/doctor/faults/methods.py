"""Faults in which method runs, and with which settings."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from rlhfsim.doctor.faults.base import Fault, right
from rlhfsim.doctor.outcome import Outcome
from rlhfsim.golden import Case, Method, methods


def _stuck(setting: str) -> Fault:
    def outcome(case: Case) -> Outcome | None:
        default = methods()[case.method].settings
        if setting not in default:
            return None
        settings = {**case.settings, setting: default[setting]}
        return right(replace(case, settings=MappingProxyType(settings)))

    return Fault(
        f"{setting} ignored",
        f"{setting} is an argument of the function and has no effect: its default acts.",
        outcome,
    )


def _other(method: Method) -> Fault:
    def outcome(case: Case) -> Outcome | None:
        if method.name == case.method:
            return None
        # A setting that both methods have keeps its value.
        settings = {name: case.settings.get(name, value) for name, value in method.settings.items()}
        return right(replace(case, method=method.name, settings=MappingProxyType(settings)))

    return Fault(
        f"{method.name} in place of the method",
        f"The loss is that of {method.name}, {method.formula}: the choice of the loss is lost on "
        "the way to it, or falls back to this one.",
        outcome,
    )


def settings_ignored() -> tuple[Fault, ...]:
    """Return one fault for every setting of any method."""
    names = dict.fromkeys(name for method in methods().values() for name in method.settings)
    return tuple(_stuck(name) for name in names)


def other_methods() -> tuple[Fault, ...]:
    """Return one fault for every method: that it runs where another one should.

    Not for those that read columns which the others do not have.
    """
    return tuple(_other(method) for method in methods().values() if not method.columns)
