"""The direct losses of the literature, each a composition of link, outer loss and extra terms.

`u+` and `u-` are the log ratios `log pi - log p` of the chosen and the rejected response.
"""

from __future__ import annotations

import numpy as np

from rlhfsim import checks
from rlhfsim.divergences import KL, AlphaDivergence, ChiSquared, Divergence, JensenShannon
from rlhfsim.losses.direct import DirectLoss
from rlhfsim.losses.extra import SFTTerm
from rlhfsim.losses.kto import KTO
from rlhfsim.losses.links import DivergenceLink, EntropyLink, LogLink, PracticalLink
from rlhfsim.losses.outer import Hinge, Logistic, NegativeSigmoid, RobustLogistic, Squared


def dpo(beta: float) -> DirectLoss:
    """Return DPO, `-log sigma(beta (u+ - u-))`.

    Source: arXiv 2305.18290, eq. 7.
    """
    return DirectLoss(LogLink(), Logistic(), beta, name="DPO", source="arXiv 2305.18290, eq. 7")


def cdpo(beta: float, label_smoothing: float) -> DirectLoss:
    """Return conservative DPO, `-(1 - eps) log sigma(h) - eps log sigma(-h)`, `h = beta (u+ - u-)`.

    Its population minimiser has the Bradley-Terry probabilities `(1 - eps) P + eps (1 - P)`: it
    undoes no noise, it adds some.

    Parameters
    ----------
    beta : float
    label_smoothing : float
        `eps`, in [0, 1/2).

    Source: E. Mitchell, "A note on DPO with noisy preferences" (2023); the project could not
    compare the formula with that note itself, only with trainers that cite it.
    """
    return DirectLoss(
        LogLink(), Logistic(label_smoothing), beta, name="cDPO", source="Mitchell 2023"
    )


def robust_dpo(beta: float, flip_rate: float) -> DirectLoss:
    """Return robust DPO, `[-(1 - eps) log sigma(h) + eps log sigma(-h)]/(1 - 2 eps)`.

    With `h = beta (u+ - u-)`.  Unbiased when each label was flipped with probability eps.

    Parameters
    ----------
    beta : float
    flip_rate : float
        `eps`, in [0, 1/2).

    Source: arXiv 2403.00409.
    """
    return DirectLoss(
        LogLink(), RobustLogistic(flip_rate), beta, name="robust DPO", source="arXiv 2403.00409"
    )


def dpo_without_log(beta: float) -> DirectLoss:
    """Return `-sigma(beta (u+ - u-))`, as some lecture notes print DPO: a wrong loss.

    It is not Fisher consistent.  Where the chosen response wins with probability P, the mean is
    `-P sigma(h) - (1 - P) sigma(-h) = P - 1 + (1 - 2 P) sigma(h)`, linear in `sigma(h)`: it falls
    without end as h grows whenever `P > 1/2`, while DPO's mean is least at `sigma(h) = P`.  Its
    population minimiser knows the sign of `r*(y+) - r*(y-)` and not the size.

    Source: arXiv 2305.18290, eq. 7, less its logarithm.
    """
    return DirectLoss(LogLink(), NegativeSigmoid(), beta, name="DPO without log", source="none")


def chipo(beta: float, r_max: float | None = None, gamma: float = 1.0) -> DirectLoss:
    """Return chiPO, `-log sigma(clip(beta [phi(w+) - phi(w-)]))`, `phi(w) = w + gamma log w`.

    Parameters
    ----------
    beta : float
    r_max : float, optional
        The scaled difference is clipped to `[-2 r_max, 2 r_max]`.  Without it, the loss is
        infinite where `w-` is beyond the floats (`u- > 709`).
    gamma : float
        Weight of KL beside chi-squared; positive, 1 in the paper.

    Source: arXiv 2407.13399, algorithm 1.
    """
    clip = None if r_max is None else 2.0 * checks.positive_number("r_max", r_max)
    link = DivergenceLink(ChiSquared() + checks.positive_number("gamma", gamma) * KL())
    return DirectLoss(
        link, Logistic(), beta, clip, name="chiPO", source="arXiv 2407.13399, algorithm 1"
    )


