"""All learners on one instance, through one protocol: exact regrets side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.coverage import concentrability
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.inference import win_rate
from rlhfsim.instances import random_bandit
from rlhfsim.learners.base import Learned, Learner
from rlhfsim.learners.catalogue import LEARNERS, Representative, Setting, setting_for
from rlhfsim.randomness import generator_for
from rlhfsim.sampling import sample_preferences

#: Columns of `markdown`, and the attributes of `Compared` they show.
COLUMNS = ("learner", "regret", "gain", "win rate", "KL", "χ²", "C", "residual")


@dataclass(frozen=True)
class Compared:
    """What one learner reached, by exact evaluation."""

    key: str
    name: str
    learned: Learned
    #: `J(pi*) - J(pi^)` and `J(pi^) - J(pi_ref)`, in reward units.
    regret: float
    gain: float
    #: Against the reference, by the true reward.
    win_rate: float
    #: From the reference, averaged over the prompts; KL in nats.
    kl: float
    chi_squared: float
    concentrability: float

    def row(self) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`."""
        residual = self.learned.residual
        numbers = (self.regret, self.gain, self.win_rate, self.kl, self.chi_squared)
        return (
            self.name,
            *(f"{x:.3f}" for x in (*numbers, self.concentrability)),
            "" if residual is None else f"{residual:.0e}",
        )


@dataclass(frozen=True)
class Failed:
    """A learner whose estimate these data do not determine, and what it said."""

    key: str
    name: str
    reason: str

    def row(self) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`: the name, with the reason behind it, and no numbers."""
        return (f"{self.name}: {self.reason}", *("" for _ in COLUMNS[1:]))


def compare(
    bandit: ContextualBandit,
    data: PreferenceData | PairCounts,
    setting: Setting,
    rng: np.random.Generator,
    learners: Sequence[Representative] = LEARNERS,
) -> list[Compared | Failed]:
    """Return what each learner makes of the same data.

    With few data some estimates do not exist; such a learner has a `Failed` in its place.

    Parameters
    ----------
    bandit : ContextualBandit
    data : PreferenceData or PairCounts
    setting : Setting
        Of the same bandit; see `setting_for`.
    rng : numpy.random.Generator
        Breaks ties, and starts searches.
    learners : sequence of Representative

    Returns
    -------
    list of Compared or Failed, in the order of the learners

    Raises
    ------
    ValueError
        If `rng` is no generator.
    ValueError, LearnerError, MLEDoesNotExistError
        What the first learner raises, if all of them do.
    """
    checks.generator("rng", rng)
    rows: list[Compared | Failed] = []
    first: ValueError | RuntimeError | None = None
    for own, r in zip(learners, rng.spawn(len(learners)), strict=True):
        learner = own.build(setting)
        try:
            rows.append(_compared(bandit, data, own.key, learner, r))
        except (ValueError, RuntimeError) as error:
            first = first or error
            rows.append(Failed(own.key, learner.name, " ".join(str(error).split())))
    if first is not None and all(isinstance(row, Failed) for row in rows):
        raise first
    return rows


def _compared(
    bandit: ContextualBandit,
    data: PreferenceData | PairCounts,
    key: str,
    learner: Learner,
    rng: np.random.Generator,
) -> Compared:
    p, rho = bandit.reference, bandit.prompt_dist
    learned = learner.fit(data, p, prompt_dist=rho, rng=rng)
    pi = learned.policy
    return Compared(
        key=key,
        name=learner.name,
        learned=learned,
        regret=float(bandit.regret(pi)),
        gain=float(bandit.value(pi) - bandit.value(p)),
        win_rate=float(win_rate(pi, p, bandit.reward, rho)),
        kl=float(KL()(pi, p, rho)),
        chi_squared=float(ChiSquared()(pi, p, rho)),
        concentrability=float(concentrability(pi, p, rho)),
    )


def comparison(
    bandit: ContextualBandit,
    *,
    n: int,
    beta: float,
    seed: int,
    learners: Sequence[Representative] = LEARNERS,
) -> list[Compared | Failed]:
    """Draw `n` preferences and compare the learners on them; all from one seed.

    Parameters
    ----------
    bandit : ContextualBandit
    n : int
        At least 1.
    beta : float
        Positive, in reward units.
    seed : int
        Not negative.
    learners : sequence of Representative

    Raises
    ------
    ValueError
        Bad input, by name, rule and value; otherwise as `compare`.
    """
    draw, other, ties = (
        generator_for("comparison", cell, seed) for cell in ("data", "setting", "fit")
    )
    data = sample_preferences(bandit, n, draw)
    return compare(bandit, data, setting_for(bandit, other, beta=beta), ties, learners)


def default_bandit() -> ContextualBandit:
    """Return the instance of the README: 10 prompts, 8 responses, some of them rare."""
    return random_bandit(10, 8, np.random.default_rng(0), skew=2.0)


def markdown(rows: Sequence[Compared | Failed]) -> str:
    """Return the table of `COLUMNS` in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    # A bar in a reason, such as an absolute value, would end the cell.
    cells = ([cell.replace("|", r"\|") for cell in row.row()] for row in rows)
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join(lines) + "\n"
