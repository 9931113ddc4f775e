"""Counterexamples found by search: `falsify(claim)` tries to break any claim by itself."""

from rlhfsim.falsify.climbing import Found
from rlhfsim.falsify.search import UNLIMITED, Falsification, falsify

__all__ = ["UNLIMITED", "Falsification", "Found", "falsify"]
