"""The direct learners of the literature by name: each a loss and a class of policies."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhfsim import losses
from rlhfsim.divergences import Divergence
from rlhfsim.learners.direct.learner import NamedLearner, all_policies
from rlhfsim.learners.direct.task import PolicyClass
from rlhfsim.losses import DirectLoss


@dataclass(frozen=True)
class DPO(NamedLearner):
    """`-log sigma(beta (u+ - u-))`, `u = log pi - log p`.

    Over all policies, `RLHF(beta)` with the Bradley-Terry estimate: the same policy.

    Parameters
    ----------
    beta : float
        Positive, in reward units.
    policies : PolicyClass
    label_smoothing : float
        In [0, 1/2); cDPO where it is positive.

    Source: arXiv 2305.18290, eq. 7.
    """

    beta: float
    policies: PolicyClass = field(default_factory=all_policies)
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Validate."""
        self._check()

    @property
    def loss(self) -> DirectLoss:
        """`dpo(beta)`, or `cdpo`."""
        if self.label_smoothing == 0:
            return losses.dpo(self.beta)
        return losses.cdpo(self.beta, self.label_smoothing)


@dataclass(frozen=True)
class ChiPO(NamedLearner):
    """`-log sigma(clip(beta [phi(w+) - phi(w-)]))`, `phi(w) = w + gamma log w`.

    Over all policies and without the clip, `RLHF(beta, ChiSquared() + gamma * KL())` with the
    Bradley-Terry estimate: the same policy.

    Parameters
    ----------
    beta : float
        Positive, in reward units.
    gamma : float
        Positive; 1 in the paper.
    r_max : float, optional
        The difference is clipped to `[-2 r_max, 2 r_max]`; the loss is then not convex in the
        scores, and has a minimiser for all data.
    policies : PolicyClass

    Source: arXiv 2407.13399, algorithm 1.
    """

    beta: float
    gamma: float = 1.0
    r_max: float | None = None
    policies: PolicyClass = field(default_factory=all_policies)

    def __post_init__(self) -> None:
        """Validate."""
        self._check()

    @property
    def loss(self) -> DirectLoss:
        """`chipo(beta, r_max, gamma)`."""
        return losses.chipo(self.beta, self.r_max, self.gamma)

    @property
    def _title(self) -> str:
        clip = "" if self.r_max is None else f", clipped at {2 * self.r_max:g}"
        return f"chiPO{'' if self.gamma == 1 else f', gamma {self.gamma:g}'}{clip}"

    @staticmethod
    def practical(
        beta: float, alpha: float = 1.0, gamma: float = 1.0, policies: PolicyClass | None = None
    ) -> ChiPOPractical:
        """Return chiPO with the link of its experiments; see `ChiPOPractical`."""
        if policies is None:
            return ChiPOPractical(beta, alpha, gamma)
        return ChiPOPractical(beta, alpha, gamma, policies)


@dataclass(frozen=True)
class ChiPOPractical(NamedLearner):
    """chiPO with `phi(w) = exp(clip(alpha log w, -88, 20)) + gamma log w`, not clipped outside.

    Parameters
    ----------
    beta : float
        Positive, in reward units.
    alpha, gamma : float
        Positive; 1/4 or 1, and 0.1 or 1, in the experiments.  Over all policies gamma must not be
        0, as the link would be bounded below.
    policies : PolicyClass

    Source: arXiv 2407.13399, experiments.
    """

    beta: float
    alpha: float = 1.0
    gamma: float = 1.0
    policies: PolicyClass = field(default_factory=all_policies)

    def __post_init__(self) -> None:
        """Validate."""
        self._check()

    @property
    def loss(self) -> DirectLoss:
        """`chipo_practical(beta, alpha, gamma)`."""
        return losses.chipo_practical(self.beta, self.alpha, self.gamma)

    @property
    def _title(self) -> str:
        return f"chiPO (practical link, alpha {self.alpha:g}, gamma {self.gamma:g})"


