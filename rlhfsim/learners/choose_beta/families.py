"""What a rule can know of a family: by what its learners regularize."""

from __future__ import annotations

from collections.abc import Sequence

from rlhfsim.divergences import KL, ChiSquared, Divergence
from rlhfsim.learners.base import Learner
from rlhfsim.learners.choose_beta.base import BetaProblem
from rlhfsim.learners.rlhf import RLHF
from rlhfsim.losses import DirectLoss, DivergenceLink, LogLink


def regularizer(learner: Learner) -> Divergence | None:
    """Return the divergence of RLHF, or that whose link a direct loss has; None if not known."""
    if isinstance(learner, RLHF):
        return learner.divergence
    loss = getattr(learner, "loss", None)
    if not isinstance(loss, DirectLoss) or loss.reference_free:
        return None
    if isinstance(loss.link, DivergenceLink):
        return loss.link.divergence
    return KL() if isinstance(loss.link, LogLink) else None


def common_rlhf(problem: BetaProblem, betas: Sequence[float]) -> RLHF | None:
    """Return the first learner if all are RLHF that differ in beta alone, else None."""
    learners = [problem.learner(beta) for beta in betas]
    first = learners[0]
    if type(first) is not RLHF:
        return None
    for other in learners:
        if type(other) is not RLHF:
            return None
        if (other.divergence, other.model) != (first.divergence, first.model):
            return None
    return first


def require_chi_squared(divergence: Divergence | None, kl_weight: float | None = None) -> None:
    """Raise unless a divergence is `ChiSquared() + kl_weight * KL()`, or not known.

    With `kl_weight` None any multiple of chi-squared will do, plus anything.

    Raises
    ------
    ValueError
        With the reason.
    """
    if divergence is None:
        return
    weights = {base: weight for weight, base in divergence.terms()}
    if ChiSquared() not in weights:
        raise ValueError(
            f"family regularizes with {divergence!r}; the rule's bound needs chi-squared in it "
            "(no such bound holds for KL alone)"
        )
    if kl_weight is None:
        return
    wanted = {ChiSquared(): 1.0} | ({KL(): kl_weight} if kl_weight > 0 else {})
    if weights != wanted:
        raise ValueError(
            f"family regularizes with {divergence!r}; the rule's bound, with a kl_weight of "
            f"{kl_weight!r}, is for {_written(kl_weight)}"
        )


def _written(kl_weight: float) -> str:
    divergence: Divergence = ChiSquared()
    return repr(divergence + kl_weight * KL() if kl_weight > 0 else divergence)
