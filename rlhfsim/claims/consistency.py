"""Fisher consistency of direct losses: whether the truth minimises the loss of infinite data.

A batch of N instances is one bandit of N prompts, so that `laws.population_pairs` and the losses
themselves serve all of them at once.  Pairs of a response with itself are left out: their loss
does not depend on the policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import GENERIC, Rows, distributions, rewards, sorts
from rlhfsim.laws import population_pairs
from rlhfsim.losses import DirectLoss, dpo, dpo_without_log, table_rows


@dataclass(frozen=True, eq=False)
class Rivals(Rows):
    """N instances: the truth `r*`, whose policy is `p e^r* / Z`, and a rival reward."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "reward": "real", "rival": "real",
    }  # fmt: skip

    reference: FloatArray  # (N, Y), positive
    reward: FloatArray  # (N, Y)
    rival: FloatArray  # (N, Y)

    def valid(self) -> BoolArray:
        """Return whether the reference has full support."""
        return np.asarray((self.reference > 0).all(axis=1))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 2 to 6 responses.

        Of the generic rivals none is related to the truth; of the others half are multiples of it,
        and half are close to it.
        """
        sort, shape = sorts(n, rng), (int(rng.integers(2, 7)),)
        reward = rewards(sort, shape, rng)
        other = rewards(sort, shape, rng)
        scaled = reward * 10.0 ** rng.uniform(-1.0, 1.0, size=(n, 1))
        near = reward + 10.0 ** rng.uniform(-8.0, 0.0, size=(n, 1)) * rng.standard_normal(
            (n, *shape)
        )
        related = np.where(rng.random((n, 1)) < 0.5, scaled, near)
        rival = np.where((sort == GENERIC)[:, None], other, related)
        return cls(distributions(sort, shape, rng), reward, rival)


def population_loss(x: Rivals, loss: DirectLoss, reward: FloatArray) -> FloatArray:
    """Return the (N,) expected losses of the policies `p e^reward / Z` over unequal pairs."""
    n = len(x)
    bandit = ContextualBandit(np.full(n, 1.0 / n), x.reference, x.reward)
    law = population_pairs(bandit)
    log_reference = np.log(x.reference)
    # Unnormalised: the loss sees differences alone.
    rows = table_rows(loss, log_reference + reward, log_reference, law)
    terms = law.count * loss.values(rows)
    return n * np.asarray(np.bincount(law.prompt, weights=terms, minlength=n), dtype=np.float64)


def misranked(x: Rivals, reward: FloatArray) -> FloatArray:
    """Return `P(y1 != y2)` more than the loss of DPO without its logarithm: `E[sigma(-h)]`."""
    unequal = 1.0 - (x.reference**2).sum(axis=1)
    return unequal + population_loss(x, dpo_without_log(1.0), reward)


def _sharper() -> Rivals:
    """Return a rival that is ten times as sure as the truth."""
    reward = np.array([[3.0, 0.0]])
    return Rivals(np.array([[0.5, 0.5]]), reward, 10.0 * reward)


def _itself() -> Rivals:
    """Return the truth as its own rival, up to a constant."""
    reward = np.array([[1.0, 0.25, -2.0]])
    return Rivals(np.array([[0.5, 0.3, 0.2]]), reward, reward + 1.0)


def _resolution(x: Rivals) -> FloatArray:
    """Return the rounding of a mean of losses, which are at most 1 plus the range of h."""
    widest = np.maximum(np.ptp(x.reward, axis=1), np.ptp(x.rival, axis=1))
    # 64: the logarithms of the reference, which are added to the rewards and subtracted again.
    return RESOLUTION * (64.0 + widest)


CONSISTENCY_CLAIMS: tuple[Claim[Rivals], ...] = (
    Claim[Rivals](
        name="DPO is Fisher consistent",
        formula="E[-log sigma(h)] at p e^r* / Z <= E[-log sigma(h)] at any policy",
        source="arXiv 2305.18290",
        kind="upper",
        left=lambda x: population_loss(x, dpo(1.0), x.reward),
        right=lambda x: population_loss(x, dpo(1.0), x.rival),
        witness=_itself,
        resolution=_resolution,
    ),
    Claim[Rivals](
        name="DPO without its logarithm is Fisher consistent",
        formula="E[sigma(-h)] at p e^r* / Z <= E[sigma(-h)] at any policy",
        source="lecture notes that print the loss of arXiv 2305.18290 without log",
        kind="false",
        left=lambda x: misranked(x, x.reward),
        right=lambda x: misranked(x, x.rival),
        witness=_sharper,
        resolution=_resolution,
    ),
)
