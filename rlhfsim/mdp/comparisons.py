"""Comparisons of two trajectories, and step rewards that are fitted to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PreferenceData
from rlhfsim.frozen import Frozen
from rlhfsim.mdp.model import FiniteHorizonMDP, PerStep
from rlhfsim.mdp.recursions import Levels
from rlhfsim.mdp.trajectories import Trajectories, require_mdp, sample_trajectories
from rlhfsim.preferences import TrajectoryPreference
from rlhfsim.rewards import Linear, RewardFit, fit_reward


@dataclass(frozen=True, eq=False)
class TrajectoryPairs(Frozen):
    """`n` comparisons of two trajectories from the same first state: which one was preferred."""

    chosen: Trajectories
    rejected: Trajectories

    def __post_init__(self) -> None:
        """Validate."""
        for name in ("chosen", "rejected"):
            if not isinstance(getattr(self, name), Trajectories):
                kind = type(getattr(self, name)).__name__
                raise ValueError(f"{name} is a {kind}; it must be Trajectories")
        if self.chosen.state.shape != self.rejected.state.shape:
            raise ValueError(
                f"chosen has shape {self.chosen.state.shape} and rejected "
                f"{self.rejected.state.shape}; they must be alike"
            )
        apart = self.chosen.state[:, 0] != self.rejected.state[:, 0]
        if apart.any():
            i = int(apart.argmax())
            raise ValueError(
                f"rejected.state[{i}, 0] is {self.rejected.state[i, 0]}; it must be that of "
                f"chosen, {self.chosen.state[i, 0]}"
            )

    def __len__(self) -> int:
        """Return the number of comparisons."""
        return len(self.chosen)


def sample_trajectory_preferences(
    mdp: FiniteHorizonMDP,
    n: int,
    rng: np.random.Generator,
    *,
    policies: tuple[PerStep, PerStep] | None = None,
    temperature: float = 1.0,
) -> TrajectoryPairs:
    """Return `n` comparisons: two trajectories from one first state, labelled by the sums.

    `P(tau beats tau') = sigma((sum_h r_h(tau) - sum_h r_h(tau')) / temperature)`, by
    `TrajectoryPreference`.  Both are drawn from the reference, or from two policies.

    Raises
    ------
    ValueError
        As `sample_trajectories`, and for another number of policies than two.

    Source: arXiv 2310.17303; arXiv 2301.11270.
    """
    mdp = require_mdp(mdp)
    count = checks.whole_number("n", n, least=1)
    rng = checks.generator("rng", rng)
    first, second = (mdp.reference, mdp.reference) if policies is None else _as_two(policies)
    one = sample_trajectories(mdp, count, rng, policy=first)
    two = sample_trajectories(mdp, count, rng, policy=second, start=one.state[:, 0])
    steps = np.concatenate([one.gathered(mdp.reward), two.gathered(mdp.reward)])
    model = TrajectoryPreference(steps[None], temperature)
    rows = np.arange(count)
    wins = model.first_wins(np.zeros_like(rows), rows, rows + count, rng.random(count))[:, None]
    return TrajectoryPairs(
        Trajectories(np.where(wins, one.state, two.state), np.where(wins, one.action, two.action)),
        Trajectories(np.where(wins, two.state, one.state), np.where(wins, two.action, one.action)),
    )


def _as_two(policies: Any) -> tuple[PerStep, PerStep]:
    if isinstance(policies, (str, bytes)) or not hasattr(policies, "__iter__"):
        raise ValueError(f"policies is {policies!r:.80}; it must be two policies")
    items = tuple(policies)
    if len(items) != 2:
        raise ValueError(f"policies has {len(items)} entries; it must have 2, one for each side")
    return items[0], items[1]


def step_features(mdp: FiniteHorizonMDP) -> tuple[FloatArray, ...]:
    """Return the H arrays (S_h, A_h, d) that make every step reward linear: one-hot.

    `d = sum_h S_h A_h`; summed along a trajectory they count its visits.
    """
    mdp = require_mdp(mdp)
    sizes = [s * a for s, a in mdp.shapes]
    eye = np.eye(sum(sizes))
    places = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    return tuple(
        eye[own].reshape(*shape, -1) for own, shape in zip(places, mdp.shapes, strict=True)
    )


def fit_step_reward(
    pairs: TrajectoryPairs,
    features: tuple[FloatArray, ...],
    *,
    ridge: float | None = None,
    norm_bound: float | None = None,
) -> tuple[Levels, RewardFit]:
    """Return step rewards `r_h(s, a) = <theta, phi_h(s, a)>` fitted to compared trajectories.

    `theta` is the logistic maximum likelihood of `rewards.Linear` on the features summed along
    trajectories; its rules of existence are those here.  What comparisons identify: differences
    of sums of rewards between trajectories from the same first state that occur, and no more.  A
    potential, `+ E[v_(h+1)(s')] - v_h(s)` on the rewards of a deterministic process, changes none
    of them; with `step_features` a ridge is needed, and picks the smallest such rewards.

    Parameters
    ----------
    pairs : TrajectoryPairs
    features : H arrays (S_h, A_h, d)
    ridge, norm_bound : float, optional
        As for `Linear`.

    Returns
    -------
    rewards : H arrays (S_h, A_h), in reward units
    fit : RewardFit
        Of the `(1, 2n)` trajectories as responses, chosen ones first.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.  Also what `fit_reward` raises.

    Source: arXiv 2310.17303; arXiv 2301.11270.
    """
    if not isinstance(pairs, TrajectoryPairs):
        raise ValueError(f"pairs is a {type(pairs).__name__}; it must be TrajectoryPairs")
    levels = _as_features(features, pairs.chosen.horizon)
    both = (("pairs.chosen", pairs.chosen), ("pairs.rejected", pairs.rejected))
    summed = np.concatenate([_summed(name, t, levels) for name, t in both])
    n = len(pairs)
    data = PreferenceData(
        np.zeros(n, dtype=np.int64), np.arange(n), np.arange(n, 2 * n), (1, 2 * n)
    )
    fit = fit_reward(data, Linear(summed[None], ridge=ridge, norm_bound=norm_bound))
    assert fit.parameter is not None
    theta = fit.parameter
    return tuple(np.asarray(level @ theta) for level in levels), fit


def _summed(name: str, trajectories: Trajectories, features: tuple[FloatArray, ...]) -> FloatArray:
    total = np.zeros((len(trajectories), features[0].shape[-1]))
    for h, level in enumerate(features):
        there, state, action = trajectories.taken(name, h, level.shape)
        total[there] += level[state, action]
    return total


def _as_features(value: Any, horizon: int) -> tuple[FloatArray, ...]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise ValueError(
            f"features is {value!r:.80}; it must be a sequence of arrays, one per step"
        )
    levels = tuple(checks.as_real(f"features[{h}]", level) for h, level in enumerate(value))
    if len(levels) != horizon:
        raise ValueError(
            f"features has {len(levels)} arrays; the trajectories have {horizon} steps"
        )
    for h, level in enumerate(levels):
        if level.ndim != 3 or level.size == 0 or level.shape[-1] != levels[0].shape[-1]:
            raise ValueError(
                f"features[{h}] has shape {level.shape}; it must be a non-empty (S, A, d) array "
                "of the same d at every step"
            )
    return levels
