"""Whether preferences are transitive, how strongly, and whether they are Bradley-Terry.

Every check looks at all ordered triples `(a, b, c)` of responses: `O(Y^3)` time and `O(Y^2)`
memory per prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.preferences.base import PreferenceModel, require_model
from rlhfsim.preferences.winners import prompt_blocks

Bound = Callable[[FloatArray, FloatArray], FloatArray]

#: Rounding allowed where two margins are compared.
MARGIN_ROUNDING = 16 * float(np.finfo(np.float64).eps)

# Ordered pairs that are held at a time: few, because every pair is visited once per response.
_BLOCK = 2**16


@dataclass(frozen=True, eq=False)
class TransitivityCheck(Frozen):
    """The outcome of a check of all triples; true where it holds at every prompt."""

    #: (X,) whether no triple violates the rule by more than is allowed.
    holds: BoolArray
    #: (X,) largest violation over the triples, in the unit of the check; 0 where there is none.
    violation: FloatArray
    #: (X, 3) a triple `(a, b, c)` with the largest violation; -1 where `holds`.
    triple: IntArray

    def __post_init__(self) -> None:
        """Copy and freeze."""
        for name in ("holds", "violation", "triple"):
            object.__setattr__(self, name, checks.frozen(getattr(self, name)))

    def __bool__(self) -> bool:
        """Return whether the rule holds at every prompt."""
        return bool(self.holds.all())


def weak_transitivity(model: PreferenceModel) -> TransitivityCheck:
    """Check that `P(a, b) >= 1/2` and `P(b, c) >= 1/2` imply `P(a, c) >= 1/2`.

    The violation is `1/2 - P(a, c)`.  Ties are those of `PreferenceModel.majority`.

    Parameters
    ----------
    model : PreferenceModel

    Returns
    -------
    TransitivityCheck
        Violations are probabilities.

    Raises
    ------
    ValueError
        If `model` is not a PreferenceModel.

    Source: Tversky 1969.
    """
    return _stochastic(model, lambda ab, bc: np.zeros_like(ab), rounding=0.0)


def moderate_transitivity(model: PreferenceModel) -> TransitivityCheck:
    """Check that `P(a, b), P(b, c) >= 1/2` imply `P(a, c) >= min(P(a, b), P(b, c))`.

    The violation is what `P(a, c)` lacks.  Margins may differ by 16 units of rounding.

    Parameters, returns, raises and source: as `weak_transitivity`.
    """
    return _stochastic(model, np.minimum, MARGIN_ROUNDING)


def strong_transitivity(model: PreferenceModel) -> TransitivityCheck:
    """Check that `P(a, b), P(b, c) >= 1/2` imply `P(a, c) >= max(P(a, b), P(b, c))`.

    Bradley-Terry satisfies it, and so does Bradley-Terry with label noise.  The violation is what
    `P(a, c)` lacks.  Margins may differ by 16 units of rounding.

    Parameters, returns, raises and source: as `weak_transitivity`.
    """
    return _stochastic(model, np.maximum, MARGIN_ROUNDING)


def is_bradley_terry(model: PreferenceModel, tolerance: float = 1e-9) -> TransitivityCheck:
    """Check that log-odds add up: `L(a, b) + L(b, c) = L(a, c)`, `L = log P - log(1 - P)`.

    Some reward makes the model Bradley-Terry exactly when they do at every triple.  The violation
    is the absolute difference of the two sides in nats.  It is infinite, at a triple `(a, c, c)`,
    where the log-odds of a pair are: some P is 0 or 1, or rewards differ by more than the largest
    float.

    Parameters
    ----------
    model : PreferenceModel
    tolerance : number
        Positive; allowed is `tolerance max(1, |L|)`, `|L|` the largest of the three.

    Returns
    -------
    TransitivityCheck
        Violations are in nats; of the triples that break the rule, one of the worst is given.

    Raises
    ------
    ValueError
        If `model` is not a PreferenceModel or the tolerance is not positive.

    Source: Luce 1959 (product rule).
    """
    require_model("model", model)
    tolerance = checks.positive_number("tolerance", tolerance)

    results = [
        _log_odds_add_up(model._log_odds(*model._all_pairs(prompts)), tolerance)
        for prompts in prompt_blocks(model, _BLOCK)
    ]
    return _join(results, unit=1.0)


def _stochastic(model: PreferenceModel, bound: Bound, rounding: float) -> TransitivityCheck:
    """Return the check that margins `ab, bc >= 0` imply `ac >= bound(ab, bc)`."""
    require_model("model", model)
    results = []
    for prompts in prompt_blocks(model, _BLOCK):
        pairs = model._all_pairs(prompts)
        margin = np.where(model._majority(*pairs) == 0, 0.0, model._margin(*pairs))
        error = model._margin_error(*pairs).max(axis=(1, 2))
        allowed = (3.0 * error + rounding) if rounding else np.zeros_like(error)
        results.append(_margins_reach(margin, bound, allowed))
    # A probability lacks half of what its margin lacks.
    return _join(results, unit=0.5)


def _margins_reach(margin: FloatArray, bound: Bound, allowed: FloatArray) -> _Worst:
    """Return the worst triples of `(B, Y, Y)` margins whose ties are 0."""
    worst = _Worst(len(margin))
    preferred = margin >= 0.0
    for middle in range(margin.shape[1]):
        implied = preferred[:, :, middle, None] & preferred[:, middle, None, :]
        lacking = bound(margin[:, :, middle, None], margin[:, middle, None, :]) - margin
        broken = implied & (lacking > allowed[:, None, None])
        worst.update(np.where(broken, lacking, 0.0), middle, (0, 0))
    return worst


def _log_odds_add_up(log_odds: FloatArray, tolerance: float) -> _Worst:
    """Return the worst triples of `(B, Y, Y)` log-odds, which are antisymmetric."""
    worst = _Worst(len(log_odds))
    infinite = np.isinf(log_odds)
    finite = np.where(infinite, 0.0, log_odds)
    # Antisymmetry makes the rule the same for the six orders of a triple, and empty for repeats.
    for middle in range(1, log_odds.shape[1] - 1):
        ab = finite[:, :middle, middle, None]
        bc = finite[:, middle, None, middle + 1 :]
        ac = finite[:, :middle, middle + 1 :]
        violation = np.abs(ab + bc - ac)
        size = np.maximum(np.maximum(np.abs(ab), np.abs(bc)), np.abs(ac))
        broken = violation > tolerance * np.maximum(1.0, size)
        worst.update(np.where(broken, violation, 0.0), middle, (0, middle + 1))
    for prompt in np.flatnonzero(infinite.any(axis=(1, 2))):
        a, c = np.argwhere(infinite[prompt])[0]
        worst.value[prompt], worst.triple[prompt] = np.inf, (a, c, c)
    return worst


class _Worst:
    """The largest violation so far at each prompt of a block, and its triple."""

    def __init__(self, size: int) -> None:
        self.value = np.zeros(size)
        self.triple = np.full((size, 3), -1, dtype=np.int64)

    def update(self, violation: FloatArray, middle: int, start: tuple[int, int]) -> None:
        """Take in `(B, A, C)` violations of `(start[0] + i, middle, start[1] + k)`."""
        flat = violation.reshape(len(violation), -1)
        better = flat.max(axis=1) > self.value
        if not better.any():
            return
        place = flat[better].argmax(axis=1)
        self.value[better] = flat[better, place]
        first, last = np.divmod(place, violation.shape[2])
        middles = np.full_like(first, middle)
        self.triple[better] = np.stack((start[0] + first, middles, start[1] + last), axis=1)


def _join(results: list[_Worst], unit: float) -> TransitivityCheck:
    violation = np.concatenate([worst.value for worst in results])
    triple = np.concatenate([worst.triple for worst in results])
    return TransitivityCheck(violation == 0.0, unit * violation, triple)
