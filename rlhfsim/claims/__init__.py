"""Statements of the literature as objects that can be checked; `CLAIMS` is the list.

One module per topic; `checking.check` runs any of them.  Most are a `Claim`: two sides as functions
of a batch of instances, and a witness.  Exponents are a `RateClaim`, probabilities over data a
`ProbabilityClaim`.
"""

from rlhfsim.claims.base import Claim, Instances
from rlhfsim.claims.beta_path import BETA_PATH_CLAIMS
from rlhfsim.claims.checking import Checkable, CheckResult, check, latex, markdown
from rlhfsim.claims.chipo_data import DATA_CLAIMS
from rlhfsim.claims.consistency import CONSISTENCY_CLAIMS
from rlhfsim.claims.direct import DIRECT_CLAIMS
from rlhfsim.claims.divergences import DIVERGENCE_CLAIMS, PairClaim, Pairs, sample_pairs
from rlhfsim.claims.gibbs import GIBBS_CLAIMS
from rlhfsim.claims.infalign import INFALIGN_CLAIMS
from rlhfsim.claims.inference import INFERENCE_CLAIMS
from rlhfsim.claims.learning_rates import LEARNING_RATE_CLAIMS
from rlhfsim.claims.optima import OPTIMA_CLAIMS
from rlhfsim.claims.pessimism import PESSIMISM_CLAIMS
from rlhfsim.claims.preference_errors import PREFERENCE_ERROR_CLAIMS
from rlhfsim.claims.preferences import PREFERENCE_CLAIMS
from rlhfsim.claims.problems import Problems
from rlhfsim.claims.proposition_a1 import PROPOSITION_A1_CLAIMS
from rlhfsim.claims.ratio_bounds import RATIO_CLAIMS
from rlhfsim.claims.regret import REGRET_CLAIMS
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim

#: All of them, in the order of the theory: divergences, optima, regret, data, methods.
CLAIMS: tuple[Checkable, ...] = (
    *DIVERGENCE_CLAIMS,
    *GIBBS_CLAIMS,
    *OPTIMA_CLAIMS,
    *RATIO_CLAIMS,
    *BETA_PATH_CLAIMS,
    *REGRET_CLAIMS,
    *PREFERENCE_ERROR_CLAIMS,
    *DATA_CLAIMS,
    *PROPOSITION_A1_CLAIMS,
    *LEARNING_RATE_CLAIMS,
    *CONSISTENCY_CLAIMS,
    *DIRECT_CLAIMS,
    *PESSIMISM_CLAIMS,
    *PREFERENCE_CLAIMS,
    *INFERENCE_CLAIMS,
    *INFALIGN_CLAIMS,
)

__all__ = [
    "CLAIMS",
    "DIVERGENCE_CLAIMS",
    "CheckResult",
    "Checkable",
    "Claim",
    "Instances",
    "PairClaim",
    "Pairs",
    "ProbabilityClaim",
    "Problems",
    "RateClaim",
    "check",
    "latex",
    "markdown",
    "sample_pairs",
]
