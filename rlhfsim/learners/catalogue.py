"""One representative of every learner, built for a bandit: the list `LEARNERS`.

Some learners need more than preferences: demonstrations, features, a finite class.  A `Setting`
has all of it for one bandit, so that tests, the comparison table and studies run the whole list
through the same protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.data import DemonstrationData
from rlhfsim.divergences import KL, AlphaDivergence, ChiSquared, ForwardKL, JensenShannon
from rlhfsim.learners.base import Learner
from rlhfsim.learners.bayesian import BayesianPosterior
from rlhfsim.learners.demonstrations import DemonstrationRegularized
from rlhfsim.learners.direct import (
    DPO,
    FDPO,
    IPO,
    KTO,
    POWER,
    REBEL,
    RPO,
    ChiPO,
    ChiPOPractical,
    FinitePolicies,
    LogLinearPolicies,
    SimPO,
    SLiC,
    TabularPolicies,
)
from rlhfsim.learners.games import (
    IterativeChiPO,
    MinimaxWinner,
    NashMD,
    RegularizedNash,
    SelfPlay,
)
from rlhfsim.learners.infalign import CTRL, BestOf, ExponentialTransform, InfAlign, WorstOf
from rlhfsim.learners.inference_time import BestOfN, InferenceTimePessimism, SoftBestOfN
from rlhfsim.learners.matching import DistributionMatching, ExponentialReward, WinRate
from rlhfsim.learners.online import OnlineRLHF
from rlhfsim.learners.online.xpo import XPO, IteratedDPO
from rlhfsim.learners.pessimism import Asymptotic, PessimisticLikelihood, PessimisticMLE
from rlhfsim.learners.rlhf import RLHF
from rlhfsim.learners.steps import TokenDemonstrationRegularized, TokenRLHF
from rlhfsim.mdp import PrefixTree
from rlhfsim.online.linear import Enhancer, Exploration, LaplaceEnsemble
from rlhfsim.rewards import FiniteClass, Linear, Tabular
from rlhfsim.sampling import sample_demonstrations
from rlhfsim.solvers import solve

_DEMONSTRATIONS_PER_PROMPT = 20
_FEATURES = 3
_CLASS_SIZE = 6
_DRAWS = 8
_ITERATIONS = 100
_ROUNDS = 100
_DELTA = 0.1


class Setting(NamedTuple):
    """What the learners of the list are built from."""

    #: Where online learners draw their own comparisons.
    bandit: ContextualBandit
    #: Regularization, in reward units.
    beta: float
    #: For tabular rewards and scores, so that their estimates exist for any data.
    ridge: float
    #: Length of the interval of rewards.
    r_max: float
    demonstrations: DemonstrationData
    #: (X, Y, d) features, in which the true reward is linear.
    features: FloatArray
    #: A norm of the true parameter.
    norm_bound: float
    #: (K, X, Y) a class that holds the true reward.
    rewards: FloatArray
    #: (K, X, Y) their regularized optima.
    policies: FloatArray
    #: The responses, as written with tokens.
    prefixes: PrefixTree

    @property
    def tabular(self) -> Tabular:
        """The reward model of most learners."""
        return Tabular(ridge=self.ridge)

    @property
    def scores(self) -> TabularPolicies:
        """All policies, with the same ridge on the implicit rewards."""
        return TabularPolicies(ridge=self.ridge)


def setting_for(
    bandit: ContextualBandit, rng: np.random.Generator, *, beta: float, ridge: float = 0.1
) -> Setting:
    """Return a setting for a bandit: the true reward is in every class, among random others.

    Parameters
    ----------
    bandit : ContextualBandit
    rng : numpy.random.Generator
        Draws demonstrations (of the KL-regularized optimum), features and the other rewards.
    beta : float
        Positive, in reward units.
    ridge : float
        Positive, in comparisons per squared reward unit.

    Raises
    ------
    ValueError
        Bad input, by name, rule and value.
    """
    if not isinstance(bandit, ContextualBandit):
        raise ValueError(f"bandit is a {type(bandit).__name__}; it must be a ContextualBandit")
    rng = checks.generator("rng", rng)
    strength = checks.positive_number("beta", beta)
    checks.positive_number("ridge", ridge)
    reward, p = bandit.reward, bandit.reference
    spread = float(reward.std()) or 1.0
    expert = solve(reward, p, KL(), strength).policy
    noise = spread * rng.standard_normal((_FEATURES - 1, *bandit.shape))
    others = reward + spread * rng.standard_normal((_CLASS_SIZE - 1, *bandit.shape))
    rewards = np.concatenate([reward[None], others])
    return Setting(
        bandit=bandit,
        beta=strength,
        ridge=ridge,
        r_max=float(np.ptp(reward)) or 1.0,
        demonstrations=sample_demonstrations(
            bandit, _DEMONSTRATIONS_PER_PROMPT * bandit.shape[0], rng, expert=expert
        ),
        features=np.stack([reward, *noise], axis=-1),
        norm_bound=2.0,
        rewards=rewards,
        policies=solve(rewards, p, KL(), strength).policy,
        prefixes=PrefixTree.digits(bandit.shape[1], 2),
    )


@dataclass(frozen=True)
class Representative:
    """A learner of the list, with settings that suit any bandit."""

    #: Short and unique.
    key: str
    #: The learner for a setting.
    build: Callable[[Setting], Learner]


def _linear(s: Setting) -> Linear:
    return Linear(s.features, norm_bound=s.norm_bound)


def _online(s: Setting, exploration: Exploration) -> OnlineRLHF:
    return OnlineRLHF(s.bandit, s.features, s.beta, _ROUNDS, exploration=exploration)


def _temperature(s: Setting) -> float:
    """Return a temperature of rewards that is a part of their range."""
    return 0.25 * s.r_max


#: One representative of every learner; the order is that of the comparison table.
LEARNERS: tuple[Representative, ...] = (
    Representative("rlhf-kl", lambda s: RLHF(s.beta, KL(), s.tabular)),
    Representative("rlhf-chi2", lambda s: RLHF(s.beta, ChiSquared(), s.tabular)),
    Representative("rlhf-mixed", lambda s: RLHF(s.beta, ChiSquared() + KL(), s.tabular)),
    Representative("rlhf-alpha", lambda s: RLHF(s.beta, AlphaDivergence(0.5), s.tabular)),
    Representative("dpo", lambda s: DPO(s.beta, s.scores)),
    Representative("cdpo", lambda s: DPO(s.beta, s.scores, label_smoothing=0.1)),
    Representative("dpo-log-linear", lambda s: DPO(s.beta, LogLinearPolicies(s.features))),
    Representative("dpo-finite", lambda s: DPO(s.beta, FinitePolicies(s.policies))),
    Representative("chipo", lambda s: ChiPO(s.beta, policies=s.scores)),
    Representative(
        "chipo-clipped",
        lambda s: ChiPO(s.beta, r_max=s.r_max, policies=TabularPolicies(r_max=s.r_max)),
    ),
    Representative("chipo-practical", lambda s: ChiPOPractical(s.beta, 0.25, policies=s.scores)),
    Representative("chipo-finite", lambda s: ChiPO(s.beta, policies=FinitePolicies(s.policies))),
    Representative("fdpo-js", lambda s: FDPO(JensenShannon(), s.beta, s.scores)),
    Representative("fdpo-forward-kl", lambda s: FDPO(ForwardKL(), s.beta, s.scores)),
    Representative("ipo", lambda s: IPO(s.beta, s.scores)),
    Representative("slic", lambda s: SLiC(1.0, sft_weight=0.1)),
    Representative("rpo", lambda s: RPO(s.beta, eta=0.1)),
    Representative("rebel", lambda s: REBEL(1.0 / s.beta, s.tabular, s.scores)),
    Representative("power", lambda s: POWER(s.beta, eta=0.1)),
    Representative("kto", lambda s: KTO(min(s.beta, 1.0))),
    Representative("simpo", lambda s: SimPO(s.beta, policies=s.scores)),
    Representative(
        "pessimistic-mle-1", lambda s: PessimisticMLE(s.beta, _linear(s), Asymptotic(_DELTA))
    ),
    Representative(
        "pessimistic-mle-2",
        lambda s: PessimisticMLE(s.beta, _linear(s), Asymptotic(_DELTA), pointwise=True),
    ),
    Representative(
        "pessimistic-likelihood",
        lambda s: PessimisticLikelihood(s.beta, FiniteClass(s.rewards), delta=_DELTA),
    ),
    Representative("best-of-n", lambda s: BestOfN(_DRAWS, s.tabular)),
    Representative("soft-best-of-n", lambda s: SoftBestOfN(_DRAWS, _temperature(s), s.tabular)),
    Representative(
        "inference-time-pessimism", lambda s: InferenceTimePessimism(_DRAWS, s.beta, s.tabular)
    ),
    Representative("infalign-best", lambda s: InfAlign(BestOf(4), 0.1, s.tabular)),
    Representative("infalign-worst", lambda s: InfAlign(WorstOf(4), 0.1, s.tabular)),
    Representative("ctrl", lambda s: CTRL(0.1, ExponentialTransform(2.0), s.tabular)),
    Representative("bayesian", lambda s: BayesianPosterior(s.beta, s.tabular)),
    Representative(
        "matching-exponential",
        lambda s: DistributionMatching(ExponentialReward(s.beta), s.tabular),
    ),
    Representative("matching-win-rate", lambda s: DistributionMatching(WinRate(0.75), s.tabular)),
    Representative(
        "demonstrations",
        lambda s: DemonstrationRegularized(s.demonstrations, s.beta, model=s.tabular),
    ),
    Representative("token-chi2", lambda s: TokenRLHF(s.prefixes, s.beta, ChiSquared(), s.tabular)),
    Representative(
        "token-demonstrations",
        lambda s: TokenDemonstrationRegularized(
            s.prefixes, s.demonstrations, s.beta, model=s.tabular
        ),
    ),
    Representative("minimax-winner", lambda s: MinimaxWinner()),
    Representative("nash", lambda s: RegularizedNash(s.beta)),
    Representative("self-play", lambda s: SelfPlay(_ITERATIONS)),
    Representative("nash-md", lambda s: NashMD(s.beta, _ITERATIONS)),
    Representative("iterative-chipo", lambda s: IterativeChiPO(s.beta, _ITERATIONS)),
    Representative("online-enhancer", lambda s: _online(s, Enhancer())),
    Representative("online-thompson", lambda s: _online(s, LaplaceEnsemble())),
    Representative(
        "xpo",
        lambda s: XPO(s.bandit, s.beta, FinitePolicies(s.policies), _ROUNDS, alpha=0.1 * s.beta),
    ),
    Representative(
        "iterated-dpo", lambda s: IteratedDPO(s.bandit, s.beta, FinitePolicies(s.policies), _ROUNDS)
    ),
)
