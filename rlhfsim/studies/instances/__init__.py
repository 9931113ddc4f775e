"""Instances of a study: the families by name, and the scene that each builds.

A new family is a `Family` with a `family: Literal["name"]`, listed in `Instance`.
"""

from typing import Annotated

from pydantic import Field

from rlhfsim.studies.instances.base import Family, Labelled, Labels, Scene
from rlhfsim.studies.instances.families import (
    Aligned,
    Decoys,
    Explicit,
    LogLinear,
    PropositionA1,
    Random,
    RareBest,
    Zipf,
)
from rlhfsim.studies.instances.games import ExplicitGame, RandomGame, TwoCycles
from rlhfsim.studies.instances.online import MissedDirection
from rlhfsim.studies.instances.steps import RarePath, TokenSequences
from rlhfsim.studies.instances.table import Table
from rlhfsim.studies.instances.xpo import HiddenBest

#: The families by name; a study file says `family = "zipf"`.
Instance = Annotated[
    Random
    | Zipf
    | LogLinear
    | Aligned
    | RareBest
    | Decoys
    | PropositionA1
    | Explicit
    | HiddenBest
    | RandomGame
    | TwoCycles
    | ExplicitGame
    | MissedDirection
    | TokenSequences
    | RarePath
    | Table,
    Field(discriminator="family"),
]

__all__ = [
    "Aligned",
    "Decoys",
    "Explicit",
    "ExplicitGame",
    "Family",
    "HiddenBest",
    "Instance",
    "Labelled",
    "Labels",
    "LogLinear",
    "MissedDirection",
    "PropositionA1",
    "Random",
    "RandomGame",
    "RareBest",
    "RarePath",
    "Scene",
    "Table",
    "TokenSequences",
    "TwoCycles",
    "Zipf",
]