@dataclass(frozen=True)
class FDPO(NamedLearner):
    """`-log sigma(beta [f'(w+) - f'(w-)])`.

    Over all policies, `RLHF(beta, divergence)` with the Bradley-Terry estimate: the same policy.

    Parameters
    ----------
    divergence : Divergence
        With `f'(0+) = -inf`: where it is finite (chi-squared) the normalizer does not cancel.
    beta : float
        Positive, in reward units.
    policies : PolicyClass

    Source: arXiv 2309.16240.
    """

    divergence: Divergence
    beta: float
    policies: PolicyClass = field(default_factory=all_policies)

    def __post_init__(self) -> None:
        """Validate."""
        if not isinstance(self.divergence, Divergence):
            raise ValueError(
                f"divergence is {self.divergence!r:.80}; it must be a Divergence such as KL()"
            )
        self._check()

    @property
    def loss(self) -> DirectLoss:
        """`fdpo(divergence, beta)`."""
        return losses.fdpo(self.divergence, self.beta)

    @property
    def _title(self) -> str:
        return f"f-DPO, {self.divergence!r}"


@dataclass(frozen=True)
class IPO(NamedLearner):
    """`(u+ - u- - 1/(2 beta))^2`, `u = log pi - log p`.

    Over all policies, least squares on the graph of comparisons; it always has a minimiser.

    Parameters
    ----------
    beta : float
        Positive; the paper's tau.
    policies : PolicyClass

    Source: arXiv 2310.12036, eq. 17.
    """

    beta: float
    policies: PolicyClass = field(default_factory=all_policies)

    def __post_init__(self) -> None:
        """Validate."""
        self._check()

    @property
    def loss(self) -> DirectLoss:
        """`ipo(beta)`."""
        return losses.ipo(self.beta)


@dataclass(frozen=True)
class SLiC(NamedLearner):
    """`max(0, margin - log pi(y+) + log pi(y-)) - sft_weight log pi(y+)`, without a reference.

    The reference says only which responses there are.  Without the second term minimisers are
    rarely unique; a vertex of their set is taken (`unique` in `diagnostics`).

    Parameters
    ----------
    margin : float
        Not negative.
    sft_weight : float, optional
        Positive.
    policies : PolicyClass

    Source: arXiv 2305.10425.
    """

    margin: float = 1.0
    sft_weight: float | None = None
    policies: PolicyClass = field(default_factory=all_policies)

    def __post_init__(self) -> None:
        """Validate."""
        self._check()

    @property
    def loss(self) -> DirectLoss:
        """`slic(margin, sft_weight)`."""
        return losses.slic(self.margin, self.sft_weight)


@dataclass(frozen=True)
class RPO(NamedLearner):
    """DPO with imitation: `-log sigma(beta (u+ - u-)) - eta log pi(y+)`.

    Over all policies it has exactly one minimiser at each prompt with comparisons, whatever the
    data; responses that were never chosen get mass 0.

    Parameters
    ----------
    beta : float
        Positive, in reward units.
    eta : float
        Weight of the imitation; positive.
    policies : PolicyClass

    Source: arXiv 2405.16436, algorithm 2.
    """

    beta: float
    eta: float
    policies: PolicyClass = field(default_factory=all_policies)

    def __post_init__(self) -> None:
        """Validate."""
        self._check()

    @property
    def loss(self) -> DirectLoss:
        """`rpo(beta, eta)`."""
        return losses.rpo(self.beta, self.eta)


@dataclass(frozen=True)
class KTO(NamedLearner):
    """Chosen responses are desirable, rejected ones not, against `z = KL(pi || p)`.

    No derivative is taken through z, so over all policies the answer is a fixed point: the policy
    that minimises the loss for its own z.  `diagnostics` has z as `baseline`.

    Parameters
    ----------
    beta : float
        Positive; over all policies at most 1.
    desirable_weight, undesirable_weight : float
        `lambda_D` and `lambda_U`; positive.
    policies : PolicyClass

    Source: arXiv 2402.01306, section 4.
    """

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    policies: PolicyClass = field(default_factory=all_policies)

    def __post_init__(self) -> None:
        """Validate."""
        self._check()

    @property
    def loss(self) -> losses.KTO:
        """`kto(beta, desirable_weight, undesirable_weight)`."""
        return losses.kto(self.beta, self.desirable_weight, self.undesirable_weight)
