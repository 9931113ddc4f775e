"""One preference model of every kind, with the cases where formulas or winners differ."""

from __future__ import annotations

import numpy as np

from rlhfsim.preferences.base import PreferenceModel
from rlhfsim.preferences.bradley_terry import BradleyTerry
from rlhfsim.preferences.general import GeneralPreference, cyclic_preference
from rlhfsim.preferences.mixture import RaterMixture
from rlhfsim.preferences.noise import LabelNoise
from rlhfsim.preferences.trajectory import TrajectoryPreference

_PLAIN = BradleyTerry(np.array([[0.0, 0.3, -1.2, 2.0], [1.0, 0.25, 0.5, -0.75]]))
_TIED = BradleyTerry(np.array([[1.0, 1.0, 0.0]]))
_EXTREME = BradleyTerry(np.array([[0.0, 1e-17, 800.0, -1e308, 1e308]]), temperature=0.5)
_REVERSED = BradleyTerry(-_PLAIN.reward)
_PATIENT = BradleyTerry(_EXTREME.reward, temperature=1e308)


def condorcet_paradox(temperature: float = 0.2) -> RaterMixture:
    """Return three equally likely Bradley-Terry raters whose majority is cyclic.

    Their rewards (2, 1, 0), (0, 2, 1), (1, 0, 2) rank one prompt's three responses in the
    rotations of 0 > 1 > 2.  Each response beats the next one for two raters of three, whose margin
    `tanh(1/(2T))` twice outweighs the third's, `tanh(1/T)`, at every temperature T (beyond
    T = 1e6 by less than the rounding of the sum, so that they tie).

    Parameters
    ----------
    temperature : number
        Positive, in reward units.

    Source: Condorcet 1785.
    """
    rewards = np.array([[[2.0, 1.0, 0.0]], [[0.0, 2.0, 1.0]], [[1.0, 0.0, 2.0]]])
    raters = tuple(BradleyTerry(reward, temperature) for reward in rewards)
    return RaterMixture(raters, np.full(3, 1.0 / 3.0))


#: One of every kind: each class, nested ones, ties, gaps too small or too large for P, cycles.
PREFERENCE_MODELS: tuple[PreferenceModel, ...] = (
    _PLAIN,
    BradleyTerry(_PLAIN.reward, temperature=0.1),
    _TIED,
    _EXTREME,
    BradleyTerry(np.array([[0.7]])),
    LabelNoise(_PLAIN, 0.2),
    LabelNoise(_EXTREME, 1e-20),
    LabelNoise(_EXTREME, 0.0),
    LabelNoise(_TIED, 0.5),
    RaterMixture((_PLAIN, LabelNoise(_REVERSED, 0.1)), np.array([0.7, 0.3])),
    RaterMixture((_EXTREME, _PATIENT), np.array([0.4, 0.6])),
    condorcet_paradox(),
    RaterMixture((condorcet_paradox(), _TIED, cyclic_preference(3)), np.array([0.5, 0.5, 0.0])),
    LabelNoise(condorcet_paradox(), 0.3),
    cyclic_preference(3),
    cyclic_preference(4, 0.25),
    cyclic_preference(7, 0.1),
    GeneralPreference(
        np.array(
            [
                [0.5, 0.9, 0.4, 1.0],
                [0.1, 0.5, 0.6, 1e-15],
                [0.6, 0.4, 0.5, 0.5],
                [0.0, 1.0, 0.5, 0.5],
            ]
        )
    ),
    TrajectoryPreference(
        np.array(
            [
                [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [1.0, 0.0, 0.0]],
                [[1e16, 1.0, -1e16], [1.0, 0.0, 0.0], [0.0, 0.0, 2.0]],
            ]
        )
    ),
    TrajectoryPreference.from_steps(
        [[0, 1, 1], [2, -1, -1], [-1, -1, -1], [1, 0, 1]],
        [[0.5, -0.25, 1.0], [0.1, 0.2, 0.3]],
        temperature=0.5,
    ),
)
