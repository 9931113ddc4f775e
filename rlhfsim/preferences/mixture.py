"""A mixture of raters: each comparison is labelled by a rater drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.preferences.base import PreferenceModel, complementary, require_model

#: Largest distance from 1 of the sum of the weights.
WEIGHT_TOLERANCE = 1e-12

# A rater's margin is good to 4 units of rounding, and each noise around it and the product with
# the weight cost another one or two: 16 leave room for ten of them.
_ROUNDINGS = 16


@dataclass(frozen=True, eq=False)
class RaterMixture(Frozen, PreferenceModel):
    """`P(y beats y' | x) = sum_k weight_k P_k(y beats y' | x)`: a fresh rater for every label.

    Mixtures of transitive raters may be cyclic (Condorcet's paradox).  A margin is a tie when it
    is 0 within `(K + 16) eps sum_k weight_k |margin_k|`, the rounding error of that sum, plus
    the errors that nested mixtures hand on.

    Parameters
    ----------
    models : sequence of K PreferenceModel
        Of equal shape; mixtures may be nested.
    weights : (K,) array
        Not negative, with sum 1 within 1e-12; copied and read-only.

    Raises
    ------
    ValueError
        For no models, models of different shapes, weights that are not a distribution over them.

    Source: Condorcet 1785; arXiv 2402.08925 (mixtures of raters in RLHF).
    """

    models: tuple[PreferenceModel, ...]
    weights: FloatArray

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        models = _as_models(self.models)
        given = checks.as_real("weights", self.weights)
        if given.shape != (len(models),):
            raise ValueError(f"weights has shape {given.shape}; it must be ({len(models)},)")
        weights = checks.as_distributions("weights", given, tolerance=WEIGHT_TOLERANCE)
        object.__setattr__(self, "models", models)
        object.__setattr__(self, "weights", checks.frozen(weights))

    @property
    def shape(self) -> tuple[int, int]:
        """`(X, Y)`."""
        return self.models[0].shape

    def _probability(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        forth = self._mix(lambda model: model._probability(prompt, first, second))
        back = self._mix(lambda model: model._probability(prompt, second, first))
        return complementary(forth, back)

    def _log_small(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        terms = [
            np.log(weight) + model._log_probability(prompt, first, second)
            for model, weight in self._raters()
        ]
        total: FloatArray = np.logaddexp.reduce(np.stack(terms), axis=0)
        return np.where(first == second, np.log(0.5), total)

    def _margin(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        return self._mix(lambda model: model._margin(prompt, first, second))

    def _margin_error(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        size = self._mix(lambda model: np.abs(model._margin(prompt, first, second)))
        handed_on = self._mix(lambda model: model._margin_error(prompt, first, second))
        return (len(self.models) + _ROUNDINGS) * np.finfo(np.float64).eps * size + handed_on

    def _raters(self) -> list[tuple[PreferenceModel, float]]:
        """Return the raters that have weight."""
        return [(m, float(w)) for m, w in zip(self.models, self.weights, strict=True) if w > 0]

    def _mix(self, value: Callable[[PreferenceModel], FloatArray]) -> FloatArray:
        """Return `sum_k weight_k value(model_k)`, added in the order given."""
        (model, weight), *others = self._raters()
        total = weight * value(model)
        for model, weight in others:
            total = total + weight * value(model)
        return total


def _as_models(models: object) -> tuple[PreferenceModel, ...]:
    if not isinstance(models, (tuple, list)) or len(models) == 0:
        raise ValueError(f"models is {models!r:.80}; it must be a sequence of at least one model")
    checked = tuple(require_model(f"models[{k}]", model) for k, model in enumerate(models))
    for k, model in enumerate(checked):
        if model.shape != checked[0].shape:
            raise ValueError(
                f"models[{k}] has shape {model.shape} and models[0] has {checked[0].shape}; "
                "all must have the same"
            )
    return checked
