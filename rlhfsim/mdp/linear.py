"""Linear Markov decision processes: transitions and rewards linear in known features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.mdp.model import FiniteHorizonMDP
from rlhfsim.mdp.recursions import Levels


@dataclass(frozen=True, eq=False)
class LinearMDP(Frozen):
    """`P_h(s'|s, a) = <phi_h(s, a), mu_h(s')>`, `r_h(s, a) = <phi_h(s, a), theta_h>`, exactly.

    The `Q_h` of every policy, and the soft ones, are then linear in `phi_h` (`weights`).

    Parameters
    ----------
    initial : (S_1,) array
        Distribution of the first state.
    features : H arrays (S_h, A_h, d)
    measures : H - 1 arrays (d, S_(h+1))
        `mu_h`; the products with the features must be distributions.  Nothing is clipped: features
        or measures of both signs whose products are 0 on paper may come out at -1e-17, and are
        refused; the caller has to choose ones whose products are not negative in floats.
    parameters : H arrays (d,)
        `theta_h`.
    reference : H arrays (S_h, A_h)

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value; features and measures whose products are not
        distributions.

    Source: arXiv 1907.05388 (linear MDP); arXiv 2310.17303.
    """

    initial: FloatArray
    features: tuple[FloatArray, ...]
    measures: tuple[FloatArray, ...]
    parameters: tuple[FloatArray, ...]
    reference: Levels

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        features = _arrays("features", self.features, 3)
        if not features:
            raise ValueError("features has 0 arrays; the horizon must be at least 1")
        parameters = _arrays("parameters", self.parameters, 1)
        measures = _arrays("measures", self.measures, 2)
        for name, items, steps in (
            ("parameters", parameters, len(features)),
            ("measures", measures, len(features) - 1),
        ):
            if len(items) != steps:
                raise ValueError(f"{name} has {len(items)} arrays; it must have {steps}")
        for h, phi in enumerate(features):
            _same_length(f"parameters[{h}]", parameters[h].shape, (phi.shape[-1],))
            if h < len(measures):
                shape = (phi.shape[-1], features[h + 1].shape[0])
                _same_length(f"measures[{h}]", measures[h].shape, shape)
        for name, items in (
            ("features", features), ("measures", measures), ("parameters", parameters),
        ):  # fmt: skip
            object.__setattr__(self, name, tuple(checks.frozen(item) for item in items))
        # The process checks the rest, and keeps its own copies.
        object.__setattr__(self, "initial", self.mdp.initial)
        object.__setattr__(self, "reference", self.mdp.reference)

    @cached_property
    def mdp(self) -> FiniteHorizonMDP:
        """The process as tables."""
        moves = []
        for h, (phi, mu) in enumerate(zip(self.features, self.measures, strict=False)):
            moves.append(checks.as_distributions(f"features[{h}] @ measures[{h}]", phi @ mu))
        rewards = tuple(
            phi @ theta for phi, theta in zip(self.features, self.parameters, strict=True)
        )
        return FiniteHorizonMDP(self.initial, tuple(moves), rewards, self.reference)

    def weights(self, values: Levels) -> tuple[FloatArray, ...]:
        """Return the (d,) vectors `w_h = theta_h + mu_h V_(h+1)`, so that `Q_h = <phi_h, w_h>`.

        Parameters
        ----------
        values : H arrays (S_h,)
            `V_h` of any policy, or soft values.

        Raises
        ------
        ValueError
            For another number of arrays, other shapes, and entries that are not finite.
        """
        values = _arrays("values", values, 1)
        if len(values) != len(self.parameters):
            raise ValueError(
                f"values has {len(values)} arrays; it must have {len(self.parameters)}"
            )
        for h, (level, phi) in enumerate(zip(values, self.features, strict=True)):
            _same_length(f"values[{h}]", level.shape, phi.shape[:1])
        found = []
        for h, theta in enumerate(self.parameters):
            later = 0.0 if h == len(self.measures) else self.measures[h] @ values[h + 1]
            found.append(np.asarray(theta + later))
        return tuple(found)


def _arrays(name: str, value: Any, ndim: int) -> tuple[FloatArray, ...]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise ValueError(f"{name} is {value!r:.80}; it must be a sequence of arrays, one per step")
    items = tuple(checks.as_real(f"{name}[{h}]", item) for h, item in enumerate(value))
    for h, item in enumerate(items):
        if item.ndim != ndim or item.size == 0:
            raise ValueError(
                f"{name}[{h}] has shape {item.shape}; it must be non-empty, of {ndim} axes"
            )
    return items


def _same_length(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(f"{name} has shape {shape}; it must have shape {expected}")
