"""Best-of-N and its relatives: what they cost in divergence, and what they win.

Sources: arXiv 2401.01879 (bounds), 2009.01325 (the KL formula), 2412.19792 (win rates), 2503.21878.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.batches import average
from rlhfsim.claims.draws import Draws
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.inference import best_of_n, calibrated_reward, soft_best_of_n, worst_of_n
from rlhfsim.inference.best_of_n import best_of_n_kl_formula

DrawsClaim = Claim[Draws]


# ---- witnesses -----------------------------------------------------------------------------------


def _draws(reference: FloatArray, reward: FloatArray, n: float, temperature: float = 1.0) -> Draws:
    p, r = np.asarray(reference, dtype=float)[None], np.asarray(reward, dtype=float)[None]
    probe = 1.0 + np.arange(p.shape[1])[None] / p.shape[1]
    return Draws(p, r, np.array([float(n)]), np.array([temperature]), probe)


def _uniform(size: int, n: int) -> Draws:
    """Equal masses, distinct rewards: nearly a continuous reward."""
    return _draws(np.full(size, 1.0 / size), np.arange(size, dtype=float), n)


def _rare_best(mass: float, n: float, sign: float = 1.0) -> Draws:
    """Give the best response (the worst for `sign=-1`) little mass."""
    return _draws(np.array([1.0 - mass, mass]), np.array([0.0, sign]), n)


def _all_tied() -> Draws:
    return _draws(np.array([0.2, 0.3, 0.5]), np.ones(3), 5)


def _some_tied(temperature: float = 1.0) -> Draws:
    return _draws(np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 0.0, 1.0, 2.0]), 3, temperature)


# ---- sides ---------------------------------------------------------------------------------------


def best(x: Draws) -> FloatArray:
    """Return the law of the best of n."""
    return best_of_n(x.reference, x.reward, x.n)


def worst(x: Draws) -> FloatArray:
    """Return the law of the worst of n."""
    return worst_of_n(x.reference, x.reward, x.n)


def soft(x: Draws) -> FloatArray:
    """Return the law of soft best-of-n."""
    rows = zip(x.reference, x.reward, x.n.astype(int).tolist(), x.temperature, strict=True)
    return np.stack([soft_best_of_n(p, r, n, t) for p, r, n, t in rows])


def _largest_ratio(law: Callable[[Draws], FloatArray], x: Draws) -> FloatArray:
    return np.asarray((law(x) / np.where(x.reference > 0, x.reference, 1.0)).max(axis=1))


def _win_rate(x: Draws, law: Callable[[Draws], FloatArray], opponent: FloatArray) -> FloatArray:
    """Return the win rate of a law against an opponent, by the reward."""
    return average(law(x), calibrated_reward(x.reward, opponent))


def _gain(x: Draws, policy: FloatArray) -> FloatArray:
    """Return `E[r - min r]`."""
    return average(policy, x.reward - x.reward.min(axis=1, keepdims=True))


def _gain_resolution(x: Draws) -> FloatArray:
    return 1e-12 * np.abs(x.reward).max(axis=1)


#: Listing draws of more than these would be long.
_LISTED = 3


def few(x: Draws) -> FloatArray:
    """Return 1, 2 or 3 draws, whatever n is."""
    return 1 + (x.n - 1) % _LISTED


def listed(x: Draws, *, lowest: bool = False) -> FloatArray:
    """Return the law of the best of `few` draws by listing all draws, the winners of each tied."""
    reward = -x.reward if lowest else x.reward
    policy = np.zeros_like(x.reference)
    for count in range(1, _LISTED + 1):
        rows = few(x) == count
        p, r = x.reference[rows], reward[rows]
        law = np.zeros_like(p)
        for draws in itertools.product(range(p.shape[1]), repeat=count):
            chosen = list(draws)
            probability, values = p[:, chosen].prod(axis=1), r[:, chosen]
            wins = values == values.max(axis=1, keepdims=True)
            share = probability[:, None] * wins / wins.sum(axis=1, keepdims=True)
            for position, response in enumerate(chosen):
                law[:, response] += share[:, position]
        policy[rows] = law
    return policy


# ---- the list ------------------------------------------------------------------------------------


def _divergence_claims(
    name: str, law: Callable[[Draws], FloatArray], sign: float
) -> tuple[DrawsClaim, ...]:
    return (
        DrawsClaim(
            f"KL of {name}",
            f"KL({name} || p) <= log n - (n - 1)/n",
            "arXiv 2401.01879",
            "upper",
            lambda x: KL().per_prompt(law(x), x.reference),
            lambda x: best_of_n_kl_formula(x.n),
            lambda: _uniform(400, 4),
        ),
        DrawsClaim(
            f"chi-squared of {name}",
            f"2 D_chi2({name} || p) <= (n - 1)^2/(2n - 1)",
            "density n F^(n-1) of continuous rewards",
            "upper",
            lambda x: 2.0 * ChiSquared().per_prompt(law(x), x.reference),
            lambda x: (x.n - 1.0) ** 2 / (2.0 * x.n - 1.0),
            lambda: _uniform(400, 4),
            lambda x: 1e-13 * x.n,
        ),
        DrawsClaim(
            f"ceiling of {name}",
            f"C_inf = max {name}/p <= n",
            "union bound",
            "upper",
            partial(_largest_ratio, law),
            lambda x: x.n,
            lambda: _rare_best(1e-9, 8, sign),
            lambda x: 1e-13 * x.n,
        ),
        DrawsClaim(
            f"KL of {name} below log n",
            f"KL({name} || p) <= log n",
            "the ceiling",
            "upper",
            lambda x: KL().per_prompt(law(x), x.reference),
            lambda x: np.log(x.n),
            # About a nat of log n is always missing: the ratio tends to 1 only as n grows.
            lambda: _rare_best(8e-300, 1e300, sign),
        ),
    )  # fmt: skip


INFERENCE_CLAIMS: tuple[DrawsClaim, ...] = (
    *_divergence_claims("best-of-n", best, 1.0),
    *_divergence_claims("worst-of-n", worst, -1.0),
    DrawsClaim(
        "KL formula of best-of-n as an equality",
        "KL(best-of-n || p) = log n - (n - 1)/n, here: at least",
        "arXiv 2009.01325, appendix G.3, read as an equality",
        "false",
        lambda x: best_of_n_kl_formula(x.n),
        lambda x: KL().per_prompt(best(x), x.reference),
        lambda: _uniform(10, 1024),
    ),
    DrawsClaim(
        "law of best-of-n",
        "E[g] under p(y)/m (F^n - (F-)^n) = E[g] over all listed draws, ties shared",
        "arXiv 2401.01879; ties derived",
        "identity",
        lambda x: average(best_of_n(x.reference, x.reward, few(x)), x.probe),
        lambda x: average(listed(x), x.probe),
        _some_tied,
    ),
    DrawsClaim(
        "law of worst-of-n",
        "E[g] under worst-of-n = E[g] over all listed draws, ties shared",
        "arXiv 2412.19792; ties derived",
        "identity",
        lambda x: average(worst_of_n(x.reference, x.reward, few(x)), x.probe),
        lambda x: average(listed(x, lowest=True), x.probe),
        _some_tied,
    ),
    DrawsClaim(
        "win rate of best-of-n",
        "P(best-of-n beats p) <= n/(n + 1)",
        "arXiv 2412.19792",
        "tight",
        lambda x: _win_rate(x, best, x.reference),
        lambda x: x.n / (x.n + 1.0),
        lambda: _uniform(400, 4),
    ),
    DrawsClaim(
        "win rate of best-of-n as an equality",
        "P(best-of-n beats p) = n/(n + 1), here: at least",
        "arXiv 2412.19792, for rewards without ties, read for all",
        "false",
        lambda x: x.n / (x.n + 1.0),
        lambda x: _win_rate(x, best, x.reference),
        lambda: _rare_best(0.5, 4),
    ),
    DrawsClaim(
        "best-of-n wins",
        "P(best-of-n beats p) >= 1/2",
        "coupling",
        "lower",
        lambda x: _win_rate(x, best, x.reference),
        lambda x: np.full(len(x), 0.5),
        _all_tied,
    ),
    DrawsClaim(
        "more draws win more",
        "P(best-of-n beats p) <= P(best-of-(n + 1) beats p)",
        "coupling",
        "tight",
        lambda x: _win_rate(x, best, x.reference),
        lambda x: average(
            best_of_n(x.reference, x.reward, x.n + 1), calibrated_reward(x.reward, x.reference)
        ),
        _all_tied,
    ),
    DrawsClaim(
        "mean of the calibrated reward",
        "E_p[c] = 1/2",
        "arXiv 2412.19792",
        "identity",
        lambda x: average(x.reference, calibrated_reward(x.reward, x.reference)),
        lambda x: np.full(len(x), 0.5),
        _some_tied,
    ),
    DrawsClaim(
        "wins and losses",
        "P(best beats worst) + P(worst beats best) = 1, of n draws each",
        "definition, ties shared",
        "identity",
        lambda x: _win_rate(x, best, worst(x)) + _win_rate(x, worst, best(x)),
        lambda x: np.ones(len(x)),
        _some_tied,
    ),
    DrawsClaim(
        "soft best-of-n below best-of-n",
        "E[r - min r] under soft best-of-n <= under best-of-n",
        "coupling: the same draws",
        "tight",
        lambda x: _gain(x, soft(x)),
        lambda x: _gain(x, best(x)),
        lambda: _some_tied(1e-2),
        _gain_resolution,
        most_instances=500,
    ),
    DrawsClaim(
        "soft best-of-n above the reference",
        "E[r - min r] under soft best-of-n >= under p",
        "coupling: a softmax prefers larger rewards",
        "lower",
        lambda x: _gain(x, soft(x)),
        lambda x: _gain(x, x.reference),
        lambda: _some_tied(1e6),
        _gain_resolution,
        most_instances=500,
    ),
)
