"""Direct methods: what their losses are at regularized optima, their minima and their gradients.

`L` is the population loss of pairs `y, z ~ p` iid, labelled by Bradley-Terry.

Sources: arXiv 2305.18290 (DPO), 2407.13399 (chiPO), 2309.16240 (f-DPO), 2310.12036 (IPO),
2403.00409 (robust DPO), 2410.08847 (likelihood displacement).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.labelled import (
    GAMMAS,
    Family,
    Labelled,
    chi_squared_range,
    complex_step,
    direct_loss,
    formula,
    gaps,
    ipo_loss,
    ipo_optimum,
    ipo_resolution,
    kl,
    likelihood,
    mixed,
    one_feature,
    optimum,
    robust,
    scores,
    slope_resolution,
    spread,
    stepped,
    tabular,
    variance,
)

LabelledClaim = Claim[Labelled]

# ---- witnesses -----------------------------------------------------------------------------------


def _labelled(
    reference: list[float], reward: list[float], feature: list[float] | None = None,
    *, policy: list[float] | None = None, beta: float = 0.5, step: float = 1.0,
) -> Labelled:  # fmt: skip
    p, r = np.array([reference]), np.array([reward])
    pi = p if policy is None else np.array([policy])
    phi = np.zeros_like(p) if feature is None else np.array([feature])
    return Labelled(p, pi, r, phi, np.array([beta]), np.array([step]), np.array([1]))


def _plain() -> Labelled:
    return _labelled([0.2, 0.3, 0.4, 0.1], [0.0, 1.0, 0.5, -0.5], policy=[0.4, 0.1, 0.2, 0.3])


def _with_policy(law: Callable[[Labelled], FloatArray]) -> Labelled:
    x = _plain()
    return replace(x, policy=law(x))


def _at_optimum(family: Family) -> Labelled:
    return _with_policy(lambda x: optimum(x, family))


def _clipped(*, little: bool = True) -> Labelled:
    """Give the worst response no mass, at a little beta, or some at a larger one."""
    return _labelled([0.4, 0.3, 0.3], [1.0, 0.5, -1.0], beta=0.2 if little else 20.0)


def _displaced() -> Labelled:
    """Let a third response, never compared, have the largest feature: it takes the mass."""
    return _labelled([0.2, 0.2, 0.6], [0.0] * 3, [1.0, 0.0, 2.0], step=4.0)


def _tiny_step() -> Labelled:
    return _labelled([0.2, 0.3, 0.5], [0.0] * 3, step=1e-6)


# ---- the list ------------------------------------------------------------------------------------


def _first_gap(values: FloatArray) -> FloatArray:
    return gaps(values)[:, 0, 1]


def _score_resolution(x: Labelled) -> FloatArray:
    """Return the rounding of scores, beta times logarithms, and of rewards."""
    slope = x.beta * (1.0 + np.array(GAMMAS)[x.setting])
    return 8.0 * RESOLUTION * (1.0 + slope + np.abs(x.reward).max(axis=1))


def _reparametrisation(name: str, source: str, family: Family) -> tuple[LabelledClaim, ...]:
    """Return that the optimum's implicit reward is the reward, and what follows for the loss."""
    return (
        LabelledClaim(
            f"implicit reward of {name}",
            "beta (phi(w_y) - phi(w_z)) = r(y) - r(z) at the regularized optimum of r",
            source,
            "identity",
            lambda x: _first_gap(scores(x, family, optimum(x, family))),
            lambda x: _first_gap(x.reward),
            _plain,
            _score_resolution,
        ),
        LabelledClaim(
            f"loss of {name} is the likelihood",
            "L(regularized optimum of any g) = Bradley-Terry loss of g",
            source,
            "identity",
            lambda x: direct_loss(x, family, optimum(x, family, _other(x))),
            lambda x: likelihood(x, _other(x)),
            _plain,
            lambda x: _score_resolution(replace(x, reward=_other(x))),
        ),
        LabelledClaim(
            f"population minimiser of {name}",
            "L(regularized optimum of r*) <= L(pi)",
            source,
            "upper",
            lambda x: direct_loss(x, family, optimum(x, family)),
            lambda x: direct_loss(x, family, x.policy),
            lambda: _at_optimum(family),
            _score_resolution,
        ),
    )  # fmt: skip


