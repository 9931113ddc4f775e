"""Both sides of claims about regularized optima in ball arithmetic, by the name of the claim.

The chi-squared optimum of a rational problem is rational: `w = 1/P_S + (r - r_S)/beta` on the
active set S, the longest run of best responses on which it is positive (section 3 of the theory:
`P_S = p(S)`, `r_S = E_p[r|S]`).  The KL optimum is `p e^(r/beta)/Z`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flint import arb, fmpq

from rlhfsim.certify.divergences import Ball
from rlhfsim.certify.rationals import ExactProblem, Row, total
from rlhfsim.certify.sides import BallSides

#: A prompt's (reference, reward_hat), without the responses the reference never gives, and beta.
PerPrompt = Callable[[Row, Row, fmpq], Ball]


def chi2_ratios(reference: Row, reward: Row, beta: fmpq) -> tuple[fmpq, ...]:
    """Return `w = pi/p` of the chi-squared optimum; every reference probability is positive."""
    mass, gain, active = fmpq(0), fmpq(0), None
    cells = sorted(zip(reward, reference, strict=True), key=lambda cell: cell[0], reverse=True)
    for value, probability in cells:
        mass, gain = mass + probability, gain + probability * value
        if 1 / mass + (value - gain / mass) / beta <= 0:
            break
        active = mass, gain / mass
    if active is None:
        raise ArithmeticError("no response is active")
    mass, mean = active
    ratios = (1 / mass + (value - mean) / beta for value in reward)
    return tuple(max(ratio, fmpq(0)) for ratio in ratios)


def kl_ratios(reference: Row, reward: Row, beta: fmpq) -> tuple[arb, ...]:
    """Return `w = pi/p = e^(r/beta)/Z` of the KL optimum."""
    highest = max(reward)
    weights = [arb((value - highest) / beta).exp() for value in reward]
    whole = sum((arb(p) * w for p, w in zip(reference, weights, strict=True)), arb(0))
    return tuple(weight / whole for weight in weights)


def _span(reference: Row, reward: Row, beta: fmpq) -> fmpq:
    return max(reward) - min(reward)


def _log_kl_ceiling(reference: Row, reward: Row, beta: fmpq) -> arb:
    """Return `beta log max w`, for the best response has the largest ratio."""
    best = kl_ratios(reference, reward, beta)[reward.index(max(reward))]
    return arb(beta) * best.log()


def _least_kl_ratio(reference: Row, reward: Row, beta: fmpq) -> arb:
    return kl_ratios(reference, reward, beta)[reward.index(min(reward))]


def _mass_off_the_best(reference: Row, reward: Row, beta: fmpq) -> arb:
    ratios = kl_ratios(reference, reward, beta)
    cells = zip(reference, reward, ratios, strict=True)
    return sum((arb(p) * w for p, r, w in cells if r < max(reward)), arb(0))


def _collapse_bound(reference: Row, reward: Row, beta: fmpq) -> Ball:
    best = max(reward)
    others = [r for r in reward if r < best]
    if not others:
        return fmpq(0)
    mass = total(p for p, r in zip(reference, reward, strict=True) if r == best)
    return arb((1 - mass) / mass) * arb((max(others) - best) / beta).exp()


def _average(x: ExactProblem, value: PerPrompt) -> Ball:
    """Return `E_x` of a number per prompt; prompts of weight 0 do not count."""
    parts = [rho * value(p, r, x.beta) for rho, p, r in _prompts(x)]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def _prompts(x: ExactProblem) -> Iterator[tuple[fmpq, Row, Row]]:
    """Yield the weight of each prompt, and its reference and reward on the support."""
    for rho, reference, reward in zip(x.prompt_dist, x.reference, x.reward_hat, strict=True):
        if rho > 0:
            kept = [k for k, p in enumerate(reference) if p > 0]
            yield rho, tuple(reference[k] for k in kept), tuple(reward[k] for k in kept)


def _both(left: PerPrompt, right: PerPrompt) -> BallSides:
    return lambda x: (_average(x, left), _average(x, right))


#: For each claim, the function from an `ExactProblem` to its left and its right side.
PROBLEM_SIDES: dict[str, BallSides] = {
    "ceiling of chi2": _both(
        lambda p, r, beta: max(chi2_ratios(p, r, beta)),
        lambda p, r, beta: 1 + _span(p, r, beta) / beta,
    ),
    "ceiling of KL": _both(_log_kl_ceiling, _span),
    "only chi2 has a floor": _both(
        _least_kl_ratio, lambda p, r, beta: min(chi2_ratios(p, r, beta))
    ),
    "collapse of KL": _both(_mass_off_the_best, _collapse_bound),
}
