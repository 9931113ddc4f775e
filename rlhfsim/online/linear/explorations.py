"""Where the second response of a comparison comes from.

The first always comes from the main agent.  `EXPLORATIONS` has one of each kind, and is the list
that tests, studies and benchmarks go through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.rewards.confidence.base import as_log_level


@dataclass(frozen=True)
class TheoryRadius:
    """The radius of `rewards.confidence.ellipsoid`: with probability `1 - delta`, in every round.

    `||theta_t - theta*||_{Sigma_t} <= c_t` at all t at once, for labels by Bradley-Terry with
    linear rewards; every constant explicit.

    Parameters
    ----------
    delta : float in (0, 1)
    norm_bound : float
        `B >= ||theta*||_2`, positive.

    Source: arXiv 2312.11456; `rewards.confidence.linear` for the constants.
    """

    delta: float
    norm_bound: float

    def __post_init__(self) -> None:
        """Validate."""
        as_log_level(self.delta)
        checks.positive_number("norm_bound", self.norm_bound)


@dataclass(frozen=True)
class Enhancer:
    r"""The enhancer: most uncertain against the main agent among the policies not ruled out.

    `maximise ||E_x[phi(x, pi) - phi(x, pi1)]||_{Sigma^-1}` over
    `beta E_x KL(pi || pi1) <= c ||E_x[phi(x, pi) - phi(x, pi1)]||_{Sigma^-1}`.

    The set holds the regularized optimum of every theta within c of the estimate.  What is found is
    a stationary point that is no worse than any tilt of pi1 by `c/beta` along a column of `L'^-1`,
    `Sigma = L L'`; the global maximum for one feature.  See `most_uncertain_policy`.

    Parameters
    ----------
    radius : float or TheoryRadius
        c, not negative; 0 leaves the main agent alone.  The error of the estimate is of the order
        of `2 sqrt(d)`; with a smaller c what lost its first comparisons may be given up for good.
    steps : int
        At most so many fixed-point steps.

    Source: arXiv 2312.11456, its iterative algorithm.
    """

    radius: float | TheoryRadius = 5.0
    steps: int = 20

    def __post_init__(self) -> None:
        """Validate."""
        if not isinstance(self.radius, TheoryRadius):
            checks.positive_number("radius", self.radius, zero=True)
        checks.whole_number("steps", self.steps, least=0)

    @property
    def name(self) -> str:
        """`enhancer` with its radius."""
        if isinstance(self.radius, TheoryRadius):
            return f"enhancer, delta {self.radius.delta:g}"
        return f"enhancer, c {self.radius:g}"


@dataclass(frozen=True, eq=False)
class FixedPolicy(Frozen):
    """One policy in every round.

    Parameters
    ----------
    policy : (X, Y) array of distributions
        May leave the support of the reference.
    """

    policy: FloatArray

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        policy = checks.as_distributions("policy", checks.as_matrix("policy", self.policy))
        object.__setattr__(self, "policy", checks.frozen(policy))

    @property
    def name(self) -> str:
        """`fixed policy`."""
        return "fixed policy"


@dataclass(frozen=True)
class FromReference:
    """The reference: what hybrid learning does (arXiv 2312.11456)."""

    @property
    def name(self) -> str:
        """`from the reference`."""
        return "from the reference"


@dataclass(frozen=True)
class Uniform:
    """All responses alike that the reference supports."""

    @property
    def name(self) -> str:
        """`uniform`."""
        return "uniform"


@dataclass(frozen=True)
class OnPolicy:
    """The main agent again: iterated DPO.

    DPO over log-linear policies is the logistic regression of the rewards followed by their Gibbs
    policy, which is what the main agent plays.
    """

    @property
    def name(self) -> str:
        """`iterated DPO`."""
        return "iterated DPO"


@dataclass(frozen=True)
class LaplaceEnsemble:
    """Of K members sampled around the estimate, the one most uncertain against the main agent.

    `theta ~ N(theta_t, scale^2 H_t^-1)`, H_t the Hessian of the negative log-likelihood with its
    ridge, afresh in each round; members play their Gibbs policies.  `members=1` is Thompson
    sampling.

    Parameters
    ----------
    members : int
        K, at least 1.
    scale : float
        Positive.

    Source: arXiv 1402.0555 (Thompson sampling); arXiv 2312.11456 suggests ensembles.
    """

    members: int = 1
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        checks.whole_number("members", self.members, least=1)
        checks.positive_number("scale", self.scale)

    @property
    def name(self) -> str:
        """`Laplace ensemble` with its size."""
        return f"Laplace ensemble, {self.members}"


@dataclass(frozen=True)
class BootstrapEnsemble:
    """One of K members, drawn afresh in each round, each with likelihood weights of its own.

    Member k maximises `sum_i w_ki log sigma(<theta, d_i>) - (ridge/2) ||theta - theta_k||^2` with
    `w_ki ~ Exp(1)`, drawn once, and `theta_k ~ N(0, prior_scale^2/ridge)`, without which members
    would agree on what no comparison has seen.

    Parameters
    ----------
    members : int
        K, at least 1.
    prior_scale : float
        Not negative.

    Source: Rubin 1981 (Bayesian bootstrap); arXiv 1806.03335 (randomized priors).
    """

    members: int = 10
    prior_scale: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        checks.whole_number("members", self.members, least=1)
        checks.positive_number("prior_scale", self.prior_scale, zero=True)

    @property
    def name(self) -> str:
        """`bootstrap ensemble` with its size."""
        return f"bootstrap ensemble, {self.members}"


Exploration = (
    Enhancer
    | FixedPolicy
    | FromReference
    | Uniform
    | OnPolicy
    | LaplaceEnsemble
    | BootstrapEnsemble
)

_KINDS = get_args(Exploration)


def require_exploration(name: str, value: object) -> Exploration:
    """Return `value` if it is an exploration; a subclass is none, as its rounds are compiled."""
    if type(value) not in _KINDS:
        known = ", ".join(kind.__name__ for kind in _KINDS)
        raise ValueError(f"{name} is {value!r:.80}; it must be one of {known}")
    return cast(Exploration, value)


EXPLORATIONS: tuple[Exploration, ...] = (
    Enhancer(),
    FromReference(),
    Uniform(),
    OnPolicy(),
    LaplaceEnsemble(),
    BootstrapEnsemble(),
)