def chipo_practical(beta: float, alpha: float = 1.0, gamma: float = 1.0) -> DirectLoss:
    """Return chiPO as its experiments ran it, with the link `PracticalLink(alpha, gamma)`.

    `phi(w) = exp(clip(alpha log w, -88, 20)) + gamma log w`; the difference is not clipped.

    Source: arXiv 2407.13399, experiments; through a summary, the appendix was not at hand.
    """
    link = PracticalLink(alpha, gamma)
    source = "arXiv 2407.13399, experiments"
    return DirectLoss(link, Logistic(), beta, name="chiPO (practical link)", source=source)


def fdpo(divergence: Divergence, beta: float) -> DirectLoss:
    """Return f-DPO, `-log sigma(beta [f'(w+) - f'(w-)])`.

    The other trainers' conventions.  *Alpha*: `AlphaDivergence(a)` here has
    `f'(w) = (w^(a-1) - 1)/(a - 1)`, as TRL has from version 0.29 on.  Up to 0.28 TRL had the
    paper's `f'(w) = (1 - w^(-alpha))/alpha`, so that `a = 1 - alpha`: the same number means
    another divergence in the two, except 1/2.  *Jensen-Shannon*: here it is the mean of two KLs,
    `f'(w) = log(2w/(1 + w))/2`; the paper and TRL have their sum, so their beta is half of this
    one (or pass `2 * JensenShannon()`).

    Parameters
    ----------
    divergence : Divergence
        With `f'(0+) = -inf`.
    beta : float

    Raises
    ------
    ValueError
        For a divergence with finite `f'(0+)`, chi-squared among them.  Its regularized optimum may
        give a response no mass, where `r = lambda + beta f'(w)` does not hold, so the normalizer
        lambda does not cancel and the loss does not fit the reward.

    Source: arXiv 2309.16240.
    """
    link = DivergenceLink(divergence)
    at_zero = float(divergence.link(0.0))
    if not np.isneginf(at_zero):
        raise ValueError(
            f"divergence is {divergence!r}, with f'(0+) = {at_zero!r}; it must be -inf, as "
            "otherwise responses of probability 0 keep the normalizer from cancelling; "
            "add a multiple of KL() (chipo does)"
        )
    return DirectLoss(link, Logistic(), beta, name="f-DPO", source="arXiv 2309.16240")


def ipo(beta: float) -> DirectLoss:
    """Return IPO, `(u+ - u- - 1/(2 beta))^2`, here as `(h - 1/2)^2/beta^2`, `h = beta (u+ - u-)`.

    The paper's tau is beta.  Trainers may divide the log-probabilities by the lengths first.

    Source: arXiv 2310.12036, eq. 17.
    """
    beta = checks.positive_number("beta", beta)
    outer = Squared(0.5, 1.0 / beta / beta)
    return DirectLoss(LogLink(), outer, beta, name="IPO", source="arXiv 2310.12036, eq. 17")


def hinge(beta: float, margin: float = 1.0) -> DirectLoss:
    """Return the normalized hinge, `max(0, margin - beta (u+ - u-))`; trainers' "hinge", SLiC.

    Source: arXiv 2309.06657 (RSO); arXiv 2305.10425 without the reference.
    """
    return DirectLoss(
        LogLink(), Hinge(margin), beta, name="hinge", source="arXiv 2309.06657, arXiv 2305.10425"
    )


def slic(margin: float = 1.0, sft_weight: float | None = None) -> DirectLoss:
    """Return SLiC-HF, `max(0, margin - log pi(y+) + log pi(y-)) - sft_weight log pi(y+)`.

    No reference.  The paper's second term imitates a target of supervised data; with preference
    data alone that is the chosen response.

    Parameters
    ----------
    margin : float
        Not negative.
    sft_weight : float, optional
        Positive; without it there is no second term.

    Source: arXiv 2305.10425.
    """
    extra = () if sft_weight is None else (SFTTerm(sft_weight),)
    return DirectLoss(
        LogLink(),
        Hinge(margin),
        1.0,
        extra=extra,
        name="SLiC",
        source="arXiv 2305.10425",
        reference_free=True,
    )