def _other(x: Labelled) -> FloatArray:
    """Return a reward that is not the true one: the feature, within 20 beta."""
    return x.feature * np.minimum(1.0, 20.0 * x.beta / np.maximum(spread(x.feature), 1e-9))[:, None]


DIRECT_CLAIMS: tuple[LabelledClaim, ...] = (
    *_reparametrisation("DPO", "arXiv 2305.18290", kl),
    *_reparametrisation("chiPO without a clip", "arXiv 2407.13399", mixed),
    LabelledClaim(
        "gradient of DPO",
        "dL/dlog pi(y+) = -beta sigma(-h), h = beta (u+ - u-)",
        "arXiv 2305.18290, section 4",
        "identity",
        lambda x: complex_step(x, chipo_link=False),
        lambda x: formula(x, chipo_link=False),
        _plain,
        lambda x: slope_resolution(x, chipo_link=False),
    ),
    LabelledClaim(
        "gradient of chiPO",
        "dL/dlog pi(y+) = -beta sigma(-h) (w+ + 1), h = beta (phi(w+) - phi(w-))",
        "arXiv 2407.13399",
        "identity",
        lambda x: complex_step(x, chipo_link=True),
        lambda x: formula(x, chipo_link=True),
        _plain,
        lambda x: slope_resolution(x, chipo_link=True),
    ),
    LabelledClaim(
        "population minimiser of IPO",
        "IPO's L(p e^(B/beta)/Z) <= L(pi), B(y) = E_{z ~ p}[P(y beats z)]",
        "arXiv 2310.12036",
        "upper",
        lambda x: ipo_loss(x, ipo_optimum(x)),
        lambda x: ipo_loss(x, x.policy),
        lambda: _with_policy(ipo_optimum),
        ipo_resolution,
    ),
    LabelledClaim(
        "excess loss of IPO",
        "beta^2 (L(pi) - L(pi_B)) = 2 Var_p[beta (u - u_B)], u = log pi/p",
        "derived: the loss is quadratic in u",
        "identity",
        lambda x: ipo_loss(x, x.policy),
        lambda x: (
            ipo_loss(x, ipo_optimum(x))
            + 2.0 * variance(x, scores(x, kl, x.policy) - scores(x, kl, ipo_optimum(x)))
        ),
        _plain,
        ipo_resolution,
    ),
    LabelledClaim(
        "robust DPO is unbiased",
        "mean of robust DPO over labels flipped at rate eps = DPO",
        "arXiv 2403.00409",
        "identity",
        lambda x: robust(x, flipped=True),
        lambda x: robust(x, flipped=False),
        _plain,
        # At the rate 0.45, ten times the loss of the label and of its flip are subtracted.
        lambda x: RESOLUTION * 20.0 * (1.0 + np.abs(_first_gap(scores(x, kl, x.policy)))),
    ),
    LabelledClaim(
        "DPO raises the chosen response",
        "pi(y+) <= pi(y+) after a gradient step over log-linear policies",
        "read into arXiv 2305.18290; refuted in 2410.08847",
        "false",
        lambda x: x.reference[:, 0],
        # Not below the floats, which a long step can reach.
        lambda x: np.maximum(stepped(x, one_feature(x)), 1e-300),
        _displaced,
    ),
    LabelledClaim(
        "tabular DPO raises the chosen response of one pair",
        "pi(y+) <= pi(y+) after a gradient step in the logits, of any size",
        "derived",
        "upper",
        lambda x: x.reference[:, 0],
        lambda x: stepped(x, tabular(x)),
        _tiny_step,
    ),
    LabelledClaim(
        "implicit reward of chi-squared",
        "beta (f'(w_y) - f'(w_z)) <= r(y) - r(z) at the optimum, of the best and the worst",
        "arXiv 2309.16240 (why f'(0+) = -inf)",
        "upper",
        chi_squared_range,
        lambda x: spread(x.reward),
        lambda: _clipped(little=False),
        _score_resolution,
    ),
    LabelledClaim(
        "f-DPO with chi-squared alone",
        "r(y) - r(z) = beta (f'(w_y) - f'(w_z)) at the optimum, here: at most",
        "arXiv 2309.16240, without f'(0+) = -inf",
        "false",
        lambda x: spread(x.reward),
        chi_squared_range,
        _clipped,
    ),
)
