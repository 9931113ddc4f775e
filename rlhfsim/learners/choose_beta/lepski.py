"""Lepski's rule: as much regularization as still agrees with all smaller amounts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.divergences import ChiSquared, Divergence
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.learners.choose_beta.base import (
    DEFAULT_CANDIDATES,
    BetaChoice,
    BetaProblem,
    BetaRule,
    as_candidates,
)
from rlhfsim.learners.choose_beta.families import regularizer


@dataclass(frozen=True)
class ChiSquaredWidth:
    """`s(beta) = eps_c^2 / (2 beta)`, what a reward error can do under chi-squared.

    For policies that maximise a reward of centred error at most `eps_c` less
    `beta (D_chi2 + gamma KL)`; see `Lepski`.

    Parameters
    ----------
    epsilon : float
        `eps_c`, positive, in reward units.
    """

    epsilon: float

    def __post_init__(self) -> None:
        """Validate."""
        checks.positive_number("epsilon", self.epsilon)

    def __call__(self, beta: float) -> float:
        """Return the width, in reward units."""
        return self.epsilon * (0.5 * self.epsilon / beta)


@dataclass(frozen=True)
class Lepski(BetaRule):
    """The largest beta whose estimate agrees with those of all smaller candidates.

    The estimate is the regularized gain under the learned reward,
    `U(beta) = J^(pi_beta) - J^(p) - beta D(pi_beta || p)`, and `beta_j` is accepted if
    `|U(beta_i) - U(beta_j)| <= 2 s(beta_i) + 2 s(beta_j)` for all i < j, s the width.

    *Guarantee.*  Suppose `|U(beta_j) - theta| <= b_j + s_j` for some number theta and some b that
    does not decrease, and let j* be the last candidate with `b_j <= s_j`.  Then the choice has
    `|U - theta| <= 6 s_j*`.  If also every policy gains at least `U_j - s_j` in truth, its regret
    against theta is at most `7 s_j*`, and so at most `7 q min_j (b_j + s_j)` where
    `s_j <= q s_{j+1}` and j* is not the last candidate (where it is, q is 1).

    *Proof.*  For i < j <= j*, `b_i <= b_j <= b_j* <= s_j* <= s_j <= s_i`, so
    `|U_i - U_j| <= 2 s_i + 2 s_j`: j* is accepted.  The choice k is no smaller, so
    `|U_k - theta| <= |U_k - U_j*| + |U_j* - theta| <= 4 s_j* + 2 s_j*`.  For i <= j* the sum
    `b_i + s_i` is at least `s_j*`, for i > j* it is at least `b_{j*+1} > s_{j*+1} >= s_j*/q`.

    With `ChiSquaredWidth(eps_c)` and D = `ChiSquared() + gamma KL()` both suppositions hold for
    `theta = max J - J(p)` and `b(beta) = beta (D(pi*||p) + D_chi2(pi*||p))`, without knowing `pi*`:
    by the change of measure `|(J^ - J)(pi) - (J^ - J)(p)| <= sqrt(2 D_chi2(pi||p)) eps_c
    <= beta D_chi2 + eps_c^2/(2 beta)`, used at `pi_beta` and at `pi*`.

    If the candidates start so large that already `b_1 > s_1`, the rule promises nothing; then start
    lower.  `certificate` has (B,) `widths`, `accepted`, and `gain_lower = U - s`, which under the
    suppositions no true gain is below.

    Parameters
    ----------
    width : callable from a float to a float
        `s`, positive, not increasing in beta, in reward units.
    candidates : sequence of floats
        At least two, positive, increasing.
    divergence : Divergence
        D; that of the family, where it is `RLHF` or a direct loss (whose link says it).

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value; a family of another divergence, or without a reward;
        several prompts without a `prompt_dist`.

    Source: Lepski 1991 (Theory Probab. Appl. 35, 3); the estimates and constants are derived here.
    """

    width: Callable[[float], float]
    candidates: tuple[float, ...] = DEFAULT_CANDIDATES
    divergence: Divergence = field(default_factory=ChiSquared)

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "candidates", as_candidates(self.candidates))
        if not callable(self.width) or isinstance(self.width, type):
            raise ValueError(
                f"width is {self.width!r:.80}; it must be a function such as ChiSquaredWidth(0.1)"
            )
        if not isinstance(self.divergence, Divergence):
            raise ValueError(
                f"divergence is {self.divergence!r:.80}; it must be a Divergence such as KL()"
            )
        _as_widths([self.width(beta) for beta in self.candidates])
        if isinstance(self.width, ChiSquaredWidth):
            weights = {base: weight for weight, base in self.divergence.terms()}
            if weights.get(ChiSquared(), 0.0) < 1.0:
                raise ValueError(
                    f"divergence is {self.divergence!r}; a ChiSquaredWidth needs at least "
                    "ChiSquared() in it"
                )

    def choose(self, problem: BetaProblem) -> BetaChoice:
        """Return the choice; see the class."""
        widths = _as_widths([self.width(beta) for beta in self.candidates])
        estimates = np.array([self._estimate(problem, beta) for beta in self.candidates])
        accepted = _accepted(estimates, widths)
        best = int(np.flatnonzero(accepted)[-1])
        return BetaChoice(
            rule=self.name,
            beta=self.candidates[best],
            reason=_reason(accepted, best),
            candidates=np.array(self.candidates),
            scores=estimates,
            score="regularized gain under the learned reward (reward units; not to be maximised)",
            certificate={
                "widths": widths,
                "accepted": accepted,
                "gain_lower": estimates - widths,
            },
        )

    def _estimate(self, problem: BetaProblem, beta: float) -> float:
        own = regularizer(problem.learner(beta))
        if own is not None and own != self.divergence:
            raise ValueError(
                f"family({beta!r}) regularizes with {own!r}; the rule is for {self.divergence!r}"
            )
        learned = problem.fit(beta)
        if learned.reward is None:
            raise ValueError(f"family({beta!r}) learns no reward; Lepski needs one")
        gain = ((learned.policy - problem.reference) * learned.reward).sum(axis=1)
        cost = self.divergence.per_prompt(learned.policy, problem.reference)
        return float(average_over_prompts(gain - beta * cost, problem.prompt_dist))


def lepski_index(estimates: ArrayLike, widths: ArrayLike) -> int:
    """Return the last j with `|e_i - e_j| <= 2 s_i + 2 s_j` for all i < j.

    Parameters
    ----------
    estimates : (B,) array
    widths : (B,) array
        Positive, not increasing.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: Lepski 1991; see `Lepski` for what it guarantees.
    """
    s = _as_widths(widths)
    e = checks.as_real("estimates", estimates)
    if e.shape != s.shape:
        raise ValueError(f"estimates has shape {e.shape}; it must be that of widths, {s.shape}")
    return int(np.flatnonzero(_accepted(e, s))[-1])


def _accepted(estimates: FloatArray, widths: FloatArray) -> BoolArray:
    """Return (B,) whether each agrees with all before it; the first always does."""
    apart = np.abs(estimates[:, None] - estimates) > 2.0 * (widths[:, None] + widths)
    return np.asarray(~np.tril(apart, -1).any(axis=1))


def _as_widths(value: ArrayLike) -> FloatArray:
    widths = checks.as_positive("width", value)
    if widths.ndim != 1 or widths.size == 0:
        raise ValueError(f"width has shape {widths.shape}; it must be one number per candidate")
    rises = np.flatnonzero(np.diff(widths) > 0)
    if rises.size:
        i = int(rises[0]) + 1
        raise ValueError(
            f"width[{i}] is {widths[i].item()!r}, after {widths[i - 1].item()!r}; "
            "widths must not increase with beta"
        )
    return widths


def _reason(accepted: BoolArray, best: int) -> str:
    if best == accepted.size - 1:
        return (
            "it is the largest candidate, and its estimate agrees with those of all the others; "
            "larger ones might too"
        )
    return (
        "its estimate agrees with those of all smaller candidates, within twice the sum of their "
        f"widths; each of the {accepted.size - best - 1} larger ones disagrees with a smaller one"
    )
