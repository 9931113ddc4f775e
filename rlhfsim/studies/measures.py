"""What is measured in each cell: `rlhfsim.metrics`, and two gains over the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.metrics import METRICS, Metric, Metrics

_GAINS = {
    "gain": Metric("value of the policy less that of the reference", "reward units", "gold gain"),
    "fitted_gain": Metric(
        "what the policy gains over the reference by the reward that was fitted, or the proxy",
        "reward units",
        "proxy gain",
    ),
}

#: The two parts of the regret; measured only where a study asks for them.
SPLIT = ("bias", "estimation_error")

#: Name -> description of everything that a cell may have.
MEASURES: Mapping[str, Metric] = MappingProxyType(
    {name: metric for name, metric in METRICS.items() if name not in SPLIT}
    | _GAINS
    | {name: METRICS[name] for name in SPLIT}
)

#: What every cell has.
ALWAYS = tuple(name for name in MEASURES if name not in SPLIT)


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
