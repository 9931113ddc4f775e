"""Preference models as small objects with exact probabilities, and their winners.

`PREFERENCE_MODELS` is the list that drives the tests.
"""

from rlhfsim.preferences.base import PreferenceModel
from rlhfsim.preferences.bradley_terry import BradleyTerry
from rlhfsim.preferences.examples import PREFERENCE_MODELS, condorcet_paradox
from rlhfsim.preferences.general import GeneralPreference, cyclic_preference, random_preference
from rlhfsim.preferences.mixture import RaterMixture
from rlhfsim.preferences.noise import LabelNoise
from rlhfsim.preferences.observed import observed_preference
from rlhfsim.preferences.trajectory import TrajectoryPreference
from rlhfsim.preferences.transitivity import (
    TransitivityCheck,
    is_bradley_terry,
    moderate_transitivity,
    strong_transitivity,
    weak_transitivity,
)
from rlhfsim.preferences.winners import (
    borda_scores,
    borda_winners,
    condorcet_winner,
    copeland_scores,
    copeland_winners,
)

__all__ = [
    "PREFERENCE_MODELS",
    "BradleyTerry",
    "GeneralPreference",
    "LabelNoise",
    "PreferenceModel",
    "RaterMixture",
    "TrajectoryPreference",
    "TransitivityCheck",
    "borda_scores",
    "borda_winners",
    "condorcet_paradox",
    "condorcet_winner",
    "copeland_scores",
    "copeland_winners",
    "cyclic_preference",
    "is_bradley_terry",
    "moderate_transitivity",
    "observed_preference",
    "random_preference",
    "strong_transitivity",
    "weak_transitivity",
]
