"""One generator per (study, cell, seed): results cannot depend on the order of the work."""

from __future__ import annotations

import hashlib

import numpy as np


def generator_for(study: str, cell: str, seed: int) -> np.random.Generator:
    """Return the generator of one cell of one study.

    The names enter through SHA-256, so that two cells never share a stream and adding a cell
    changes no other.
    """
    digest = hashlib.sha256(f"{study}\0{cell}".encode()).digest()
    words = np.frombuffer(digest[:16], dtype="<u4")
    return np.random.default_rng(np.random.SeedSequence([seed, *(int(w) for w in words)]))
