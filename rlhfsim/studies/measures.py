"""What is measured in each cell: `rlhfsim.metrics`, gains, and what only some studies ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.games import duality_gap
from rlhfsim.metrics import METRICS, Metric, Metrics
from rlhfsim.studies.instances import Scene

_GAINS = {
    "gain": Metric("value of the policy less that of the reference", "reward units", "gold gain"),
    "fitted_gain": Metric(
        "what the policy gains over the reference by the reward that was fitted, or the proxy",
        "reward units",
        "proxy gain",
    ),
}

_PARTS = {
    "bias": Metric(
        "regret of the same learner on n preferences with exactly their expected counts",
        "reward units",
        "regret on expected counts",
    ),
    "estimation_error": Metric("regret less its bias", "reward units", "regret − bias"),
}

#: The two parts of the regret; measured only where a study asks for them.
SPLIT = tuple(_PARTS)

#: Total variation from the policy of a study's companion, where it names one.
APART = "apart"

#: Likelihoods of the data, where a study asks for them.
LIKELIHOODS = ("chosen_logp", "rejected_logp")

#: What a study names in `measures`: how a policy fares as a game against the true preferences, and
#: what online learners keep count of.
EXTRA = {
    "duality_gap": Metric(
        "what the best responses gain on a policy in the game of the true preferences, on both "
        "sides together; 0 for a minimax winner",
        "",
        "duality gap",
    ),
    "cumulative_regret": Metric(
        "sum of the regrets of the policies played in all rounds",
        "reward units",
        "cumulative regret",
    ),
    "cumulative_regularized_regret": Metric(
        "sum of what the policies played in all rounds lose to the regularized optimum",
        "reward units",
        "cumulative regularized regret",
    ),
}

_ASKED_FOR = (
    {
        APART: Metric("total variation from the policy of the companion", "", "TV(π, companion)"),
    }
    | {
        name: Metric(
            f"mean of log π/π_ref of the {which} responses, over comparisons of different ones",
            "nats",
            f"mean log π/π_ref, {which}",
        )
        for name, which in zip(LIKELIHOODS, ("chosen", "rejected"), strict=True)
    }
    | EXTRA
)

#: Name -> description of everything that a cell may have.
MEASURES: Mapping[str, Metric] = MappingProxyType(
    {name: metric for name, metric in METRICS.items() if name not in SPLIT}
    | _GAINS
    | _ASKED_FOR
    | _PARTS
)

#: What every cell has.
ALWAYS = tuple(name for name in MEASURES if name not in {*SPLIT, *_ASKED_FOR})


def columns(
    measured: Metrics,
    policies: FloatArray,
    rewards: Sequence[FloatArray | None],
    bandit: ContextualBandit,
) -> FloatArray:
    """Return the (policies, `ALWAYS`) values; `fitted_gain` is NaN where no reward was fitted."""
    p, rho = bandit.reference, bandit.prompt_dist
    own = measured.columns()
    own["gain"] = measured.value - bandit.value(p)
    fitted = np.full(len(policies), np.nan)
    for k, reward in enumerate(rewards):
        if reward is not None:
            fitted[k] = ((policies[k] - p) * reward).sum(axis=-1) @ rho
    own["fitted_gain"] = fitted
    return np.stack([own[name] for name in ALWAYS], axis=1)


def likelihoods(
    policies: FloatArray, reference: FloatArray, data: PreferenceData | PairCounts
) -> FloatArray:
    """Return the (policies, 2) means of `log pi/p` over the chosen and the rejected responses.

    Comparisons of a response with itself do not count; NaN where there are no others, and `-inf`
    where a policy gives a response of the data no mass.
    """
    counts = as_counts(data)
    if not counts.count.size:
        return np.full((len(policies), 2), np.nan)
    weights = counts.count / counts.count.sum()
    found = np.empty((len(policies), 2))
    with np.errstate(divide="ignore"):
        for k, responses in enumerate((counts.winner, counts.loser)):
            base = np.log(reference[counts.prompt, responses])
            logs = np.log(policies[:, counts.prompt, responses]) - base
            # Rows added up one by one: the order in a product of matrices depends on their number.
            found[:, k] = (np.ascontiguousarray(logs) * weights).sum(axis=-1)
    return found


def extra(
    names: Sequence[str],
    policies: FloatArray,
    notes: Sequence[Mapping[str, Any]],
    scene: Scene,
) -> FloatArray:
    """Return the (policies, names) values of `EXTRA`; NaN where a learner keeps no such count."""
    bandit = scene.bandit
    found = np.full((len(policies), len(names)), np.nan)
    for column, name in enumerate(names):
        if name == "duality_gap":
            gaps = [duality_gap(pi, scene.game, available=bandit.available) for pi in policies]
            found[:, column] = average_over_prompts(np.stack(gaps), bandit.prompt_dist)
        else:
            found[:, column] = [note.get(name, np.nan) for note in notes]
    return found


def apart(policies: FloatArray, others: FloatArray, prompt_dist: FloatArray) -> FloatArray:
    """Return the (policies,) total variations of pairs of policies, averaged over prompts."""
    distance = 0.5 * np.abs(policies - others).sum(axis=-1)
    return average_over_prompts(distance, prompt_dist)