def rpo(beta: float, eta: float) -> DirectLoss:
    """Return RPO, DPO with imitation: `-log sigma(beta (u+ - u-)) - eta log pi(y+)`.

    Parameters
    ----------
    beta : float
    eta : float
        The whole weight of the second term; positive.  The paper writes it as its own eta times
        beta.

    Source: arXiv 2405.16436, algorithm 2.
    """
    return DirectLoss(
        LogLink(), Logistic(), beta, extra=(SFTTerm(eta),), name="RPO", source="arXiv 2405.16436"
    )


def simpo(beta: float, margin: float = 0.0) -> DirectLoss:
    """Return SimPO, `-log sigma(beta [v+ log pi(y+) - v- log pi(y-)] - margin)`, without reference.

    The weights v, `chosen_weights` and `rejected_weights`, are the inverse lengths of the
    responses; 1 by default.  Some trainers subtract `beta margin` instead.

    Parameters
    ----------
    beta : float
    margin : float
        The paper's gamma.

    Source: arXiv 2405.14734, eq. 6.
    """
    return DirectLoss(
        LogLink(),
        Logistic(margin=margin),
        beta,
        name="SimPO",
        source="arXiv 2405.14734, eq. 6",
        reference_free=True,
        weighted=True,
    )


def rebel(eta: float) -> DirectLoss:
    """Return REBEL, `([u+ - u-]/eta - [r(y+) - r(y-)])^2`, with the rewards of both responses.

    The policy is regressed on given rewards; p is the policy of the last iteration.  Here
    `beta = 1/eta`.

    Parameters
    ----------
    eta : float
        Step size; positive.

    Source: arXiv 2404.16767.
    """
    beta = 1.0 / checks.positive_number("eta", eta)
    return DirectLoss(
        LogLink(), Squared(), beta, name="REBEL", source="arXiv 2404.16767", needs_rewards=True
    )


def power(beta: float, eta: float) -> DirectLoss:
    """Return POWER, `-log sigma(h) - eta beta v+ log pi(y+)`, without reference.

    `h = beta [v+ (1 + log pi(y+)) - v- (1 + log pi(y-))]`: the maximiser of
    `E_pi[r] - beta sum_y v(y) pi(y) log pi(y)` has `r(y) = beta v(y) (1 + log pi(y)) + lambda`.
    The weights v, `chosen_weights` and `rejected_weights`, are inverse lengths in the paper; 1 by
    default.

    Dynamic labels (POWER-DL): pass `labels`, and move them with `updated_labels` between the
    steps of the policy.

    Parameters
    ----------
    beta : float
    eta : float
        Weight of imitation; positive.

    Source: arXiv 2412.09544; h is derived here from the weighted entropy, the paper's own
    equations were not at hand.
    """
    weight = checks.positive_number("eta", eta) * checks.positive_number("beta", beta)
    return DirectLoss(
        EntropyLink(),
        Logistic(),
        beta,
        extra=(SFTTerm(weight),),
        name="POWER",
        source="arXiv 2412.09544",
        reference_free=True,
        weighted=True,
    )


def kto(beta: float, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> KTO:
    """Return KTO, a loss of single responses; see `KTO`.

    Source: arXiv 2402.01306, section 4.
    """
    return KTO(beta, desirable_weight, undesirable_weight)


#: One of every kind.  KTO, whose pairs are no comparisons, is not among them.
DIRECT_LOSSES: tuple[DirectLoss, ...] = (
    dpo(0.1),
    cdpo(0.1, 0.2),
    robust_dpo(0.3, 0.2),
    dpo_without_log(0.5),
    chipo(0.1),
    chipo(0.2, r_max=1.0, gamma=0.3),
    chipo_practical(0.1, 0.25, 0.1),
    chipo_practical(0.1, 1.0, 0.1),
    fdpo(JensenShannon(), 0.2),
    fdpo(AlphaDivergence(0.5), 0.2),
    fdpo(2.0 * AlphaDivergence(1.5) + 0.5 * KL(), 0.2),
    ipo(0.1),
    hinge(0.5),
    slic(1.0, 0.1),
    rpo(0.1, 0.05),
    simpo(2.0, 0.5),
    rebel(5.0),
    power(0.5, 0.1),
)
