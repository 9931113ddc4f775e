"""Statements of the literature as objects that can be checked; `CLAIMS` is the list.

One module per topic; `checking.check` runs any of them.  Most are a `Claim`: two sides as functions
of a batch of instances, and a witness.  Exponents are a `RateClaim`, probabilities over data a
`ProbabilityClaim`.
"""

from rlhfsim.claims.adversarial import ADVERSARIAL_CLAIMS
from rlhfsim.claims.base import Claim, Instances
from rlhfsim.claims.bayesian import BAYESIAN_CLAIMS
from rlhfsim.claims.best_strength import BEST_STRENGTH_CLAIMS
from rlhfsim.claims.beta_path import BETA_PATH_CLAIMS
from rlhfsim.claims.calibration import CALIBRATION_CLAIMS
from rlhfsim.claims.checking import Checkable, CheckResult, check, latex, markdown
from rlhfsim.claims.chipo import CHIPO_CLAIMS
from rlhfsim.claims.chipo_data import DATA_CLAIMS
from rlhfsim.claims.consistency import CONSISTENCY_CLAIMS
from rlhfsim.claims.demonstration_rl import DEMONSTRATION_RL_CLAIMS
from rlhfsim.claims.demonstrations import DEMONSTRATION_CLAIMS
from rlhfsim.claims.direct import DIRECT_CLAIMS
from rlhfsim.claims.displacement import DISPLACEMENT_CLAIMS
from rlhfsim.claims.distribution_matching import DISTRIBUTION_CLAIMS
from rlhfsim.claims.divergences import DIVERGENCE_CLAIMS, PairClaim, Pairs, sample_pairs
from rlhfsim.claims.dpo import DPO_CLAIMS
from rlhfsim.claims.f_divergences import F_DIVERGENCE_CLAIMS
from rlhfsim.claims.f_dpg import F_DPG_CLAIMS
from rlhfsim.claims.games import GAME_CLAIMS
from rlhfsim.claims.general_optima import GENERAL_OPTIMA_CLAIMS
from rlhfsim.claims.gibbs import GIBBS_CLAIMS
from rlhfsim.claims.identification import IDENTIFICATION_CLAIMS
from rlhfsim.claims.infalign import INFALIGN_CLAIMS
from rlhfsim.claims.inference import INFERENCE_CLAIMS
from rlhfsim.claims.ipo import IPO_CLAIMS
from rlhfsim.claims.kwise import KWISE_CLAIMS
from rlhfsim.claims.learning_rates import LEARNING_RATE_CLAIMS
from rlhfsim.claims.minimax import MINIMAX_CLAIMS
from rlhfsim.claims.nash import NASH_MD_CLAIMS
from rlhfsim.claims.online import ONLINE_CLAIMS
from rlhfsim.claims.optima import OPTIMA_CLAIMS
from rlhfsim.claims.overoptimization import OVEROPTIMIZATION_CLAIMS
from rlhfsim.claims.pessimism import PESSIMISM_CLAIMS
from rlhfsim.claims.power import POWER_CLAIMS
from rlhfsim.claims.preference_errors import PREFERENCE_ERROR_CLAIMS
from rlhfsim.claims.preferences import PREFERENCE_CLAIMS
from rlhfsim.claims.problems import Problems
from rlhfsim.claims.proposition_a1 import PROPOSITION_A1_CLAIMS
from rlhfsim.claims.ratio_bounds import RATIO_CLAIMS
from rlhfsim.claims.rebel import REBEL_CLAIMS
from rlhfsim.claims.regret import REGRET_CLAIMS
from rlhfsim.claims.renyi import RENYI_CLAIMS
from rlhfsim.claims.sample_complexity import SAMPLE_COMPLEXITY_CLAIMS
from rlhfsim.claims.scaling import SCALING_CLAIMS
from rlhfsim.claims.self_play import SELF_PLAY_CLAIMS
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim
from rlhfsim.claims.steps import STEP_CLAIMS
from rlhfsim.claims.unilateral import UNILATERAL_CLAIMS
from rlhfsim.claims.xpo import XPO_CLAIMS

#: All of them, in the order of the theory: divergences, optima, regret, data, methods, games,
#: rounds, steps.
CLAIMS: tuple[Checkable, ...] = (
    *DIVERGENCE_CLAIMS,
    *RENYI_CLAIMS,
    *F_DIVERGENCE_CLAIMS,
    *F_DPG_CLAIMS,
    *GIBBS_CLAIMS,
    *BAYESIAN_CLAIMS,
    *OPTIMA_CLAIMS,
    *GENERAL_OPTIMA_CLAIMS,
    *CHIPO_CLAIMS,
    *RATIO_CLAIMS,
    *BETA_PATH_CLAIMS,
    *REGRET_CLAIMS,
    *PREFERENCE_ERROR_CLAIMS,
    *DATA_CLAIMS,
    *SAMPLE_COMPLEXITY_CLAIMS,
    *IDENTIFICATION_CLAIMS,
    *KWISE_CLAIMS,
    *PROPOSITION_A1_CLAIMS,
    *BEST_STRENGTH_CLAIMS,
    *LEARNING_RATE_CLAIMS,
    *DEMONSTRATION_CLAIMS,
    *CONSISTENCY_CLAIMS,
    *DIRECT_CLAIMS,
    *DPO_CLAIMS,
    *IPO_CLAIMS,
    *DISPLACEMENT_CLAIMS,
    *ADVERSARIAL_CLAIMS,
    *REBEL_CLAIMS,
    *POWER_CLAIMS,
    *DISTRIBUTION_CLAIMS,
    *PESSIMISM_CLAIMS,
    *PREFERENCE_CLAIMS,
    *GAME_CLAIMS,
    *MINIMAX_CLAIMS,
    *SELF_PLAY_CLAIMS,
    *NASH_MD_CLAIMS,
    *UNILATERAL_CLAIMS,
    *INFERENCE_CLAIMS,
    *INFALIGN_CLAIMS,
    *CALIBRATION_CLAIMS,
    *SCALING_CLAIMS,
    *OVEROPTIMIZATION_CLAIMS,
    *ONLINE_CLAIMS,
    *XPO_CLAIMS,
    *STEP_CLAIMS,
    *DEMONSTRATION_RL_CLAIMS,
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
