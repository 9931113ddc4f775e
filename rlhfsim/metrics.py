"""How good policies are on a known instance: every number that tables and figures show.

A `Yardstick` holds what depends on the instance alone, and measures many policies in a few passes.
All is exact, and the numbers of a policy do not depend on which others are measured with it: each
sum runs over one row of one policy.

The *regularized* numbers compare with the optimum `pi*_beta` of `J_beta(pi) = J(pi) - beta
D(pi || p)` at the true reward, for the learner's own divergence and beta.  The policy that the same
learner makes of infinite data (`laws.population_pairs`) splits the regret into its bias and what
more data would remove.

Source: arXiv 2407.13399 (regret, concentrability); 2412.19792 (win rates).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL, ChiSquared, Divergence
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.frozen import Frozen
from rlhfsim.inference import calibrated_reward
from rlhfsim.solvers import solve

#: Entries of policies that are measured at a time, so that temporaries stay in a cache.
_CHUNK = 1 << 15


class Metric(NamedTuple):
    """What a metric is, for tables and figures."""

    description: str
    #: Empty for a pure number.
    unit: str
    #: Of an axis, in Unicode.
    label: str


_REWARD, _NATS = "reward units", "nats"

#: The fields of `Metrics`, in their order.
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "regret": Metric("value of the comparator less that of the policy", _REWARD, "regret"),
        "value": Metric("expected true reward, J(π)", _REWARD, "value J(π)"),
        "win_rate": Metric(
            "probability to beat the reference by the true reward, ties one half",
            "",
            "win rate against π_ref",
        ),
        "win_rate_comparator": Metric(
            "probability to beat the comparator by the true reward, ties one half",
            "",
            "win rate against π*",
        ),
        "kl": Metric("Kullback-Leibler divergence from the reference", _NATS, "KL(π‖π_ref)"),
        "chi_squared": Metric(
            "chi-squared divergence from the reference, with the 1/2", "", "D_χ²(π‖π_ref)"
        ),
        "concentrability": Metric("mean density ratio under the policy", "", "C^π"),
        "max_concentrability": Metric(
            "largest density ratio, over the prompts that occur", "", "C_∞^π"
        ),
        "entropy": Metric("entropy of the policy, averaged over prompts", _NATS, "entropy of π"),
        "support": Metric(
            "number of responses with positive mass, averaged over prompts",
            "responses",
            "support of π",
        ),
        "effective_support": Metric(
            "exponential of a prompt's entropy, averaged over prompts",
            "responses",
            "effective support of π",
        ),
        "regularized_gap": Metric(
            "what the policy loses to the regularized optimum at the true reward, "
            "both with their penalty",
            _REWARD,
            "J_β(π*_β) − J_β(π)",
        ),
        "distance": Metric(
            "total variation from the regularized optimum at the true reward",
            "",
            "TV(π, π*_β)",
        ),
        "bias": Metric(
            "regret of what the same learner makes of infinite data", _REWARD, "regret at n = ∞"
        ),
        "estimation_error": Metric("regret less its bias", _REWARD, "regret − regret at n = ∞"),
    }
)


@dataclass(frozen=True, eq=False)
class Metrics(Frozen):
    """The metrics of m policies, each an (m,) read-only array; `METRICS` says what they are."""

    regret: FloatArray
    value: FloatArray
    win_rate: FloatArray
    win_rate_comparator: FloatArray
    kl: FloatArray
    chi_squared: FloatArray
    concentrability: FloatArray
    max_concentrability: FloatArray
    entropy: FloatArray
    support: FloatArray
    effective_support: FloatArray
    #: NaN, as `distance`, for a policy without a regularizer.
    regularized_gap: FloatArray
    distance: FloatArray
    #: NaN, as `estimation_error`, where no population policies were given.
    bias: FloatArray
    estimation_error: FloatArray

    def __post_init__(self) -> None:
        """Copy and freeze."""
        for f in fields(self):
            object.__setattr__(self, f.name, checks.frozen(np.asarray(getattr(self, f.name))))

    def __len__(self) -> int:
        return len(self.regret)

    def columns(self) -> dict[str, FloatArray]:
        """Return the arrays by name, in the order of `METRICS`."""
        return {name: getattr(self, name) for name in METRICS}


class _Optimum(NamedTuple):
    """A regularized optimum at the true reward."""

    divergence: Divergence
    #: (X, Y).
    policy: FloatArray
    #: (X,) `beta D - J` of it, per prompt and relative to the best reward: what it falls short.
    shortfall: FloatArray


@dataclass(frozen=True, eq=False)
class Yardstick(Frozen):
    """Measures policies on one instance.

    Parameters
    ----------
    bandit : ContextualBandit
    comparator : (X, Y) array of distributions, optional
        For the regret and one of the win rates; `bandit.optimal_policy()` by default.  Copied in
        and read-only.

    Raises
    ------
    ValueError
        For what is no bandit, and a comparator that is no policy of it.
    """

    bandit: ContextualBandit
    comparator: FloatArray | None = None
    _tables: _Tables = field(init=False, repr=False)
    _optima: dict[Hashable, _Optimum] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Validate, copy and freeze, and compute what all policies share."""
        if not isinstance(self.bandit, ContextualBandit):
            raise ValueError(
                f"bandit is a {type(self.bandit).__name__}; it must be a ContextualBandit"
            )
        best = self.comparator
        if best is None:
            best = self.bandit.optimal_policy()
        best = self.bandit._policy("comparator", checks.as_matrix("comparator", best))
        object.__setattr__(self, "comparator", checks.frozen(best))
        object.__setattr__(self, "_tables", _tables_of(self.bandit, best))

    def measure(
        self,
        policies: ArrayLike,
        *,
        regularizers: Sequence[tuple[Divergence, float] | None] | None = None,
        population: Metrics | None = None,
    ) -> Metrics:
        """Return the metrics of policies, which do not depend on each other.

        Parameters
        ----------
        policies : (m, X, Y) array of distributions
        regularizers : sequence of m pairs (divergence, beta) or None, optional
            Those of the learners (`learners.regularizer_of`); beta in reward units.
        population : Metrics, optional
            Of the m policies that the same learners make of infinite data, by this yardstick.

        Returns
        -------
        Metrics
            `inf` where a policy leaves the support of the reference and a divergence forbids it.

        Raises
        ------
        ValueError
            For policies of another shape or that are no distributions, mass on responses that are
            not available, and regularizers or population metrics of another number or kind.
        """
        pi = checks.as_real("policies", policies)
        if pi.ndim != 3:
            raise ValueError(f"policies has shape {pi.shape}; it must be an (m, X, Y) array")
        # Contiguous rows, so that every sum is made in the same order.
        pi = np.ascontiguousarray(self.bandit._policy("policies", pi))
        own = self._regularizers(regularizers, len(pi))
        limit = _population_regret(population, len(pi))
        step = max(1, _CHUNK // pi[0].size)
        parts = [
            self._measure(pi[begin : begin + step], own[begin : begin + step])
            for begin in range(0, len(pi), step)
        ]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Metrics(**found, bias=limit, estimation_error=found["regret"] - limit)

    def regularized_optimum(self, divergence: Divergence, beta: float) -> FloatArray:
        """Return `argmax_pi J(pi) - beta D(pi || p)` at the true reward, an (X, Y) array.

        Raises
        ------
        ValueError
            For what is no divergence, and a beta that is not positive and finite.
        """
        return self._optimum(*_as_regularizer("regularizer", (divergence, beta))).policy

    # ---- passes over some policies ----------------------------------------------------------

    def _measure(
        self, pi: FloatArray, regularizers: Sequence[tuple[Divergence, float] | None]
    ) -> dict[str, FloatArray]:
        tables = self._tables
        rho = self.bandit.prompt_dist
        ratio = _ratio(pi, tables.reference)
        short = (pi * tables.shortfall).sum(axis=-1)
        kl = _supported(KL(), pi, tables.reference)
        chi_squared = _supported(ChiSquared(), pi, tables.reference)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = np.where(pi > 0, -pi * np.log(pi), 0.0).sum(axis=-1)
        per_prompt = {
            "regret": short - tables.comparator_shortfall,
            "value": (pi * tables.reward).sum(axis=-1),
            "win_rate": (pi * tables.quantile).sum(axis=-1),
            "win_rate_comparator": (pi * tables.comparator_quantile).sum(axis=-1),
            "kl": kl,
            "chi_squared": chi_squared,
            "concentrability": _coverage(pi, tables.reference, ratio),
            "entropy": entropy,
            "support": (pi > 0).sum(axis=-1, dtype=np.float64),
            "effective_support": np.exp(entropy),
            **self._regularized(pi, short, kl, chi_squared, regularizers),
        }
        means = average_over_prompts(np.stack(list(per_prompt.values())), rho)
        found = dict(zip(per_prompt, means, strict=True))
        largest = np.where(rho > 0, ratio.max(axis=-1), 0.0).max(axis=-1)
        return found | {"max_concentrability": largest}

    def _regularized(
        self,
        pi: FloatArray,
        short: FloatArray,
        kl: FloatArray,
        chi_squared: FloatArray,
        regularizers: Sequence[tuple[Divergence, float] | None],
    ) -> dict[str, FloatArray]:
        """Return (m, X) gaps and distances; NaN where there is no regularizer."""
        gap, distance = np.full(short.shape, np.nan), np.full(short.shape, np.nan)
        by_divergence: dict[int, list[int]] = {}
        first: dict[Hashable, int] = {}
        for i, one in enumerate(regularizers):
            if one is not None:
                by_divergence.setdefault(first.setdefault(_name(one[0]), i), []).append(i)
        for members in by_divergence.values():
            some = [one for i in members if (one := regularizers[i]) is not None]
            optima = [self._optimum(*one) for one in some]
            costs = kl[members], chi_squared[members]
            penalty = _per_prompt(some[0][0], pi[members], self._tables.reference, *costs)
            with np.errstate(over="ignore"):
                penalty = np.array([beta for _, beta in some])[:, None] * penalty
            gap[members] = (short[members] + penalty) - np.stack([o.shortfall for o in optima])
            away = np.abs(pi[members] - np.stack([o.policy for o in optima]))
            distance[members] = 0.5 * away.sum(axis=-1)
        return {"regularized_gap": gap, "distance": distance}

    # ---- regularized optima -----------------------------------------------------------------

    def _regularizers(
        self, given: Sequence[tuple[Divergence, float] | None] | None, number: int
    ) -> Sequence[tuple[Divergence, float] | None]:
        if given is None:
            return [None] * number
        if len(given) != number:
            raise ValueError(
                f"regularizers has {len(given)} entries; it must have {number}, one per policy"
            )
        return [
            None if one is None else _as_regularizer(f"regularizers[{i}]", one)
            for i, one in enumerate(given)
        ]

    def _optimum(self, divergence: Divergence, beta: float) -> _Optimum:
        """Return the optimum, which is solved for when it is first asked for."""
        name = (_name(divergence), beta)
        known = self._optima.get(name)
        if known is None:
            # It holds the divergence, whose `id` is then not given to another one.
            known = _Optimum(divergence, *self._solve(divergence, beta))
            self._optima[name] = known
        return known

    def _solve(self, divergence: Divergence, beta: float) -> tuple[FloatArray, FloatArray]:
        # Relative to the best reward that can be had, so that a large offset costs no digits.
        shortfall, p = self._tables.shortfall, self._tables.reference
        policy = checks.frozen(solve(-shortfall, p, divergence, beta).policy)
        costs = KL().per_prompt(policy, p), ChiSquared().per_prompt(policy, p)
        penalty = beta * _per_prompt(divergence, policy, p, *costs)
        return policy, (policy * shortfall).sum(axis=-1) + penalty


class _Tables(NamedTuple):
    """What depends on the instance alone; (X, Y) arrays unless said otherwise."""

    reference: FloatArray
    reward: FloatArray
    #: The best available reward of the prompt less the reward, as in `ContextualBandit.regret`.
    shortfall: FloatArray
    #: (X,).
    comparator_shortfall: FloatArray
    #: Probability of each response to beat the reference and the comparator.
    quantile: FloatArray
    comparator_quantile: FloatArray


def _tables_of(bandit: ContextualBandit, comparator: FloatArray) -> _Tables:
    reward, p = bandit.reward, bandit.reference
    reachable = reward
    if bandit.available is not None:
        worst = np.where(bandit.available, reward, np.inf).min(axis=1, keepdims=True)
        reachable = np.where(bandit.available, reward, worst)
    shortfall = reachable.max(axis=1, keepdims=True) - reachable
    return _Tables(
        reference=p,
        reward=reward,
        shortfall=shortfall,
        comparator_shortfall=(comparator * shortfall).sum(axis=-1),
        quantile=calibrated_reward(reward, p),
        comparator_quantile=calibrated_reward(reward, comparator),
    )


def _ratio(pi: FloatArray, p: FloatArray) -> FloatArray:
    """Return `pi/p`, 0 where pi is."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(pi > 0, pi / p, 0.0)


def _supported(divergence: Divergence, pi: FloatArray, p: FloatArray) -> FloatArray:
    """Return `per_prompt` of a divergence that forbids mass outside the support, unchecked."""
    inside = p > 0
    if inside.all():
        return np.asarray(divergence.perspective(pi, p).sum(axis=-1))
    terms = divergence.perspective(pi, np.where(inside, p, 1.0))
    outside = np.where(inside, 0.0, pi).any(axis=-1)
    return np.where(outside, np.inf, np.where(inside, terms, 0.0).sum(axis=-1))


def _coverage(pi: FloatArray, p: FloatArray, ratio: FloatArray) -> FloatArray:
    """Return `sum_y pi^2/p`; see `coverage.concentrability`."""
    terms = pi * ratio
    finite = np.isfinite(ratio)
    if not finite.all():
        # pi/p may overflow, below references of 1e-308, where pi^2/p does not.
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            terms = np.where(finite, terms, (pi / np.sqrt(p)) ** 2)
    return np.asarray(terms.sum(axis=-1))


def _per_prompt(
    divergence: Divergence, pi: FloatArray, p: FloatArray, kl: FloatArray, chi_squared: FloatArray
) -> FloatArray:
    """Return the (..., X) divergences of policies, given their KL and chi-squared."""
    total = np.zeros(kl.shape)
    for weight, base in divergence.terms():
        known = {KL: kl, ChiSquared: chi_squared}.get(type(base))
        total = total + weight * (base.per_prompt(pi, p) if known is None else known)
    return total


def _name(divergence: Divergence) -> Hashable:
    """Return what is equal for equal divergences; a user's need not be hashable."""
    try:
        hash(divergence)
    except TypeError:
        return id(divergence)
    return divergence


def _as_regularizer(name: str, value: tuple[Divergence, float]) -> tuple[Divergence, float]:
    if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[0], Divergence):
        raise ValueError(
            f"{name} is {value!r:.80}; it must be a pair (divergence, beta) such as (KL(), 0.1)"
        )
    beta = value[1]
    # The check in full costs as much as the other metrics of a small policy.
    if type(beta) is not float or not 0.0 < beta < np.inf:
        beta = checks.positive_number(f"beta of {name}", beta)
    return value[0], beta


def _population_regret(population: Metrics | None, number: int) -> FloatArray:
    if population is None:
        return np.full(number, np.nan)
    if not isinstance(population, Metrics):
        raise ValueError(f"population is a {type(population).__name__}; it must be Metrics")
    if len(population) != number:
        raise ValueError(
            f"population has {len(population)} entries; it must have {number}, one per policy"
        )
    return population.regret
