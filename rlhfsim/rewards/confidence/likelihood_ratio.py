"""Likelihood-ratio confidence sets, `{r in class : L(r) >= max L - radius}`."""

from __future__ import annotations

from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.rewards.confidence.finite_likelihood import (
    FiniteLikelihoodSet,
    finite_likelihood_set,
)
from rlhfsim.rewards.confidence.tabular_likelihood import (
    TabularLikelihoodSet,
    tabular_likelihood_set,
)
from rlhfsim.rewards.finite_class import FiniteClass
from rlhfsim.rewards.tabular import Tabular


def likelihood_ratio_set(
    data: PreferenceData | PairCounts, model: FiniteClass | Tabular, delta: float
) -> FiniteLikelihoodSet | TabularLikelihoodSet:
    """Return `{r in class : L(r) >= max L - radius}` with the radius of level `delta`.

    * `FiniteClass`: `radius = log(|R|/delta)`; misses `r*` with probability at most delta, at
      every sample size (`finite_likelihood_set` has the proof).
    * `Tabular()`: `radius = 1/2 chi2_{1 - delta}(d)`; misses `r*` with probability delta
      asymptotically (`tabular_likelihood_set`).

    Parameters
    ----------
    data : PreferenceData or PairCounts
    model : FiniteClass or Tabular()
    delta : float in (0, 1)

    Raises
    ------
    MLEDoesNotExistError
        For `Tabular()` when a set of linked responses has no finite estimate.
    ValueError
        Bad input, by name, rule and value; a box or a ridge, under which Wilks's theorem does not
        hold, or a gauge, which a set of rewards up to constants does not have.

    Source: arXiv 2305.14816; Wilks 1938.
    """
    if isinstance(model, FiniteClass):
        return finite_likelihood_set(data, model, delta)
    if not isinstance(model, Tabular):
        raise ValueError(f"model is {model!r:.80}; it must be a FiniteClass or Tabular()")
    if model.r_max is not None or model.ridge is not None:
        raise ValueError(
            f"model is {model!r}; it must be Tabular() without a bound or ridge, under which "
            "the likelihood ratio is not chi-squared"
        )
    if model.gauge is not None:
        raise ValueError(
            f"model is {model!r:.80}; it must be Tabular() without a gauge, since the set holds "
            "rewards whatever their constants"
        )
    return tabular_likelihood_set(data, delta)
