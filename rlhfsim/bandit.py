"""The contextual bandit: prompts, responses, a reference policy and the true reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.frozen import Frozen

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class ContextualBandit(Frozen):
    """A finite contextual bandit with known reward (the setting of arXiv 2407.13399).

    Prompts `x ~ rho`, responses y, reward `r*(x, y)`; `reference` is the sampling policy pi_ref.
    Arrays are copied in and read-only.  Nothing is renormalised: distributions must sum to 1
    within 1e-9 and are used as given.

    Parameters
    ----------
    prompt_dist : (X,) array
        `rho`, the distribution of prompts.
    reference : (X, Y) array of distributions
    reward : (X, Y) array
        `r*`, finite.
    proxy_reward : (X, Y) array, optional
        A reward that is optimized in place of `r*`, such as a length or a learned score.
    available : (X, Y) array of bool, optional
        False where the prompt has no such response.  There, `reference` must be 0 and every
        policy that is evaluated must be 0.
    prompts, responses : sequences, optional
        Names of the rows and the columns.

    Raises
    ------
    ValueError
        For shapes that do not fit, entries that are not finite, rows that are not distributions.
    """

    prompt_dist: FloatArray
    reference: FloatArray
    reward: FloatArray
    proxy_reward: FloatArray | None = None
    available: np.ndarray[Any, np.dtype[np.bool_]] | None = None
    prompts: tuple[Any, ...] | None = None
    responses: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        reference = checks.as_distributions(
            "reference", checks.as_matrix("reference", self.reference)
        )
        shape = (reference.shape[0], reference.shape[1])
        rho = checks.as_distributions("prompt_dist", self.prompt_dist)
        if rho.shape != shape[:1]:
            raise ValueError(f"prompt_dist has shape {rho.shape}; it must have shape {shape[:1]}")
        self._set("prompt_dist", checks.frozen(rho))
        self._set("reference", checks.frozen(reference))
        self._set("reward", checks.frozen(checks.as_matrix("reward", self.reward, shape)))
        if self.proxy_reward is not None:
            proxy = checks.as_matrix("proxy_reward", self.proxy_reward, shape)
            self._set("proxy_reward", checks.frozen(proxy))
        if self.available is not None:
            self._set("available", checks.frozen(_as_mask(self.available, reference)))
        for axis, name in enumerate(("prompts", "responses")):
            self._set(name, _as_names(name, getattr(self, name), shape[axis]))

    @classmethod
    def from_table(
        cls, table: str | PathLike[str] | pd.DataFrame, **columns: Any
    ) -> ContextualBandit:
        """Return a bandit built from scored responses; see `rlhfsim.table.read_bandit`."""
        from rlhfsim.table import read_bandit

        return read_bandit(table, **columns)

    # ---- sizes and named policies -----------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """`(X, Y)`: the numbers of prompts and of responses."""
        return self.reward.shape[0], self.reward.shape[1]

    def optimal_policy(self) -> FloatArray:
        """Return the `(X, Y)` argmax policy of `r*`; ties go to the best covered response.

        Among tied responses the one with the largest reference probability is taken, among those
        the first.  Unavailable responses are left out.
        """
        reward = (
            self.reward
            if self.available is None
            else np.where(self.available, self.reward, -np.inf)
        )
        tied = reward == reward.max(axis=1, keepdims=True)
        best = np.where(tied, self.reference, -1.0).argmax(axis=1)
        policy = np.zeros(self.shape)
        policy[np.arange(self.shape[0]), best] = 1.0
        return policy

    # ---- exact evaluation -------------------------------------------------------------------

    def value(self, policy: ArrayLike) -> FloatArray:
        """Return `J(pi) = E_{x ~ rho, y ~ pi}[r*(x, y)]`, in reward units.

        Parameters
        ----------
        policy : (..., X, Y) array of distributions

        Returns
        -------
        (...) array, or a number for a single policy
        """
        return average_over_prompts(self.value_per_prompt(policy), self.prompt_dist)

    def value_per_prompt(self, policy: ArrayLike) -> FloatArray:
        """Return the `(..., X)` array of `E_{y ~ pi(.|x)}[r*(x, y)]`."""
        return np.asarray((self._policy("policy", policy) * self.reward).sum(axis=-1))

    def proxy_value(self, policy: ArrayLike) -> FloatArray:
        """Return `E_{x ~ rho, y ~ pi}` of `proxy_reward`; as `value`."""
        if self.proxy_reward is None:
            raise ValueError("proxy_reward is missing; this bandit was built without one")
        pi = self._policy("policy", policy)
        return average_over_prompts((pi * self.proxy_reward).sum(axis=-1), self.prompt_dist)

    def regret(self, policy: ArrayLike, comparator: ArrayLike | None = None) -> FloatArray:
        """Return `J(comparator) - J(policy)`, in reward units; negative if the policy is better.

        Parameters
        ----------
        policy : (..., X, Y) array of distributions
        comparator : (..., X, Y) array of distributions, optional
            `optimal_policy()` by default.

        Returns
        -------
        (...) array, or a number for a single policy
        """
        return average_over_prompts(self.regret_per_prompt(policy, comparator), self.prompt_dist)

    def regret_per_prompt(
        self, policy: ArrayLike, comparator: ArrayLike | None = None
    ) -> FloatArray:
        """Return the `(..., X)` regrets; as `regret`."""
        pi = self._policy("policy", policy)
        best = (
            self.optimal_policy() if comparator is None else self._policy("comparator", comparator)
        )
        # Rewards enter relative to the best one that can be had, so that a large offset costs no
        # digits: against the default comparator every term is then non-negative.
        reward = self.reward
        if self.available is not None:
            worst = np.where(self.available, reward, np.inf).min(axis=1, keepdims=True)
            reward = np.where(self.available, reward, worst)
        shortfall = reward.max(axis=1, keepdims=True) - reward
        return np.asarray((pi * shortfall).sum(axis=-1) - (best * shortfall).sum(axis=-1))

    def _policy(self, name: str, policy: ArrayLike) -> FloatArray:
        pi = checks.as_distributions(name, policy)
        if pi.shape[-2:] != self.shape:
            raise ValueError(
                f"{name} has shape {pi.shape}; its last two axes must be (X, Y) = {self.shape}"
            )
        if self.available is not None:
            bad = (pi > 0) & ~self.available
            if bad.any():
                index = tuple(int(i[0]) for i in np.nonzero(bad))
                raise ValueError(
                    f"{name}{list(index)} is {pi[index].item()!r}; "
                    "a response that the prompt does not have must have probability 0"
                )
        return pi

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _as_mask(available: Any, reference: FloatArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.asarray(available)
    if mask.dtype != np.bool_ or mask.shape != reference.shape:
        raise ValueError(
            f"available has dtype {mask.dtype} and shape {mask.shape}; "
            f"it must be a boolean array of shape {reference.shape}"
        )
    bad = ~mask & (reference > 0)
    if bad.any():
        index = tuple(int(i[0]) for i in np.nonzero(bad))
        raise ValueError(
            f"reference{list(index)} is {reference[index].item()!r}; "
            "a response that is not available must have reference probability 0"
        )
    return mask


def _as_names(name: str, names: Sequence[Any] | None, size: int) -> tuple[Any, ...] | None:
    if names is None:
        return None
    if len(names) != size:
        raise ValueError(f"{name} has {len(names)} entries; it must have {size}")
    return tuple(names)
