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
from rlhfsim.studies.instances.table import Table

#: The families by name; a study file says `family = "zipf"`.
Instance = Annotated[
    Random | Zipf | LogLinear | Aligned | RareBest | Decoys | PropositionA1 | Explicit | Table,
    Field(discriminator="family"),
]

__all__ = [
    "Aligned",
    "Decoys",
    "Explicit",
    "Family",
    "Instance",
    "Labelled",
    "Labels",
    "LogLinear",
    "PropositionA1",
    "Random",
    "RareBest",
    "Scene",
    "Table",
    "Zipf",
]
