"""What choosing among samples of the reference at inference time does, exactly."""

from rlhfsim.inference.best_of_n import (
    best_of_n,
    best_of_n_chi_squared_bound,
    best_of_n_kl_formula,
    worst_of_n,
)
from rlhfsim.inference.rejection import inference_time_pessimism, rejection_sampling
from rlhfsim.inference.soft_best_of_n import soft_best_of_n
from rlhfsim.inference.win_rates import calibrated_reward, win_rate

__all__ = [
    "best_of_n",
    "best_of_n_chi_squared_bound",
    "best_of_n_kl_formula",
    "calibrated_reward",
    "inference_time_pessimism",
    "rejection_sampling",
    "soft_best_of_n",
    "win_rate",
    "worst_of_n",
]
